/** Finds what scripts wrote into csf.allow and csf.ignore for Cloudflare, and takes such lines out or puts them back. */
import { namesOnly } from '../../src/feed/published.ts';
import { areWithin } from '../../src/plugin/ports.ts';
import type { Desired, Ranges, Stray } from '../../src/renderer.ts';
import { addBlock, hasBlock, removeBlock } from './block.ts';
import { effectiveLines, entriesIn, lineOf, type Entry } from './lines.ts';

/** A line that somebody else wrote. */
export interface CsfStray extends Stray {
  readonly list: 'allow' | 'ignore';
  /** As it stands there, without its end. */
  readonly line: string;
  /** Its rules that are in the running firewall, as `lineOf` names them. */
  readonly loaded: readonly string[];
}

export interface Leftovers {
  readonly strays: readonly Omit<CsfStray, 'loaded'>[];
  /** Lines that let Cloudflare in and are not to be taken over. */
  readonly left: readonly string[];
}

/** @param sets Whether CSF keeps plain addresses in sets, where their rules are not (LF_IPSET). */
export function leftovers(
  list: CsfStray['list'],
  text: string,
  desired: Desired,
  known: Ranges,
  sets: boolean,
): Leftovers {
  const strays: Omit<CsfStray, 'loaded'>[] = [];
  const left: string[] = [];
  for (const line of linesOf(text)) {
    const words = line.trim();
    const [entry] = effectiveLines(line).join('\n') === words ? entriesIn(words) : [];
    if (entry === undefined || !namesOnly(known, [entry.prefix])) continue;
    const { protocol, direction, ports, prefix } = entry;
    const found = { text: `/etc/csf/csf.${list}: ${words}`, prefixes: [prefix], list, line };
    if (list === 'ignore') {
      if (protocol === 'any') strays.push(found);
    } else if (protocol === 'any') {
      if (sets) left.push(words);
      else strays.push({ ...found, beyond: 'every other port, and what this host sends there' });
    } else if (areWithin(ports, protocol === 'tcp' ? desired.tcpPorts : desired.udpPorts))
      strays.push(found);
    else if (direction === 'in') left.push(words);
  }
  return { strays, left };
}

function linesOf(text: string): string[] {
  return text.split(/\r?\n/);
}

/** The text without these lines; `path` is what the block names. */
export function withoutLines(text: string, path: string, lines: ReadonlySet<string>): string {
  const strip = (part: string): string =>
    part
      .split(/(?<=\n)/)
      .filter((chunk) => !lines.has(chunk.replace(/\r?\n$/, '')))
      .join('');
  const rest = removeBlock(text, path);
  // The block at the end knows whether the line before it had an end.
  return hasBlock(text, path) && text === addBlock(rest, path)
    ? addBlock(strip(rest), path)
    : strip(text);
}

/**
 * The text with these lines again: as it was, where nothing else has changed since then, or at the end, which
 * is the same to CSF.
 */
export function withLines(
  text: string,
  path: string,
  lines: readonly string[],
  before: string | undefined,
): string {
  const set = new Set(lines);
  const bare = (one: string): string => removeBlock(withoutLines(one, path, set), path);
  if (before !== undefined && bare(text) === bare(before)) return before;
  const present = new Set(linesOf(text));
  const missing = lines.filter((line) => !present.has(line)).map((line) => `${line}\n`);
  const end = missing.length === 0 || text === '' || text.endsWith('\n') ? '' : '\n';
  return [text, end, ...missing].join('');
}

/** What a line of theirs loads; csf.ignore loads nothing. */
export function strayEntries({ list, line }: Pick<CsfStray, 'list' | 'line'>): readonly Entry[] {
  return list === 'allow' ? entriesIn(line) : [];
}

export function entryNames(stray: Pick<CsfStray, 'list' | 'line'>): readonly string[] {
  return strayEntries(stray).map(lineOf);
}
