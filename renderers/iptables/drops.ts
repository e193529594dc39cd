/** Finds what on the host drops the ports. */
import type { SavedTable } from '../../src/filters/iptables/save.ts';
import { siteOf as nftSite } from '../../src/filters/nft/site.ts';
import * as place from '../../src/filters/place.ts';
import type { Family } from '../../src/prefix.ts';
import type { Desired } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import type { IptAround } from './around.ts';
import { base } from './names.ts';
import { siteOf } from './sites.ts';

/** What the rules of a table do to the ports, for messages. */
export function judge(
  family: Family,
  table: SavedTable,
  desired: Desired,
  around: IptAround,
): {
  readonly drops: readonly string[];
  readonly open: string | undefined;
  readonly unclear: readonly string[];
  /** Those of them that are asked before ours. */
  readonly stays: readonly string[];
} {
  const site = siteOf(family, table, base.filter, around);
  const { drops, unclear } = place.judge(site, desired);
  const open = drops.length === 0 ? undefined : place.opening(site, desired);
  const name = ({ rule }: Pick<place.Hindrance, 'rule'>): string =>
    rule === undefined ? `policy of ${base.filter}` : escape(rule.text);
  return {
    drops: [...new Set(drops.map(name))],
    open: open && name({ rule: open }),
    // Two rules may have one text.
    unclear: [...new Set(unclear.map(name))],
    stays: [...new Set(unclear.filter(({ stays }) => stays).map(name))],
  };
}

/** The ports that a table sends on, as Docker does for a published one. */
export function published(
  family: Family,
  nat: SavedTable,
  desired: Desired,
  around: IptAround,
): readonly number[] {
  return place.translated(siteOf(family, nat, 'PREROUTING', around), desired);
}

/** Base chains of nftables' own that drop the ports, with what to do about each. */
export function nativeDrops(desired: Desired, around: IptAround): (readonly [string, string])[] {
  const { defaultRoutes, addresses } = around;
  const host = { ...around.native, defaultRoutes, addresses };
  return host.chains.flatMap((chain) => {
    const { base: hook, family, table } = chain;
    if (hook?.type !== 'filter' || !['input', 'prerouting'].includes(hook.hook)) return [];
    const { drops } = place.judge(nftSite(chain, host), desired);
    if (drops.length === 0) return [];
    const instead =
      table === 'firewalld'
        ? 'open the ports with firewall-cmd'
        : `use --backend nftables, beside this one with --nft-chain ${family}/${table}/${chain.chain}`;
    return [[`${family} ${table} ${chain.chain}`, instead] as const];
  });
}
