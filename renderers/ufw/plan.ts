/** Plans the files, then what takes the kernel to them. */
import { isDeepStrictEqual } from 'node:util';
import { fileStep } from '../../src/digest.ts';
import type { Family } from '../../src/prefix.ts';
import type { Command, Observed, Step } from '../../src/renderer.ts';
import { count } from '../../src/text.ts';
import { meaning, parseRule } from './chains.ts';
import { isRunning } from './in-force.ts';
import { putBack, without } from './leftovers.ts';
import { edit, inputChain } from './rules.ts';
import {
  families,
  manyRules,
  paths,
  programs,
  rulesOf,
  type UfwAround,
  type UfwOwned,
} from './state.ts';

export function plan(
  wanted: UfwOwned,
  { owned, around }: Observed<UfwOwned, UfwAround>,
): readonly Step[] {
  const files: Step[] = [];
  const loads: Step[] = [];
  for (const family of families) {
    const text = around.texts[family];
    const { at, blocks, loaded, order = [] } = wanted[family];
    const strays = (wanted.strays ?? []).filter((stray) => stray.family === family);
    // On the way back only those that were taken come back; what was written since then stays.
    const file = wanted.strays === undefined ? rulesOf(family, around) : around.files[family];
    const ours = edit(without(file, strays), blocks, at);
    const next = strays.length === 0 ? ours : putBack(ours, paths[family], strays, order);
    const restore = (stdin: string, ...words: string[]): Command => ({
      argv: [`${programs[family]}-restore`, '-w', '10', '-n', ...words],
      stdin,
    });
    const path = paths[family];
    if (next !== text)
      files.push(
        fileStep({
          summary: `ufw: write ${path}: ${count(blocks.length, 'rule')} of cfsync's`,
          path,
          old: text,
          content: next,
          mode: 0o640,
          // An error in the file would take the whole firewall down at the next `ufw reload` or boot.
          check: restore(next, '--test'),
        }),
      );
    if (isRunning(family, around) && (next !== text || (loaded && !owned[family].loaded))) {
      const change = moves(family, next, around);
      loads.push({
        kind: 'run',
        summary: `ufw: load ${change === undefined ? '' : 'the change of '}${path}`,
        command: restore(change ?? next),
      });
    }
  }
  return [...files, ...loads];
}

/**
 * What takes the kernel to another text of the file and leaves every other rule alone, its counters included.
 * Undefined where the kernel's chain is not as the file says, or where there is more to do than to delete and
 * insert in it: then the file is loaded.
 */
function moves(family: Family, to: string, { texts, kernel }: UfwAround): string | undefined {
  const chain = inputChain(family);
  const isHere = (line: string): boolean => line.startsWith(`-A ${chain} `);
  const before = ruleLines(texts[family]);
  const after = ruleLines(to);
  const filed = before.filter(isHere).map((line) => parseRule(line)!);
  const live = kernel![family]!.rules.filter((rule) => rule.chain === chain);
  if (!isDeepStrictEqual(filed.map(meaning), live.map(meaning))) return undefined;
  const [old, wanted] = [new Set(before), new Set(after)];
  const gone = before.filter((line) => !wanted.has(line));
  const added = after.filter((line) => !old.has(line));
  const stay = before.filter((line) => wanted.has(line));
  const stayed = after.filter((line) => old.has(line));
  const differing = [...gone, ...added];
  if (differing.length === 0 || !differing.every(isHere) || !isDeepStrictEqual(stay, stayed))
    return undefined;
  // For each number the chain is walked: 10,000 take 600 ms, and 200 to load them (1.8.9, nf_tables).
  if (differing.length > manyRules) return undefined;
  const deletions = gone.map((line) => line.replace('-A', '-D'));
  const insertions = after
    .filter(isHere)
    .flatMap((line, i) => (old.has(line) ? [] : [line.replace(/^-A \S+/, `-I ${chain} ${i + 1}`)]));
  return ['*filter', ...deletions, ...insertions, 'COMMIT\n'].join('\n');
}

function ruleLines(text: string): readonly string[] {
  return text.split('\n').filter((line) => line.startsWith('-A '));
}
