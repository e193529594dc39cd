/** Which chains have rules that may be taken over, with what is to be said of those. */
import { keptByIptables, type Chain } from '../../src/filters/nft/listing.ts';
import { broughtBack, leftAlone } from '../../src/filters/strays.ts';
import type { Notice } from '../../src/renderer.ts';
import type { NftAround } from './around.ts';
import { isOwn } from './owned.ts';
import type { findStrays } from './strays.ts';

/** Chains whose rules may be taken over: those where rules of ours can stand in their place. */
export function isAdoptable(chain: Chain, around: NftAround): boolean {
  const table = `${chain.family} ${chain.table}`;
  return (
    chain.base?.type === 'filter' &&
    chain.base.hook === 'input' &&
    ['ip', 'ip6', 'inet'].includes(chain.family) &&
    !isOwn({ family: chain.family, name: chain.table }) &&
    !keptByIptables(around.chains).has(table) &&
    chain.table !== 'firewalld' &&
    !around.owner.includes(table) &&
    !around.dormant.includes(table)
  );
}

/** What the admin has to know of what is taken over, and of what is not. */
export function remarks({ strays, others, mixed }: ReturnType<typeof findStrays>): Notice[] {
  const left = leftAlone(others, mixed);
  if (strays.length === 0) return left;
  return [...left, broughtBack('/etc/nftables.conf')];
}
