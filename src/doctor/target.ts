/** What --host and --origin-ip say. */
import { isIP } from 'node:net';
import { CfsyncError, exit } from '../errors.ts';
import { plain } from '../host/proc.ts';
import { escape } from '../text.ts';

export interface Target {
  /** The name that visitors use. */
  readonly host: string | undefined;
  /** The address that Cloudflare's DNS has for this host; canonical. */
  readonly originIp: string | undefined;
}

/** @throws CfsyncError with code `usage` for what is no name, or no address. */
export function targetOf(values: Readonly<Record<string, unknown>>): Target {
  const { host, 'origin-ip': ip } = values;
  if (typeof host === 'string' && (!/^[\w-]+(?:\.[\w-]+)*\.?$/.test(host) || isIP(host) !== 0))
    throw new CfsyncError(
      exit.usage,
      `--host: ${escape(host)} is not a name, such as www.example.com`,
    );
  if (typeof ip === 'string' && isIP(ip) === 0)
    throw new CfsyncError(exit.usage, `--origin-ip: ${escape(ip)} is not an IP address`);
  return {
    host: typeof host === 'string' ? host : undefined,
    originIp: typeof ip === 'string' ? plain(ip) : undefined,
  };
}
