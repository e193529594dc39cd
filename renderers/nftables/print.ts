/** The files that `render` writes. */
import { script } from '../../src/filters/lines.ts';
import type { Artifact } from '../../src/renderer.ts';
import { at, bases, isOwn, jumpRule, setNames, setType, type NftOwned } from './owned.ts';
import { addChain, addSet, elementLines, listed } from './statements.ts';

export function artifact(name: string, lines: readonly string[]): Artifact {
  return { path: `nftables/${name}`, content: script(lines) };
}

export function rulesetText(owned: NftOwned): string[] {
  const lines = [
    '# Written by cfsync. Load it with nft -f, again and again: it refreshes itself in place.',
  ];
  for (const table of owned.tables) {
    lines.push('');
    if (isOwn(table)) lines.push(`add table ${at(table)}`);
    if (table.dormant) lines.push('# switched off by flags dormant');
    if (table.chains.some((c) => c.base === bases.input && isOwn(table)))
      lines.push(
        '# Its own base chain: an accept here is not final, another base chain may still drop.',
        '# --nft-chain FAMILY/TABLE/CHAIN attaches to the chain that decides.',
      );
    const sets = setNames.filter((name) => table.sets[name] !== undefined);
    lines.push(...sets.flatMap((name) => addSet(table, name)));
    lines.push(...table.chains.map((c) => addChain(table, c)));
    for (const name of sets)
      lines.push(`flush set ${at(table)} ${name}`, ...elementLines(table, name, table.sets[name]!));
    for (const chain of table.chains)
      lines.push(
        `flush chain ${at(table)} ${chain.name}`,
        ...chain.rules.map((r) =>
          r.startsWith('#') ? r : `add rule ${at(table)} ${chain.name} ${r}`,
        ),
      );
    for (const jump of table.jumps)
      lines.push(
        '# Not loaded from here, or every load would add one. Wanted once, before the first drop:',
        `# insert rule ${at(table)} ${jump.chain}${jump.before === null ? '' : ` handle ${jump.before}`} ${jumpRule}`,
      );
  }
  return lines;
}

export function setsText(owned: NftOwned): string[] {
  return [
    '# Written by cfsync. Include it inside a table block; then: ip saddr @cfsync4, ip6 saddr @cfsync6',
    ...owned.tables.flatMap((table) =>
      setNames.flatMap((name) => [
        `set ${name} {`,
        `\ttype ${setType[name]}`,
        '\tflags interval',
        ...braces('\telements = {', table.sets[name] ?? []),
        '}',
      ]),
    ),
  ];
}

export function defineText(owned: NftOwned): string[] {
  return [
    '# Written by cfsync. Include it before its use; then: ip saddr $CFSYNC4, ip6 saddr $CFSYNC6',
    ...braces('define CFSYNC4 = {', owned.ranges.v4),
    ...braces('define CFSYNC6 = {', owned.ranges.v6),
  ];
}

/** nft refuses `elements = { }`, so an empty list leaves the whole statement out. */
function braces(head: string, prefixes: readonly string[]): string[] {
  return prefixes.length === 0 ? [] : [head, listed(prefixes), '}'];
}
