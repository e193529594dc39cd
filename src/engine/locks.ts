/** Holds the locks of backends while they are worked on. */
import { withLocks } from '../state/lock.ts';
import type { Job } from './job.ts';
import { noteRivals } from './rivals.ts';

/** Runs `work` under the locks that all the backends name. */
export function locked<T>(
  jobs: readonly Job[],
  seconds: number,
  work: () => Promise<T>,
): Promise<T> {
  const locks = jobs.flatMap((job) => job.renderer.locks?.(job.options) ?? []);
  return withLocks(locks, seconds, async () => {
    try {
      return await work();
    } finally {
      await noteRivals(jobs);
    }
  });
}
