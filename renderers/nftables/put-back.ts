/** The lines by which what other hands wrote goes, or comes back to its place. */
import { rulesOf, same } from '../../src/filters/nft/listing.ts';
import { movesOf } from '../../src/filters/strays.ts';
import type { Observed } from '../../src/renderer.ts';
import type { NftAround } from './around.ts';
import { readElement, textOfRule } from './asks.ts';
import type { NftOwned } from './owned.ts';
import type { NftStray } from './strays.ts';

/** What other hands wrote: the lines by which it goes, and by which it is put back. */
export function strayLines(
  wanted: NftOwned,
  { owned, around }: Observed<NftOwned, NftAround>,
): { readonly go: readonly string[]; readonly back: readonly string[] } {
  const { go, back } = movesOf(wanted.strays, owned.strays ?? [], strayKey, () => [
    ...around.rules.map((rule) => strayKey({ ...rule, rule: textOfRule(rule) ?? '' })),
    ...around.accepted.flatMap(({ family, table, name: set, elem }) =>
      elem.map((one) => strayKey({ family, table, set, element: readElement(one).element })),
    ),
  ]);
  return { go: go.map(deleteLine), back: back.flatMap((stray) => putBack(stray, around)) };
}

type StrayName =
  | Pick<Extract<NftStray, { rule: string }>, 'family' | 'table' | 'chain' | 'rule'>
  | Pick<Extract<NftStray, { set: string }>, 'family' | 'table' | 'set' | 'element'>;

function strayKey(stray: StrayName): string {
  const { family, table } = stray;
  return JSON.stringify(
    'rule' in stray
      ? [family, table, stray.chain, stray.rule]
      : [family, table, `@${stray.set}`, stray.element],
  );
}

function deleteLine(stray: NftStray): string {
  const table = `${stray.family} ${stray.table}`;
  return 'rule' in stray
    ? `delete rule ${table} ${stray.chain} handle ${stray.handle}`
    : `delete element ${table} ${stray.set} { ${stray.element} }`;
}

/** Nothing where its chain is gone, or no rule accepts from its set any more. */
function putBack(stray: NftStray, around: NftAround): string[] {
  const table = `${stray.family} ${stray.table}`;
  if (!('rule' in stray)) {
    const { set, element, comment } = stray;
    const text = comment === undefined ? element : `${element} comment "${comment}"`;
    return around.accepted.some((s) => `${s.family} ${s.table} ${s.name}` === `${table} ${set}`)
      ? [`add element ${table} ${set} { ${text} }`]
      : [];
  }
  if (!around.chains.some((chain) => same(chain, stray))) return [];
  const chain = `${table} ${stray.chain}`;
  if (stray.below.length === 0) return [`add rule ${chain} ${stray.rule}`];
  const there = rulesOf(around.rules, stray).map((rule) => rule.handle);
  const next = stray.below.find((handle) => there.includes(handle));
  // As with a jump: where its place is gone, the top is the one where no drop comes first.
  return [`insert rule ${chain} ${next === undefined ? '' : `handle ${next} `}${stray.rule}`];
}
