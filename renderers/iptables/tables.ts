/** The tables that should be. */
import { exempt } from '../../src/filters/trusted.ts';
import { closedUdpPorts } from '../../src/plugin/ports.ts';
import type { Family } from '../../src/prefix.ts';
import type { Desired, Ranges } from '../../src/renderer.ts';
import type { IptAround } from './around.ts';
import { inputJump, preroutingJump } from './jumps.ts';
import { entry, local, mark, setName, sources } from './names.ts';
import type { IptOptions } from './options.ts';
import type { IptTable } from './owned.ts';

export function allowTable(
  family: Family,
  desired: Desired,
  ranges: Ranges,
  options: IptOptions,
  around: IptAround | undefined,
): IptTable {
  return {
    family,
    name: 'filter',
    chains: [
      { name: entry, rules: portRules(desired, `-j ${sources.filter}`) },
      { name: sources.filter, rules: sourceRules(family, ranges, options, 'ACCEPT') },
    ],
    jumps: [inputJump(family, desired, around)],
  };
}

export function lockdownTable(
  family: Family,
  desired: Desired,
  ranges: Ranges,
  options: IptOptions,
  around: IptAround | undefined,
): IptTable {
  const closed = closedUdpPorts(desired);
  return {
    family,
    name: 'raw',
    chains: [
      {
        name: entry,
        rules: [
          ...exempt(options.trusted, around?.bridges).map((name) => `-i ${name} -j RETURN`),
          ...portRules(desired, `${local} -j ${sources.raw}`),
          ...(closed.length === 0 ? [] : [`${ports('udp', closed)} ${local} ${mark} -j DROP`]),
        ],
      },
      {
        name: sources.raw,
        rules: [...sourceRules(family, ranges, options, 'RETURN'), `${mark} -j DROP`],
      },
    ],
    jumps: [preroutingJump(family, desired, around)],
  };
}

function sourceRules(
  family: Family,
  ranges: Ranges,
  options: IptOptions,
  verdict: 'ACCEPT' | 'RETURN',
): string[] {
  if (options.set) return [`-m set --match-set ${setName[family]} src ${mark} -j ${verdict}`];
  return ranges[family].map((prefix) => `-s ${prefix} ${mark} -j ${verdict}`);
}

function portRules(desired: Desired, then: string): string[] {
  return [
    `${ports('tcp', desired.tcpPorts)} ${then}`,
    ...(desired.udpPorts.length === 0 ? [] : [`${ports('udp', desired.udpPorts)} ${then}`]),
  ];
}

/** The spelling of iptables-save: one port has no multiport. */
function ports(protocol: 'tcp' | 'udp', list: readonly number[]): string {
  return list.length === 1
    ? `-p ${protocol} -m ${protocol} --dport ${list[0]}`
    : `-p ${protocol} -m multiport --dports ${list.join(',')}`;
}
