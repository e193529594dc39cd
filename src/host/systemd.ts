/** Where systemd keeps the units of this host, and how their command lines are written. */
import { CfsyncError, exit } from '../errors.ts';
import { escape } from '../text.ts';

/** Units of the admin. */
export const unitFolder = '/etc/systemd/system';

/** Is there while systemd runs this host: sd_booted(3). */
export const runningFolder = '/run/systemd/system';

/** systemd.service(5), "Command lines": specifiers, variables and quotes mean themselves. */
export function quoteWord(word: string): string {
  mustFitOneLine(word);
  const text = word.replaceAll('\\', '\\\\').replaceAll('"', '\\"');
  return `"${text.replaceAll('%', '%%').replaceAll('$', '$$$$')}"`;
}

/**
 * A line break in a path would begin a line of its own, with a setting or a job of whoever named the path.
 * @throws CfsyncError with code `usage`.
 */
export function mustFitOneLine(word: string): void {
  if (/\p{Cc}/u.test(word))
    throw new CfsyncError(
      exit.usage,
      `${escape(word)}: a line break or another control character in a path cannot stand in a unit of systemd, nor in a line for cron; nothing was changed`,
    );
}
