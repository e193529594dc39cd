/** What is said of rules that are taken over, and of those that are not. */
import { broughtBack, leftAlone } from '../../src/filters/strays.ts';
import { readTable } from '../../src/filters/iptables/read.ts';
import { packets } from '../../src/filters/place.ts';
import type { Family } from '../../src/prefix.ts';
import type { Desired, Notice } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import type { IptAround } from './around.ts';
import { families } from './names.ts';
import type { findStrays } from './strays.ts';

/** What the admin has to know of rules that are taken over, and of those that are not. */
export function adoptRemarks(
  found: readonly ReturnType<typeof findStrays>[],
  rest: IptAround,
): Notice[] {
  const notices = leftAlone({
    others: found.flatMap((f) => f.others),
    mixed: found.flatMap((f) => f.mixed),
    conditional: found.flatMap((f) => f.conditional),
    inverted: found.flatMap((f) => f.inverted),
  });
  if (found.every((f) => f.strays.length === 0)) return notices;
  notices.push(broughtBack('/etc/iptables/rules.v4 and rules.v6'));
  const used = families
    .flatMap((family) => [...(rest[family]?.tables ?? []), ...(rest[family]?.other.tables ?? [])])
    .flatMap((table) => table.rules.map((rule) => rule.text));
  for (const name of rest.accepted.keys())
    if (!used.some((text) => text.includes(`-set ${name} `)))
      notices.push({
        level: 'warning',
        text: `ipset ${escape(name)} stays, and no rule of iptables uses it then: ipset destroy ${escape(name)}`,
      });
  return notices;
}

/** Whether every connection of Cloudflare's fulfils what a rule asks for besides ranges and ports. */
export function alwaysOn(
  family: Family,
  { defaultRoutes, addresses }: IptAround,
  desired: Desired,
): (besides: string) => boolean {
  const site = { families: [family], interfaces: defaultRoutes, addresses };
  return (besides) => {
    if (besides === '') return true;
    const rules = [{ chain: 'INPUT', text: `${besides} -j ACCEPT` }];
    const table = { name: 'filter', chains: [{ name: 'INPUT', policy: 'ACCEPT' }], rules };
    const [rule] = readTable(table, 'kept', family, { asks: () => () => false }).get('INPUT')!;
    // Flags are of TCP, and so is a rule that asks for them.
    const asked = besides.includes('--tcp-flags') ? { ...desired, udpPorts: [] } : desired;
    return [...packets(site, asked)].every((packet) =>
      rule!.conditions.every((condition) => condition(packet) === true),
    );
  };
}
