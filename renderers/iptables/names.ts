/** The names of tables, chains, sets and programs. */
import { targetOf, wordsOf, type SavedRule } from '../../src/filters/iptables/save.ts';

export type TableName = 'filter' | 'raw';

export const families = ['v4', 'v6'] as const;
export const tableNames = ['filter', 'raw'] as const;
export const base = { filter: 'INPUT', raw: 'PREROUTING' } as const;

export const entry = 'CFSYNC';
export const sources = { filter: 'CFSYNC-ALLOW', raw: 'CFSYNC-GUARD' } as const;
export const ourChains: Readonly<Record<TableName, readonly string[]>> = {
  filter: [entry, sources.filter],
  raw: [entry, sources.raw],
};
export const mark = '-m comment --comment cfsync';
export const jumpRule = `${mark} -j ${entry}`;
export const local = '-m addrtype --dst-type LOCAL';

export const tool = { v4: 'iptables', v6: 'ip6tables' } as const;
export const setName = { v4: 'cfsync4', v6: 'cfsync6' } as const;
export const setType = { v4: 'hash:net family inet', v6: 'hash:net family inet6' } as const;

export function isOurs(table: TableName): (rule: SavedRule) => boolean {
  return (rule) => {
    // Most rules of a long list are told apart without taking them to pieces.
    if (!rule.text.includes(entry)) return false;
    const target = targetOf(wordsOf(rule.text));
    return target !== undefined && ourChains[table].includes(target);
  };
}

export function isTableName(name: string): name is TableName {
  return (tableNames as readonly string[]).includes(name);
}
