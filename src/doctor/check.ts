/** The contract between the doctor and its checks: what is observed as data, and judged without the host. */
import type { Host, Mode, Ranges } from '../renderer.ts';
import type { IngressOptions } from '../../renderers/nginx-ingress/state.ts';
import type { ProcessHost } from '../host/proc.ts';

/** The errors of Cloudflare's that a visitor sees, which a finding may be the cause of. */
type CloudflareError = 520 | 521 | 522 | 523 | 524 | 525 | 526;

/**
 * `problem`: Cloudflare cannot get in, or gets no answer. `warning`: it gets in now, and that may end; or a lock that
 * locks nothing. `note`: worth knowing, and no reason to act; healthy hosts have notes at most.
 */
type Level = 'problem' | 'warning' | 'note';

/** How much of the traffic from Cloudflare it concerns. */
type Share = 'all' | 'part' | 'maybe';

export interface Finding {
  readonly level: Level;
  readonly share: Share;
  /** Which errors visitors see for it; none for a finding that causes none by itself. */
  readonly causes: readonly CloudflareError[];
  /** One line that says what is wrong, without a full stop. */
  readonly title: string;
  /** The very rule, line or figure, a line each; what others wrote may be in it as it is. */
  readonly evidence: readonly string[];
  /** The one command that mends it, to be copied as it is; a cfsync command where cfsync can. */
  readonly command?: string;
  /** Names the effect that it sees, as the id of a rule; not printed. */
  readonly effect?: string;
  /** Effects that it explains: findings of other checks about these are left out. */
  readonly explains?: readonly string[];
  /** What to do where no single command does it, or what to know before running it: a sentence or two. */
  readonly advice?: string;
}

/** What is known before the host is looked at: plain data. */
export interface DoctorContext {
  /** Cloudflare's ranges: of the last snapshot, else of the list that comes with the release. */
  readonly ranges: Ranges;
  /** Where `ranges` comes from, and the time (ISO 8601) at which it was last known to be right. */
  readonly list: {
    readonly kind: 'snapshot' | 'bundled';
    readonly asOf: string;
    /** Whether it is refreshed from the feeds; a list that a person named does not age. */
    readonly ages: boolean;
  };
  /** Days after which a list counts as old. */
  readonly maxAge: number;
  /** TCP ports on which Cloudflare is to get in: `--ports`, the configuration, what was applied, else 80 and 443. */
  readonly ports: readonly number[];
  /** What was applied with cfsync on this host, by backend. */
  readonly applied: readonly {
    readonly name: string;
    readonly mode: Mode;
    readonly ports: readonly number[];
  }[];
  readonly now: Date;
  readonly isRoot: boolean;
  /** How to reach the ingress controller's ConfigMap; null where no cluster is configured. */
  readonly ingress: IngressOptions | null;
  /** The options of the command line, by name. */
  readonly values: Readonly<Record<string, unknown>>;
}

/**
 * The read-only door to the machine. The same question is asked once, whichever checks ask it. Each program has a
 * few seconds unless its command says otherwise; one that is not installed throws BackendError.
 */
export type DoctorHost = Host & ProcessHost;

/** One thing to look at; its module exports it as default. */
export interface Check<Seen = unknown> {
  /** As in --only and --skip: lower case, with hyphens. */
  readonly name: string;
  /** What is looked at, in a few words, for --list. */
  readonly title: string;
  /**
   * Looks, and changes nothing. Runs side by side with the others, within a limit of its own.
   * @throws CfsyncError when it cannot look: then the check counts as not made, for that reason.
   */
  observe(host: DoctorHost, context: DoctorContext): Promise<Seen>;
  /**
   * Pure: the same again for the same observation.
   * @throws CfsyncError when what was seen cannot be judged.
   */
  judge(seen: Seen, context: DoctorContext): readonly Finding[];
}

/** Identity, for type inference: `export default defineCheck({ ... })`. */
export function defineCheck<Seen>(check: Check<Seen>): Check<Seen> {
  return check;
}

/** Looks once for all checks of a run that want the same: what several read is taken apart once. */
export function onceFor<T>(
  look: (host: DoctorHost) => Promise<T>,
): (host: DoctorHost) => Promise<T> {
  const seen = new WeakMap<DoctorHost, Promise<T>>();
  return (host) => {
    let answer = seen.get(host);
    if (answer === undefined) seen.set(host, (answer = look(host)));
    return answer;
  };
}
