/** Reads the established TCP connections of this network namespace. */
import { hexAddress } from '../host/proc.ts';
import type { Host } from '../renderer.ts';

export interface Connection {
  /** The end on this host. */
  readonly address: string;
  readonly port: number;
  readonly peer: string;
  readonly peerPort: number;
  /** The user that the program on this end ran as when it got the connection. */
  readonly uid: string;
  /** Of the socket on this end, as the links in /proc/PID/fd show it. */
  readonly inode: string;
}

/** A line of proc_net_tcp(5) whose state is 01, TCP_ESTABLISHED. */
const line =
  /^ *\d+: ([\dA-F]{8}|[\dA-F]{32}):([\dA-F]{4}) ([\dA-F]{8}|[\dA-F]{32}):([\dA-F]{4}) 01 \S+ \S+ \S+ +(\d+) +\d+ (\d+) /gm;

export async function connections(host: Pick<Host, 'read'>): Promise<readonly Connection[]> {
  const texts = await Promise.all([host.read('/proc/net/tcp'), host.read('/proc/net/tcp6')]);
  // A busy host has many connections and few addresses.
  const seen = new Map<string, string>();
  const decode = (hex: string): string => {
    let address = seen.get(hex);
    if (address === undefined) seen.set(hex, (address = hexAddress(hex)));
    return address;
  };
  return texts.flatMap((text) =>
    [...(text ?? '').matchAll(line)].map(([, address, port, peer, peerPort, uid, inode]) => ({
      address: decode(address!),
      port: Number.parseInt(port!, 16),
      peer: decode(peer!),
      peerPort: Number.parseInt(peerPort!, 16),
      uid: uid!,
      inode: inode!,
    })),
  );
}
