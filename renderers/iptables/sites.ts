/** Makes of what iptables-save printed what the search for a place asks. */
import { readTable } from '../../src/filters/iptables/read.ts';
import type { SavedTable } from '../../src/filters/iptables/save.ts';
import { unknown } from '../../src/filters/conditions.ts';
import type { Site } from '../../src/filters/place.ts';
import type { Family } from '../../src/prefix.ts';
import type { Rule } from '../../src/filters/walk.ts';
import type { IptAround } from './around.ts';
import { ourChains, isTableName } from './names.ts';

/**
 * Sets that are asked for the source count as empty: what they drop are bans, and what they let pass the admin may
 * take away.
 */
const sets: Parameters<typeof readTable>[3] = {
  asks: (name, flags) => () => (flags.startsWith('src') ? false : unknown(`--match-set ${name}`)),
};

/** A table is read once, however often it is asked. */
const known = new WeakMap<SavedTable, ReadonlyMap<string, readonly Rule[]>>();

function chainsOf(table: SavedTable, family: Family): ReadonlyMap<string, readonly Rule[]> {
  let found = known.get(table);
  if (found === undefined) {
    const rules = readTable(table, 'kept', family, sets);
    found = new Map([...rules].map(([name, list]) => [`kept ${table.name} ${name}`, list]));
    known.set(table, found);
  }
  return found;
}

export function siteOf(
  family: Family,
  table: SavedTable,
  chain: string,
  { defaultRoutes, addresses }: IptAround,
): Site {
  return {
    chain: `kept ${table.name} ${chain}`,
    families: [family],
    drops: table.chains.find(({ name }) => name === chain)?.policy === 'DROP',
    chains: chainsOf(table, family),
    interfaces: defaultRoutes,
    addresses,
    ours: isTableName(table.name) ? ourChains[table.name] : [],
  };
}
