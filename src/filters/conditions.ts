/** What conditions of packet filters come to for a new connection, in whatever syntax they were written. */
import { asPrefix } from '../prefix.ts';
import { common, fromPrefixes, size, type Intervals } from './intervals.ts';
import type { Condition, Match, Packet, Rule, Unknown } from './walk.ts';

export function unknown(what: string): Unknown {
  return { unknown: what };
}

/** For what is one of a few values, and nobody knows which: certain when all of them agree. */
export function agreed<T>(
  values: readonly T[],
  test: (value: T) => boolean | undefined,
  what: string,
): boolean | Unknown {
  const all = values.map(test);
  if (all.length === 0 || all.includes(undefined) || new Set(all).size > 1) return unknown(what);
  return all[0]!;
}

/** A limit: not reached by a connection alone, reached when there are many. */
export function limit(kind: 'below' | 'above'): Condition {
  return ({ busy }) => (kind === 'above') === busy;
}

/** Prefixes or single addresses of one family; undefined where one of them is neither. */
export function intervalsOf(texts: readonly string[]): Intervals | undefined {
  const prefixes: string[] = [];
  for (const text of texts) {
    const prefix = asPrefix(text)?.text;
    if (prefix === undefined) return undefined;
    prefixes.push(prefix);
  }
  return fromPrefixes(prefixes);
}

/** Where the packet goes, as the rules see it. */
export function destinations({ to, addresses }: Packet): readonly string[] {
  return to === 'here' ? addresses : [to.address];
}

/** Whether an address is in a set of its own family. */
export function holds(set: Intervals, address: string): boolean {
  const [[value] = [0n]] = intervalsOf([address]) ?? [];
  return set.some(([first, last]) => first <= value && value <= last);
}

const flagBits: Readonly<Record<string, number>> = {
  fin: 1,
  syn: 2,
  rst: 4,
  psh: 8,
  ack: 16,
  urg: 32,
  ecn: 64,
  ece: 64,
  cwr: 128,
  all: 63,
  none: 0,
};

/** A first packet has SYN, and nothing else. */
export const synFlag = 2;

/** The bits of flags by name; undefined for a name that is none. */
export function flagsOf(names: readonly string[]): number | undefined {
  const all = names.map((name) => flagBits[name.toLowerCase()]);
  return all.includes(undefined) ? undefined : all.reduce<number>((sum, bit) => sum | bit!, 0);
}

/** Clients take their port from these; ip_local_port_range is narrower on most systems, and NAT uses all of them. */
const clientPorts = { low: 1024, high: 65_535 } as const;

/** Whether the source port is in one of these ranges. */
export function sourcePort(ranges: readonly (readonly [number, number])[], what: string): Match {
  const { low, high } = clientPorts;
  const touching = ranges.filter(([first, last]) => first <= high && last >= low);
  if (touching.length === 0) return false;
  return touching.some(([first, last]) => first <= low && last >= high) ? true : unknown(what);
}

/** The sources that a rule names, where it names some and not all but some. */
export function namedBy(rule: Rule, packet: Packet): Intervals | undefined {
  let found: Intervals | undefined;
  for (const condition of rule.conditions) {
    const match = condition(packet);
    if (typeof match === 'boolean' || 'unknown' in match) continue;
    found = found === undefined ? match : common(found, match);
  }
  const whole = 1n << (packet.family === 'v4' ? 32n : 128n);
  return found !== undefined && size(found) * 4n < whole ? found : undefined;
}
