/** Composes the texts of our own files. */
import { CfsyncError, exit } from '../../src/errors.ts';
import { canonical } from '../../src/prefix.ts';
import type { Desired, Ranges } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { directions, type Entry } from './lines.ts';

/** xt_multiport.h, XT_MULTI_PORTS; one more, and CSF 15.10 fails open. */
const mostPorts = 15;

/** Checked here once more: one bad port, and CSF leaves the host open at its next start (15.10, FASTSTART). */
export function entries(desired: Desired, ranges: Ranges): Entry[] {
  const lists = [
    ['tcp', desired.tcpPorts],
    ['udp', desired.udpPorts],
  ] as const;
  for (const [protocol, ports] of lists) {
    if (ports.length > mostPorts)
      throw new CfsyncError(
        exit.failed,
        `csf: ${ports.length} ${protocol.toUpperCase()} ports are more than the ${mostPorts} that a line of csf.allow takes; nothing was changed; name fewer, or use --backend nftables`,
      );
    const wrong = ports.find((port) => !Number.isInteger(port) || port < 1 || port > 65535);
    if (wrong !== undefined)
      throw new CfsyncError(exit.failed, `csf: ${wrong} is not a port; nothing was changed`);
  }
  const prefixes = [...ranges.v4, ...ranges.v6];
  for (const prefix of prefixes)
    // A width of 0 would be the whole world.
    if (canonical(prefix)?.text !== prefix || prefix.endsWith('/0'))
      throw new CfsyncError(
        exit.failed,
        `csf: ${escape(prefix)} is not a prefix that CSF takes; nothing was changed`,
      );
  return prefixes.flatMap((prefix) =>
    lists.flatMap(([protocol, ports]) =>
      ports.length === 0
        ? []
        : directions.map((direction) => ({ protocol, direction, ports: ports.join(','), prefix })),
    ),
  );
}

export function allowText(lines: readonly string[]): string {
  return text('Written by cfsync: who may reach the ports, and where answers may go.', lines);
}

export function ignoreText({ v4, v6 }: Ranges): string {
  return text('Written by cfsync: the addresses that lfd must not ban.', [...v4, ...v6]);
}

function text(head: string, lines: readonly string[]): string {
  return [`# ${head}`, '# Do not edit; cfsync remove takes it away.', ...lines, ''].join('\n');
}
