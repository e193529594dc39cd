/** Tells people and programs what a change would do: as text, JSON, or Markdown for a code review. */
import { unified, type FileDiff } from './diff.ts';
import { addresses, families, familyNames, isEmpty, subtract } from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import { count, escape, jsonText, number, visible } from '../text.ts';

export interface Report {
  readonly files: readonly FileDiff[];
  /** The lists as they are and as they would be. */
  readonly before: Ranges;
  readonly after: Ranges;
}

/** Prefixes of one list that are not in the other, as they stand there. */
function without(list: Ranges, other: Ranges): Ranges {
  const only = (family: 'v4' | 'v6'): readonly string[] => {
    const known = new Set(other[family]);
    return list[family].filter((prefix) => !known.has(prefix));
  };
  return { v4: only('v4'), v6: only('v6') };
}

/** docs/diff.schema.json describes it. */
export function reportJson({ files, before, after }: Report): string {
  const report = {
    schema: 1,
    changed: files.length > 0,
    ranges: { added: without(after, before), removed: without(before, after) },
    coverage: {
      gained: spaceJson(subtract(after, before)),
      lost: spaceJson(subtract(before, after)),
    },
    files: files.map((file) => ({ path: file.path, diff: unified(file, ['a', 'b']) })),
  };
  return jsonText(report, 2);
}

/** Ranges with the count of their addresses. */
export function spaceJson({ v4, v6 }: Ranges): object {
  // As text: IPv6 counts are beyond what a number of JSON holds exactly in most programs.
  return { v4, v6, addresses: { v4: String(addresses(v4)), v6: String(addresses(v6)) } };
}

/** GitHub Flavored Markdown: a verdict in one line, the ranges in a table, the diffs in folds. */
export function reportMarkdown(report: Report): string {
  const { files, before, after } = report;
  if (files.length === 0) return '**No changes.**';
  const gained = subtract(after, before);
  const lost = subtract(before, after);
  const rows = [
    ...rowsOf('added', without(after, before)),
    ...rowsOf('removed', without(before, after)),
  ];
  return [
    `**${verdict(report)}**`,
    ...(rows.length === 0 ? [] : ['', '| | range | addresses |', '|---|---|---:|', ...rows]),
    ...(isEmpty(gained) ? [] : ['', `Newly covered: ${spaceText(gained)}.`]),
    ...(isEmpty(lost) ? [] : ['', `No longer covered: ${spaceText(lost)}.`]),
    ...files.flatMap((file) => ['', ...fold(file)]),
  ].join('\n');
}

function verdict({ files, before, after }: Report): string {
  const differ = `${count(files.length, 'file')} ${files.length === 1 ? 'differs' : 'differ'}`;
  const added = total(without(after, before));
  const removed = total(without(before, after));
  if (added + removed === 0)
    return `The ranges are the same, and ${differ}: edited by hand, or rendered with other options or by another release.`;
  const lost = subtract(before, after);
  const same = isEmpty(lost) && isEmpty(subtract(after, before));
  const what = [
    ...(added === 0 ? [] : [`${count(added, 'range')} added`]),
    ...(removed === 0 ? [] : [`${count(removed, 'range')} removed`]),
  ].join(', ');
  const cover = same
    ? ', which cover the same addresses'
    : isEmpty(lost)
      ? ''
      : `: ${sizeText(lost)} no longer covered`;
  return `${what}${cover}; ${differ}.`;
}

function total({ v4, v6 }: Ranges): number {
  return v4.length + v6.length;
}

function rowsOf(what: string, ranges: Ranges): string[] {
  return families.flatMap((family) =>
    ranges[family].map((prefix) => `| ${what} | \`${prefix}\` | ${number(addresses([prefix]))} |`),
  );
}

/** `262,144 IPv4 addresses`, with what `more` adds for each family. */
function sizeText(ranges: Ranges, more: (list: readonly string[]) => string = () => ''): string {
  return families
    .filter((family) => ranges[family].length > 0)
    .map((family) => {
      const list = ranges[family];
      return `${number(addresses(list))} ${familyNames[family]} addresses${more(list)}`;
    })
    .join(' and ');
}

function spaceText(ranges: Ranges): string {
  return sizeText(ranges, (list) => ` (${list.map((prefix) => `\`${prefix}\``).join(', ')})`);
}

function fold(file: FileDiff): string[] {
  const text = unified(file, ['a', 'b']).trimEnd().split('\n').map(visible).join('\n');
  // A fence must be longer than any in the text.
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length));
  const fence = '`'.repeat(longest + 1);
  const path = escape(file.path).replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return [`<details><summary>${path}</summary>`, '', `${fence}diff`, text, fence, '', '</details>'];
}
