/** Reads which network interfaces are Docker's bridges, and which lead to everybody. */
import type { Host } from './renderer.ts';

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

/**
 * From the main routing tables (proc(5)); policy routing is not looked at. VPNs set a default route in two halves
 * (0.0.0.0/1 and 128.0.0.0/1), and 2000::/3 for IPv6.
 */
export async function defaultRouteInterfaces(host: Host): Promise<string[]> {
  const v4 = ((await host.read('/proc/net/route')) ?? '')
    .split('\n')
    .slice(1)
    .map((line) => line.split('\t'))
    .filter((f) => f[7] === '00000000' || f[7] === '00000080')
    .map((f) => f[0]!);
  const v6 = ((await host.read('/proc/net/ipv6_route')) ?? '')
    .split('\n')
    .map((line) => line.split(/\s+/))
    // The kernel lists an unreachable default route on lo (flag RTF_REJECT) where there is none.
    .filter((f) => /^0[0-3]$/.test(f[1] ?? '') && f[9] !== 'lo')
    .map((f) => f[9]!);
  return [...new Set([...v4, ...v6])].sort();
}
