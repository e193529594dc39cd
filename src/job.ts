/** A backend, with its checked options, as the commands hand it to the engine. */
import { none } from './prefix.ts';
import type { Desired, Ranges, Renderer } from './renderer.ts';

export interface Job {
  /** As in `--backend NAME`. */
  readonly name: string;
  readonly renderer: Renderer;
  readonly options: unknown;
  /** The options as they were given, for the record. */
  readonly raw: Readonly<Record<string, unknown>>;
  /** What should be true of it; `ranges` as the source has them. */
  readonly desired: Desired;
  /** Every range that Cloudflare ever published: what other hands wrote for them counts as owned. */
  readonly adopting?: Ranges;
}

/** The admin's own prefixes are for packet filters only. */
export function extraOf(job: Job): Ranges {
  return job.renderer.kind === 'filter' ? job.desired.extra : none;
}

/** The same backends, to be brought to these ranges. */
export function forRanges(jobs: readonly Job[], ranges: Ranges): readonly Job[] {
  return jobs.map((job) => ({ ...job, desired: { ...job.desired, ranges } }));
}
