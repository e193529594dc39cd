/** Judges what the rules of a host do to new connections from Cloudflare. */
import { equal, intersect, isEmpty, none, parseRanges } from '../prefix.ts';
import type { Desired, Ranges } from '../renderer.ts';
import {
  elements,
  isOurJump,
  same,
  type Chain,
  type ChainName,
  type Expr,
  type Family,
  type Match,
  type Rule,
} from './listing.ts';

/** A new connection from a prefix of Cloudflare's to one of the ports. */
export interface Probe {
  readonly source: 'ip' | 'ip6';
  readonly protocol: 'tcp' | 'udp';
  readonly port: number;
  readonly ranges: Ranges;
}

type Answer = 'yes' | 'no' | 'maybe';

export interface Walk {
  /** `index` of the deciding rule in the base chain, none for the policy. */
  readonly verdict: 'drop' | 'accept' | 'continue';
  readonly rule?: Rule;
  /** Rules that may drop the traffic, on conditions that cannot be judged here. */
  readonly unclear: readonly Rule[];
  /** A rule that accepts the traffic from everywhere. */
  readonly open?: Rule;
}

export function probes(desired: Desired, family: Family): readonly Probe[] {
  const sources = family === 'inet' ? (['ip', 'ip6'] as const) : [family];
  const { ranges } = desired;
  return sources.flatMap((source) => [
    ...desired.tcpPorts.map((port): Probe => ({ source, protocol: 'tcp', port, ranges })),
    ...desired.udpPorts.map((port): Probe => ({ source, protocol: 'udp', port, ranges })),
  ]);
}

export function walkBase(chain: Chain, probe: Probe, rules: readonly Rule[]): Walk {
  const end = walk(chain, probe, rules, 0);
  if (end.verdict !== 'continue') return end;
  return { ...end, verdict: chain.base!.policy === 'drop' ? 'drop' : 'accept' };
}

/**
 * Follows a probe through a chain. A rule decides only when every condition is known to hold. An accept
 * that has conditions is remembered and passed, because the admin may take it away; one without ends the chain.
 */
export function walk(name: ChainName, probe: Probe, rules: readonly Rule[], depth: number): Walk {
  const unclear: Rule[] = [];
  let open: Rule | undefined;
  const end = (verdict: Walk['verdict'], rule?: Rule): Walk => ({
    verdict,
    unclear,
    ...(rule === undefined ? {} : { rule }),
    ...(open === undefined ? {} : { open }),
  });
  // The kernel allows 16 nested jumps (NFT_JUMP_STACK_SIZE).
  if (depth > 16) return end('continue');
  for (const rule of rules) {
    if (!same(rule, name) || isOurJump(rule)) continue;
    const holds = conditions(rule, probe);
    if (holds === 'no') continue;
    const verdict = rule.expr.find((e) => verdictKeys.some((key) => key in e));
    if (verdict === undefined) {
      if (rule.expr.some((e) => 'vmap' in e || 'xt' in e) && mayDrop(rule)) unclear.push(rule);
      continue;
    }
    if ('accept' in verdict) {
      if (holds !== 'yes') continue;
      if (rule.expr.every((e) => 'counter' in e || 'accept' in e || 'log' in e))
        return end('accept', rule);
      if (isPortRule(rule)) open ??= rule;
    } else if ('drop' in verdict || 'reject' in verdict) {
      if (holds === 'yes') return end('drop', rule);
      unclear.push(rule);
    } else if ('return' in verdict) {
      if (holds === 'yes') return end('continue', rule);
    } else {
      const target = (verdict.jump ?? verdict.goto) as { readonly target: string } | undefined;
      if (target === undefined) {
        unclear.push(rule); // queue: a program decides
        continue;
      }
      const inner = walk({ ...name, chain: target.target }, probe, rules, depth + 1);
      unclear.push(...inner.unclear);
      open ??= inner.open;
      if (holds !== 'yes') {
        if (inner.verdict === 'drop') unclear.push(rule);
      } else if (inner.verdict !== 'continue' || 'goto' in verdict) return end(inner.verdict, rule);
    }
  }
  return end('continue');
}

const verdictKeys = ['accept', 'drop', 'reject', 'return', 'jump', 'goto', 'queue'];

/** A rule without a plain verdict (verdict map, xtables target) that has a drop somewhere in it. */
function mayDrop(rule: Rule): boolean {
  return rule.expr.some((e) => 'vmap' in e && /"(drop|jump|goto)"/.test(JSON.stringify(e)))
    ? !rule.expr.some((e) => isStateMap(e))
    : false;
}

