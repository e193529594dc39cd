/** Unified diffs of what a backend holds against what it should hold. */
import { diffArrays, FILE_HEADERS_ONLY, formatPatch, type StructuredPatchHunk } from 'diff';
import type { Artifact } from '../renderer.ts';

const context = 3;

/** One text in both states; an absent text is empty. */
export interface FileDiff {
  readonly path: string;
  readonly before: string;
  readonly after: string;
}

/** The texts that differ, by path. */
export function changed(before: readonly Artifact[], after: readonly Artifact[]): FileDiff[] {
  const text = (list: readonly Artifact[], path: string): string =>
    list.find((a) => a.path === path)?.content ?? '';
  const paths = [...new Set([...before, ...after].map((a) => a.path))].sort();
  return paths
    .map((path) => ({ path, before: text(before, path), after: text(after, path) }))
    .filter((d) => d.before !== d.after);
}

/** A unified diff, as `patch` reads it. */
export function unified(file: FileDiff, labels: readonly [string, string]): string {
  const hunks = makeHunks(linesOf(file.before), linesOf(file.after));
  if (hunks.length === 0) return '';
  return formatPatch(
    {
      oldFileName: `${labels[0]}/${file.path}`,
      newFileName: `${labels[1]}/${file.path}`,
      oldHeader: undefined,
      newHeader: undefined,
      hunks,
    },
    FILE_HEADERS_ONLY,
  );
}

function linesOf(text: string): string[] {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines;
}

type Line = ' ' | '+' | '-';

/**
 * Lines that only one side has need no search: they are set aside, and only the common lines are compared.
 * diff 9 takes 12 s for 10,000 lines that all differ; so it takes milliseconds.
 */
function edits(before: readonly string[], after: readonly string[]): (readonly [Line, string])[] {
  const inBefore = new Set(before);
  const inAfter = new Set(after);
  const result: (readonly [Line, string])[] = [];
  let i = 0;
  let j = 0;
  const aside = (): void => {
    for (; i < before.length && !inAfter.has(before[i]!); i++) result.push(['-', before[i]!]);
    for (; j < after.length && !inBefore.has(after[j]!); j++) result.push(['+', after[j]!]);
  };
  const common = diffArrays(
    before.filter((line) => inAfter.has(line)),
    after.filter((line) => inBefore.has(line)),
  );
  for (const part of common)
    for (const line of part.value) {
      aside();
      if (part.removed) i++;
      else if (part.added) j++;
      else {
        i++;
        j++;
      }
      result.push([part.removed ? '-' : part.added ? '+' : ' ', line]);
    }
  aside();
  return result;
}

function makeHunks(before: readonly string[], after: readonly string[]): StructuredPatchHunk[] {
  const all = edits(before, after);
  const hunks: StructuredPatchHunk[] = [];
  let old = 1;
  let now = 1;
  let last = -Infinity;
  let hunk: StructuredPatchHunk | undefined;
  const take = (hunkOf: StructuredPatchHunk, [sign, line]: readonly [Line, string]): void => {
    hunkOf.lines.push(sign + line);
    if (sign !== '+') hunkOf.oldLines++;
    if (sign !== '-') hunkOf.newLines++;
  };
  all.forEach((edit, index) => {
    const [sign] = edit;
    if (sign === ' ') {
      if (hunk && index - last <= context) take(hunk, edit);
    } else {
      if (!hunk || index - last > 2 * context) {
        const lead = all.slice(Math.max(0, index - context, hunk ? last + context + 1 : 0), index);
        hunk = {
          oldStart: old - lead.length,
          newStart: now - lead.length,
          oldLines: 0,
          newLines: 0,
          lines: [],
        };
        for (const line of lead) take(hunk, line);
        hunks.push(hunk);
      } else {
        for (const line of all.slice(Math.max(last + context + 1, 0), index)) take(hunk, line);
      }
      take(hunk, edit);
      last = index;
    }
    if (sign !== '+') old++;
    if (sign !== '-') now++;
  });
  return hunks;
}
