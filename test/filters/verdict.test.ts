import { describe, expect, it } from 'vitest';
import type { Filters } from '../../src/filters/ask.ts';
import { fromPrefixes, toPrefixes } from '../../src/filters/intervals.ts';
import { cameIn, findingsOf, type Wish } from '../../src/filters/verdict.ts';
import { walk, type Action, type Base, type Condition, type Rule } from '../../src/filters/walk.ts';
import { packet } from '../helpers/doctor.ts';

const rule = (text: string, kind: Action['kind'], ...conditions: Condition[]): Rule => ({
  id: text,
  place: 'nft inet filter input',
  text,
  conditions,
  actions: [kind === 'unknown' ? { kind, unknown: 'numgen' } : ({ kind } as Action)],
  sets: [],
});
const from =
  (...prefixes: string[]): Condition =>
  ({ family }) => {
    const isV6 = prefixes[0]!.includes(':');
    return isV6 === (family === 'v6') && fromPrefixes(prefixes);
  };
const to =
  (port: number, protocol = 'tcp'): Condition =>
  (asked) =>
    asked.port === port && asked.protocol === protocol;

/** A host with one input chain. */
function host(rules: readonly Rule[], policy: Base['policy'] = 'accept'): Filters {
  const end = { ...rule(`policy ${policy}`, 'drop'), actions: [] };
  const families = ['v4', 'v6'] as const;
  const base = { hook: 'input', priority: 0, chain: 'input', nat: false, end } as const;
  const ruleset = { bases: [{ ...base, families, policy }], chains: new Map([['input', rules]]) };
  return {
    ruleset,
    families,
    ask: ({ sources, ...question }) =>
      walk(ruleset, sources, { ...packet, ...question, originalPort: question.port }, () => 'here'),
  } as Partial<Filters> as Filters;
}

const cloudflare = { v4: ['104.16.0.0/13', '172.64.0.0/13'], v6: ['2606:4700::/32'] };
const wish: Wish = {
  ranges: cloudflare,
  extra: { v4: [], v6: [] },
  open: [
    { protocol: 'tcp', port: 80 },
    { protocol: 'tcp', port: 443 },
  ],
  locked: [],
};

/** Each finding in one line. */
const told = (filters: Filters, more: Partial<Wish> = {}, ignored: readonly string[] = []) =>
  findingsOf(filters, { ...wish, ...more }, ignored).map(
    ({ kind, small, doors, sources, rule: by, why }) =>
      [
        `${kind}${small ? ' (small)' : ''}`,
        doors.map(({ protocol, port }) => `${protocol} ${port}`).join(' '),
        [...toPrefixes(sources.v4, 'v4'), ...toPrefixes(sources.v6, 'v6')].slice(0, 3).join(' '),
        by?.text ?? 'nothing',
        ...(why === undefined ? [] : [why]),
      ].join(', '),
  );

