/** The option `trusted` of packet filters: interfaces that lockdown leaves alone, next to lo and Docker's bridges. */
import { CfsyncError, exit } from '../errors.ts';
import { stringList } from '../plugin/options.ts';
import { escape } from '../text.ts';

/** Sorted names that the kernel would take (dev_valid_name in net/core/dev.c), less what a rule would have to quote. */
export function trustedOption(value: unknown, backend: string): readonly string[] {
  const names = stringList(value ?? [], `${backend}: trusted`);
  for (const name of names)
    if (!/^[A-Za-z0-9_.@-]{1,15}$/.test(name))
      throw new CfsyncError(
        exit.usage,
        `${backend}: trusted: ${escape(name)} is not an interface name`,
      );
  return [...names].sort();
}

/** The interfaces that lockdown leaves alone. */
export function exempt(trusted: readonly string[], bridges: readonly string[] = []): string[] {
  return ['lo', ...[...new Set([...bridges, ...trusted])].sort()];
}

/** @throws CfsyncError when one of them leads to everybody. */
export function refuseOpen(
  trusted: readonly string[],
  defaultRoutes: readonly string[],
  backend: string,
): void {
  const open = trusted.find((name) => defaultRoutes.includes(name));
  if (open !== undefined)
    throw new CfsyncError(
      exit.failed,
      `${backend}: trusted: ${open} has a default route, strangers come in through it; nothing was changed; take it out of trusted`,
    );
}
