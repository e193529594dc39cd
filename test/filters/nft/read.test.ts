import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fromPrefixes, toPrefixes } from '../../../src/filters/intervals.ts';
import { readNft } from '../../../src/filters/nft/read.ts';
import { walk, type Packet, type Rule } from '../../../src/filters/walk.ts';
import { packet } from '../../helpers/doctor.ts';
import { withSingleFlags } from '../../helpers/nft.ts';

const folder = join(import.meta.dirname, '..', '..', 'fixtures', 'nftables');
const read = (name: string): string => readFileSync(join(folder, name), 'utf8');

/** Two addresses of one range, one of another. */
const sources = fromPrefixes(['173.245.48.10/32', '173.245.49.10/32', '104.16.0.1/32']);

const { chains } = readNft(read('judge.json'));
const end: Rule = { id: 'end', place: '', text: 'end', conditions: [], actions: [], sets: [] };

/** What a chain does: to all of the sources, or to each part of them. */
function judge(name: string, more: Partial<Packet> = {}): string {
  const base = {
    hook: 'input',
    priority: 0,
    families: ['v4'],
    chain: `nft inet judge ${name}`,
    nat: false,
    policy: 'accept',
    end,
  } as const;
  const results = walk({ bases: [base], chains }, sources, { ...packet, ...more }, () => 'here');
  const told = results.map(({ verdict, rules, doubts, sources: own }) => {
    const word =
      verdict === 'unclear'
        ? `unclear (${doubts.map(({ why }) => why).join('; ')})`
        : verdict === 'accept' && rules.length === 0
          ? 'continue'
          : verdict;
    return `${word}: ${toPrefixes(own, 'v4')
      .map((p) => p.split('/')[0])
      .join(' ')}`;
  });
  return told.length === 1 ? told[0]!.replace(/: [\d. ]+$/, '') : told.sort().join(', ');
}

const cases: Readonly<Record<string, string>> = {
  accept_all: 'accept',
  accept_with_log: 'accept',
  accept_port: 'accept',
  accept_established: 'drop',
  drop_invalid: 'continue',
  drop_new: 'drop',
  drop_not_established: 'drop',
  drop_loopback: 'continue',
  drop_not_loopback: 'drop',
  drop_interface: 'continue',
  drop_other_port: 'continue',
  drop_other_range: 'continue',
  drop_range: 'drop',
  drop_not_port: 'drop',
  drop_not_ours: 'continue',
  drop_any_transport: 'drop',
  drop_udp: 'continue',
  drop_icmp: 'continue',
  drop_tcp: 'drop',
  drop_protocol: 'drop',
  drop_v6: 'continue',
  drop_source_elsewhere: 'continue',
  drop_source_ours: 'drop',
  drop_source_part: 'continue: 173.245.48.10 173.245.49.10, drop: 104.16.0.1',
  drop_source_not: 'drop',
  drop_source_named: 'continue',
  drop_limited: 'continue',
  drop_source_port: 'continue',
  return_first: 'continue',
  return_port: 'continue',
  inner_drop: 'reject',
  inner_unclear: 'continue',
  jump_drop: 'reject',
  jump_back: 'accept',
  jump_maybe: 'accept',
  goto_end: 'continue',
  state_map: 'continue',
  port_map: 'drop',
};

