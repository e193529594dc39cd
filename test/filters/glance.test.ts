import { expect, it } from 'vitest';
import { glance, glanceOf, observeFilters } from '../../src/filters/observe.ts';
import type { Asked } from '../../src/state/judged.ts';
import { recorded, type Recorded } from '../helpers/host.ts';

/** A host with a set that a rule asks, and tables of iptables of the legacy variant. */
const answers = {
  'nft -j -t list ruleset': JSON.stringify({
    nftables: [
      { table: { family: 'inet', name: 'f', handle: 1 } },
      { set: { family: 'inet', table: 'f', name: 's', type: 'ipv4_addr', handle: 2 } },
      {
        chain: {
          family: 'inet',
          table: 'f',
          name: 'in',
          type: 'filter',
          hook: 'input',
          prio: 0,
          policy: 'accept',
          handle: 3,
        },
      },
      {
        rule: {
          family: 'inet',
          table: 'f',
          chain: 'in',
          handle: 4,
          expr: [
            {
              match: {
                op: '==',
                left: { payload: { protocol: 'ip', field: 'saddr' } },
                right: '@s',
              },
            },
            { counter: { packets: 1, bytes: 2 } },
            { drop: null },
          ],
        },
      },
    ],
  }),
  'nft -a -t list ruleset': 'ip saddr @s counter packets 1 bytes 2 drop # handle 4\n',
  'ip -j address show':
    '[{"ifname":"eth0","addr_info":[{"scope":"global","local":"203.0.113.5"}]}]',
  'nft -j list set inet f s': '{"nftables": [{"set": {"name": "s", "elem": ["192.0.2.1"]}}]}',
  'iptables-legacy-save':
    '*filter\n:INPUT DROP [1:2]\n-A INPUT -m set --match-set x src -j DROP\nCOMMIT\n',
  'ipset save': 'create x hash:ip\n',
};
const routes =
  'Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0\t0\t0\t0\t0\t00000000\n';
const files = { '/proc/net/route': routes, '/proc/net/ip_tables_names': 'filter\n' };
const hostWith = (more: Recorded = {}) =>
  recorded({ answers: { ...answers, ...more.answers }, files: { ...files, ...more.files } });

const looked = async () => {
  const seen = await observeFilters(hostWith());
  return { seen, asked: seen.asked! };
};

it('a short look asks for the rules as text, and for what they ask', async () => {
  const { seen, asked } = await looked();
  expect(asked).toEqual<Asked>({
    sets: [['set', 'inet', 'f', 's']],
    saves: [{ family: 'v4', variant: 'legacy' }],
    ipset: true,
  });
  const { 'nft -j -t list ruleset': _, ...short } = answers;
  expect(await glance(recorded({ answers: short, files }), asked)).toBe(glanceOf(seen));
});

it.each([
  ['a rule', { answers: { 'nft -a -t list ruleset': 'ip saddr @s drop # handle 5\n' } }],
  ['an element', { answers: { 'nft -j list set inet f s': '{"nftables": []}' } }],
  ['an address', { answers: { 'ip -j address show': '[]' } }],
  ['a rule of iptables', { answers: { 'iptables-legacy-save': '*filter\nCOMMIT\n' } }],
  ['a member of an ipset', { answers: { 'ipset save': 'create x hash:ip\nadd x 192.0.2.1\n' } }],
  ['a route', { files: { '/proc/net/route': routes.replace('eth0', 'eth1') } }],
  ['a family of tables', { files: { '/proc/net/ip6_tables_names': 'filter\n' } }],
])('%s that has changed is another one', async (_, more: Recorded) => {
  const { seen, asked } = await looked();
  expect(await glance(hostWith(more), asked)).not.toBe(glanceOf(seen));
});

it('what counts packets is not', async () => {
  const { seen, asked } = await looked();
  const later = {
    'nft -a -t list ruleset': answers['nft -a -t list ruleset'].replace('1 bytes 2', '9 bytes 99'),
    'iptables-legacy-save': answers['iptables-legacy-save'].replace('[1:2]', '[9:99]'),
  };
  expect(await glance(hostWith({ answers: later }), asked)).toBe(glanceOf(seen));
});
