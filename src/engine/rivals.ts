/** Notes programs that may write over what was changed, because they read it before they waited for its lock. */
import { CfsyncError } from '../errors.ts';
import { host } from '../host/host.ts';
import { pidsOf } from '../host/programs.ts';
import type { Job } from './job.ts';

/** By backend: what has been changed since `takeOverlaps` was last asked, and by whom it may be written over. */
const overlaps = new Map<string, Set<number>>();

/** A step of this backend is about to be taken. */
export function noteChange({ name, renderer }: Job): void {
  if (renderer.rivals !== undefined && !overlaps.has(name)) overlaps.set(name, new Set());
}

/** Looks for them while the locks are still held: whoever waits for one is there now. */
export async function noteRivals(jobs: readonly Job[]): Promise<void> {
  for (const { name, renderer } of jobs) {
    const pids = overlaps.get(name);
    if (pids === undefined) continue;
    try {
      for (const pid of await pidsOf(host, renderer.rivals!)) pids.add(pid);
    } catch (error) {
      // Who cannot be seen is not waited for: the change itself is made and verified.
      if (!(error instanceof CfsyncError)) throw error;
    }
  }
}

/** The backends that somebody may write over, with the process ids; each is answered once. */
export function takeOverlaps(): ReadonlyMap<string, ReadonlySet<number>> {
  const taken = new Map([...overlaps].filter(([, pids]) => pids.size > 0));
  overlaps.clear();
  return taken;
}
