/** Reads which TCP sockets wait for connections. */
import { hexAddress } from '../host/proc.ts';
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

/** As it stands in a URL. */
export function textOf({ address, port }: Listener): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}
