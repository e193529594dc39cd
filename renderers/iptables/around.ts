/** What stands on the host around the part of iptables that is cfsync's. */
import type { SavedTable } from '../../src/filters/iptables/save.ts';
import type { NftHost } from '../../src/filters/nft/site.ts';
import type { Family } from '../../src/prefix.ts';
import type { Notice } from '../../src/renderer.ts';
import type { TableName } from './names.ts';

export interface FamilyAround {
  readonly tables: readonly SavedTable[];
  /** The index of INPUT from which on rules let Cloudflare in that are taken over; -1 stands for none. */
  readonly adoptedAt?: number;
  /** The tables of the variant that `iptables` does not lead to. */
  readonly other: { readonly variant: string; readonly tables: readonly SavedTable[] };
}

export interface IptAround {
  readonly v4: FamilyAround;
  /** Undefined where the kernel has no IPv6. */
  readonly v6: FamilyAround | undefined;
  /** nftables' own base chains and rules, beside iptables. */
  readonly native: Pick<NftHost, 'chains' | 'rules' | 'elements' | 'debug'>;
  /** Of this host, where strangers come in. */
  readonly addresses: Readonly<Record<Family, readonly string[]>>;
  /** Docker's bridges without a default route. */
  readonly bridges: readonly string[];
  readonly defaultRoutes: readonly string[];
  /** Sets with our names that rules of the admin's use: refreshed, never destroyed. */
  readonly shared: readonly string[];
  /** Sets with our names and a type that cannot be swapped for ours. */
  readonly mismatches: readonly string[];
  readonly netfilterPersistent: boolean;
  /** The members of the admin's sets that rules of the admin's accept, by name. */
  readonly accepted: ReadonlyMap<string, readonly string[]>;
  /** What is to be said of rules that are taken over, and of those that are not. */
  readonly remarks?: readonly Notice[];
}

export function loaded(
  family: Family,
  name: TableName,
  around: IptAround | undefined,
): SavedTable | undefined {
  return around?.[family]?.tables.find((t) => t.name === name);
}
