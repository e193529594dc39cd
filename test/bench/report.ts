/** Collects what was measured, prints it as a table, and writes it as JSON. */

import { writeFileSync } from 'node:fs';
import { cpus, loadavg, release } from 'node:os';

export interface Row {
  readonly what: string;
  /** `wall`, `CPU`; milliseconds where it names no other unit. */
  readonly measure: string;
  /** Medians. */
  readonly ours: number;
  readonly theirs?: number;
  /** How many times as long as the other one; as fast, where the goal says so. */
  readonly ratio?: number;
  readonly goal: string;
  readonly reached: boolean;
}

const rows: Row[] = [];

export function report(row: Row): void {
  rows.push(row);
}

/** @param file Where to write the JSON. */
export function conclude(file: string): void {
  const head = ['what', 'measure', 'cfsync', 'other', 'ratio', 'goal', 'reached'];
  const cells = rows.map(({ what, measure, ours, theirs, ratio, goal, reached }) => [
    what,
    measure,
    figure(ours),
    theirs === undefined ? '' : figure(theirs),
    ratio === undefined ? '' : ratio.toFixed(2),
    goal,
    goal === '' ? '' : reached ? 'yes' : 'NO',
  ]);
  const widths = head.map((name, i) =>
    Math.max(name.length, ...cells.map((row) => row[i]!.length)),
  );
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, i) => cell.padEnd(widths[i]!)).join(' | ')} |`;
  const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`;
  console.log(['', line(head), rule, ...cells.map(line), ''].join('\n'));
  const [load] = loadavg();
  const machine = { node: process.version, kernel: release(), cpus: cpus().length, load };
  writeFileSync(file, `${JSON.stringify({ machine, rows }, undefined, 2)}\n`);
  console.log(`Load of the machine: ${load!.toFixed(1)}. Written to ${file}`);
}

function figure(value: number): string {
  return value.toFixed(value < 100 ? 1 : 0);
}
