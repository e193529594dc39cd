/** Where a jump to our chain stands. */
import { isAbove, judge, mayPass, upper } from '../../src/filters/place.ts';
import type { SavedRule, SavedTable } from '../../src/filters/iptables/save.ts';
import type { Family } from '../../src/prefix.ts';
import type { Desired } from '../../src/renderer.ts';
import { loaded, type IptAround } from './around.ts';
import { base, isOurs, jumpRule, type TableName } from './names.ts';
import type { Jump } from './owned.ts';
import { siteOf } from './sites.ts';
import type { Place } from './strays.ts';

/** Our jumps in a chain, each with its index and the rule that follows it. */
export function jumpsIn(
  table: SavedTable,
  chain: string,
): readonly { readonly jump: Jump; readonly index: number }[] {
  const ours = isOurs(table.name as TableName);
  const rules = table.rules.filter((r) => r.chain === chain);
  return rules.flatMap((rule, index) => {
    if (!ours(rule)) return [];
    const others = rules.slice(0, index).filter((r) => !ours(r));
    const next = rules.slice(index + 1).find((r) => !ours(r));
    return [{ jump: { chain, rule: rule.text, ...placeBefore(next, others) }, index }];
  });
}

/** The place in front of a rule that has these above it. */
function placeBefore(rule: SavedRule | undefined, above: readonly SavedRule[]): Place {
  return {
    before: rule?.text ?? null,
    nth: above.filter((r) => r.text === rule?.text).length,
  };
}

const atEnd: Place = { before: null, nth: 0 };

/** A jump above `limit` that stands already stays where it is; -1 stands for no limit. */
function jumpAt(table: SavedTable, chain: string, limit: number, otherwise: number): Jump {
  const rules = table.rules.filter((r) => r.chain === chain);
  const standing = jumpsIn(table, chain).find(
    ({ jump, index }) => jump.rule === jumpRule && isAbove(index, limit),
  );
  if (standing !== undefined) return standing.jump;
  const others = (list: readonly SavedRule[]): SavedRule[] =>
    list.filter((r) => !isOurs(table.name as TableName)(r));
  if (otherwise < 0) return { chain, rule: jumpRule, ...atEnd };
  const [next] = others(rules.slice(otherwise));
  return { chain, rule: jumpRule, ...placeBefore(next, others(rules.slice(0, otherwise))) };
}

/** At the end where only the policy drops. */
export function inputJump(family: Family, desired: Desired, around: IptAround | undefined): Jump {
  const chain = base.filter;
  const table = loaded(family, 'filter', around);
  if (table === undefined) return { chain, rule: jumpRule, ...atEnd };
  const limit = upper(
    judge(siteOf(family, table, chain, around!), desired).limit,
    around?.[family]?.adoptedAt ?? -1,
  );
  return jumpAt(table, chain, limit, limit);
}

/** At the top, because a rule above it that accepts would let strangers pass; one that stands as well stays. */
export function preroutingJump(
  family: Family,
  desired: Desired,
  around: IptAround | undefined,
): Jump {
  const chain = base.raw;
  const table = loaded(family, 'raw', around);
  if (table === undefined) return { chain, rule: jumpRule, ...atEnd };
  const site = siteOf(family, table, chain, around!);
  const ours = isOurs('raw');
  const rules = table.rules.filter((r) => r.chain === chain);
  const read = site.chains.get(site.chain) ?? [];
  const limit = rules.findIndex((r, i) => !ours(r) && mayPass(site, read[i]!, desired));
  return jumpAt(table, chain, limit, 0);
}
