/** What of nginx is cfsync's, with the host around it as far as a plan needs it. */
import type { FilesOwned } from '../../src/plugin/file-renderer.ts';
import type { Directive } from './configuration.ts';
import type { NginxStray } from './lines.ts';
import type { Surroundings } from './shut-out.ts';

export interface NginxOptions {
  /** The header that carries the visitor's address. */
  readonly header: string;
  readonly path: string;
}

export interface NginxOwned extends FilesOwned {
  readonly strays?: readonly NginxStray[];
  /** The texts of the files that the strays stand in; absent without strays. */
  readonly theirs?: Readonly<Record<string, string>>;
}

export interface NginxAround extends Surroundings {
  /** What nginx says of the present configuration when it refuses it. */
  readonly broken: readonly string[] | null;
  /** Whether the configuration includes our file at http level. */
  readonly included: boolean;
  /** Whether a changed configuration can be tried in a mount namespace before it is in place. */
  readonly stage: boolean;
  /** The pid file of a running master. */
  readonly pidFile: string | null;
  /** Whether the age of nginx's workers can be read. */
  readonly readable: boolean;
  /** As in the options. */
  readonly header: string;
  /** The texts of all files of the configuration but ours, by path. */
  readonly texts: Readonly<Record<string, string>>;
  /** Files with settings of real-IP that are symbolic links. */
  readonly links: readonly string[];
  /** Directives for Cloudflare's ranges that are not to be taken over. */
  readonly left?: readonly { readonly directive: Directive; readonly why: string }[];
}
