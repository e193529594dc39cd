/** Refuses, as root, what somebody else could have written, or could put another thing in the place of. */
import { constants, type Stats } from 'node:fs';
import { lstat, open, readFile, readlink } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { CfsyncError, errno, exit, why } from '../errors.ts';
import { escape } from '../text.ts';

const groupOrOthersWrite = 0o022;
const sticky = 0o1000;

/** Links on one way after which the kernel gives up as well, path_resolution(7). */
const mostLinks = 40;

/** Bytes of a file that is read: twice what the saved plan of a million prefixes takes. */
const mostBytes = 128 * 1024 * 1024;

/** What to do where cfsync itself is in the hands of somebody else. */
export const installForRoot = 'install cfsync for root: sudo npm install -g cfsync';

interface Asked {
  readonly path: string;
  /** What it is, for messages. */
  readonly what: string;
  /** What is left undone because of it. */
  readonly left?: string;
  /** What to do where it is in the hands of somebody else. */
  readonly instead?: string;
}

/**
 * Checks a file or folder, and all that is on the way to it: every folder, every symbolic link, and the folders that
 * the links are in. All must belong to root, and nobody else may write to a folder or to the file. From then on only
 * root can change where the path leads, so that its name is as good as what it led to. A POSIX ACL that lets others
 * write shows in the bits of the group. Does nothing for an ordinary user.
 * @returns The path without links; for an ordinary user the path as it was given.
 * @throws CfsyncError with code `failed` that names the first one that is not so.
 */
export async function mustBeTrusted(
  path: string,
  what: string,
  more: Pick<Asked, 'left' | 'instead'> = {},
): Promise<string> {
  if (!isRoot()) return path;
  const asked = { path, what, ...more };
  try {
    return (await follow(asked)).real;
  } catch (cause) {
    if (cause instanceof CfsyncError) throw cause;
    const message = `cannot read the ${what} ${escape(path)}: ${why(cause)}; ${leftOf(asked)}`;
    throw new CfsyncError(exit.failed, message, { cause });
  }
}

/** As `mustBeTrusted`; of what is not there, the part that is. */
export async function mustBeTrustedIfThere(
  path: string,
  what: string,
  instead: string,
): Promise<void> {
  try {
    await mustBeTrusted(path, what, { instead });
  } catch (error) {
    if (!(error instanceof CfsyncError) || errno(error.cause) !== 'ENOENT') throw error;
  }
}

export function mustBeTrustedState(stateDir: string): Promise<void> {
  const instead = "name one in a folder of root's with --state-dir";
  return mustBeTrustedIfThere(stateDir, 'state directory', instead);
}

/**
 * The text of a file that is trusted. It is opened once: what is read is what was checked. For an ordinary user it is
 * the file, whatever it is.
 * @throws CfsyncError with code `failed`, or the error of the system when it cannot be read.
 */
export async function readTrusted(path: string, what: string): Promise<string> {
  if (!isRoot()) return readFile(path, 'utf8');
  const asked = { path, what };
  const { real, stats } = await follow(asked);
  // Before it is opened: that alone can make a device do something, and waits where it is a pipe.
  mustBeRegular(asked, stats);
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  const file = await open(real, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  try {
    const opened = await file.stat();
    mustBeRoots(asked, real, opened, true);
    mustBeRegular(asked, opened);
    const chunks: Buffer[] = [];
    // What /proc has is of size 0, and some of it has no end.
    const stream = file.createReadStream({ autoClose: false, end: mostBytes });
    for await (const chunk of stream) chunks.push(chunk as Buffer);
    const bytes = Buffer.concat(chunks);
    mustBeBounded(asked, bytes.length);
    return bytes.toString();
  } finally {
    await file.close();
  }
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/** Goes the way of a path name by name, as the kernel does. */
async function follow(asked: Asked): Promise<{ readonly real: string; readonly stats: Stats }> {
  const { path } = asked;
  // Not by resolve(), which takes `..` away before the link in front of it is followed.
  const ahead = names(isAbsolute(path) ? path : `${process.cwd()}/${path}`);
  let real = '/';
  let stats = await lstat(real);
  mustBeRoots(asked, real, stats, ahead.length === 0);
  for (let links = 0; ahead.length > 0;) {
    const next = join(real, ahead.shift()!);
    const found = await lstat(next);
    mustBeRoots(asked, next, found, ahead.length === 0);
    if (!found.isSymbolicLink()) {
      [real, stats] = [next, found];
      continue;
    }
    if (++links > mostLinks)
      throw refusal(asked, `is behind more than ${mostLinks} symbolic links`);
    // Nobody but root can have put another link here meanwhile: the folder that it is in was looked at before.
    const target = await readlink(next);
    if (isAbsolute(target)) real = '/';
    ahead.unshift(...names(target));
  }
  return { real, stats };
}

function names(path: string): string[] {
  return path.split('/').filter((name) => name !== '' && name !== '.');
}

/** @param last Whether it is what was asked for, and not on the way there; a link is always on the way. */
function mustBeRoots(asked: Asked, at: string, stats: Stats, last: boolean): void {
  const { what, path } = asked;
  const isLink = stats.isSymbolicLink();
  const isForeign = stats.uid !== 0;
  const isOpen = !isLink && (stats.mode & groupOrOthersWrite) !== 0;
  const isSticky = stats.isDirectory() && (stats.mode & sticky) !== 0;
  // In a folder like /tmp nobody can replace what belongs to root, and what comes next must.
  if (!isForeign && (!isOpen || (isSticky && !last))) return;
  // A home stays its owner's, and /tmp and /dev/null what they are.
  const isPlain = stats.isFile() || (stats.isDirectory() && !isSticky);
  const own = isPlain && (!isForeign || (last && asked.instead === undefined));
  const { instead = 'copy it to a folder that only root can write to, such as /etc/cfsync' } =
    asked;
  const mend = `mend it with ${isForeign ? 'chown root' : 'chmod go-w'} ${escape(at)}`;
  throw new CfsyncError(
    exit.failed,
    `${what} ${escape(path)} is not to be trusted as root: ${escape(at)} ${
      isForeign ? 'does not belong to root' : 'can be written by others'
    }; ${leftOf(asked)}; ${own ? mend : instead}`,
  );
}

function mustBeRegular(asked: Asked, stats: Stats): void {
  if (!stats.isFile()) throw refusal(asked, 'is not a regular file');
  mustBeBounded(asked, stats.size);
}

function mustBeBounded(asked: Asked, size: number): void {
  if (size > mostBytes)
    throw refusal(asked, `has more than ${mostBytes / 1024 / 1024} MiB, and is not read`);
}

function refusal(asked: Asked, why: string): CfsyncError {
  return new CfsyncError(
    exit.failed,
    `${asked.what} ${escape(asked.path)} ${why}; ${leftOf(asked)}`,
  );
}

function leftOf({ left = 'nothing was changed' }: Asked): string {
  return left;
}
