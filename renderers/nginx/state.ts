/** What of nginx a plan of our file needs. */
import type { Surroundings } from './shut-out.ts';

export interface NginxOptions {
  /** The header that carries the visitor's address. */
  readonly header: string;
  readonly path: string;
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
}
