/** Reads the rules that `iptables -S` prints and that /etc/ufw/user.rules holds, and judges what they do to a port. */
import { asPrefix, intersect, isEmpty, none, subtract, type Family } from '../../src/prefix.ts';
import type { Ranges } from '../../src/renderer.ts';
import { linesOf, unreadable } from '../../src/filters/iptables/save.ts';

/** One `-A` line, as far as it matters here. */
export interface ChainRule {
  /** The line as it was read. */
  readonly text: string;
  readonly chain: string;
  readonly target: string;
  /** Absent for any. */
  readonly protocol?: string;
  /** Destination ports as in `80,443` or `6000:6007`; absent for any. */
  readonly ports?: string;
  /** Absent for anywhere. */
  readonly source?: string;
  /** Absent for any. */
  readonly destination?: string;
  /** Absent for any. */
  readonly sourcePorts?: string;
  /** `-i`. */
  readonly input?: string;
  /** Everything else that a packet must match. */
  readonly conditions: readonly string[];
}

/** New connections that some of our rules are about. */
export interface Claim {
  readonly protocol: string;
  /** As in `80,443`. */
  readonly ports: string;
  /** Prefixes of one family. */
  readonly sources: readonly string[];
}

/** What a firewall that was read with `iptables -S` holds. */
export interface Listing {
  /** By chain: `ACCEPT` or `DROP`. */
  readonly policies: ReadonlyMap<string, string>;
  readonly chains: ReadonlySet<string>;
  readonly rules: readonly ChainRule[];
}

/** @throws BackendError when it is cut off, or anything else than what `iptables -S` prints. */
export function parseListing(text: string, program: string): Listing {
  const policies = new Map<string, string>();
  const chains = new Set<string>();
  const rules: ChainRule[] = [];
  for (const line of linesOf(text, program)) {
    const [kind, chain = '', policy = ''] = line.split(' ');
    const rule = parseRule(line);
    if (rule !== undefined) rules.push(rule);
    else if (kind === '-P' && policy !== '') policies.set(chain, policy);
    else if (kind === '-N' && chain !== '') chains.add(chain);
    else throw unreadable(program, line);
  }
  return { policies, chains, rules };
}

/** Names of matches that only introduce an option that is read here. */
const plainMatches = new Set(['tcp', 'udp', 'multiport', 'comment']);

/** Reads an `-A` line; undefined for any other line. */
export function parseRule(text: string): ChainRule | undefined {
  const words = text.match(/"[^"\\]*(?:\\.[^"\\]*)*"|'[^']*'|\S+/gs) ?? [];
  if (words[0] !== '-A' || words[1] === undefined) return undefined;
  const found: Record<string, string> = {};
  const conditions: string[] = [];
  for (let i = 2; i < words.length; i++) {
    const word = words[i]!;
    const name = names.get(word);
    if (name !== undefined) {
      const value = words[++i] ?? '';
      if (name !== '') found[name] = value;
    } else if (word === '-m' && plainMatches.has(words[i + 1] ?? '')) i++;
    else conditions.push(word);
  }
  const { target = '', protocol = 'all', ...others } = found;
  return {
    text,
    chain: words[1],
    target,
    ...(protocol === 'all' ? {} : { protocol }),
    ...others,
    conditions,
  };
}

/** Options with one value; those without a name do not matter here. */
const names: ReadonlyMap<string, string> = new Map([
  ['-j', 'target'],
  ['-p', 'protocol'],
  ['-s', 'source'],
  ['-i', 'input'],
  ['--dport', 'ports'],
  ['--dports', 'ports'],
  ['-d', 'destination'],
  ['--sport', 'sourcePorts'],
  ['--sports', 'sourcePorts'],
  ['--comment', ''],
  ['--reject-with', ''],
]);

/** A rule in the one form that ours have: accept from a prefix to ports, on no other condition. */
export function isOfOurForm(rule: ChainRule): boolean {
  return isAcceptFrom(rule) && rule.ports !== undefined;
}

/** The same, whether it names ports or not. */
export function isAcceptFrom(rule: ChainRule): boolean {
  return (
    rule.target === 'ACCEPT' &&
    rule.source !== undefined &&
    rule.destination === undefined &&
    rule.sourcePorts === undefined &&
    rule.input === undefined &&
    rule.conditions.length === 0
  );
}

/** The same text for the same rule, in the file and from the kernel; for rules that only accept from a prefix. */
export function ruleKey(rule: ChainRule): string {
  return `${rule.protocol} ${rule.ports} ${prefixText(rule.source!)}`;
}

/** The same for the same rule, in the file and from the kernel, as far as it is read. */
export function meaning(rule: ChainRule): unknown {
  const { source, destination, conditions } = rule;
  return {
    ...rule,
    text: undefined,
    source: source && prefixText(source),
    destination: destination && prefixText(destination),
    // What a limit has without being told.
    conditions: conditions.join(' ').replace(/ --name DEFAULT --mask [\da-f.:]+ --rsource/, ''),
  };
}

/** The same text for the same prefix; what is none stays as it is. */
export function prefixText(source: string): string {
  return asPrefix(source)?.text ?? source;
}

/** Whether a port is in `443`, `80,443` or `6000:6007`; `any` and nothing hold every port. */
export function includesPort(ports: string | undefined, port: number): boolean {
  if (ports === undefined || ports === 'any') return true;
  return ports.split(',').some((part) => {
    const [low, high = low] = part.split(':').map(Number);
    return low! <= port && port <= high!;
  });
}

/**
 * Whether a rule in front of ours keeps traffic away from them: that of a whole prefix of ours, which makes
 * our rule worthless, or a part of one, as a ban does.
 * @param claims Asked for only where it matters.
 */
export function hinders(
  rule: ChainRule,
  claims: () => readonly Claim[],
): 'whole' | 'part' | undefined {
  if (!/^(DROP|REJECT|ufw6?-user-limit-accept)$/.test(rule.target)) return undefined;
  if (rule.conditions.length > 0) return undefined;
  let answer: 'part' | undefined;
  for (const { protocol, ports, sources } of claims()) {
    if (rule.protocol !== undefined && rule.protocol !== protocol) continue;
    if (!ports.split(',').some((port) => includesPort(rule.ports, Number(port)))) continue;
    if (rule.source === undefined) return 'whole';
    const prefix = asPrefix(rule.source);
    if (prefix === undefined) {
      answer = 'part';
      continue;
    }
    const hit = intersect(one(prefix), { ...none, [prefix.family]: sources })[prefix.family];
    if (hit.some((text) => sources.includes(text))) return 'whole';
    if (hit.length > 0) answer = 'part';
  }
  return answer;
}

/** Whether all of a source, `undefined` for anywhere, is in the ranges. */
export function within(source: string | undefined, ranges: Ranges): boolean {
  const prefix = source === undefined ? undefined : asPrefix(source);
  return prefix !== undefined && isEmpty(subtract(one(prefix), ranges));
}

function one({ family, text }: { readonly family: Family; readonly text: string }): Ranges {
  return { ...none, [family]: [text] };
}
