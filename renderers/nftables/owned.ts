/** What of nftables belongs to cfsync, as plain data. */
import { chainName, type Family } from '../../src/filters/nft/listing.ts';
import type { Owned } from '../../src/renderer.ts';
import type { NftOptions } from './options.ts';
import type { NftStray } from './strays.ts';

export type SetName = 'cfsync4' | 'cfsync6';

export interface NftChain {
  readonly name: string;
  /** `type filter hook input priority filter; policy accept;` of a base chain. */
  readonly base?: string;
  /** Rules in nft's syntax; one that cfsync did not write is a comment. */
  readonly rules: readonly string[];
}

export interface NftTable {
  readonly family: Family;
  readonly name: string;
  /** The table that an admin switched off (`flags dormant`). */
  readonly dormant?: true;
  readonly sets: Readonly<Partial<Record<SetName, readonly string[]>>>;
  readonly chains: readonly NftChain[];
  readonly jumps: readonly Jump[];
}

/** A jump from a chain of the admin's to ours. */
export interface Jump {
  readonly chain: string;
  /** The handle of the rule that follows it, `null` at the end of the chain. */
  readonly before: number | null;
}

export interface NftOwned extends Owned {
  readonly strays?: readonly NftStray[];
  readonly file: NftOptions['file'];
  /** Sorted by family and name. */
  readonly tables: readonly NftTable[];
}

export const ownTable = { family: 'inet', name: 'cfsync' } as const;
export const mark = 'comment "cfsync"';
export const setNames = ['cfsync4', 'cfsync6'] as const;
export const setType = { cfsync4: 'ipv4_addr', cfsync6: 'ipv6_addr' } as const;
export const jumpRule = `jump ${chainName} ${mark}`;

export const bases = {
  input: 'type filter hook input priority filter; policy accept;',
  prerouting: 'type filter hook prerouting priority raw; policy accept;',
} as const;

export function isOwn(table: { readonly family: string; readonly name: string }): boolean {
  return table.family === ownTable.family && table.name === ownTable.name;
}

export function isSetName(name: string): name is SetName {
  return (setNames as readonly string[]).includes(name);
}

export function at(table: NftTable): string {
  return `${table.family} ${table.name}`;
}

export function byName(chains: readonly NftChain[]): NftChain[] {
  return [...chains].sort((a, b) => (a.name < b.name ? -1 : 1));
}

export function sorted(tables: readonly NftTable[]): NftTable[] {
  return [...tables].sort((a, b) => (at(a) < at(b) ? -1 : 1));
}