/** `ct state vmap { ... }` without an entry for new connections says nothing about them. */
function isStateMap(e: Expr): boolean {
  const map = e.vmap as { readonly key?: unknown; readonly data?: unknown } | undefined;
  return (
    JSON.stringify(map?.key ?? null).includes('"ct"') &&
    !JSON.stringify(map?.data).includes('"new"')
  );
}

function isPortRule(rule: Rule): boolean {
  return rule.expr.some((e) => JSON.stringify(e).includes('"dport"'));
}

/** Whether all conditions of a rule hold for a probe. */
function conditions(rule: Rule, probe: Probe): Answer {
  let all: Answer = 'yes';
  for (const e of rule.expr) {
    const plain = [...verdictKeys, ...neutral].some((key) => key in e);
    const one: Answer = 'match' in e ? matches(e.match as Match, probe) : plain ? 'yes' : 'maybe';
    if (one === 'no') return 'no';
    if (one === 'maybe') all = 'maybe';
  }
  return all;
}

/** Statements that neither decide nor restrict. */
const neutral = ['counter', 'log', 'mangle', 'notrack', 'set', 'map', 'vmap'];

function matches(match: Match, probe: Probe): Answer {
  const flip = match.op === '!=';
  const said = (yes: boolean): Answer => (yes !== flip ? 'yes' : 'no');
  const payload = match.left.payload as
    { readonly protocol?: string; readonly field?: string } | undefined;
  const key = (match.left.meta as { readonly key?: string } | undefined)?.key;
  if (payload !== undefined) {
    const { protocol, field } = payload;
    if (protocol === 'tcp' || protocol === 'udp' || protocol === 'th') {
      if (protocol !== 'th' && protocol !== probe.protocol) return 'no';
      if (field === 'dport') {
        const has = includes(match.right, probe.port);
        return has === undefined ? 'maybe' : said(has);
      }
      return 'maybe';
    }
    if (protocol === 'icmp' || protocol === 'icmpv6') return 'no';
    if (protocol === 'ip' || protocol === 'ip6') {
      if (protocol !== probe.source) return 'no';
      if (field === 'protocol' || field === 'nexthdr')
        return protocolAnswer(match.right, probe, said);
      if (field === 'saddr') return sourceAnswer(match.right, probe, said);
    }
    return 'maybe';
  }
  if (key === 'l4proto') return protocolAnswer(match.right, probe, said);
  if (key === 'nfproto') return said(match.right === (probe.source === 'ip' ? 'ipv4' : 'ipv6'));
  if (key === 'protocol') return said(match.right === probe.source);
  if ((key === 'iifname' || key === 'iif') && match.right === 'lo') return said(false);
  const ct = (match.left.ct as { readonly key?: string } | undefined)?.key;
  if (ct === 'state')
    return said([match.right].flat().includes('new') || setHas(match.right, 'new'));
  return 'maybe';
}

function protocolAnswer(right: unknown, probe: Probe, said: (yes: boolean) => Answer): Answer {
  if (typeof right === 'string') return said(right === probe.protocol);
  if (typeof right === 'object' && right !== null && 'set' in right)
    return said(setHas(right, probe.protocol));
  return 'maybe';
}

/** Decided when the rule's addresses hold all of the ranges or none of them. */
function sourceAnswer(right: unknown, probe: Probe, said: (yes: boolean) => Answer): Answer {
  const listed = elements(right);
  if (listed === undefined) return 'maybe';
  const family = probe.source === 'ip' ? 'v4' : 'v6';
  const own = { ...none, [family]: probe.ranges[family] };
  const hit = intersect(own, parseRanges(listed));
  if (isEmpty(hit)) return said(false);
  return equal(hit, own) ? said(true) : 'maybe';
}

function setHas(right: unknown, value: string): boolean {
  return (
    typeof right === 'object' &&
    right !== null &&
    'set' in right &&
    Array.isArray(right.set) &&
    right.set.includes(value)
  );
}

/** Whether a port is in `443`, `{"range": [a, b]}` or `{"set": [...]}`; undefined when it cannot be told. */
function includes(right: unknown, port: number): boolean | undefined {
  if (typeof right === 'number') return right === port;
  if (typeof right !== 'object' || right === null) return undefined;
  if ('range' in right) {
    const [low, high] = right.range as readonly [number, number];
    return low <= port && port <= high;
  }
  if ('set' in right && Array.isArray(right.set)) {
    const each = right.set.map((entry) => includes(entry, port));
    return each.includes(true) ? true : each.includes(undefined) ? undefined : false;
  }
  return undefined;
}
