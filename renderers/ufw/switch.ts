/** Reads whether UFW is switched on. */

export const switchFile = '/etc/ufw/ufw.conf';

/** @param conf The content of `switchFile`; undefined or null for none. */
export function isSwitchedOn(conf: string | null | undefined): boolean {
  return /^ENABLED=["']?yes/im.test(conf ?? '');
}
