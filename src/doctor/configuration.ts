/** Says of a web server's configuration that it cannot be judged while the server itself refuses it. */
import { CfsyncError, exit } from '../errors.ts';
import type { Directive } from '../nginx/configuration.ts';

/** @throws CfsyncError when the server refuses its configuration: then nobody knows what it runs with. */
export function readable(
  server: string,
  seen: { readonly refused: readonly string[] | null; readonly directives: readonly Directive[] },
): readonly Directive[] {
  if (seen.refused === null) return seen.directives;
  throw new CfsyncError(
    exit.failed,
    `${server} refuses its configuration, so what it runs with cannot be read`,
  );
}
