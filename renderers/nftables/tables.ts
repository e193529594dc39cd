/** The tables that should be. */
import { chainName, type Family } from '../../src/filters/nft/listing.ts';
import { closedUdpPorts, protocols } from '../../src/plugin/ports.ts';
import type { Desired, Ranges } from '../../src/renderer.ts';
import type { NftAround } from './around.ts';
import type { Place } from './attach.ts';
import { jumpFor } from './jumps.ts';
import { bases, byName, jumpRule, mark, ownTable, type NftChain, type NftTable } from './owned.ts';

export function ownSets(ranges: Ranges): NftTable {
  return { ...ownTable, sets: setsFor('inet', ranges), chains: [], jumps: [] };
}

function setsFor(family: Family, ranges: Ranges): NftTable['sets'] {
  return {
    ...(family === 'ip6' ? {} : { cfsync4: ranges.v4 }),
    ...(family === 'ip' ? {} : { cfsync6: ranges.v6 }),
  };
}

export function attachment(
  place: Place,
  desired: Desired,
  ranges: Ranges,
  around: NftAround | undefined,
): NftTable {
  const name = 'table' in place ? place.table : place.name;
  const rules: string[] = [];
  for (const [protocol, list] of protocols(desired)) {
    if (list.length === 0) continue;
    for (const [set, source] of [
      ['cfsync4', 'ip'],
      ['cfsync6', 'ip6'],
    ] as const)
      if (place.family === 'inet' || place.family === source)
        rules.push(
          `${protocol} dport ${ports(list)} ${source} saddr @${set} counter accept ${mark}`,
        );
  }
  const accepts: NftChain = { name: chainName, rules };
  return {
    family: place.family,
    name,
    sets: setsFor(place.family, ranges),
    chains:
      'table' in place
        ? [accepts]
        : byName([accepts, { name: 'input', base: bases.input, rules: [jumpRule] }]),
    jumps: 'table' in place ? [jumpFor(place, desired, around)] : [],
  };
}

export function restriction(desired: Desired, ranges: Ranges, exempt: readonly string[]): NftTable {
  const closed = closedUdpPorts(desired);
  const local = 'fib daddr type local';
  const rules = [
    ...exempt.map((name) => `iifname "${name}" return`),
    `tcp dport ${ports(desired.tcpPorts)} ${local} jump guard`,
    ...(desired.udpPorts.length > 0
      ? [`udp dport ${ports(desired.udpPorts)} ${local} jump guard`]
      : []),
    ...(closed.length > 0 ? [`udp dport ${ports(closed)} ${local} counter drop ${mark}`] : []),
  ];
  return {
    ...ownTable,
    sets: setsFor('inet', ranges),
    chains: byName([
      { name: 'prerouting', base: bases.prerouting, rules },
      {
        name: 'guard',
        rules: ['ip saddr @cfsync4 return', 'ip6 saddr @cfsync6 return', `counter drop ${mark}`],
      },
    ]),
    jumps: [],
  };
}

export function ports(list: readonly number[]): string {
  return list.length === 1 ? String(list[0]) : `{ ${list.join(', ')} }`;
}
