/** Takes over what scripts left in the rules files. */
import { intersect, isEmpty, merge, parseRanges, type Family } from '../../src/prefix.ts';
import type { Desired, Observed, Ranges } from '../../src/renderer.ts';
import { isAcceptFrom, parseRule, ruleKey, type ChainRule, type Listing } from './chains.ts';
import { isUsed } from './in-force.ts';
import { leftovers, type UfwStray } from './leftovers.ts';
import { inputChain, ownBlocks } from './rules.ts';
import { families, rulesOf, type Perhaps, type UfwAround, type UfwOwned } from './state.ts';
import { blocksFor } from './wanted.ts';

export function adopt(
  { owned, around }: Observed<UfwOwned, UfwAround>,
  desired: Desired,
  known: Ranges,
): Observed<UfwOwned, UfwAround> {
  const ranges = merge(desired.ranges, desired.extra);
  const found = families.flatMap((family) => {
    if (!isUsed(family, around)) return [];
    const ours = (prefix: string): readonly string[] =>
      blocksFor(family, desired, parseRanges(ranges[family].filter((one) => meet(one, prefix))));
    const file = rulesOf(family, around);
    return [[family, leftovers(file, family, desired, known, ours)] as const];
  });
  const left = [...new Set(found.flatMap(([, one]) => one.left))];
  const strays = found.flatMap(([, one]) => one.strays);
  if (strays.length === 0) return { owned, around: { ...around, left } };
  const states = found.map(([family, { rest, order }]) => {
    const { loaded } = owned[family];
    return [family, { ...ownBlocks(rest), loaded, order }] as const;
  });
  const adopted = found.map(([family, { replaced }]) => [family, replaced] as const);
  return {
    owned: { ...owned, ...Object.fromEntries(states), strays },
    around: {
      ...around,
      left,
      adopted: Object.fromEntries(adopted),
      ...(around.kernel && { kernel: withoutStrays(around.kernel, strays) }),
    },
  };
}

function meet(one: string, other: string): boolean {
  return !isEmpty(intersect(parseRanges([one]), parseRanges([other])));
}

/** What the kernel has without the rules that go. */
function withoutStrays(
  { v4, v6 }: Perhaps<Listing>,
  strays: readonly UfwStray[],
): Perhaps<Listing> {
  const strip = (family: Family, listing: Listing): Listing => {
    const keyOf = (rule: ChainRule | undefined): string | undefined =>
      rule?.chain === inputChain(family) && isAcceptFrom(rule) ? ruleKey(rule) : undefined;
    const theirs = strays.filter((stray) => stray.family === family);
    const lines = theirs.flatMap(({ part }) => part.split('\n'));
    const gone = new Set(lines.map((line) => keyOf(parseRule(line))));
    gone.delete(undefined);
    return { ...listing, rules: listing.rules.filter((rule) => !gone.has(keyOf(rule))) };
  };
  return { v4: strip('v4', v4), ...(v6 && { v6: strip('v6', v6) }) };
}
