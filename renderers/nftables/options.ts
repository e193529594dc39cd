/** The backend's section of the configuration. */
import { CfsyncError, exit } from '../../src/errors.ts';
import type { ChainName, Family } from '../../src/filters/nft/listing.ts';
import { shown } from '../../src/text.ts';

export interface NftOptions {
  /** Where to attach: found by looking (`auto`), nowhere (`none`, lockdown only), or one chain. */
  readonly chain: 'auto' | 'none' | ChainName;
  /** Interfaces that lockdown leaves alone, next to lo and Docker's bridges. */
  readonly trusted: readonly string[];
  /** What `render` writes: a rule set, or the sets alone for an admin's own rule set. */
  readonly file: 'ruleset' | 'sets' | 'define';
}

export function chainOption(value: unknown): NftOptions['chain'] {
  if (value === 'auto' || value === 'none') return value;
  const match =
    typeof value === 'string' &&
    /^(ip|ip6|inet)\/([A-Za-z_][A-Za-z0-9_.-]{0,63})\/([A-Za-z_][A-Za-z0-9_.-]{0,63})$/.exec(value);
  if (!match)
    throw new CfsyncError(
      exit.usage,
      `nftables: chain: ${shown(value)} is not FAMILY/TABLE/CHAIN (inet/filter/input), auto or none`,
    );
  return { family: match[1] as Family, table: match[2]!, chain: match[3]! };
}
