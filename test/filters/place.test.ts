import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readNft } from '../../src/filters/nft/read.ts';
import { isAbove, judge, opening, upper, type Site } from '../../src/filters/place.ts';
import { bundled, desired } from '../helpers/desired.ts';

const file = join(import.meta.dirname, '..', 'fixtures', 'nftables', 'judge.json');
const { chains } = readNft(readFileSync(file, 'utf8'));

const siteOf = (chain: string, more: Partial<Site> = {}): Site => ({
  chain: `nft inet judge ${chain}`,
  families: ['v4'],
  drops: false,
  chains,
  interfaces: ['eth0'],
  addresses: { v4: ['203.0.113.5'], v6: [] },
  ours: ['cfsync'],
  ...more,
});

/** What a chain does to Cloudflare's IPv4 on a port, and at which of its rules; `?` where it may. */
function told(chain: string, port = 443, more: Partial<Site> = {}): string {
  const one = desired({ tcpPorts: [port], ranges: { ...bundled, v6: [] } });
  const { drops, unclear, limit } = judge(siteOf(chain, more), one);
  const open = opening(siteOf(chain, more), one);
  const words = [
    ...(drops.length > 0 ? ['drop'] : []),
    ...(unclear.length > 0 ? ['?'] : []),
    ...(limit >= 0 ? [String(limit)] : []),
    ...(open === undefined ? [] : ['open']),
  ];
  return words.join(' ');
}

const cases: Readonly<Record<string, string>> = {
  accept_all: '',
  accept_with_log: '',
  accept_port: 'drop 1 open',
  accept_established: 'drop 1',
  drop_invalid: '',
  drop_new: 'drop 0',
  drop_not_established: 'drop 0',
  drop_loopback: '',
  drop_not_loopback: 'drop 0',
  drop_interface: '',
  drop_other_port: '',
  drop_other_range: '',
  drop_range: 'drop 0',
  drop_not_port: 'drop 0',
  drop_not_ours: '',
  drop_any_transport: 'drop 0',
  drop_udp: '',
  drop_icmp: '',
  drop_tcp: 'drop 0',
  drop_protocol: 'drop 0',
  drop_v6: '',
  drop_source_elsewhere: '',
  drop_source_ours: 'drop 0',
  // A whole range is no ban.
  drop_source_part: 'drop 0',
  drop_source_not: 'drop 0',
  drop_source_named: '',
  drop_limited: '',
  drop_source_port: '',
  return_first: '',
  return_port: '',
  inner_drop: 'drop 1',
  inner_unclear: '',
  jump_drop: 'drop 0',
  jump_back: '',
  jump_maybe: '',
  goto_end: '',
  state_map: '',
  port_map: 'drop 0',
};

describe('the place of a jump', () => {
  it.each(Object.entries(cases))('%s: %s', (chain, expected) => {
    expect(told(chain)).toBe(expected);
  });

  it('is before what may drop, where the interfaces are not known', () => {
    expect(told('drop_interface', 443, { interfaces: [] })).toBe('? 0');
    expect(told('jump_maybe', 443, { interfaces: [] })).toBe('? 0');
    expect(told('jump_back', 443, { interfaces: [] })).toBe('? 0');
  });

  it('is before a return where the policy drops', () => {
    expect(told('return_first', 443, { drops: true })).toBe('drop 0');
    expect(told('return_port', 443, { drops: true })).toBe('drop 0');
    expect(told('drop_udp', 443, { drops: true })).toBe('drop');
  });

  it('is before a limit where limits count as reached', () => {
    expect(told('drop_limited', 443, { busy: true })).toBe('drop 0');
  });

  it('depends on the port', () => {
    expect(told('drop_range', 80)).toBe('');
    expect(told('port_map', 80)).toBe('');
  });

  it('has a case for every chain of the fixture', () => {
    const names = [...chains.keys()].map((name) => name.split(' ')[3]!);
    expect(names.sort()).toEqual(Object.keys(cases).sort());
  });
});

it('the upper place counts, and none is no limit', () => {
  expect([upper(-1, -1), upper(-1, 3), upper(2, 3), upper(3, -1)]).toEqual([-1, 3, 2, 3]);
  expect([isAbove(5, -1), isAbove(1, 2), isAbove(2, 2)]).toEqual([true, true, false]);
});
