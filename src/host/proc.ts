/** Helps to read what the kernel tells in /proc. */
import { endianness } from 'node:os';
import { CfsyncError } from '../errors.ts';
import { fromInterval } from '../prefix.ts';
import type { Host } from '../renderer.ts';

/** What is read, with the targets of symbolic links. */
export interface ProcessHost extends Pick<Host, 'read' | 'list'> {
  link(path: string): Promise<string | undefined>;
}

/** What is read of a process: undefined as well when it has ended meanwhile, or when it is another user's. */
export async function ofProcess<T>(look: Promise<T | undefined>): Promise<T | undefined> {
  try {
    return await look;
  } catch (error) {
    if (error instanceof CfsyncError) return undefined;
    throw error;
  }
}

/** A field of /proc/PID/stat, 3 or above, counted as in proc(5); the name in field 2 may contain anything. */
export function statField(stat: string | undefined, field: number): number | undefined {
  const word = stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[field - 3];
  return word !== undefined && /^\d+$/.test(word) ? Number(word) : undefined;
}

/**
 * An address as /proc/net/tcp, tcp6 and route print it: words of 32 bits in the byte order of the machine.
 * An IPv4-mapped one, a peer of a dual-stack socket, becomes the IPv4 address.
 */
export function hexAddress(hex: string): string {
  const bytes = Buffer.from(hex, 'hex');
  if (endianness() === 'LE') bytes.swap32();
  return bytes.length === 4 ? bytes.join('.') : plain(colons(bytes.toString('hex')));
}

export function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1';
}

/** 32 hexadecimal digits in network order, as /proc/net/ipv6_route prints an address. */
export function colons(hex: string): string {
  return hex.match(/.{4}/g)!.join(':');
}

/** The canonical form of an address. */
export function plain(address: string): string {
  return fromInterval(address, address)[0]!.replace(/\/\d+$/, '');
}
