/** Judges what somebody else wrote to let Cloudflare in: by its ports, and by its place. */
import type { Desired, Notice } from '../renderer.ts';
import { escape, few } from '../text.ts';

/** First and last. */
export type PortRange = readonly [number, number];

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

function isWithin([low, high]: PortRange, wanted: readonly number[]): boolean {
  return wanted.filter((port) => low <= port && port <= high).length === high - low + 1;
}

/** What ends with a rule that opens so much on one of the ways to it; undefined: nothing else. */
export function beyondOf(all: readonly Opens[]): string | undefined {
  const most = all.find((one) => one !== 'ours');
  return most && `they reach every other ${most} as well`;
}

/** The upper one of two places in a chain; -1 stands for none. */
export function upper(one: number, other: number): number {
  return one < 0 || other < 0 ? Math.max(one, other) : Math.min(one, other);
}

/**
 * What is said of rules for Cloudflare's ranges that are not taken over.
 * @param others They open other ports, alone or as well.
 * @param mixed They serve something else as well.
 */
export function leftAlone(others: readonly string[], mixed: readonly string[]): Notice[] {
  const warn = (text: string): Notice => ({ level: 'warning', text });
  const names = (list: readonly string[]): string => few(list.map(escape));
  return [
    ...(others.length === 0
      ? []
      : [
          warn(
            `rules for Cloudflare's ranges that open other ports stay as they are (${names(others)}); to take them over, name those ports as well with --ports`,
          ),
        ]),
    ...(mixed.length === 0
      ? []
      : [
          warn(
            `what has ranges of Cloudflare's and serves something else as well stays as it is (${names(mixed)}); take the ranges out by hand`,
          ),
        ]),
  ];
}
