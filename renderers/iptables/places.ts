/** The lines that put rules where they belong in a chain. */
import type { SavedRule } from '../../src/filters/iptables/save.ts';
import { isAbove } from '../../src/filters/place.ts';
import { sameList } from '../../src/filters/lines.ts';
import type { Moves } from '../../src/filters/strays.ts';
import type { Jump } from './owned.ts';
import type { IptStray, Place } from './strays.ts';

/**
 * The lines that move jumps and put strays back, each with the number of the place where it belongs once the
 * lines before it are carried out.
 * @param rules What is there; strays only where nobody looked for them.
 */
export function placeLines(
  rules: readonly SavedRule[],
  strays: Moves<IptStray>,
  wanted: readonly Jump[],
  observed: readonly Jump[],
): { readonly jumps: readonly string[]; readonly back: readonly string[] } {
  const lists = new Map<string, string[]>();
  /** Its rules without strays. */
  const textsOf = (chain: string): string[] =>
    rules.filter((r) => r.chain === chain).map((r) => r.text);
  const listOf = (chain: string): string[] => {
    const list = lists.get(chain) ?? withStays(chain, textsOf(chain));
    lists.set(chain, list);
    return list;
  };
  const withStays = (chain: string, list: string[]): string[] => {
    for (const stray of strays.stay)
      if (stray.chain === chain) list.splice(placeOf(stray, list), 0, stray.rule);
    return list;
  };
  const put = (chain: string, rule: string, place: Place): string => {
    const list = listOf(chain);
    const at = placeOf(place, list);
    list.splice(at, 0, rule);
    return at === list.length - 1 ? `-A ${chain} ${rule}` : `-I ${chain} ${at + 1} ${rule}`;
  };
  const then = reached(wanted, observed, textsOf);
  const jumps = [...new Set([...observed, ...then].map((j) => j.chain))].flatMap((chain) => {
    const here = (list: readonly Jump[]): readonly Jump[] => list.filter((j) => j.chain === chain);
    const there = textsOf(chain);
    const bare = [...there];
    for (const { rule } of here(observed)) bare.splice(bare.indexOf(rule), 1);
    // Whether one stands above or below a stray says nothing.
    const settled = [...bare];
    for (const jump of here(then)) settled.splice(placeOf(jump, settled), 0, jump.rule);
    if (sameList(there, settled)) return [];
    lists.set(chain, withStays(chain, bare));
    return [
      ...here(observed).map(({ rule }) => `-D ${chain} ${rule}`),
      ...here(then).map((jump) => put(chain, jump.rule, jump)),
    ];
  });
  const back = strays.back.map((stray) => put(stray.chain, stray.rule, stray));
  return { jumps, back };
}

/**
 * The jumps that are to stand there. One to a chain: a second one is another hand's doing, and stays where it was, or is
 * not put back.
 */
function reached(
  wanted: readonly Jump[],
  observed: readonly Jump[],
  textsOf: (chain: string) => readonly string[],
): readonly Jump[] {
  const left = [...observed];
  const taken = (jump: Jump): boolean => {
    const at = left.findIndex((j) => isSame(j, jump));
    if (at >= 0) left.splice(at, 1);
    return at >= 0;
  };
  const stays = wanted.map(taken);
  return wanted.flatMap((jump, i) => {
    if (stays[i]) return [jump];
    const alike = (j: Jump): boolean => j.chain === jump.chain && j.rule === jump.rule;
    if (wanted.findIndex(alike) < i) return [];
    const moved = notMovedDown(jump, observed, textsOf(jump.chain));
    // The one that it is stays anyway.
    return wanted.some((j, n) => stays[n] && isSame(j, moved)) ? [] : [moved];
  });
}

function isSame(one: Jump, other: Jump): boolean {
  const { chain, rule, before, nth } = other;
  return one.chain === chain && one.rule === rule && one.before === before && one.nth === nth;
}

/** On the way back an admin may have added a drop above, or deleted what the jump stood before: it stays where it is. */
function notMovedDown(jump: Jump, observed: readonly Jump[], list: readonly string[]): Jump {
  const place = (j: Jump): number =>
    j.before !== null && !list.includes(j.before) ? -1 : placeOf(j, list);
  const limit = place(jump);
  const same = observed.filter((j) => j.chain === jump.chain && j.rule === jump.rule);
  const exact = same.find((j) => j.before === jump.before && j.nth === jump.nth);
  return exact ?? same.find((j) => isAbove(place(j), limit)) ?? jump;
}

/** The rule it stood before may be gone: the top is the place where no drop comes first. */
function placeOf({ before, nth }: Place, list: readonly string[]): number {
  if (before === null) return list.length;
  const same = [...list.keys()].filter((i) => list[i] === before);
  return same[nth] ?? same.at(-1) ?? 0;
}