describe('a chain of nft', () => {
  it.each(Object.entries(cases))('%s: %s', (name, verdict) => {
    expect(judge(name)).toBe(verdict);
  });

  it('has all of its rules judged', () => {
    expect(Object.keys(cases).map((name) => `nft inet judge ${name}`)).toEqual([...chains.keys()]);
  });

  it.each([
    ['inner_unclear', 'unclear (meta iifname)'],
    ['drop_loopback', 'continue'],
    ['drop_not_loopback', 'drop'],
    // Whether it jumps, nobody knows, and what would follow is the same with and without it.
    ['jump_back', 'unclear (meta iifname)'],
    ['jump_maybe', 'unclear (meta iifname)'],
    ['goto_end', 'unclear (meta iifname)'],
  ])('on a host with two ways in, %s: %s', (name, verdict) => {
    expect(judge(name, { interfaces: ['eth0', 'eth1'] })).toBe(verdict);
  });

  it.each([
    ['drop_limited', { busy: true }, 'drop'],
    ['drop_new', { tracked: false }, 'continue'],
    ['drop_not_established', { tracked: false }, 'drop'],
    ['drop_other_port', { port: 25 }, 'drop'],
    ['port_map', { port: 22 }, 'accept'],
    ['port_map', { port: 80 }, 'continue'],
  ] as const)('%s, for %j: %s', (name, more, verdict) => {
    expect(judge(name, more)).toBe(verdict);
  });

  it.each([
    ['accept_port', 'drop'],
    ['drop_range', 'continue'],
    ['drop_not_port', 'continue'],
    ['drop_any_transport', 'drop'],
    ['drop_udp', 'drop'],
    ['drop_tcp', 'drop'],
    ['drop_protocol', 'continue'],
    ['drop_source_port', 'continue'],
    ['return_port', 'drop'],
    ['port_map', 'continue'],
    ['jump_drop', 'reject'],
  ])('%s, for UDP: %s', (name, verdict) => {
    expect(judge(name, { protocol: 'udp' })).toBe(verdict);
  });

  it('is named in the words that nft has for it', () => {
    const text = `table inet judge { # handle 1
\tchain drop_new { # handle 7
\t\tct state new drop # handle 99
\t}
\tchain drop_source_ours { # handle 8
\t\tip saddr { 192.0.2.1,
\t\t\t   192.0.2.2 } drop # handle 98
\t}
}
`;
    const handles = new Map([
      ['drop_new', 99],
      ['drop_source_ours', 98],
    ]);
    const listing = JSON.parse(read('judge.json')) as {
      nftables: { rule?: Record<string, unknown> }[];
    };
    for (const { rule } of listing.nftables) {
      const handle = handles.get(String(rule?.chain));
      if (rule !== undefined && handle !== undefined) rule.handle = handle;
    }
    const worded = readNft(JSON.stringify(listing), { text }).chains;
    const [first] = worded.get('nft inet judge drop_new')!;
    expect(first).toMatchObject({ place: 'nft inet judge drop_new', text: 'ct state new drop' });
    const [long] = worded.get('nft inet judge drop_source_ours')!;
    expect(long!.text).toBe('ip saddr { 192.0.2.1, 192.0.2.2 } drop');
  });
});

describe('a rule that asks for one thing of fib', () => {
  const held = (json: string) =>
    readNft(json)
      .chains.get('nft inet lab input')!
      .map(({ conditions }) => conditions.map((condition) => condition({ ...packet, port: 443 })));

  it.each([
    ['1.0.6', read('flags.json')],
    ['1.1.3', read('flags-1.1.3.json')],
    ['1.1.4', withSingleFlags(read('flags.json'))],
    ['1.1.7', read('flags-1.1.7.json')],
  ])('is understood as nft %s prints it', (_, json) => {
    const [local, missing, exists, , concat] = held(json);
    expect([local, missing, exists, concat]).toEqual([[true], [false], [true], [true]]);
  });
});

describe('reject with tcp reset, of which nft 1.0.6 does not print the family', () => {
  const file = (name: string): string =>
    readFileSync(join(import.meta.dirname, '..', '..', 'fixtures', 'doctor', name), 'utf8');
  /** By rule: whether all of its conditions hold for a packet of the family to port 80. */
  const holding = (debug: string, family: 'v4' | 'v6', listing = 'hidden-family.listing') =>
    readNft(file(listing), { debug })
      .chains.get('nft inet t input')!
      .slice(0, listing.startsWith('hidden-family') ? 4 : undefined)
      .map(({ conditions }) => {
        const all = conditions.map((condition) => condition({ ...packet, family, port: 80 }));
        return all.find((match) => match !== true) ?? true;
      });

  it('is read from the code of the rule', () => {
    const debug = file('hidden-family.debug');
    expect(holding(debug, 'v6')).toEqual([true, false, true, false]);
    expect(holding(debug, 'v4')).toEqual([false, false, false, false]);
  });

  it('is read wherever the rule asks for it: meta protocol, ether type', () => {
    const at = (family: 'v4' | 'v6') =>
      holding(file('hidden-protocol.debug'), family, 'hidden-protocol.listing');
    // ip6, ip (meta protocol); ip6, ip (ether type); none; all but ip, which is printed.
    expect(at('v6')).toEqual([true, false, true, false, true, true]);
    expect(at('v4')).toEqual([false, true, false, true, true, false]);
  });

  it('is not guessed where that cannot be had', () => {
    const unknown = { unknown: 'a family that nft does not print' };
    expect(holding('', 'v4')).toEqual([unknown, false, unknown, false]);
  });
});
