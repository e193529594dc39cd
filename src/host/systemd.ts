/** Where systemd keeps the units of this host, and how their command lines are written. */

/** Units of the admin. */
export const unitFolder = '/etc/systemd/system';

/** Is there while systemd runs this host: sd_booted(3). */
export const runningFolder = '/run/systemd/system';

/** systemd.service(5), "Command lines": specifiers, variables and quotes mean themselves. */
export function quoteWord(word: string): string {
  const text = word.replaceAll('\\', '\\\\').replaceAll('"', '\\"');
  return `"${text.replaceAll('%', '%%').replaceAll('$', '$$$$')}"`;
}
