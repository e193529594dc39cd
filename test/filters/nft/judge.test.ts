import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { probes, walk, type Walk } from '../../../src/filters/nft/judge.ts';
import { parseListing } from '../../../src/filters/nft/listing.ts';
import { desired } from '../../helpers/desired.ts';

const file = join(import.meta.dirname, '..', '..', 'fixtures', 'nftables', 'judge.json');
const { rules, chains } = parseListing(readFileSync(file, 'utf8'));

/** What the chain of that name does to IPv4 to TCP port 443; `?` for conditions that cannot be judged. */
function judge(chain: string, port = 443): string {
  const [probe] = probes(desired({ tcpPorts: [port] }), 'ip');
  const end: Walk = walk({ family: 'inet', table: 'judge', chain }, probe!, rules);
  const words = [
    end.verdict,
    ...(end.unclear.length > 0 ? ['?'] : []),
    ...(end.open === undefined ? [] : ['open']),
  ];
  return words.join(' ');
}

const cases: Readonly<Record<string, string>> = {
  accept_all: 'accept',
  accept_with_log: 'accept',
  accept_port: 'drop open',
  accept_established: 'drop',
  drop_invalid: 'continue',
  drop_new: 'drop',
  drop_not_established: 'drop',
  drop_loopback: 'continue',
  drop_not_loopback: 'drop',
  drop_interface: 'continue ?',
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
  drop_source_part: 'continue ?',
  drop_source_not: 'drop',
  drop_source_named: 'continue ?',
  drop_limited: 'continue ?',
  drop_source_port: 'continue ?',
  return_first: 'continue',
  return_port: 'continue',
  inner_drop: 'drop',
  inner_unclear: 'continue ?',
  jump_drop: 'drop',
  jump_back: 'accept ?',
  jump_maybe: 'accept ?',
  goto_end: 'continue ?',
  state_map: 'continue',
  port_map: 'continue ?',
};

describe('walk', () => {
  it.each(Object.entries(cases))('%s: %s', (chain, expected) => {
    expect(judge(chain)).toBe(expected);
  });

  it('has a case for every chain of the fixture', () => {
    expect(chains.map((c) => c.chain).sort()).toEqual(Object.keys(cases).sort());
  });

  it('asks for each port by itself', () => {
    expect(judge('drop_range', 80)).toBe('continue');
    expect(judge('accept_port', 80)).toBe('drop');
  });
});
