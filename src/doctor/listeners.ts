/** Reads which TCP sockets wait for connections. */
import { BackendError } from '../errors.ts';
import { hexAddress, isLoopback } from '../host/proc.ts';
import type { Host } from '../renderer.ts';

/** A TCP socket that waits for connections. */
export interface Listener {
  readonly address: string;
  readonly port: number;
}

/** A line of proc_net_tcp(5) whose state is 0A, TCP_LISTEN. */
const line = /^ *\d+: ([\dA-F]+):([\dA-F]{4}) \S+ 0A /gm;

export async function listeners(host: Pick<Host, 'read'>): Promise<readonly Listener[]> {
  const texts = await Promise.all(['/proc/net/tcp', '/proc/net/tcp6'].map((f) => host.read(f)));
  return texts.flatMap((text) =>
    [...(text ?? '').matchAll(line)].map(([, address, port]) => ({
      address: hexAddress(address!),
      port: Number.parseInt(port!, 16),
    })),
  );
}

/** Only it tells whether a socket on `::` takes IPv4 as well (then it prints `*`), and whose each one is. */
export async function socketStatistics(host: Pick<Host, 'query'>): Promise<string | null> {
  try {
    return (await host.query({ argv: ['ss', '-Hltnp'] })).stdout;
  } catch (error) {
    if (error instanceof BackendError) return null;
    throw error;
  }
}

/** A socket that listens, and a program that has it. */
interface Owned extends Listener {
  readonly program: string;
}

/** As ss (iproute2 6.1) prints it: root alone is told whose the sockets are. */
export function owned(ss: string | null): readonly Owned[] {
  return (ss ?? '').split('\n').flatMap((text): readonly Owned[] => {
    const [, address, port] =
      /^\S+\s+\S+\s+\S+\s+\[?([^\s\]%]+)\]?(?:%\S+)?:(\d+)\s/.exec(text) ?? [];
    const [, program] = /users:\(\("((?:[^"\\]|\\.)*)"/.exec(text) ?? [];
    if (address === undefined || program === undefined) return [];
    return [{ address, port: Number(port), program }];
  });
}

/** Web servers, of which one may stand behind another program. */
const servers = ['nginx', 'apache2', 'httpd', 'lighttpd', 'caddy', 'litespeed', 'openresty'];

/** Who has the ports, for a web server that listens on loopback alone. */
export interface Fronted {
  readonly server: string;
  readonly on: readonly Listener[];
  readonly by: readonly string[];
}

/** The web servers that only programs of this host reach: what is in front of them speaks to Cloudflare. */
export function fronted(ss: string | null, ports: readonly number[]): readonly Fronted[] {
  const all = owned(ss);
  const isOut = ({ address }: Listener): boolean => !isLoopback(address);
  return servers.flatMap((server): readonly Fronted[] => {
    const on = all.filter(({ program }) => program === server);
    if (on.length === 0 || on.some(isOut)) return [];
    const front = all.filter((one) => isOut(one) && ports.includes(one.port));
    return [{ server, on, by: [...new Set(front.map(({ program }) => program))] }];
  });
}

/** As it stands in a URL. */
export function textOf({ address, port }: Listener): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}
