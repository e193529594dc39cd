/** What the packet filters of a host hold, as text that is the same when they do the same. */

import type { Host } from './lab.ts';

/**
 * The tables of nftables' own, those of iptables in both families, and the sets; without counters, handles,
 * and empty tables, which iptables has no command to delete.
 */
export async function ruleset(host: Host): Promise<string> {
  const text = await host.must([
    'sh',
    '-ec',
    'nft --stateless list ruleset inet; iptables-save; ip6tables-save; ipset save -sorted',
  ]);
  return text
    .replaceAll(/^#.*\n/gm, '')
    .replaceAll(/\[\d+:\d+\]/g, '[0:0]')
    .replaceAll(/^\*.*\n(:\S+ ACCEPT \[0:0\]\n)*COMMIT\n/gm, '');
}
