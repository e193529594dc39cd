/** Finds the chains in which an accept of ours counts. */
import { CfsyncError, exit } from '../../src/errors.ts';
import { changesNothing, opensToAll } from '../../src/filters/notices.ts';
import {
  isWritable,
  keptByIptables,
  same,
  type Chain,
  type ChainName,
} from '../../src/filters/nft/listing.ts';
import { judge, opening, type Hindrance, type Judged } from '../../src/filters/place.ts';
import type { Rule } from '../../src/filters/walk.ts';
import { siteOf } from '../../src/filters/nft/site.ts';
import type { Desired, Notice } from '../../src/renderer.ts';
import type { NftAround } from './around.ts';
import type { NftOptions } from './options.ts';
import { isOwn, ownTable } from './owned.ts';

/** A chain of the admin's; `inet cfsync` stands for the own base chain. */
export type Place = ChainName | typeof ownTable;

/** The chains to attach to; `inet cfsync` stands for the own base chain. */
export function attachTo(
  desired: Desired,
  options: NftOptions,
  around: NftAround | undefined,
  notices: Notice[],
): readonly Place[] {
  if (options.chain === 'none') {
    if (desired.mode === 'lockdown') return [];
    throw new CfsyncError(exit.usage, 'nftables: chain: none leaves nothing to do in mode allow');
  }
  if (options.chain !== 'auto') {
    if (around !== undefined) checkNamed(options.chain, around);
    return [options.chain];
  }
  if (around === undefined) return [ownTable];
  const places = droppingChains(desired, around, notices);
  if (places.length === 0 && notices.length === 0 && desired.mode === 'allow')
    notices.push(changesNothing('nftables rule on this host'));
  const whole =
    places.some((p) => p.family === 'inet') || new Set(places.map((p) => p.family)).size === 2;
  return whole ? places : [...places, ownTable];
}

/** The input base chains that drop the ports, or may, refusing those where cfsync cannot attach. */
function droppingChains(desired: Desired, around: NftAround, notices: Notice[]): readonly Chain[] {
  const found: Chain[] = [];
  for (const chain of around.chains) {
    const label = `${chain.family} ${chain.table} ${chain.chain}`;
    if (chain.base?.type !== 'filter' || isOwn({ family: chain.family, name: chain.table }))
      continue;
    if (!['input', 'prerouting'].includes(chain.base.hook)) continue;
    if (around.dormant.includes(`${chain.family} ${chain.table}`)) continue;
    const site = siteOf(chain, around);
    const { drops, unclear } = judge(site, desired);
    if (drops.length + unclear.length === 0) continue;
    if (chain.base.hook === 'prerouting') {
      notices.push(tooEarly(label, { drops, unclear }));
      continue;
    }
    // What may be is no reason to refuse.
    if (drops.length === 0 && foreign(chain, around) !== undefined) {
      notices.push(unjudged(label, unclear));
      continue;
    }
    const stays = unclear.filter((one) => one.stays);
    if (stays.length > 0) notices.push(unjudged(label, stays));
    if (drops.length + unclear.length === stays.length) continue;
    refuseForeign(chain, around);
    const open = desired.mode === 'allow' ? opening(site, desired) : undefined;
    if (open !== undefined) notices.push(opensToAll(`chain ${label}`, where(open)));
    found.push(chain);
  }
  if (around.legacy && desired.mode === 'allow')
    notices.push({
      level: 'note',
      text: 'iptables-legacy tables are loaded, which nft cannot see; they may drop the ports as well: look with iptables-legacy-save',
    });
  return found;
}

/** A chain that no place in an input chain comes before. */
function tooEarly(label: string, { drops, unclear }: Pick<Judged, 'drops' | 'unclear'>): Notice {
  if (drops.length === 0) return unjudged(label, unclear);
  return {
    level: 'warning',
    text: `chain ${label} drops the ports before any input chain is asked (${named(drops)}), and cfsync does not attach there; let the ranges through there by hand, or delete that rule where it comes from (/etc/nftables.conf, scripts); look with: nft -a list chain ${label}`,
  };
}

function unjudged(label: string, unclear: readonly Hindrance[]): Notice {
  return {
    level: 'note',
    text: `chain ${label} may drop the ports on conditions that cfsync cannot judge (${named(unclear)}); look with: nft -a list chain ${label}`,
  };
}

function named(all: readonly Hindrance[]): string {
  return [
    ...new Set(all.map(({ rule }) => (rule === undefined ? 'its policy' : where(rule)))),
  ].join(', ');
}

/** `input handle 7`, as in the listing with handles. */
function where({ id }: Rule): string {
  return id.split(' ').slice(3).join(' ');
}

function checkNamed(name: ChainName, around: NftAround): void {
  const label = `${name.family} ${name.table} ${name.chain}`;
  const chain = around.chains.find((c) => same(c, name));
  if (chain === undefined)
    throw new CfsyncError(
      exit.failed,
      `nftables: there is no chain ${label}; nothing was changed; nft list chains shows what there is`,
    );
  refuseForeign(chain, around);
}

/** Why a rule of ours would be lost, widened or refused in a table, with what to do; undefined where it would not. */
function foreign(name: ChainName, around: NftAround): string | undefined {
  const table = `${name.family} ${name.table}`;
  const drops = `table ${table} drops the ports and belongs to`;
  const otherwise = 'use --nft-chain none with --mode lockdown';
  if (keptByIptables(around.chains).has(table))
    return `${drops} iptables; rules that nft adds there lose their ports at the next iptables-save; nothing was changed; use --backend ufw where UFW runs, else --backend iptables`;
  if (name.table === 'firewalld')
    return `${drops} firewalld, which takes foreign rules away; nothing was changed; open the ports with firewall-cmd, and ${otherwise}`;
  if (!isWritable(name.table) || !isWritable(name.chain))
    return `chain ${table} ${name.chain} drops the ports, and nft reads no rule for a table or chain of that name; nothing was changed; open the ports there, and ${otherwise}`;
  if (around.owner.includes(table))
    return `${drops} a running program (flags owner) that lets nobody else change it; nothing was changed; open the ports there, and ${otherwise}`;
  return undefined;
}

function refuseForeign(name: ChainName, around: NftAround): void {
  const why = foreign(name, around);
  if (why !== undefined) throw new CfsyncError(exit.failed, `nftables: ${why}`);
}

/** Where theirs go and ours do not stand, the chain must not drop the ports, whatever its conditions. */
export function refuseElsewhere(
  places: readonly Place[],
  desired: Desired,
  around: NftAround,
): void {
  for (const { chain } of around.adopted ?? []) {
    if (places.some((place) => 'table' in place && same(place, chain))) continue;
    // Theirs may have let Cloudflare past a limit.
    const { drops, unclear } = judge({ ...siteOf(chain, around), busy: true }, desired);
    if (drops.length === 0 && unclear.length === 0) continue;
    const name = `${chain.family}/${chain.table}/${chain.chain}`;
    throw new CfsyncError(
      exit.failed,
      `nftables: chain ${name} has rules for Cloudflare's ranges in front of others that may drop the ports, and cfsync would not attach there; nothing was changed; take it over by itself with --nft-chain ${name}`,
    );
  }
}
