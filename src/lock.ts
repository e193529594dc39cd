/** Holds locks: cfsync's own, and those of other programs whose files it works on. */
import { constants, existsSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CfsyncError, errno, exit } from './errors.ts';
import { ensureDir, openLock, type LockFile } from './files.ts';
import { endLeftBehind, hold, lateForLock, lockOpen, nameRun } from './host.ts';
import { waiting } from './progress.ts';
import type { Command, Lock } from './renderer.ts';
import { listen } from './signals.ts';
import { advised } from './store.ts';
import { escape } from './text.ts';
import { mustBeTrusted } from './trust.ts';

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
                sys.exit(${lateForLock})
            time.sleep(0.02)
    for line in sys.stdin:
        sys.stdout.write(line)
        sys.stdout.flush()
`;

function holder(lock: Lock, seconds: number): Command {
  return lock.kind === 'flock'
    ? { argv: ['flock', '-E', `${lateForLock}`, '-w', `${seconds}`, lock.path, 'cat'] }
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
  const release = await waiting(`waiting for the lock ${escape(first.path)}`, () =>
    hold(holder(first, seconds), (seconds + 5) * 1000),
  ).catch(async (error: unknown) => {
    await mustBeWritable(first.path);
    throw error;
  });
  if (release === undefined)
    throw new CfsyncError(
      exit.busy,
      `${escape(first.path)} is locked by another program for more than ${seconds} s; nothing was changed; try again later`,
    );
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

/**
 * Runs `work` as the only cfsync that works on this state directory. The lock is flock(2) on a file in it:
 * the kernel frees it when this process ends, however it ends. From here on signals are handled.
 * @param command The name of it, for the one who has to wait.
 * @throws CfsyncError with code `busy` that names the holder.
 */
export async function withRunLock<T>(
  stateDir: string,
  seconds: number,
  command: string,
  work: () => Promise<T>,
): Promise<T> {
  listen();
  return withFlock(
    stateDir,
    'lock',
    seconds,
    (said) =>
      `another cfsync is at work on ${escape(stateDir)}${holderText(said)}; nothing was changed; try again later, or wait longer with --lock-timeout`,
    async (file) => {
      const killed = (await file.read()).trim();
      if (killed !== '') await endLeftBehind(killed);
      const name = `cfsync ${command}, process ${process.pid}, since ${new Date().toISOString()}`;
      await file.fill(`${name}\n`);
      nameRun(name);
      const result = await work();
      // Where that fails, the next run looks for programs of this one in vain.
      await file.fill('').catch(() => {});
      return result;
    },
  );
}

/**
 * Runs `work` while this process holds flock(2) on a file in the state directory, which is made if need be.
 * @param busy What to say when it is not to be had in time, from what is in the file.
 */
export async function withFlock<T>(
  stateDir: string,
  name: string,
  seconds: number,
  busy: (said: string) => string,
  work: (file: LockFile) => Promise<T>,
): Promise<T> {
  const file = await openFlock(stateDir, name);
  try {
    const lock = () => lockOpen(file.fd, seconds);
    if (!(await waiting('waiting for another cfsync to end', lock)))
      throw new CfsyncError(exit.busy, busy(await file.read()));
    return await work(file);
  } finally {
    await file.close();
  }
}

async function openFlock(stateDir: string, name: string): Promise<LockFile> {
  try {
    await ensureDir(stateDir, 0o700);
    await mustBeTrusted(stateDir, 'state directory');
    return await openLock(join(stateDir, name));
  } catch (error) {
    throw advised(error);
  }
}

/** Empty in the moment between the lock and the words. */
function holderText(said: string): string {
  return said.trim() === '' ? '' : ` (${escape(said.trim())})`;
}
