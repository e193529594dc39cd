/**
 * Address space that no public service can be reached from, so that no feed may name it.
 *
 * Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190), the
 * multicast registry (RFC 5771) and, for IPv6, the global unicast space (RFC 4291). Entries of the
 * registries that are inside another entry are left out.
 */
import { parseRanges, subtract } from './prefix.ts';

export const specialPurpose = {
  v4: [
    '0.0.0.0/8', // RFC 791: this network
    '10.0.0.0/8', // RFC 1918: private use
    '100.64.0.0/10', // RFC 6598: shared address space
    '127.0.0.0/8', // RFC 1122: loopback
    '169.254.0.0/16', // RFC 3927: link local
    '172.16.0.0/12', // RFC 1918: private use
    '192.0.0.0/24', // RFC 6890: IETF protocol assignments
    '192.0.2.0/24', // RFC 5737: documentation
    '192.31.196.0/24', // RFC 7535: AS112
    '192.52.193.0/24', // RFC 7450: automatic multicast tunnelling
    '192.88.99.0/24', // RFC 7526: 6to4 relay anycast, deprecated
    '192.168.0.0/16', // RFC 1918: private use
    '192.175.48.0/24', // RFC 7534: direct delegation AS112
    '198.18.0.0/15', // RFC 2544: benchmarking
    '198.51.100.0/24', // RFC 5737: documentation
    '203.0.113.0/24', // RFC 5737: documentation
    '224.0.0.0/4', // RFC 5771: multicast
    '240.0.0.0/4', // RFC 1112: reserved; with it the limited broadcast address, RFC 8190
  ],
  v6: [
    '2001::/23', // RFC 2928: IETF protocol assignments, with Teredo, ORCHID and benchmarking in it
    '2001:db8::/32', // RFC 3849: documentation
    '2002::/16', // RFC 3056: 6to4
    '2620:4f:8000::/48', // RFC 7534: direct delegation AS112
    '3fff::/20', // RFC 9637: documentation
  ],
} as const;

/** The only IPv6 space from which IANA hands out public addresses (RFC 4291, section 2.4). */
export const globalUnicastV6 = '2000::/3';

/** What is left for hosts of the Internet. */
export const publicSpace = subtract(
  parseRanges(['0.0.0.0/0', globalUnicastV6]),
  parseRanges([...specialPurpose.v4, ...specialPurpose.v6]),
);

/** What no visitor from the Internet has (RFC 6890): what names it is for this host or its network on purpose. */
export const localSpace = parseRanges([
  '127.0.0.0/8',
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '::1/128',
  'fc00::/7',
]);
