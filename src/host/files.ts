/** The one module that writes files: after a crash there is all of the old content or all of the new. */

import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  type Stats,
} from 'node:fs';
import {
  cp,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  symlink,
  writeFile,
  type FileHandle,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { digest } from '../digest.ts';
import { CfsyncError, errno, exit, why } from '../errors.ts';
import type { Lock, Stage } from '../renderer.ts';
import { escape } from '../text.ts';

// write-file-atomic 8.0.0 was looked at: it follows a symbolic link at the target, opens a guessable
// temporary name without O_EXCL, does not fsync the directory (after a power cut the old file can be
// back), and cannot compare before it renames.

/** The change was made, and what is on the disk may not have it yet: a power cut can take it back. */
export class Unsynced extends CfsyncError {}

export interface Expectation {
  /**
   * What must be there just before the change: the digest of the bytes, or `null` for no file.
   * Not compared when absent.
   */
  readonly expect?: string | null;
}

/**
 * Writes a file, or replaces one and keeps its owner and mode.
 * @param options.mode Permission bits of a new file, whatever the umask; 0600 unless given.
 * @throws CfsyncError when it cannot be written, has changed, or is not a regular file.
 */
export async function writeFileAtomic(
  path: string,
  content: string,
  options: Expectation & { readonly mode?: number } = {},
): Promise<void> {
  const old = await attempt(`cannot write ${path}`, async () => {
    const old = await regularFile(path);
    const temporary = join(dirname(path), temporaryName());
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    const file = await open(temporary, flags, 0o600);
    try {
      try {
        await file.writeFile(content);
        // In this order: chown(2) clears set-user-id bits.
        if (old) await file.chown(old.uid, old.gid);
        await file.chmod(old ? old.mode & 0o7777 : (options.mode ?? 0o600));
        await file.sync();
      } finally {
        await file.close();
      }
      await compare(path, options.expect);
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
    return old;
  });
  await makeLast(path, old ? 'was replaced' : 'was created');
}

function temporaryName(): string {
  return `.cfsync-${randomBytes(12).toString('hex')}.tmp`;
}

/** Deletes what writes that were cut off left in these folders. It does no harm where that fails. */
export async function removeTemporary(folders: readonly string[]): Promise<void> {
  for (const folder of new Set(folders)) {
    const names = await readdir(folder).catch(() => []);
    for (const name of names)
      if (/^\.cfsync-[0-9a-f]{24}\.tmp$/.test(name)) await rm(join(folder, name)).catch(() => {});
  }
}

/**
 * Deletes a file. One that is not there is no error, unless `expect` is a digest.
 * @throws CfsyncError when it cannot be deleted, has changed, or is not a regular file.
 */
export async function removeFile(path: string, options: Expectation = {}): Promise<void> {
  const old = await attempt(`cannot delete ${path}`, async () => {
    const old = await regularFile(path);
    await compare(path, options.expect);
    if (old) await rm(path);
    return old;
  });
  if (old) await makeLast(path, 'was deleted');
}

/** Makes a directory and those above it; one that exists keeps its mode. */
export async function ensureDir(path: string, mode: number): Promise<void> {
  await attempt(`cannot make the directory ${path}`, async () => {
    const first = await mkdir(path, { recursive: true, mode });
    if (first === undefined) return;
    for (let made = path; made !== dirname(first); made = dirname(made)) await sync(dirname(made));
  });
}

/** Renames a corrupt file to the first free `<path>.corrupt-<n>`, and answers that name. */
export async function moveAside(path: string): Promise<string> {
  return attempt(`cannot move ${path} aside`, async () => {
    for (let n = 1; ; n++) {
      const aside = `${path}.corrupt-${n}`;
      if (await stats(aside)) continue;
      await rename(path, aside);
      await sync(dirname(path));
      return aside;
    }
  });
}

/** A lock file: who holds it writes into it who that is. */
export interface LockFile {
  readonly fd: number;
  read(): Promise<string>;
  fill(content: string): Promise<void>;
  close(): Promise<void>;
}

/** Opens a lock file that nobody but its owner can open, and so lock. */
export async function openLock(path: string): Promise<LockFile> {
  return attempt(`cannot open the lock ${path}`, async () => {
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
    const file = await open(path, flags, 0o600);
    return {
      fd: file.fd,
      read: () => attempt(`cannot read the lock ${path}`, () => readFile(path, 'utf8')),
      fill: (content) =>
        attempt(`cannot write to the lock ${path}`, async () => {
          await file.truncate();
          await file.write(content, 0);
        }),
      close: () => letGo(file),
    };
  });
}

/** Opens a file of another program's to lock it, and makes it as that program would; errors are those of the system. */
export async function openToLock(
  path: string,
  kind: Lock['kind'],
): Promise<Pick<LockFile, 'fd' | 'close'>> {
  const { O_RDONLY, O_WRONLY, O_APPEND, O_CREAT } = constants;
  // fcntl(2) gives no write lock of what is only read; flock(2) locks all that can be opened, also folders.
  const flags = kind === 'fcntl' ? O_WRONLY | O_APPEND : O_RDONLY;
  const file = await open(path, existsSync(path) ? flags : flags | O_CREAT, 0o666);
  return { fd: file.fd, close: () => letGo(file) };
}

/** close(2) lets go of a lock whatever it answers. */
function letGo(file: FileHandle): Promise<void> {
  return file.close().catch(() => {});
}

/** Renames a file to a name in a folder that is made if need be; what has that name is replaced. */
export async function moveFile(from: string, to: string): Promise<void> {
  await ensureDir(dirname(to), 0o700);
  await attempt(`cannot move ${from} to ${to}`, async () => {
    await rename(from, to);
    await sync(dirname(to));
    if (dirname(from) !== dirname(to)) await sync(dirname(from));
  });
}

/**
 * Where the input of a program may lie, none of them another user's: in memory, as it may hold secrets, before it is
 * on a disk. /run is root's alone, whoever fills the others.
 */
const inputFolders = ['/dev/shm', '/run', '/var/tmp', '/tmp'] as const;

/**
 * Hands `use` a descriptor from which `text` can be read, and closes it when that returns: a program that was started
 * with it by then has its own. It is a file without a name, so that nothing is left however this process ends.
 * @throws CfsyncError when none of the folders takes it.
 */
export function withInput<T>(text: string, use: (fd: number) => T): T {
  const fd = openInput(text);
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

function openInput(text: string): number {
  const failed: string[] = [];
  for (const folder of inputFolders)
    try {
      const file = openNameless(folder);
      try {
        fill(file, text);
        // From the beginning, and only to be read.
        return openSync(`/proc/self/fd/${file}`, 'r');
      } finally {
        closeSync(file);
      }
    } catch (cause) {
      if (errno(cause) === undefined) throw cause;
      failed.push(`${folder} (${why(cause)})`);
    }
  throw new CfsyncError(
    exit.failed,
    `the input of a program can be kept in none of ${failed.join(', ')}; it was not started; free some space in one of them`,
  );
}

/** O_TMPFILE of open(2), which Node does not name. */
const nameless = 0o20000000 | constants.O_DIRECTORY;

/** Not awaited: here nothing ends this process between the file and the end of its name but SIGKILL. */
function openNameless(folder: string): number {
  const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
  try {
    return openSync(folder, O_RDWR | O_EXCL | nameless, 0o600);
  } catch (error) {
    // Some file systems have none: NFS, and overlayfs of older kernels. Node calls EOPNOTSUPP so.
    if (errno(error) !== 'ENOTSUP' && errno(error) !== 'EISDIR') throw error;
  }
  // Always the same name: what SIGKILL left, empty, goes with the next one.
  const path = join(folder, '.cfsync-input');
  rmSync(path, { force: true });
  const file = openSync(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  rmSync(path, { force: true });
  return file;
}

/** Bit by bit: a million prefixes would be there a second time otherwise. */
function fill(file: number, text: string): void {
  const encoder = new TextEncoder();
  const bytes = Buffer.allocUnsafe(Math.min(text.length * 3, 1024 * 1024));
  for (let at = 0; at < text.length;) {
    const { read, written } = encoder.encodeInto(text.slice(at), bytes);
    writeFileSync(file, bytes.subarray(0, written));
    at += read;
  }
}

/** Runs `work` with a temporary folder, readable by its owner alone, that is gone afterwards. */
export async function withStage<T>(stage: Stage, work: (folder: string) => Promise<T>): Promise<T> {
  // In this turn: a signal that ends the process meanwhile would leave one that is made behind its back.
  const folder = await attempt('cannot make a temporary folder', async () =>
    mkdtempSync(join(tmpdir(), 'cfsync-')),
  );
  // A signal may end the process while a check runs.
  const clean = (): void => rmSync(folder, { recursive: true, force: true });
  process.once('exit', clean);
  try {
    await attempt(`cannot fill the temporary folder ${folder}`, async () => {
      if (stage.copy !== undefined) await copyFolder(stage.copy, folder);
      for (const [name, content] of Object.entries(stage.files)) {
        const path = join(folder, name);
        await ownFolder(folder, dirname(name));
        await rm(path, { force: true });
        if (content === null) continue;
        await mkdir(dirname(path), { recursive: true });
        await writeFile(path, content, { mode: 0o600, flag: 'wx' });
      }
    });
    return await work(folder);
  } finally {
    process.off('exit', clean);
    // What the work came to counts; a folder that is left does no harm.
    await rm(folder, { recursive: true, force: true }).catch(() => {});
  }
}

/** Links in the copy lead to what they led to before, or to the copy of that. */
async function copyFolder(folder: string, copy: string): Promise<void> {
  const original = await realpath(folder);
  await cp(original, copy, { recursive: true, verbatimSymlinks: true, preserveTimestamps: true });
  for (const entry of await readdir(copy, { withFileTypes: true, recursive: true })) {
    if (!entry.isSymbolicLink()) continue;
    const link = join(entry.parentPath, entry.name);
    const target = await readlink(link);
    const meant = resolve(original, relative(copy, entry.parentPath), target);
    const inside = relative(original, meant);
    const outside = inside === '..' || inside.startsWith('../');
    if (outside === isAbsolute(target)) continue;
    await rm(link);
    await symlink(outside ? meant : join(copy, inside), link);
  }
}

/** Replaces links to folders on the way to `name` by copies, so that nothing is written through them. */
async function ownFolder(stage: string, name: string): Promise<void> {
  let path = stage;
  for (const part of name.split('/')) {
    path = join(path, part);
    if (!(await stats(path))?.isSymbolicLink()) continue;
    const original = await realpath(path);
    await rm(path);
    await copyFolder(original, path);
  }
}

/**
 * Asks whether a file could be replaced or created.
 * @throws CfsyncError when something else is there.
 */
export async function mustBeFile(path: string): Promise<void> {
  await attempt(`cannot look at ${path}`, () => regularFile(path));
}

/** Nothing was changed when this throws: it is asked before the one call that changes something. */
async function compare(path: string, expect: string | null | undefined): Promise<void> {
  if (expect === undefined) return;
  const now = (await regularFile(path)) ? digest(await readFile(path)) : null;
  if (now === expect) return;
  const what =
    expect === null ? 'appeared' : now === null ? 'was deleted' : 'changed since it was read';
  throw new CfsyncError(
    exit.failed,
    `${escape(path)} ${what} while cfsync was at work; it is left as it is now, run cfsync again`,
  );
}

/** The state of the file at `path` itself, never of what a link leads to; undefined when there is none. */
async function regularFile(path: string): Promise<Stats | undefined> {
  const found = await stats(path);
  if (!found || found.isFile()) return found;
  const what = found.isSymbolicLink()
    ? 'is a symbolic link, which cfsync does not follow; name the file that it leads to'
    : 'is not a regular file';
  throw new CfsyncError(exit.failed, `${escape(path)} ${what}; it is left as it is`);
}

async function stats(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path);
  } catch (error) {
    if (errno(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** @throws Unsynced */
async function makeLast(path: string, done: string): Promise<void> {
  try {
    await sync(dirname(path));
  } catch (cause) {
    const message = `${path} ${done}, but may not survive a power cut: ${why(cause)}`;
    throw new Unsynced(exit.failed, escape(message), { cause });
  }
}

/** Makes what was done to the names in a directory last. */
async function sync(directory: string): Promise<void> {
  const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** System errors become one line that names the file that was meant. */
async function attempt<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (errno(cause) === undefined) throw cause;
    throw new CfsyncError(exit.failed, escape(`${what}: ${why(cause)}`), { cause });
  }
}
