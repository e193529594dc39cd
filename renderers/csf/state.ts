/** What of CSF is cfsync's, with the host around it as far as a plan needs it. */
import type { SavedTable } from '../../src/filters/iptables/save.ts';
import type { Family } from '../../src/prefix.ts';
import type { Owned } from '../../src/renderer.ts';
import type { Conf } from './conf.ts';
import type { CsfStray } from './leftovers.ts';

export interface CsfOptions {
  /** Bring the running firewall up to date with `csf -r` and not rule by rule. */
  readonly reload: boolean;
}

export interface CsfOwned extends Owned {
  readonly strays?: readonly CsfStray[];
  /** The texts of csf.allow and csf.ignore that the strays stand in; absent without strays. */
  readonly theirs?: Readonly<Record<Name, string | null>>;
  /** The texts of cfsync.allow and cfsync.ignore, null where there is none. */
  readonly allow: string | null;
  readonly ignore: string | null;
  /** Whether csf.allow and csf.ignore name them. */
  readonly blocks: Readonly<Record<Name, boolean>>;
  /** The lines that are loaded, as often as they are; null: as cfsync.allow says, where CSF filters at all. */
  readonly loaded: Readonly<Record<Family, readonly string[] | null>>;
  /** Of which of the two a line of ours is left, without the rest that goes with it; never wanted. */
  readonly torn?: readonly Name[];
  /** What a step would mend of the running programs: csf, which failed at its last start, or lfd, which is stale. */
  readonly ailing?: readonly ('csf' | 'lfd')[];
}

/** The host around it. */
export interface CsfAround {
  readonly conf: Conf;
  /** The texts of csf.allow and csf.ignore. */
  readonly files: Readonly<Record<Name, string | null>>;
  /** The tables of iptables; v6 undefined where CSF does not filter IPv6. */
  readonly kernel: { readonly v4: readonly SavedTable[]; readonly v6?: readonly SavedTable[] };
  /** The lines that load rules in ALLOWIN and ALLOWOUT beside ours, in the form of `lineOf`. */
  readonly others: readonly string[];
  /** Lines for Cloudflare's ranges that cannot be taken over. */
  readonly left?: readonly string[];
  readonly disabled: boolean;
  /** The text of cfsync.allow. */
  readonly own: string | null;
  /** A csf is at work that flushes and loads everything. */
  readonly restarting: boolean;
  /** What csf.error says of the last start. */
  readonly error: string | null;
  /** `stale`: it runs, and read the lists before cfsync.ignore was changed. */
  readonly lfd: 'stopped' | 'current' | 'stale';
  /** Whether the host has IPv6. */
  readonly ipv6: boolean;
  readonly reload: boolean;
  /** What `csf -r` would delete of other programs. */
  readonly foreign: readonly string[];
}

export type Name = 'allow' | 'ignore';

export const folder = '/etc/csf';
export const files = { allow: `${folder}/csf.allow`, ignore: `${folder}/csf.ignore` } as const;
export const own = { allow: `${folder}/cfsync.allow`, ignore: `${folder}/cfsync.ignore` } as const;
export const lockFile = '/var/lib/csf/csf.lock';

export const names = ['allow', 'ignore'] as const;
export const families = ['v4', 'v6'] as const;
