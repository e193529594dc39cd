/** The contract between the core and a renderer: four functions over plain data. */

/**
 * Prefixes of both families: canonical text (RFC 5952 for IPv6), no host bits, minimal
 * (nothing overlaps, siblings are merged), sorted by address. The core guarantees this to renderers.
 */
export interface Ranges {
  readonly v4: readonly string[];
  readonly v6: readonly string[];
}

/** `allow`: Cloudflare can reach the ports. `lockdown`: the same, and nobody else can. */
export type Mode = 'allow' | 'lockdown';

/** What should be true, the same for every backend. */
export interface Desired {
  /** Cloudflare's ranges. */
  readonly ranges: Ranges;
  /** The admin's own prefixes; for packet filters only, never for real-IP settings or ban lists. */
  readonly extra: Ranges;
  /** Sorted, without duplicates, 1 to 65535, at least one. */
  readonly tcpPorts: readonly number[];
  /** Sorted, without duplicates, 1 to 65535; may be empty. */
  readonly udpPorts: readonly number[];
  readonly mode: Mode;
}

/**
 * What of a backend belongs to cfsync. A renderer adds its own fields; all of it is plain JSON data,
 * because it is written to the state directory and planned back to after a failure.
 */
export interface Owned {
  /** Every prefix that the backend holds for cfsync now (or should hold), merged. The guard measures it. */
  readonly ranges: Ranges;
  /** What other hands wrote and `adopt` counts as owned; absent means none, in what is wanted as well. */
  readonly strays?: readonly Stray[];
}

/**
 * A rule, a line or an element that somebody else wrote to let Cloudflare in. A renderer adds where it
 * stands, so that `plan` can take it away and, on the way back, put it where it was.
 */
export interface Stray {
  /** In the backend's own syntax, one line: what the admin would recognise. */
  readonly text: string;
  /** The prefixes that it names, each with its length and without host bits; at least one. */
  readonly prefixes: readonly string[];
  /** What it does beyond letting them in on the desired ports, which ends with it; for people. */
  readonly beyond?: string;
}

/** A remark for the admin. `note` is said on a terminal or with --verbose; `warning` always. */
export interface Notice {
  readonly level: 'note' | 'warning';
  /** One sentence or two, without the backend's name in front and without a final newline. */
  readonly text: string;
}

/** A text that `render` writes to disk or prints. */
export interface Artifact {
  /** Relative to the output directory, for instance `nftables/cfsync.nft`. */
  readonly path: string;
  readonly content: string;
}

/** A program to run: no shell, fixed PATH, LC_ALL=C. */
export interface Command {
  readonly argv: readonly [string, ...string[]];
  readonly stdin?: string;
  /** Milliseconds; 30 000 unless given. */
  readonly timeout?: number;
  /** A private temporary folder for the time of the run; `{stage}` in argv stands for its path. */
  readonly stage?: Stage;
}

/** What lies in a temporary folder: how a configuration is tried before it is in place. */
export interface Stage {
  /** A folder whose content is copied there first, modes kept; links lead to the same files. */
  readonly copy?: string;
  /** Files by relative path; `null` deletes one of the copy. */
  readonly files: Readonly<Record<string, string | null>>;
}

/** Replaces, creates or deletes one file: temporary file, fsync, rename, directory fsync. */
export interface FileStep {
  readonly kind: 'file';
  /** One line for the person who reads the plan. */
  readonly summary: string;
  /** Absolute. */
  readonly path: string;
  /** `null` deletes the file. */
  readonly content: string | null;
  /** Permission bits of a new file; a replaced file keeps its owner and mode. */
  readonly mode: number;
  /** SHA-256 (hex) of the file as it was observed, `null` when it was absent; anything else there is an error. */
  readonly expect: string | null;
  /** Asks the program whether it would take the new content; all checks run, side by side, before the first step. */
  readonly check?: Command;
}

/**
 * How a program refuses to write over what somebody else has changed since it was observed. Then it is planned anew,
 * and run once more if the same is still to be done. Only for a command that writes all of it or nothing.
 */
export interface Guard {
  /** The version that was observed: the core puts it for the first `{version}` in each file of the command's stage. */
  readonly version: string;
  /** What standard error has when the version is not that one any more: nothing was written. */
  readonly refusal: string;
}

