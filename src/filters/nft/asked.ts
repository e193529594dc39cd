/** Finds the named sets and maps that rules ask of a packet on its way in. */
import { at, isWritable, type Expr, type Listing } from './listing.ts';

/** As the words of `nft list` after it: `set inet filter banned`. */
export type SetName = readonly [kind: 'set' | 'map', family: string, table: string, name: string];

/**
 * @param bySource Whether those count that are asked for the source: they may be large.
 */
export function setsAsked(
  { chains, rules, sets, maps }: Listing,
  bySource: boolean,
): readonly SetName[] {
  const away = new Set(
    chains
      .filter(({ base }) => base !== undefined && /^(output|postrouting|egress)$/.test(base.hook))
      .map(({ family, table, chain }) => `${family} ${table} ${chain}`),
  );
  const asked = new Map<string, boolean>();
  for (const { family, table, chain, expr } of rules)
    if (!away.has(`${family} ${table} ${chain}`))
      for (const [name, isSource] of expr.flatMap(namesIn)) {
        const key = `${family} ${table} ${name}`;
        asked.set(key, isSource || asked.get(key) === true);
      }
  const kinds = [
    ['set', sets],
    ['map', maps],
  ] as const;
  return kinds.flatMap(([kind, list]) =>
    list
      .filter(({ family, table, name }) => {
        const isSource = asked.get(`${family} ${table} ${name}`);
        const isNamed = [table, name].every(isWritable);
        return isNamed && isSource !== undefined && (bySource || !isSource);
      })
      .map(({ family, table, name }): SetName => [kind, family, table, name]),
  );
}

/** What a statement looks something up in; not what it adds to. */
function namesIn(e: Expr): readonly (readonly [name: string, isSource: boolean])[] {
  const both = [
    [at(e, 'match', 'left'), at(e, 'match', 'right')],
    [at(e, 'vmap', 'key'), at(e, 'vmap', 'data')],
  ];
  return both.flatMap(([left, right]) =>
    typeof right === 'string' && right.startsWith('@')
      ? [[right.slice(1), JSON.stringify(left ?? null).includes('"saddr"')] as const]
      : [],
  );
}
