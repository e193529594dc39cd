/** A backend, with its checked options, as the commands hand it to the engine. */
import { intersect, isEmpty, merge, none, parseRanges } from '../prefix.ts';
import type { Given } from '../state/records.ts';
import type { Desired, Ranges, Renderer } from '../renderer.ts';
import { escape } from '../text.ts';

export interface Job {
  /** As in `--backend NAME`. */
  readonly name: string;
  readonly renderer: Renderer;
  readonly options: unknown;
  /** The options as they were given, for the record. */
  readonly raw: Readonly<Record<string, unknown>>;
  /** What should be true of it; `ranges` as the source has them. */
  readonly desired: Desired;
  /** What the configuration says of these, whatever flags say. */
  readonly given?: Given;
  /** What the admin's own prefixes are, where that is said. */
  readonly comments?: readonly { readonly prefix: string; readonly comment: string }[];
  /** Every range that Cloudflare ever published: what other hands wrote for them counts as owned. */
  readonly adopting?: Ranges;
}

/** The admin's own prefixes are for packet filters only. */
export function extraOf(job: Job): Ranges {
  return job.renderer.kind === 'filter' ? job.desired.extra : none;
}

/** Which of the admin's own prefixes come or go, by their comments. */
export function ownAmong({ renderer, comments = [] }: Job, ...changes: readonly Ranges[]): string {
  if (renderer.kind !== 'filter') return '';
  const all = merge(...changes);
  return comments
    .filter(({ prefix }) => !isEmpty(intersect(parseRanges([prefix]), all)))
    .map(({ prefix, comment }) => `${prefix} (${escape(comment)})`)
    .join(', ');
}

/** The same backends, to be brought to these ranges. */
export function forRanges(jobs: readonly Job[], ranges: Ranges): readonly Job[] {
  return jobs.map((job) => ({ ...job, desired: { ...job.desired, ranges } }));
}
