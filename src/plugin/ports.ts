/** Parses and compares port lists. */
import { CfsyncError, exit } from '../errors.ts';
import type { Desired } from '../renderer.ts';
import { shown } from '../text.ts';

/**
 * `80,443` from a flag, or a list of numbers from the configuration.
 * @param where Named in the message.
 * @throws CfsyncError with code `usage` for anything that is not a whole number from 1 to 65535.
 */
export function parsePorts(value: unknown, where: string): readonly number[] {
  const entries: readonly unknown[] =
    typeof value === 'string' ? value.split(',') : Array.isArray(value) ? value : [value];
  const ports = entries.map((entry) => {
    const text = typeof entry === 'number' ? String(entry) : shown(entry).trim();
    const port = Number(text);
    if (!/^[1-9]\d{0,4}$/.test(text) || port > 65_535)
      throw new CfsyncError(
        exit.usage,
        `${where}: ${text || '(nothing)'} is not a port; give numbers from 1 to 65535, like 80,443`,
      );
    return port;
  });
  return [...new Set(ports)].sort((a, b) => a - b);
}

/** Whether ports as iptables writes them, like `80,443` or `6000:6007`, are all in a list. */
export function areWithin(ports: string, list: readonly number[]): boolean {
  return portRanges(ports).every((range) => isWithin(range, list));
}

/** First and last. */
export type PortRange = readonly [number, number];

export function portRanges(ports: string): PortRange[] {
  return ports.split(',').map((part) => {
    const [low, high = low] = part.split(':').map(Number);
    return [low!, high!];
  });
}

export function isWithin([low, high]: PortRange, list: readonly number[]): boolean {
  return list.filter((port) => low <= port && port <= high).length === high - low + 1;
}

export function protocols(
  desired: Desired,
): readonly (readonly ['tcp' | 'udp', readonly number[]])[] {
  return [
    ['tcp', desired.tcpPorts],
    ['udp', desired.udpPorts],
  ];
}

/** Cloudflare speaks only TCP to origins, so the same ports over UDP are open to nobody in lockdown. */
export function closedUdpPorts({ tcpPorts, udpPorts }: Desired): number[] {
  return tcpPorts.filter((port) => !udpPorts.includes(port));
}
