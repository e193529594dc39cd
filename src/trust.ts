/** Refuses, as root, files that somebody else could have written. */
import { lstat, realpath } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CfsyncError, exit, why } from './errors.ts';
import { escape } from './text.ts';

const groupOrOthersWrite = 0o022;
const sticky = 0o1000;

/**
 * Checks a file, or folder, and every folder above it, through symbolic links: all must belong to root,
 * and nobody else may write to them. Does nothing for an ordinary user.
 * @param left What is left undone because of it, for the message.
 * @throws CfsyncError with code `failed` that names the first one that does not.
 */
export async function mustBeTrusted(
  path: string,
  what: string,
  left = 'nothing was changed',
): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const readable = <T>(reading: Promise<T>): Promise<T> =>
    reading.catch((cause: unknown) => {
      const message = `cannot read the ${what} ${escape(path)}: ${why(cause)}; ${left}`;
      throw new CfsyncError(exit.failed, message, { cause });
    });
  const real = await readable(realpath(path));
  for (let at = real; ; at = dirname(at)) {
    const { uid, mode } = await readable(lstat(at));
    // In a folder like /tmp nobody can replace what belongs to root.
    const replaceable = (mode & groupOrOthersWrite) !== 0 && !(at !== real && mode & sticky);
    if (uid !== 0 || replaceable)
      throw new CfsyncError(
        exit.failed,
        `${what} ${escape(path)} is not to be trusted as root: ${escape(at)} ${
          uid === 0 ? 'can be written by others' : 'does not belong to root'
        }; ${left}; mend it with ${uid === 0 ? 'chmod go-w' : 'chown root'} ${escape(at)}`,
      );
    if (at === dirname(at)) return;
  }
}
