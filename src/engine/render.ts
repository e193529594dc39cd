/** What is written to disk for people and for `--source`: the rules of a backend, the lists. */
import type { Artifact, Ranges } from '../renderer.ts';
import { extraOf, type Job } from './job.ts';

/** What `render` writes for one backend. */
export function render(job: Job): readonly Artifact[] {
  const { owned } = job.renderer.want({ ...job.desired, extra: extraOf(job) }, job.options);
  return job.renderer.print(owned);
}

/** The lists as `--source DIR` reads them. */
export function lists(ranges: Ranges): readonly Artifact[] {
  return [
    { path: 'ips-v4', content: `${ranges.v4.join('\n')}\n` },
    { path: 'ips-v6', content: `${ranges.v6.join('\n')}\n` },
  ];
}