describe('what keeps Cloudflare out', () => {
  it('is nothing where nothing does', () => {
    expect(told(host([]))).toEqual([]);
    expect(told(host([rule('x', 'accept')], 'drop'))).toEqual([]);
  });

  it('is told once for all ports and both families', () => {
    expect(told(host([], 'drop'))).toEqual([
      'out, tcp 80 tcp 443, 104.16.0.0/13 172.64.0.0/13 2606:4700::/32, policy drop',
    ]);
  });

  it('names no source with a port that it gets in on', () => {
    const some = rule('some', 'accept', from('104.16.0.0/13'), to(80));
    const none = rule('none', 'accept', from('2606:4700::/32'), to(443));
    expect(told(host([some, none], 'drop'))).toEqual([
      'out, tcp 80, 172.64.0.0/13 2606:4700::/32, policy drop',
      'out, tcp 443, 104.16.0.0/13 172.64.0.0/13, policy drop',
    ]);
    expect(
      told(host([some], 'drop'), { open: [...wish.open, { protocol: 'udp', port: 443 }] }),
    ).toEqual([
      'out, tcp 80, 172.64.0.0/13 2606:4700::/32, policy drop',
      'out, tcp 443 udp 443, 104.16.0.0/13 172.64.0.0/13 2606:4700::/32, policy drop',
    ]);
  });

  it.each([
    ['an address', ['104.16.0.1/32'], true],
    ['a /24', ['104.16.0.0/24'], true],
    ['one address more than a /24', ['104.16.0.0/24', '104.16.1.0/32'], false],
    ['a /24 of each of two ranges', ['104.16.0.0/24', '172.64.0.0/24'], true],
    ['a /48', ['2606:4700::/48'], true],
    ['more than a /48', ['2606:4700::/47'], false],
  ])('counts for %s: %j is little: %s', (_, prefixes, small) => {
    const [found, ...more] = findingsOf(host([rule('x', 'drop', from(...prefixes))]), wish, []);
    expect(found).toMatchObject({ kind: 'out', small });
    expect(more).toEqual([]);
  });

  it('adds up over rules that take a little each', () => {
    const bans = [0, 1, 2].map((i) => rule(`ban ${i}`, 'reject', from(`104.16.${i}.0/25`)));
    expect(told(host(bans)).every((line) => line.startsWith('out,'))).toBe(true);
    expect(told(host(bans.slice(0, 2))).every((line) => line.startsWith('out (small)'))).toBe(true);
  });

  it('is asked for each port and protocol', () => {
    const filters = host([rule('x', 'drop', to(443, 'udp'))]);
    expect(told(filters)).toEqual([]);
    expect(told(filters, { open: [{ protocol: 'udp', port: 443 }] })).toHaveLength(1);
  });

  it('does not count in a place that is ignored', () => {
    expect(told(host([], 'drop'), {}, ['inet filter input'])).toEqual([]);
    expect(told(host([], 'drop'), {}, ['inet filter other'])).toHaveLength(1);
  });

  it('is unclear by a rule that is not understood, and comes last', () => {
    const rules = [rule('x', 'unknown', to(80)), rule('y', 'drop', to(443))];
    expect(told(host(rules)).map((line) => line.replace(/, 104.*?, /, ', '))).toEqual([
      'out, tcp 443, y',
      'unclear, tcp 80, x, numgen',
    ]);
  });
});

describe('others', () => {
  const locked = { locked: [{ protocol: 'tcp', port: 443 }] } as const;
  const ours = [
    rule('cf4', 'accept', from(...cloudflare.v4)),
    rule('cf6', 'accept', from('2606:4700::/32')),
  ];

  it('are no matter where nothing is locked', () => {
    expect(told(host([]))).toEqual([]);
  });

  it('get in where nothing keeps them out', () => {
    expect(told(host([]), locked)[0]).toMatch(/^others, tcp 443, .*, nothing$/);
    expect(told(host(ours, 'drop'), locked)).toEqual([]);
  });

  it('get in by a rule, which is named', () => {
    const rules = [...ours, rule('open', 'accept', to(443))];
    expect(told(host(rules, 'drop'), locked)).toEqual([
      expect.stringMatching(/^others, tcp 443, .*, open$/),
    ]);
  });

  it('are not those whom the admin names, of whom there are few', () => {
    const office = rule('office', 'accept', from('8.8.8.0/24'));
    expect(told(host([...ours, office], 'drop'), locked)).toEqual([]);
    const half = rule('half', 'accept', from('128.0.0.0/1'));
    expect(told(host([...ours, half], 'drop'), locked)).toEqual([]);
    const most = rule('most', 'accept', from('0.0.0.0/1', '128.0.0.0/2'));
    expect(told(host([...ours, most], 'drop'), locked)).toHaveLength(1);
  });

  it('are not the own prefixes', () => {
    const wide = { v4: ['0.0.0.0/1', '128.0.0.0/2'], v6: [] };
    const most = rule('most', 'accept', from(...wide.v4));
    expect(told(host([...ours, most], 'drop'), { ...locked, extra: wide })).toEqual([]);
  });
});

describe('what came in before', () => {
  const found = (filters: Filters) => findingsOf(filters, wish, []);

  it('is known of rules before a change', () => {
    expect(cameIn(host([]), found(host([], 'drop')))).toBe(true);
    expect(cameIn(host([], 'drop'), found(host([], 'drop')))).toBe(false);
  });

  it('is that very port and source', () => {
    const before = host([rule('a', 'accept', to(80))], 'drop');
    expect(cameIn(before, found(host([rule('b', 'drop', to(443))])))).toBe(false);
    expect(cameIn(before, found(host([rule('b', 'drop', to(80))])))).toBe(true);
  });

  it('is nothing where only a few are out', () => {
    expect(cameIn(host([]), found(host([rule('x', 'drop', from('104.16.0.0/24'))])))).toBe(false);
  });
});
