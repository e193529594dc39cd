/** Statements of nft that are both loaded and printed. */
import { at, setType, type NftChain, type NftTable, type SetName } from './owned.ts';

export function addSet(table: NftTable, name: SetName, prefixes: readonly string[] = []): string[] {
  const head = `add set ${at(table)} ${name} { type ${setType[name]}; flags interval;`;
  return prefixes.length === 0 ? [`${head} }`] : [`${head} elements = {`, listed(prefixes), '}; }'];
}

export function elementLines(
  table: NftTable,
  name: SetName,
  prefixes: readonly string[],
): string[] {
  if (prefixes.length === 0) return [];
  return [`add element ${at(table)} ${name} {`, listed(prefixes), '}'];
}

export function addChain(table: NftTable, chain: NftChain): string {
  return `add chain ${at(table)} ${chain.name}${chain.base === undefined ? '' : ` { ${chain.base} }`}`;
}

/** A line for each, in one text: a text for each of 100,000 takes ten times as long. */
export function listed(prefixes: readonly string[]): string {
  return `\t${prefixes.join(',\n\t')},`;
}
