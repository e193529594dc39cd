/** The web servers that run here, and what their configurations say. */
import { CfsyncError, exit } from '../errors.ts';
import type { Directive } from '../../renderers/nginx/configuration.ts';
import { lookAtApache, type Apache } from './apache.ts';
import type { DoctorHost } from './check.ts';
import { lookAtNginx, type Nginx } from './nginx.ts';

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

/** Those that run; null for one that does not. */
export interface Servers {
  readonly nginx: Nginx | null;
  readonly apache: Apache | null;
}

export async function runningServers(host: DoctorHost): Promise<Servers> {
  const [nginx, apache] = await Promise.all([lookAtNginx(host), lookAtApache(host)]);
  return {
    nginx: nginx?.running === true ? nginx : null,
    apache: apache?.running === true ? apache : null,
  };
}

/** As it stands in evidence. */
export function directiveText({ words, at }: Directive): string {
  return `${at}: ${words.join(' ')}`;
}
