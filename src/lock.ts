/** Holds the locks of other programs, so that they do not change a file while cfsync works on it. */
import { constants, existsSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CfsyncError, errno, exit } from './errors.ts';
import { hold } from './host.ts';
import type { Command, Lock } from './renderer.ts';
import { escape } from './text.ts';

/** Node has no fcntl(2) locks, so a child holds them; each answers what it reads once it has the lock. */
const fcntl = `
import fcntl, sys, time
with open(sys.argv[1], "a") as f:
    end = time.monotonic() + float(sys.argv[2])
    while True:
        try:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > end:
                sys.exit(1)
            time.sleep(0.02)
    for line in sys.stdin:
        sys.stdout.write(line)
        sys.stdout.flush()
`;

function holder(lock: Lock, seconds: number): Command {
  return lock.kind === 'flock'
    ? { argv: ['flock', '-w', String(seconds), lock.path, 'cat'] }
    : { argv: ['python3', '-I', '-c', fcntl, lock.path, String(seconds)] };
}

/**
 * Runs `work` while all locks are held.
 * @throws CfsyncError with code `busy` when one is not to be had within `seconds`.
 */
export async function withLocks<T>(
  locks: readonly Lock[],
  seconds: number,
  work: () => Promise<T>,
): Promise<T> {
  const [first, ...rest] = locks;
  if (first === undefined) return work();
  // Its program is not installed: nobody to keep out, and `observe` says so better than a lock can.
  if (!existsSync(dirname(first.path))) return withLocks(rest, seconds, work);
  const release = await hold(holder(first, seconds), (seconds + 5) * 1000);
  if (release === undefined) {
    await mustBeWritable(first.path);
    throw new CfsyncError(
      exit.busy,
      `${escape(first.path)} is locked by another program for more than ${seconds} s; nothing was changed; try again later`,
    );
  }
  try {
    return await withLocks(rest, seconds, work);
  } finally {
    await release();
  }
}

/** Who may not open the lock's file would wait for it in vain. */
async function mustBeWritable(path: string): Promise<void> {
  const may = (name: string): Promise<string | undefined> =>
    access(name, constants.W_OK).then(() => undefined, errno);
  const first = await may(path);
  const why = first === 'ENOENT' ? await may(dirname(path)) : first;
  if (why === undefined) return;
  throw new CfsyncError(
    exit.failed,
    `${escape(path)} cannot be locked: ${why}; nothing was changed; run it as root`,
  );
}
