import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import nftables from '../../../renderers/nftables/index.ts';
import { BackendError, exit } from '../../../src/errors.ts';
import { parseListing } from '../../../src/filters/nft/listing.ts';
import type { Step } from '../../../src/renderer.ts';
import {
  leftoverSets,
  listings,
  more as others,
  ourSets,
  ownerText,
  sharedSets,
  wrongSet,
} from '../../fixtures/nftables/listings.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded, type Recorded } from '../../helpers/host.ts';
import { damagedHost, runThrough, type Reach } from '../../helpers/hostile-host.ts';
import { cases, damagedJson, expectLinear, pumps, readOrRefused } from '../../helpers/hostile.ts';
import { nothingAround } from './host.ts';

const ask = 'nft -j -t list ruleset';
const hosts: readonly Recorded[] = (
  [
    ['ours', ourSets],
    ['misplaced', ourSets],
    ['wrong-set', wrongSet],
    ['shared', sharedSets],
    ['owner', { 'nft -t list table inet owned': ownerText }],
    ['docker', {}],
    ['open-port', {}],
    ['policy-drop', {}],
    ['unclear', {}],
    ['ufw', {}],
    ['drop-through-jump', {}],
    ['leftovers', leftoverSets],
  ] as const
).map(([name, more]) => ({ answers: { [ask]: listings[name], ...others[name], ...more } }));

const values = [
  '"cfsync"',
  '"cfsync4"',
  '"@cfsync4"',
  '"tcp"',
  '"input"',
  '"drop"',
  '{"jump":null}',
];

