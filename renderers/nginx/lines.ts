/** Takes directives out of the text of a file, or puts them back where they were. */
import { CfsyncError, exit } from '../../src/errors.ts';
import { groupBy } from '../../src/group.ts';
import type { Stray } from '../../src/renderer.ts';
import { count, escape } from '../../src/text.ts';
import { statements, type Statement } from './configuration.ts';

/** A directive that somebody else wrote. */
export interface NginxStray extends Stray {
  /** Absolute. */
  readonly file: string;
  readonly words: readonly string[];
  /** The blocks of this file around it, from outside in, each with its number among those of the file. */
  readonly within: readonly string[];
  /** As it stands there. */
  readonly source: string;
}

export interface Placed extends Statement {
  readonly within: readonly string[];
}

/** All directives without a block of their own. */
export function* placed(content: string): Generator<Placed> {
  let within: readonly string[] = [];
  let blocks = 0;
  for (const statement of statements(content)) {
    if (statement.mark === ';') yield { ...statement, within };
    if (statement.mark === '}') within = within.slice(0, -1);
    if (statement.mark === '{') within = [...within, `${statement.words[0]}#${++blocks}`];
  }
}

type Key = Pick<NginxStray, 'words' | 'within'>;

function keyOf({ words, within }: Key): string {
  return JSON.stringify([within, words]);
}

/** The text without these; a line that has nothing else goes whole, with the comment at its end. */
export function without(content: string, strays: readonly Key[]): string {
  const keys = new Set(strays.map(keyOf));
  const kept: string[] = [];
  let at = 0;
  const cut = (start: number, end: number): void => {
    kept.push(content.slice(at, Math.max(at, start)));
    at = Math.max(at, end);
  };
  const spans = joined(
    content,
    [...placed(content)].filter((one) => keys.has(keyOf(one))),
  );
  for (const [start, end] of spans) {
    let lineStart = start;
    while (content[lineStart - 1] === ' ' || content[lineStart - 1] === '\t') lineStart--;
    const begins = lineStart === 0 || content[lineStart - 1] === '\n';
    const rest = /[ \t\r]*(?:#[^\n]*)?(?:\n|$)/y;
    rest.lastIndex = end;
    if (begins && rest.test(content)) cut(lineStart, rest.lastIndex);
    else cut(start, end + blanksAt(content, end));
  }
  return kept.join('') + content.slice(at);
}

function blanksAt(content: string, at: number): number {
  let end = at;
  while (content[end] === ' ' || content[end] === '\t') end++;
  return end - at;
}

/** First and last place of directives with nothing but blanks between them, on one line. */
function joined(content: string, list: readonly Placed[]): readonly (readonly [number, number])[] {
  const spans: [number, number][] = [];
  for (const { start, end } of list) {
    const last = spans.at(-1);
    if (last !== undefined && last[1] + blanksAt(content, last[1]) === start) last[1] = end;
    else spans.push([start, end]);
  }
  return spans;
}

/**
 * The text with these again: as it was before, where nothing else has changed since then.
 * @throws CfsyncError when their block cannot be told any more.
 */
export function withAgain(
  now: string | null,
  before: string,
  strays: readonly NginxStray[],
): string {
  if (now === null || without(now, strays) === without(before, strays)) return before;
  const present = new Set([...placed(now)].map(keyOf));
  const missing = strays.filter((stray) => !present.has(keyOf(stray)));
  let text = now;
  for (const [, list] of groupBy(missing, ({ within }) => within.join()))
    text = inserted(text, list);
  return text;
}

/** The order does not count; so they go to the end of the file, or to the start of `http`, of which there is one. */
function inserted(text: string, strays: readonly NginxStray[]): string {
  const [{ within, file }] = strays as [NginxStray];
  const sources = strays.map(({ source }) => source);
  if (within.length === 0)
    return [text, text === '' || text.endsWith('\n') ? '' : '\n', ...sources.map(line)].join('');
  const http = [...statements(text)].find(({ words, mark }) => mark === '{' && words[0] === 'http');
  if (within.length > 1 || !within[0]!.startsWith('http#') || http === undefined)
    throw new CfsyncError(
      exit.failed,
      `nginx: ${escape(file)} is another one since ${count(strays.length, 'line')} of it were taken over, and the block that they stood in cannot be told; put them back there by hand`,
      { detail: sources.map(escape) },
    );
  return [text.slice(0, http.end), '\n', ...sources.map(line)].join('') + text.slice(http.end);
}

function line(source: string): string {
  return `${source}\n`;
}
