/** Which chains have rules that may be taken over, with what is to be said of those. */
import { keptByIptables, type Chain } from '../../src/filters/nft/listing.ts';
import { broughtBack, leftAlone } from '../../src/filters/strays.ts';
import { matchOf } from '../../src/filters/nft/matches.ts';
import { packets } from '../../src/filters/place.ts';
import { families, familyOf } from '../../src/prefix.ts';
import type { Desired, Notice } from '../../src/renderer.ts';
import type { NftAsks } from './asks.ts';
import type { NftAround } from './around.ts';
import { isOwn } from './owned.ts';
import type { findStrays } from './strays.ts';

/** Chains whose rules may be taken over: those where rules of ours can stand in their place. */
export function isAdoptable(chain: Chain, around: NftAround): boolean {
  const table = `${chain.family} ${chain.table}`;
  return (
    chain.base?.type === 'filter' &&
    chain.base.hook === 'input' &&
    ['ip', 'ip6', 'inet'].includes(chain.family) &&
    !isOwn({ family: chain.family, name: chain.table }) &&
    !keptByIptables(around.chains).has(table) &&
    chain.table !== 'firewalld' &&
    !around.owner.includes(table) &&
    !around.dormant.includes(table)
  );
}

/** What the admin has to know of what is taken over, and of what is not. */
export function remarks(found: ReturnType<typeof findStrays>): Notice[] {
  const left = leftAlone(found);
  if (found.strays.length === 0) return left;
  return [...left, broughtBack('/etc/nftables.conf')];
}

/** Whether every connection of Cloudflare's fulfils what a rule asks for besides ranges and ports. */
export function alwaysOn(
  { defaultRoutes, addresses }: NftAround,
  desired: Desired,
): (asks: NftAsks) => boolean {
  const site = { interfaces: defaultRoutes, addresses };
  return ({ besides, sources, protocol }) => {
    if (besides.length === 0) return true;
    const conditions = besides.map((match) => matchOf(match, () => undefined));
    const named = new Set(sources.map(familyOf));
    const asked = {
      ...desired,
      tcpPorts: protocol === 'udp' ? [] : desired.tcpPorts,
      udpPorts: protocol === 'tcp' ? [] : protocol === 'udp' ? desired.udpPorts : desired.tcpPorts,
    };
    return [
      ...packets(
        { ...site, families: families.filter((f) => named.size === 0 || named.has(f)) },
        asked,
      ),
    ].every((packet) => conditions.every((condition) => condition(packet) === true));
  };
}
