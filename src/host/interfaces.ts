/** Reads the network interfaces of this host: their addresses, which are Docker's bridges, which lead to everybody. */
import { networkInterfaces, type NetworkInterfaceInfo } from 'node:os';
import { groupBy } from '../group.ts';
import { canonical, contains, merge, none, parseRanges, subtract } from '../prefix.ts';
import { colons, hexAddress } from './proc.ts';
import type { Host, Ranges } from '../renderer.ts';

/** Docker names its bridges docker0, docker_gwbridge and br-<12 hex digits>; other bridges may be public. */
export async function dockerBridges(host: Host): Promise<string[]> {
  const names = (await host.list('/sys/class/net')) ?? [];
  const found: string[] = [];
  for (const name of names)
    if (
      /^(docker0|docker_gwbridge|br-[0-9a-f]{12})$/.test(name) &&
      (await host.list(`/sys/class/net/${name}/bridge`)) !== undefined
    )
      found.push(name);
  return found;
}

/** The addresses of this host but loopback, as getifaddrs(3) has them. */
export function ownAddresses(): readonly NetworkInterfaceInfo[] {
  return Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .filter(({ internal }) => !internal);
}

/** The interfaces with a default route, through which strangers come in, and Docker's bridges without one. */
export async function bridgesAndRoutes(
  host: Host,
): Promise<{ readonly bridges: readonly string[]; readonly defaultRoutes: readonly string[] }> {
  const [bridges, defaultRoutes] = await Promise.all([
    dockerBridges(host),
    defaultRouteInterfaces(host),
  ]);
  return { bridges: bridges.filter((name) => !defaultRoutes.includes(name)), defaultRoutes };
}

/**
 * From the main routing tables (proc(5)); policy routing is not looked at. VPNs set a default route in two halves
 * (0.0.0.0/1 and 128.0.0.0/1), and 2000::/3 for IPv6.
 */
export async function defaultRouteInterfaces(host: Host): Promise<string[]> {
  const names = (await routes(host))
    // The kernel lists an unreachable default route on lo (flag RTF_REJECT) where there is none.
    .filter(({ prefix, length, name }) =>
      prefix.includes(':') ? length <= 3 && name !== 'lo' : length <= 1,
    )
    .map(({ name }) => name);
  return [...new Set(names)].sort();
}

/**
 * The addresses to which only these interfaces lead, by the longest prefix in the main routing tables. Those that
 * another one leads to just as well are left out.
 */
export async function reachedThrough(host: Host, names: readonly string[]): Promise<Ranges> {
  if (names.length === 0) return none;
  const isThrough = ({ name }: Route): boolean => names.includes(name);
  const space = (list: readonly Route[]): Ranges => parseRanges(list.map(({ prefix }) => prefix));
  const byLength = groupBy(await routes(host), ({ length }) => length);
  let [reached, taken] = [none, none];
  for (const [, group] of [...byLength].sort(([a], [b]) => b - a)) {
    const through = space(group.filter(isThrough));
    const other = space(group.filter((one) => !isThrough(one)));
    reached = merge(reached, subtract(through, merge(taken, other)));
    taken = merge(taken, through, other);
  }
  return reached;
}

/**
 * The global addresses of this host on these interfaces, from /proc/net: an IPv4 address by the interface to which the
 * main routing table would send it, because fib_trie (proc(5)) names none.
 */
export async function addressesOn(
  host: Host,
  names: readonly string[],
): Promise<{ readonly v4: readonly string[]; readonly v6: readonly string[] }> {
  const [trie, six, table] = await Promise.all([
    host.read('/proc/net/fib_trie'),
    host.read('/proc/net/if_inet6'),
    routes(host),
  ]);
  const v4 = new Set<string>();
  for (const [, address] of (trie ?? '').matchAll(/\|-- (\S+)\n +\/32 host LOCAL/g))
    if (names.includes(leading(table, address!) ?? '')) v4.add(address!);
  const v6 = (six ?? '')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([text = '', , , scope, , name = '']) => {
      return /^[\da-f]{32}$/.test(text) && scope === '00' && names.includes(name);
    })
    .map(([text]) => colons(text!));
  return { v4: [...v4].sort(), v6 };
}

/** The interface of the longest prefix that has an address. */
function leading(table: readonly Route[], address: string): string | undefined {
  const ways = table.filter(
    ({ prefix }) => !prefix.includes(':') && contains(parseRanges([prefix]), address),
  );
  return ways.sort((a, b) => b.length - a.length)[0]?.name;
}

export interface Route {
  readonly prefix: string;
  readonly length: number;
  /** The interface. */
  readonly name: string;
}

export async function routes(host: Host): Promise<readonly Route[]> {
  const fields = async (file: string): Promise<string[][]> =>
    ((await host.read(file)) ?? '').split('\n').map((line) => line.trim().split(/\s+/));
  const isHex = (digits: number, ...words: (string | undefined)[]): boolean =>
    words.every((word) => word?.length === digits && /^[\da-f]+$/i.test(word));
  const v4 = (await fields('/proc/net/route')).filter((f) => isHex(8, f[1], f[7]));
  const v6 = (await fields('/proc/net/ipv6_route')).filter(
    (f) => isHex(32, f[0]) && isHex(2, f[1]) && f.length > 9,
  );
  const all = [
    ...v4.map((f) => route(hexAddress(f[1]!), ones(f[7]!), f[0]!)),
    ...v6.map((f) => route(colons(f[0]!), Number.parseInt(f[1]!, 16), f[9]!)),
  ];
  return all.filter(({ prefix }) => canonical(prefix) !== undefined);
}

function route(address: string, length: number, name: string): Route {
  return { prefix: `${address}/${length}`, length, name };
}

/** How many bits of a mask are set; in any byte order. */
function ones(mask: string): number {
  return Number.parseInt(mask, 16).toString(2).replaceAll('0', '').length;
}
