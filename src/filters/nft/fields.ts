/** Knows what a first packet has in each field that a rule of nft may look at. */
import type { Family } from '../../prefix.ts';
import { destinations } from '../conditions.ts';
import type { Packet } from '../walk.ts';
import { at } from './listing.ts';

/** What a rule looks at: the source, or something that has one of a few values. */
export type Field =
  | { readonly source: Family }
  | {
      /** Undefined where nobody can tell. */
      readonly values: (packet: Packet) => readonly (string | number)[] | undefined;
      /** Where it is absent (another protocol), the rule does not match, whatever it asks for. */
      readonly absent?: (packet: Packet) => boolean;
    };

/** What a rule looks at, in nft's words. */
export function nameOf(left: unknown): string {
  const [key = 'expression'] = Object.keys(left ?? {});
  const parts = ['protocol', 'field', 'key'].map((name) => at(left, key, name));
  const words = parts.filter((part) => typeof part === 'string');
  return key === 'payload' ? words.join(' ') || key : [key, ...words].join(' ');
}

/** Protocols that neither TCP nor UDP over IP is. */
const others = new Set(
  'udplite icmp icmpv6 sctp dccp igmp esp ah comp arp vlan gre geneve vxlan'.split(' '),
);

export function fieldOf(left: unknown): Field | undefined {
  const [protocol, field] = [at(left, 'payload', 'protocol'), at(left, 'payload', 'field')];
  if (typeof protocol === 'string') {
    if (others.has(protocol)) return { values: () => [0], absent: () => true };
    if (protocol === 'tcp' || protocol === 'udp' || protocol === 'th')
      return {
        values: ({ port }) => (field === 'dport' ? [port] : undefined),
        absent: (packet) => protocol !== 'th' && protocol !== packet.protocol,
      };
    if (protocol !== 'ip' && protocol !== 'ip6') return undefined;
    const family = protocol === 'ip' ? 'v4' : 'v6';
    const absent = (packet: Packet): boolean => packet.family !== family;
    if (field === 'saddr') return { source: family };
    if (field === 'daddr') return { values: destinations, absent };
    if (field === 'protocol' || field === 'nexthdr')
      return { values: (packet) => [packet.protocol], absent };
    return { values: () => undefined, absent };
  }
  const [meta, ct] = [at(left, 'meta', 'key'), at(left, 'ct', 'key')];
  switch (meta) {
    case 'iifname':
    case 'iif':
      return { values: ({ interfaces }) => interfaces };
    case 'oifname':
    case 'oif':
      return {
        values: ({ to }) => (to === 'here' || to.through === undefined ? undefined : [to.through]),
        absent: ({ to }) => to === 'here',
      };
    case 'l4proto':
      return { values: (packet) => [packet.protocol] };
    case 'nfproto':
      return { values: ({ family }) => [family === 'v4' ? 'ipv4' : 'ipv6'] };
    case 'protocol':
      return { values: ({ family }) => [family === 'v4' ? 'ip' : 'ip6'] };
    case 'pkttype':
      return { values: () => ['host'] };
    case 'mark':
      return { values: ({ mark }) => (mark === undefined ? undefined : [mark]) };
  }
  switch (ct) {
    case 'mark':
      return { values: ({ connectionMark: mark }) => (mark === undefined ? undefined : [mark]) };
    case 'zone':
      return { values: ({ connectionMark: mark }) => (mark === undefined ? undefined : [0]) };
    case 'state':
      return { values: ({ tracked }) => [tracked ? 'new' : 'untracked'] };
    case 'status':
      return { values: ({ translated }) => [translated === undefined ? 'none' : 'dnat'] };
    case 'direction':
      return { values: () => ['original'] };
    case 'proto-dst':
      return { values: ({ originalPort }) => [originalPort] };
  }
  const [flags, result] = [at(left, 'fib', 'flags'), at(left, 'fib', 'result')];
  if (Array.isArray(flags) && flags.includes('daddr') && result === 'type')
    return { values: ({ to }) => [to === 'here' ? 'local' : 'unicast'] };
  if (Array.isArray(flags) && flags.includes('saddr') && result === 'type')
    return { values: () => ['unicast'] };
  // Behind one default route the way back is the way in.
  if (Array.isArray(flags) && flags.includes('saddr') && result === 'oif')
    return { values: ({ interfaces }) => (interfaces.length === 1 ? ['exists'] : undefined) };
  const isExtension = at(left, 'exthdr') !== undefined && at(left, 'exthdr', 'field') === undefined;
  if (isExtension || at(left, 'rt', 'key') === 'ipsec') return { values: () => ['missing'] };
  return undefined;
}
