/** Holds locks: cfsync's own, and those of other programs whose files it works on. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CfsyncError, errno, exit } from '../errors.ts';
import { ensureDir, openLock, openToLock, type LockFile } from '../host/files.ts';
import { endLeftBehind, lateForLock, lockOpen, nameRun } from '../host/host.ts';
import { waiting } from '../cli/progress.ts';
import type { Command, Lock } from '../renderer.ts';
import { listen } from '../host/signals.ts';
import { advised } from './store.ts';
import { escape } from '../text.ts';
import { mustBeTrustedState } from '../host/trust.ts';

/**
 * Takes the write lock of fcntl(2) of the file that is open as 3, in the form that stays with the open file
 * (F_OFD_SETLK, 37 on every Linux since 3.15, not named by Python before 3.9): it and the locks of lockf(3), which
 * ufw takes, keep each other out. A struct flock is zero but for its type: all of the file. Nothing is left to
 * tidy up, and Python would take 8 ms for that.
 */
const fcntl = `
import fcntl, sys, time
from posix import _exit
lock = fcntl.F_WRLCK.to_bytes(2, sys.byteorder) + bytes(30)
end = time.monotonic() + float(sys.argv[1])
while True:
    try:
        fcntl.fcntl(3, 37, lock)
        _exit(0)
    except (BlockingIOError, PermissionError):
        if time.monotonic() > end:
            _exit(${lateForLock})
    time.sleep(0.02)
`;

/** The program that takes a lock of the file that is open as 3: Node has neither flock(2) nor fcntl(2). */
function taker(kind: Lock['kind'], seconds: number): Command['argv'] {
  return kind === 'flock'
    ? ['flock', '-E', `${lateForLock}`, '-w', `${seconds}`, '3']
    : ['python3', '-I', '-S', '-c', fcntl, `${seconds}`];
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
  const file = await openOthers(first);
  try {
    const lock = () => lockOpen(file.fd, taker(first.kind, seconds), seconds);
    if (!(await waiting(`waiting for the lock ${escape(first.path)}`, lock)))
      throw new CfsyncError(
        exit.busy,
        `${escape(first.path)} is locked by another program for more than ${seconds} s; nothing was changed; try again later`,
      );
    return await withLocks(rest, seconds, work);
  } finally {
    await file.close();
  }
}

async function openOthers({ path, kind }: Lock): ReturnType<typeof openToLock> {
  try {
    return await openToLock(path, kind);
  } catch (cause) {
    const why = errno(cause);
    if (why === undefined) throw cause;
    throw new CfsyncError(
      exit.failed,
      `${escape(path)} cannot be locked: ${why}; nothing was changed; run it as root`,
      { cause },
    );
  }
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
    const lock = () => lockOpen(file.fd, taker('flock', seconds), seconds);
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
    await mustBeTrustedState(stateDir);
    return await openLock(join(stateDir, name));
  } catch (error) {
    throw advised(error);
  }
}

/** Empty in the moment between the lock and the words. */
function holderText(said: string): string {
  return said.trim() === '' ? '' : ` (${escape(said.trim())})`;
}
