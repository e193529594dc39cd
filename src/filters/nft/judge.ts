/** Judges what the rules of a host do to new connections from Cloudflare. */
import { equal, intersect, isEmpty, none, parseRanges } from '../../prefix.ts';
import type { Desired, Ranges } from '../../renderer.ts';
import {
  at,
  elements,
  isOurJump,
  rulesOf,
  type Chain,
  type ChainName,
  type Expr,
  type Family,
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
  /** Rules that may drop the traffic, on conditions that cannot be judged here; each once. */
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
  const end = walk(chain, probe, rules);
  if (end.verdict !== 'continue') return end;
  return { ...end, verdict: chain.base!.policy === 'drop' ? 'drop' : 'accept' };
}

/** Deeper than any: the kernel allows 16 nested jumps (NFT_JUMP_STACK_SIZE). */
const deepest = 100;

/**
 * Follows a probe through a chain. A rule decides only when every condition is known to hold. An accept
 * that has conditions is remembered and passed, because the admin may take it away; one without ends the chain.
 */
export function walk(name: ChainName, probe: Probe, rules: readonly Rule[]): Walk {
  const unclear = new Set<Rule>();
  let open: Rule | undefined;
  // Each chain is followed once, however many jumps lead to it. What leads back into it is taken to go on: the
  // kernel refuses loops.
  const known = new Map<string, Pick<Walk, 'verdict'>>();

  const follow = (chain: string, depth: number): Pick<Walk, 'verdict' | 'rule'> => {
    for (const rule of rulesOf(rules, { ...name, chain })) {
      if (isOurJump(rule)) continue;
      const holds = conditions(rule, probe);
      if (holds === 'no') continue;
      const verdict = rule.expr.find((e) => verdictKeys.some((key) => key in e));
      if (verdict === undefined) {
        if (rule.expr.some((e) => 'vmap' in e || 'xt' in e) && mayDrop(rule)) unclear.add(rule);
        continue;
      }
      if ('accept' in verdict) {
        if (holds !== 'yes') continue;
        if (rule.expr.every((e) => 'counter' in e || 'accept' in e || 'log' in e))
          return { verdict: 'accept', rule };
        if (isPortRule(rule)) open ??= rule;
      } else if ('drop' in verdict || 'reject' in verdict) {
        if (holds === 'yes') return { verdict: 'drop', rule };
        unclear.add(rule);
      } else if ('return' in verdict) {
        if (holds === 'yes') return { verdict: 'continue', rule };
      } else {
        const target = at(verdict.jump ?? verdict.goto, 'target');
        if (typeof target !== 'string') {
          unclear.add(rule); // queue: a program decides
          continue;
        }
        const inner = into(target, depth + 1);
        if (holds !== 'yes') {
          if (inner.verdict === 'drop') unclear.add(rule);
        } else if (inner.verdict !== 'continue' || 'goto' in verdict)
          return { verdict: inner.verdict, rule };
      }
    }
    return { verdict: 'continue' };
  };
  const into = (chain: string, depth: number): Pick<Walk, 'verdict'> => {
    let found = known.get(chain);
    if (found !== undefined || depth > deepest) return found ?? { verdict: 'continue' };
    known.set(chain, { verdict: 'continue' });
    found = follow(chain, depth);
    known.set(chain, found);
    return found;
  };
  const end = follow(name.chain, 0);
  return { ...end, unclear: [...unclear], ...(open === undefined ? {} : { open }) };
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
  const [key, data] = [at(e, 'vmap', 'key'), at(e, 'vmap', 'data')];
  return (
    JSON.stringify(key ?? null).includes('"ct"') && !JSON.stringify(data ?? null).includes('"new"')
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
    const one: Answer = 'match' in e ? matches(e.match, probe) : plain ? 'yes' : 'maybe';
    if (one === 'no') return 'no';
    if (one === 'maybe') all = 'maybe';
  }
  return all;
}

/** Statements that neither decide nor restrict. */
const neutral = ['counter', 'log', 'mangle', 'notrack', 'set', 'map', 'vmap'];

function matches(match: unknown, probe: Probe): Answer {
  const [op, right] = [at(match, 'op'), at(match, 'right')];
  const flip = op === '!=';
  const said = (yes: boolean): Answer => (yes !== flip ? 'yes' : 'no');
  const protocol = at(match, 'left', 'payload', 'protocol');
  const field = at(match, 'left', 'payload', 'field');
  if (protocol !== undefined) {
    if (protocol === 'tcp' || protocol === 'udp' || protocol === 'th') {
      if (protocol !== 'th' && protocol !== probe.protocol) return 'no';
      if (field === 'dport') {
        const has = includes(right, probe.port);
        return has === undefined ? 'maybe' : said(has);
      }
      return 'maybe';
    }
    if (protocol === 'icmp' || protocol === 'icmpv6') return 'no';
    if (protocol === 'ip' || protocol === 'ip6') {
      if (protocol !== probe.source) return 'no';
      if (field === 'protocol' || field === 'nexthdr') return protocolAnswer(right, probe, said);
      if (field === 'saddr') return sourceAnswer(right, probe, said);
    }
    return 'maybe';
  }
  const key = at(match, 'left', 'meta', 'key');
  if (key === 'l4proto') return protocolAnswer(right, probe, said);
  if (key === 'nfproto') return said(right === (probe.source === 'ip' ? 'ipv4' : 'ipv6'));
  if (key === 'protocol') return said(right === probe.source);
  if ((key === 'iifname' || key === 'iif') && right === 'lo') return said(false);
  if (at(match, 'left', 'ct', 'key') === 'state')
    return said([right].flat().includes('new') || setHas(right, 'new'));
  return 'maybe';
}

function protocolAnswer(right: unknown, probe: Probe, said: (yes: boolean) => Answer): Answer {
  if (typeof right === 'string') return said(right === probe.protocol);
  return at(right, 'set') === undefined ? 'maybe' : said(setHas(right, probe.protocol));
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
  const set = at(right, 'set');
  return Array.isArray(set) && set.includes(value);
}

/** Whether a port is in `443`, `{"range": [a, b]}` or `{"set": [...]}` of those; undefined when it cannot be told. */
function includes(right: unknown, port: number): boolean | undefined {
  const set = at(right, 'set');
  if (!Array.isArray(set)) return isPart(right, port);
  const each = set.map((entry) => isPart(entry, port));
  return each.includes(true) ? true : each.includes(undefined) ? undefined : false;
}

function isPart(part: unknown, port: number): boolean | undefined {
  if (typeof part === 'number') return part === port;
  const range = at(part, 'range');
  if (!Array.isArray(range)) return undefined;
  const [low, high] = range as readonly unknown[];
  return typeof low === 'number' && typeof high === 'number'
    ? low <= port && port <= high
    : undefined;
}