/** Runs one program. */
export interface RunStep {
  readonly kind: 'run';
  readonly summary: string;
  readonly command: Command;
  /** No part of the plan's id: plans that differ in it alone do the same. The check does not get the version. */
  readonly guard?: Guard;
  /** It cannot be undone: it runs when all the rest is verified, and never on the way back. */
  readonly final?: true;
  /** Of a final step: it is left out when it is not planned any more once the rest is verified. */
  readonly ifLeft?: true;
  /** Asks the program to validate without changing anything; all checks run, side by side, before the first step. */
  readonly check?: Command;
}

/** One change, as plain data: it can be printed, hashed and reviewed. */
export type Step = FileStep | RunStep;

/** How a program ended. */
export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The read-only door to the machine that `observe` gets. */
export interface Host {
  /** Runs a program that changes nothing. A program that is not installed throws `BackendError`. */
  query(command: Command): Promise<Outcome>;
  /** The text of a file, or undefined when there is none. */
  read(path: string): Promise<string | undefined>;
  /** The names in a folder, sorted, or undefined when there is no such folder. */
  list(path: string): Promise<readonly string[] | undefined>;
}

/** What `observe` found: what is ours, and what around it the plan must respect. */
export interface Observed<State extends Owned, Around> {
  readonly owned: State;
  readonly around: Around;
}

/** A lock that another program takes before it changes the same files; held from observe to verify. */
export interface Lock {
  /** `fcntl`: POSIX record lock on the whole file (fcntl(2)), as ufw takes it. */
  readonly kind: 'fcntl' | 'flock';
  readonly path: string;
}

/** What `want` answers. */
export interface Wanted<State extends Owned> {
  readonly owned: State;
  readonly notices: readonly Notice[];
}

/**
 * One backend. All functions but `observe` are pure: the same input gives the same answer, no clock,
 * no host, no randomness. What a backend cannot express is refused by `want` with a CfsyncError.
 */
export interface Renderer<Options = unknown, State extends Owned = Owned, Around = unknown> {
  readonly api: 1;
  /** As in `--backend NAME`. */
  readonly name: string;
  /** Backends that cannot be kept in the same run as this one, each with the reason. */
  readonly conflicts?: Readonly<Record<string, string>>;
  /** `filter` has a mode, ports and extra prefixes; `list` (real-IP, ban list) has none. */
  readonly kind: 'filter' | 'list';
  /** Validates the backend's section of the configuration; throws CfsyncError with code `usage`. */
  options(raw: Readonly<Record<string, unknown>>): Options;
  /**
   * Programs, by name (comm in proc(5), at most 15 bytes), that read this backend's files before they take its lock.
   * One that waited for it may write over what was changed meanwhile, so that is looked at again.
   */
  readonly rivals?: readonly string[];
  /** The locks to hold from observe to verify. */
  locks?(options: Options): readonly Lock[];
  /** The owned state of a host that cfsync never touched. */
  readonly nothing: State;
  /** The owned state that should be. `around` is absent when rendering to disk. */
  want(desired: Desired, options: Options, around?: Around): Wanted<State>;
  /** Reads the owned state that is, from all of the host: also what an earlier configuration left. */
  observe(host: Host, options: Options): Promise<Observed<State, Around>>;
  /** The steps from observed to wanted, `[]` when settled. */
  plan(wanted: State, observed: Observed<State, Around>): readonly Step[];
  /** The backend's own syntax, for `render`, `diff` and golden files. */
  print(owned: State): readonly Artifact[];
  /**
   * For `cfsync adopt`, pure: the same observation, with all that other hands wrote for Cloudflare's ranges in
   * `owned.strays`. Only what names nothing but prefixes inside of `known` (every range that Cloudflare ever
   * published), and on the desired ports or on all of them; everything else stays the admin's.
   */
  adopt?(
    observed: Observed<State, Around>,
    desired: Desired,
    known: Ranges,
  ): Observed<State, Around>;
}

export { BackendError, CfsyncError, exit } from './errors.ts';

/** Identity, for type inference: `export default defineRenderer({ ... })`. */
export function defineRenderer<Options, State extends Owned, Around>(
  renderer: Renderer<Options, State, Around>,
): Renderer<Options, State, Around> {
  return renderer;
}
