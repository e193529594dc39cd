/** Judges what somebody else wrote to let Cloudflare in: by its ports, and by its place. */
import { isWithin, type PortRange } from '../plugin/ports.ts';
import type { Desired, Notice } from '../renderer.ts';
import { escape, few } from '../text.ts';

/** What a rule asks of a packet, besides its source. */
export interface Asks {
  /** Undefined: any. */
  readonly protocol?: 'tcp' | 'udp';
  /** Each list is a condition. */
  readonly ports: readonly (readonly PortRange[])[];
}

/** What a rule opens: desired ports alone, all that there are (of TCP, of UDP), or others of its own. */
export type Opens = 'ours' | 'port' | 'TCP port' | 'UDP port' | 'others';

/** @param way What is asked on the way to the rule. */
export function opens(desired: Desired, way: Asks, rule: Asks): Opens {
  const protocol = rule.protocol ?? way.protocol;
  const lists = [...way.ports, ...rule.ports];
  const wanted = {
    tcp: desired.tcpPorts,
    udp: desired.udpPorts,
    any: desired.tcpPorts.filter((port) => desired.udpPorts.includes(port)),
  }[protocol ?? 'any'];
  if (lists.length === 0) {
    if (protocol === undefined) return 'port';
    if (wanted.length > 0) return protocol === 'tcp' ? 'TCP port' : 'UDP port';
  }
  return lists.some((list) => list.every((range) => isWithin(range, wanted))) ? 'ours' : 'others';
}

/** What ends with a rule that opens so much on one of the ways to it; undefined: nothing else. */
export function beyondOf(all: readonly Opens[]): string | undefined {
  const most = all.find((one) => one !== 'ours');
  return most && `they reach every other ${most} as well`;
}

/** A rule that opens other ports. */
export interface Other {
  readonly text: string;
  /** Undefined: any. */
  readonly protocol: Asks['protocol'];
}

/** What stays the admin's, as it is printed. */
export interface Left {
  /** They open other ports, alone or as well. */
  readonly others: readonly Other[];
  /** They serve something else as well. */
  readonly mixed: readonly string[];
  /** They ask for something else that not every connection of Cloudflare's is known to fulfil. */
  readonly conditional: readonly string[];
  /** They keep out everybody but the ranges of an old list. */
  readonly inverted: readonly string[];
}

/** What is said of rules for Cloudflare's ranges that are not taken over. */
export function leftAlone({ others, mixed, conditional, inverted }: Left): Notice[] {
  const flags = [
    ...(others.some(({ protocol }) => protocol !== 'udp') ? ['--ports'] : []),
    ...(others.some(({ protocol }) => protocol !== 'tcp') ? ['--udp-ports'] : []),
  ];
  const kinds = [
    [
      others.map(({ text }) => text),
      (names: string) =>
        `rules for Cloudflare's ranges that open other ports stay as they are (${names}); to take them over, name those ports as well with ${flags.join(' or ')}`,
    ],
    [
      mixed,
      (names: string) =>
        `what has ranges of Cloudflare's and serves something else as well stays as it is (${names}); take the ranges out by hand`,
    ],
    [
      conditional,
      (names: string) =>
        `left alone, because they ask for more than the ranges and the ports, which not every connection of Cloudflare's may fulfil: ${names}; delete them by hand where they are not needed beside ours`,
    ],
    [
      inverted,
      (names: string) =>
        `left alone, because they keep out whoever an old list does not have: ${names}; --mode lockdown does that with the list of today, so apply it and then delete them by hand`,
    ],
  ] as const;
  return kinds
    .filter(([list]) => list.length > 0)
    .map(([list, say]): Notice => ({ level: 'warning', text: say(few(list.map(escape))) }));
}

/** The warning that what was taken over may be written again. @param files Those that are loaded at boot. */
export function broughtBack(files: string): Notice {
  return {
    level: 'warning',
    text: `a script that wrote these rules, or a file that is loaded at boot (${files}), brings them back: take them out there as well`,
  };
}

/** What a plan does with strays. */
export interface Moves<S> {
  readonly go: readonly S[];
  readonly stay: readonly S[];
  readonly back: readonly S[];
}

/**
 * @param wanted Undefined where all of them go.
 * @param there The keys of what else the host has.
 */
export function movesOf<S>(
  wanted: readonly S[] | undefined,
  observed: readonly S[],
  keyOf: (stray: S) => string,
  there: () => readonly string[],
): Moves<S> {
  if (wanted === undefined) return { go: observed, stay: [], back: [] };
  // On the way back none of theirs goes: what was written since then stays.
  if (wanted.length === 0) return { go: [], stay: observed, back: [] };
  // What is there already is not put back, whether it was looked for or not.
  const left = new Map<string, number>();
  for (const key of [...observed.map(keyOf), ...there()]) left.set(key, (left.get(key) ?? 0) + 1);
  const back = wanted.filter((stray) => {
    const count = left.get(keyOf(stray)) ?? 0;
    // Each that is there stands for one.
    left.set(keyOf(stray), count - 1);
    return count <= 0;
  });
  return { go: [], stay: observed, back };
}
