/** Finds the chains in which an accept of ours counts. */
import { CfsyncError, exit } from '../../src/errors.ts';
import { summedUp, type Ends } from '../../src/filters/ends.ts';
import { changesNothing, opensToAll } from '../../src/filters/notices.ts';
import { probes, walkBase } from '../../src/filters/nft/judge.ts';
import {
  isWritable,
  keptByIptables,
  same,
  type Chain,
  type ChainName,
  type Rule,
} from '../../src/filters/nft/listing.ts';
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
  if (places.length === 0 && desired.mode === 'allow')
    notices.push(changesNothing('nftables rule on this host'));
  const whole =
    places.some((p) => p.family === 'inet') || new Set(places.map((p) => p.family)).size === 2;
  return whole ? places : [...places, ownTable];
}

/** The input base chains that drop the ports, refusing those where cfsync cannot attach. */
function droppingChains(desired: Desired, around: NftAround, notices: Notice[]): readonly Chain[] {
  const found: Chain[] = [];
  for (const chain of around.chains) {
    const label = `${chain.family} ${chain.table} ${chain.chain}`;
    if (chain.base?.type !== 'filter' || isOwn({ family: chain.family, name: chain.table }))
      continue;
    if (!['input', 'prerouting'].includes(chain.base.hook)) continue;
    if (around.dormant.includes(`${chain.family} ${chain.table}`)) continue;
    const { drops, unclear, open } = endsIn(chain, desired, around);
    if (unclear.length > 0)
      notices.push({
        level: 'note',
        text: `chain ${label} may drop the ports on conditions that cfsync cannot judge (${unclear.map(where).join(', ')}); look with: nft -a list chain ${label}`,
      });
    if (drops.length === 0) continue;
    if (chain.base.hook === 'prerouting') {
      notices.push({
        level: 'warning',
        text: `chain ${label} drops the ports before any input chain is asked, and cfsync does not attach there; look with: nft -a list chain ${label}`,
      });
      continue;
    }
    refuseForeign(chain, around);
    if (open !== undefined && desired.mode === 'allow')
      notices.push(opensToAll(`chain ${label}`, where(open)));
    found.push(chain);
  }
  if (around.legacy && desired.mode === 'allow')
    notices.push({
      level: 'note',
      text: 'iptables-legacy tables are loaded, which nft cannot see; they may drop the ports as well: look with iptables-legacy-save',
    });
  return found;
}

function endsIn(chain: Chain, desired: Desired, { rules }: NftAround): Ends<Rule> {
  return summedUp(probes(desired, chain.family).map((probe) => walkBase(chain, probe, rules)));
}

function where(rule: Rule): string {
  return `${rule.chain} handle ${rule.handle}`;
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

/** Tables in which a rule of ours would be lost, widened or refused. */
function refuseForeign(name: ChainName, around: NftAround): void {
  const table = `${name.family} ${name.table}`;
  const instead = (text: string): never => {
    throw new CfsyncError(exit.failed, `nftables: ${text}`);
  };
  if (keptByIptables(around.chains).has(table))
    instead(
      `table ${table} drops the ports and belongs to iptables; rules that nft adds there lose their ports at the next iptables-save; nothing was changed; use --backend ufw where UFW runs, else --backend iptables`,
    );
  if (name.table === 'firewalld')
    instead(
      `table ${table} drops the ports and belongs to firewalld, which takes foreign rules away; nothing was changed; open the ports with firewall-cmd, and use --nft-chain none with --mode lockdown`,
    );
  if (!isWritable(name.table) || !isWritable(name.chain))
    instead(
      `chain ${table} ${name.chain} drops the ports, and nft reads no rule for a table or chain of that name; nothing was changed; open the ports there, and use --nft-chain none with --mode lockdown`,
    );
  if (around.owner.includes(table))
    instead(
      `table ${table} drops the ports and belongs to a running program (flags owner) that lets nobody else change it; nothing was changed; open the ports there, and use --nft-chain none with --mode lockdown`,
    );
}

/** Where theirs go and ours do not stand, the chain must not drop the ports, whatever its conditions. */
export function refuseElsewhere(
  places: readonly Place[],
  desired: Desired,
  around: NftAround,
): void {
  for (const { chain } of around.adopted ?? []) {
    if (places.some((place) => 'table' in place && same(place, chain))) continue;
    const { drops, unclear } = endsIn(chain, desired, around);
    if (drops.length === 0 && unclear.length === 0) continue;
    const name = `${chain.family}/${chain.table}/${chain.chain}`;
    throw new CfsyncError(
      exit.failed,
      `nftables: chain ${name} has rules for Cloudflare's ranges in front of others that may drop the ports, and cfsync would not attach there; nothing was changed; take it over by itself with --nft-chain ${name}`,
    );
  }
}
