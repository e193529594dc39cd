/** What of fail2ban is cfsync's, with the host around it as far as a plan needs it. */
import type { Owned, Ranges, Stray } from '../../src/renderer.ts';

/** Our two files: the texts, `null` for none. */
export interface Files {
  /** `jail.d/00-cfsync.conf`: read early, holds as long as nobody sets `ignoreip`. */
  readonly early: string | null;
  /** `jail.d/zz-cfsync.local`: read last, carries what the admin set. */
  readonly late: string | null;
}

/** What the admin sets, by section. */
export type Sections = Readonly<Record<string, readonly string[]>>;

/** What an `ignoreip` of the admin's says of Cloudflare's ranges. */
export interface Fail2banStray extends Stray {
  /** Below /etc/fail2ban. */
  readonly file: string;
  readonly section: string;
  /** As written. */
  readonly values: readonly string[];
}

export interface Fail2banOwned extends Owned, Files {
  readonly strays?: readonly Fail2banStray[];
  /** The files of the admin's that the strays stand in, by name; absent without strays. */
  readonly theirs?: Readonly<Record<string, string>>;
  /** What the admin set when the files were read or composed. */
  readonly beside: Sections;
  /** What of `ranges` the running server ignores, by jail; `null` when it is not running. */
  readonly server: Readonly<Record<string, Ranges>> | null;
}

interface Jail {
  readonly name: string;
  /** What it ignores without us. */
  readonly ignoreip: readonly string[];
  /** Its own section sets `ignoreip` and does not refer to that of `[DEFAULT]`. */
  readonly own: boolean;
}

export interface RunningJail {
  readonly name: string;
  /** As the server lists them: networks without host bits, addresses, host names. */
  readonly ignores: readonly string[];
  readonly bans: readonly string[];
}

export interface Fail2banAround {
  /** The enabled jails, by name. */
  readonly jails: readonly Jail[];
  /** What the admin's `[DEFAULT]` says; `null` when it says nothing. */
  readonly defaults: readonly string[] | null;
  /** The configuration loads without our files too. */
  readonly alone: boolean;
  /** What the jails of the configuration on disk ignore, ours included; empty when that does not load. */
  readonly effective: Readonly<Record<string, readonly string[]>>;
  /** The jails of the running server, `null` when it is not running. */
  readonly server: readonly RunningJail[] | null;
  /** The admin's files that may set `ignoreip`, by name. */
  readonly files: Readonly<Record<string, string>>;
  /** Those of them that are links: what they lead to is not ours to change. */
  readonly links: readonly string[];
  /**
   * What the jails ignore without us, with `mark(n)` in the place of the nth value of `marked(files)`: the
   * values that are not in `files` stay as they are. `null` when that could not be found out.
   */
  readonly traced: Readonly<Record<string, readonly string[]>> | null;
  /** What cannot be taken over, in words. */
  readonly left?: readonly string[];
}

export const client = 'fail2ban-client';
export const folder = '/etc/fail2ban';
export const names = { early: 'jail.d/00-cfsync.conf', late: 'jail.d/zz-cfsync.local' } as const;
export const keys = ['early', 'late'] as const;

/** The running jails that the configuration has too; the next reload ends the others. */
export function configured(
  server: readonly RunningJail[],
  { jails }: Pick<Fail2banAround, 'jails'>,
): readonly RunningJail[] {
  return server.filter(({ name }) => jails.some((jail) => jail.name === name));
}
