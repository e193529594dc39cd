/** Makes of what nft listed what the search for a place asks. */
import { chainName, same, type Chain, type ChainName, type Rule as Listed } from './listing.ts';
import { familiesOf, readListing, type NftRules } from './read.ts';
import type { Site } from '../place.ts';
import type { Family } from '../../prefix.ts';

/** What is known of a host that has nft. */
export interface NftHost {
  readonly rules: readonly Listed[];
  readonly chains: readonly Chain[];
  /** What `nft -j list` printed of the sets and maps that rules ask, but for those that they ask for the source. */
  readonly elements: readonly string[];
  /** What `nft --debug=netlink list ruleset` printed, where a rule hides its family; else empty. */
  readonly debug: string;
  /** Interfaces with a default route. */
  readonly defaultRoutes: readonly string[];
  /** Of this host, where strangers come in. */
  readonly addresses: Readonly<Record<Family, readonly string[]>>;
}

/** Rules are read once, however many chains are asked. */
const known = new WeakMap<readonly Listed[], NftRules['chains']>();

function chainsOf({ rules, chains, elements, debug }: NftHost): NftRules['chains'] {
  let found = known.get(rules);
  if (found === undefined) {
    found = readListing({ rules, chains }, { elements, debug, otherwise: [] }).chains;
    known.set(rules, found);
  }
  return found;
}

/**
 * A chain of the admin's. Sets that are asked for the source count as empty: what they drop are bans, and what they let
 * pass the admin may take away.
 */
export function siteOf(name: ChainName | Chain, around: NftHost): Site {
  const { family, table, chain } = name;
  const base: Chain['base'] =
    'base' in name ? name.base : around.chains.find((c) => same(c, name))?.base;
  return {
    chain: `nft ${family} ${table} ${chain}`,
    families: familiesOf(family),
    drops: base?.policy === 'drop',
    chains: chainsOf(around),
    interfaces: around.defaultRoutes,
    addresses: around.addresses,
    ours: [chainName],
  };
}
