/** Rule sets of the usual public kinds, in which the drop is not where one looks for it first. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Lab, type Expected } from './lab.ts';
import { describeLive } from './privileges.ts';
import { ruleset } from './ruleset.ts';

const fixture = (name: string): string =>
  readFileSync(join(import.meta.dirname, '..', 'fixtures', 'nftables', `${name}.nft`), 'utf8');

interface Case {
  readonly name: string;
  readonly backend: 'nftables' | 'iptables';
  /** A script of nft, or the lines of table filter for both families. */
  readonly rules: string;
  readonly before: { readonly edge: Expected; readonly stranger: Expected };
  readonly allow: { readonly edge: Expected; readonly stranger: Expected };
}

const closed = { edge: 'closed', stranger: 'closed' } as const;
const right = { edge: 'open', stranger: 'closed' } as const;

/** Kinds, each with neighbours: by interface, by map, by the state, by a set, by what comes above. */
const nft = (chain: string, more = ''): string =>
  `table inet fw {\n${more}\nchain web { ip saddr 198.51.100.77 accept; drop; \n}\nchain input { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; meta l4proto { icmp, ipv6-icmp } accept; ${chain}\n}\n}\n`;

/** As iptables-restore takes it; the neighbours must be found in both families. */
const ipt = (...rules: readonly string[]): string =>
  [
    '*filter',
    ':INPUT DROP [0:0]',
    ':WEB - [0:0]',
    '-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
    '-A INPUT -i lo -j ACCEPT',
    '-A INPUT -p icmp -j ACCEPT',
    '-A INPUT -p ipv6-icmp -j ACCEPT',
    ...rules.map((rule) => `-A ${rule}`),
    'COMMIT',
    '',
  ].join('\n');

const cases: readonly Case[] = [
  ...(['vmap', 'iifname', 'namedmap', 'lowercase'] as const).map((name): Case => {
    return { name, backend: 'nftables', rules: fixture(name), before: closed, allow: right };
  }),
  ...Object.entries({
    'a goto from an interface': nft('iifname "eth*" goto web'),
    'a map of interface and port': nft(
      'iifname . tcp dport vmap { "eth0" . 80 : jump web, "eth0" . 443 : jump web }',
    ),
    'a map by the state': nft('ct state vmap { invalid : drop, new : jump web }'),
    'a map by the protocol, two deep': nft(
      'meta l4proto vmap @kinds',
      'map kinds { type inet_proto : verdict; elements = { tcp : jump tcps }\n}\nchain tcps { tcp dport { 80, 443 } jump web\n}',
    ),
    'a return above a policy that drops': nft('iifname "eth0" return; jump web'),
    'a named set of ports': nft(
      'tcp dport @ports drop',
      'set ports { type inet_service; elements = { 80, 443 }\n}',
    ),
  }).map(([name, rules]): Case => {
    return { name, backend: 'nftables', rules, before: closed, allow: right };
  }),
  ...Object.entries({
    'a jump from an interface': ipt('INPUT -i eth0 -j WEB', 'WEB -j DROP'),
    'a goto from an interface': ipt('INPUT -i eth+ -g WEB', 'WEB -p tcp -j REJECT'),
    'a return above a policy that drops': ipt('INPUT -p tcp -j RETURN', 'INPUT -j WEB'),
    'two deep, by the port': ipt(
      'INPUT -p tcp -m multiport --dports 80,443 -j WEB',
      'WEB -m conntrack --ctstate NEW -j DROP',
    ),
  }).map(([name, rules]): Case => {
    return { name, backend: 'iptables', rules, before: closed, allow: right };
  }),
];

describeLive('places', { programs: ['nft', 'iptables-restore'] }, () => {
  let lab: Lab;

  beforeEach(async () => {
    lab = await Lab.create();
    await lab.origin.listen({ tcp: [80, 443] });
  });
  afterEach(async () => {
    await lab.close();
  });

  const run = async (backend: string, ...args: readonly string[]) =>
    lab.cfsync([...args, '-b', backend, '--source', 'bundled']);
  const load = async ({ backend, rules }: Pick<Case, 'backend' | 'rules'>): Promise<void> => {
    if (backend === 'nftables') return lab.origin.nft(rules);
    for (const tool of ['iptables', 'ip6tables'] as const)
      await lab.origin.must([`${tool}-restore`], { stdin: rules });
  };

  it.each(cases)('$backend: $name', async (one) => {
    await load(one);
    await lab.expectVerdict(443, one.before);
    const { code, stderr } = await run(one.backend, 'apply');
    expect(code, stderr).toBe(exit.ok);
    for (const port of [80, 443]) await lab.expectVerdict(port, one.allow);
    const once = await ruleset(lab.origin);
    const again = await run(one.backend, 'apply');
    expect([again.code, again.stdout]).toEqual([exit.ok, '']);
    expect(await ruleset(lab.origin)).toBe(once);
    const doctor = await lab.cfsync(['doctor', '--only', 'packet-filter,two-firewalls']);
    expect(doctor.stdout).toContain('Nothing found');
    const locked = await run(one.backend, 'apply', '--mode', 'lockdown');
    expect(locked.code, locked.stderr).toBe(exit.ok);
    await lab.expectVerdict(443, right);
  });
});
