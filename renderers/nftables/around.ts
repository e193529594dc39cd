/** What stands on the host around the part of nftables that is cfsync's. */
import type { Chain } from '../../src/filters/nft/listing.ts';
import type { NftHost } from '../../src/filters/nft/site.ts';
import type { Notice } from '../../src/renderer.ts';
import type { AcceptedSet } from './strays.ts';

/**
 * What stands on the host around ours, and what must not be guessed again from the owned state. Rules and chains are all of the host, ours included, in order.
 */
export interface NftAround extends NftHost {
  /** Tables with `flags owner` and `flags dormant`, as `FAMILY NAME`. */
  readonly owner: readonly string[];
  readonly dormant: readonly string[];
  /** Sets with our names, whoever made them, as `FAMILY TABLE SET`. */
  readonly sets: readonly string[];
  /** Those of them that rules of the admin's use, as `FAMILY TABLE SET`: refreshed, never deleted. */
  readonly shared: readonly string[];
  /** Docker's bridges without a default route. */
  readonly bridges: readonly string[];
  /** iptables-legacy tables are loaded, which nft cannot show. */
  readonly legacy: boolean;
  /** Our names with a shape that this version does not make. */
  readonly mismatches: readonly string[];
  /** The admin's sets of prefixes from which rules of the admin's accept. */
  readonly accepted: readonly AcceptedSet[];
  /** The base chains in which rules let Cloudflare in that are taken over, and from which of the others on. */
  readonly adopted?: readonly { readonly chain: Chain; readonly at: number }[];
  /** What is to be said of what is taken over, and of what is not. */
  readonly remarks?: readonly Notice[];
}
