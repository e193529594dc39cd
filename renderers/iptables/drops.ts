/** Finds what on the host drops the ports. */
import { summedUp } from '../../src/filters/ends.ts';
import { probes, walkBase } from '../../src/filters/iptables/judge.ts';
import type { SavedRule, SavedTable } from '../../src/filters/iptables/save.ts';
import * as nft from '../../src/filters/nft/judge.ts';
import type { Family } from '../../src/prefix.ts';
import type { Desired } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import type { IptAround } from './around.ts';
import { base, isOurs } from './names.ts';

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
} {
  const { drops, open, unclear } = summedUp(
    probes(desired, family, around.defaultRoutes).map((probe) =>
      walkBase(table, base.filter, probe, isOurs('filter')),
    ),
  );
  const name = (rule: SavedRule): string => escape(`-A ${rule.chain} ${rule.text}`);
  return {
    drops: drops.map(({ rule }) => (rule === undefined ? `policy of ${base.filter}` : name(rule))),
    open: open && name(open),
    // Two rules may have one text.
    unclear: [...new Set(unclear.map(name))],
  };
}

/** Base chains of nftables' own that drop the ports, with what to do about each. */
export function nativeDrops(desired: Desired, around: IptAround): (readonly [string, string])[] {
  const { chains, rules } = around.native;
  return chains.flatMap((chain) => {
    const { base, family, table } = chain;
    if (base?.type !== 'filter' || !['input', 'prerouting'].includes(base.hook)) return [];
    const dropped = nft
      .probes(desired, family)
      .some((probe) => nft.walkBase(chain, probe, rules).verdict === 'drop');
    if (!dropped) return [];
    const instead =
      table === 'firewalld'
        ? 'open the ports with firewall-cmd'
        : `use --backend nftables, beside this one with --nft-chain ${family}/${table}/${chain.chain}`;
    return [[`${family} ${table} ${chain.chain}`, instead] as const];
  });
}