/** What may stand in a script of ours: names that nft takes, words of its own, addresses. */
const name = '[A-Za-z_.][A-Za-z0-9_./-]*';
const table = `(?:ip6?|inet|arp|bridge|netdev|[a-z0-9_]+) ${name}`;
const statement = `(?:tcp|udp) dport (?:\\d+|\\{ \\d+(?:, \\d+)* \\})|ip6? saddr @${name}|iifname "[\\w.@+*-]+"|fib daddr type local|counter|accept|drop|return|jump ${name}|comment "[ !#-~]*"`;
/** And what an admin's rule may say that is put back. */
const address = '[0-9a-f:.]+(?:/\\d+|-[0-9a-f:.]+)?';
const ports = '\\d+(?:-\\d+)?';
const theirs = `${statement}|iif "[\\w.@-]+"|ip6? daddr (?:${address}|\\{ ${address}(?:, ${address})* \\})|tcp flags (?:== |& \\([\\w |]+\\) == )?[\\w,]+|(?:tcp|udp|th) dport (?:${ports}|\\{ ${ports}(?:, ${ports})* \\})|ip6? saddr (?:${address}|\\{ ${address}(?:, ${address})* \\})|(?:meta l4proto|ip protocol|ip6 nexthdr) (?:tcp|udp)|ct state (?:[a-z]+(?:,[a-z]+)*|\\{ [a-z]+(?:, [a-z]+)* \\})`;
const line = new RegExp(
  `^(?:${[
    `(?:add|delete) table ${table}`,
    `add set ${table} cfsync[46] \\{ type ipv[46]_addr; flags interval; (?:\\}|elements = \\{)`,
    `(?:flush|delete) set ${table} cfsync[46]`,
    `add element ${table} cfsync[46] \\{`,
    '\\t[0-9a-f.:]+/\\d+,',
    '\\}(?:; \\})?',
    `add chain ${table} ${name}(?: \\{ type \\w+ hook \\w+ priority (?:raw|filter|-?\\d+); policy \\w+; \\})?`,
    `(?:flush|delete) chain ${table} ${name}`,
    `add rule ${table} ${name}(?: (?:${statement}))+`,
    `insert rule ${table} ${name}(?: handle \\d+)? jump cfsync comment "cfsync"`,
    `delete rule ${table} ${name} handle \\d+`,
    `(?:add|insert) rule ${table} ${name}(?: handle \\d+)?(?: (?:${theirs}))+`,
    `delete element ${table} ${name} \\{ ${address} \\}`,
    `add element ${table} ${name} \\{ ${address}(?: comment "[ !#-~]*")? \\}`,
  ].join('|')})$`,
);

function checkScript(step: Step): void {
  const lines = step.kind === 'run' ? step.command.stdin!.trimEnd().split('\n') : [];
  expect(lines.filter((text) => !line.test(text))).toEqual([]);
}

describe('what nft prints', () => {
  test('is read or refused', () => {
    let taken = 0;
    const all = Object.values(listings).map((text) => damagedJson(text, values));
    fc.assert(
      fc.property(fc.oneof(...all), (text) => {
        if (readOrRefused(() => parseListing(text), exit.failed)) taken++;
      }),
      cases(5000),
    );
    expect(taken).toBeGreaterThan(1000);
    expect(taken).toBeLessThan(4500);
  });

  test('leads to a plan or a refusal', async () => {
    const reach: Reach = { observed: 0, planned: 0 };
    await fc.assert(
      fc.asyncProperty(damagedHost(hosts, values), (host) =>
        runThrough(nftables, {}, host, reach, checkScript),
      ),
      cases(2000),
    );
    expect(reach.observed).toBeGreaterThan(400);
    expect(reach.planned).toBeGreaterThan(800);
  }, 240_000);

  test.each(pumps)('is read in time that grows with its length: %j', async (piece) => {
    await expectLinear(
      (size) => readOrRefused(() => parseListing(piece.repeat(size)), exit.failed),
      piece,
    );
  });
});

// What somebody may really have, or make.

const rule = (chain: string, expr: readonly object[], handle = 1, of = 'filter') => ({
  rule: { family: 'inet', table: of, chain, handle, expr },
});
const base = (chain: string, of = 'filter') => ({
  chain: {
    family: 'inet',
    table: of,
    name: chain,
    type: 'filter',
    hook: 'input',
    prio: 0,
    policy: 'drop',
  },
});
const jump = (target: string) => [{ jump: { target } }];
const listed = (items: readonly object[]): Recorded => ({
  answers: {
    [ask]: JSON.stringify({
      nftables: [{ table: { family: 'inet', name: 'filter', handle: 1 } }, ...items],
    }),
  },
});
const observe = (host: Recorded) => nftables.observe(recorded(host), nftables.options({}));
const want = async (host: Recorded) =>
  nftables.want(desired(), nftables.options({}), (await observe(host)).around).owned;

describe('a rule set', () => {
  test('in which many jumps lead to the same chains is walked once', async () => {
    const items = Array.from({ length: 60 }, (_, i) => [
      ...Array.from({ length: 5 }, () => rule(`c${i}`, jump(`c${i + 1}`))),
      rule(`c${i}`, [
        { match: { op: '==', left: { meta: { key: 'cpu' } }, right: 1 } },
        { drop: null },
      ]),
    ]).flat();
    const host = listed([base('c0'), ...items]);
    const { around } = await observe(host);
    const { owned } = nftables.want(desired(), nftables.options({}), around);
    // Before the first that may drop.
    expect(owned.tables[0]!.jumps).toEqual([{ chain: 'c0', before: around.rules[0]!.handle }]);
  });

  test('in which chains lead to each other in a circle, or go on for ever, is walked', async () => {
    const circle = listed([base('a'), rule('a', jump('b')), rule('b', jump('a'))]);
    expect((await want(circle)).tables[0]!.jumps).toEqual([{ chain: 'a', before: null }]);
    const long = Array.from({ length: 20_000 }, (_, i) => rule(`c${i}`, jump(`c${i + 1}`)));
    expect((await want(listed([base('c0'), ...long]))).tables[0]!.jumps).toHaveLength(1);
  });

  test.each(['x;y', 'a b', '9x', 'foo[x]', 'x\n}; flush ruleset', '-x', ''])(
    'with a chain named %j is refused where cfsync would have to write there',
    async (chain) => {
      // iptables-nft makes chains of such names, and nft reads none of them (1.0.6).
      await expect(want(listed([base(chain)]))).rejects.toThrow('nft reads no rule for');
      await expect(want(listed([base('input', chain)]))).rejects.toThrow('nft reads no rule for');
      const jumping = listed([
        base('input'),
        { chain: { family: 'inet', table: 'filter', name: 'cfsync' } },
        { chain: { family: 'inet', table: 'filter', name: chain } },
        rule(chain, jump('cfsync')),
      ]);
      await expect(observe(jumping)).rejects.toThrow(BackendError);
      // Elsewhere it does no harm.
      expect(
        (await want(listed([base('input'), rule(chain, [{ drop: null }])]))).tables,
      ).toHaveLength(1);
    },
  );

  test('with an address that nft prints in dotted form is read', async () => {
    const match = (right: unknown) => [
      { match: { op: '==', left: { payload: { protocol: 'ip6', field: 'saddr' } }, right } },
      { drop: null },
    ];
    for (const right of [
      '::ffff:192.0.2.1',
      { prefix: { addr: '::ffff:192.0.2.0', len: 120 } },
      { range: ['::2', '::1'] },
      { range: ['2001:db8::1', '192.0.2.1'] },
    ])
      expect(
        (await want(listed([base('input'), rule('input', match(right))]))).tables,
      ).toHaveLength(1);
  });

  test('with a set of ours that holds something else is refused', async () => {
    const set = (elem: readonly unknown[]) => ({
      set: {
        family: 'inet',
        table: 'filter',
        name: 'cfsync4',
        type: 'ipv4_addr',
        flags: ['interval'],
        elem,
      },
    });
    const host = listed([set([]), { chain: { family: 'inet', table: 'filter', name: 'cfsync' } }]);
    const answer = (elem: readonly unknown[]): Recorded => ({
      answers: {
        ...host.answers,
        'nft -j list set inet filter cfsync4': JSON.stringify({ nftables: [set(elem)] }),
      },
    });
    expect((await observe(answer(['1.1.1.1']))).owned.ranges.v4).toEqual(['1.1.1.1/32']);
    for (const odd of [80, { set: ['1.1.1.1'] }, { prefix: { addr: '1.1.1.1', len: 8 } }, null])
      await expect(observe(answer(['1.1.1.1', odd]))).rejects.toThrow('an element is no address');
  });

  test('of many rules and chains is read in time that grows with their number', async () => {
    const shapes: ((i: number, size: number) => readonly object[])[] = [
      (i) => [rule('input', jump('cfsync'), i)],
      (i) => [rule('input', jump(`c${i}`), i), rule(`c${i}`, [{ accept: null }], i)],
      (i, size) => [rule('input', jump(`c${i}`), i), rule(`c${i}`, jump(`c${(i * 7) % size}`), i)],
      (i) => [rule('input', [{ limit: {} }, { drop: null }], i)],
      (i) => [base(`c${i}`), { chain: { family: 'inet', table: 'filter', name: `d${i}` } }],
    ];
    for (const [index, shape] of shapes.entries())
      await expectLinear(
        (size) => {
          const items = Array.from({ length: size }, (_, i) => shape(i, size)).flat();
          const { rules, chains } = parseListing(
            listed([base('input'), ...items]).answers![ask] as string,
          );
          const around = { ...nothingAround, rules, chains };
          return nftables.want(desired(), nftables.options({}), around);
        },
        `shape ${index}`,
        1000,
      );
  });
});
