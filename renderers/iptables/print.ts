/** The files that `render` writes. */
import { script } from '../../src/filters/lines.ts';
import type { Family } from '../../src/prefix.ts';
import type { Artifact } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { tool } from './names.ts';
import type { IpSet, IptTable } from './owned.ts';
import { createSet } from './sets.ts';

export function artifact(ending: string, lines: readonly string[]): Artifact {
  return { path: `iptables/cfsync.${ending}`, content: script(lines) };
}

export function rulesText(family: Family, tables: readonly IptTable[]): string[] {
  const lines = [
    `# Written by cfsync. Load it with ${tool[family]}-restore -w 10 --noflush, again and again;`,
    '# without --noflush every other rule would go.',
  ];
  for (const { name, chains, jumps } of tables) {
    lines.push(
      `*${name}`,
      ...chains.map((c) => `:${c.name} - [0:0]`),
      ...chains.flatMap((c) => c.rules.map((rule) => `-A ${c.name} ${rule}`)),
    );
    for (const { chain, rule, before } of jumps)
      lines.push(
        '# Not loaded from here, or every load would add one. Wanted once, before the first rule that decides:',
        `# -I ${chain} ${rule}`,
        ...(before === null ? [] : [`# in front of: -A ${chain} ${escape(before)}`]),
      );
    lines.push('COMMIT');
  }
  return lines;
}

export function setsText(sets: readonly IpSet[]): string[] {
  return [
    '# Written by cfsync. Load it with ipset restore -exist -file, again and again, before the rules.',
    ...sets.flatMap((set) => {
      const next = { ...set, name: `${set.name}-new` };
      return [
        createSet(set),
        createSet(next),
        `flush ${next.name}`,
        ...set.prefixes.map((p) => `add ${next.name} ${p}`),
        `swap ${next.name} ${set.name}`,
        `destroy ${next.name}`,
      ];
    }),
  ];
}
