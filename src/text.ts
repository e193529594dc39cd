/** Words and numbers as they are printed. */
import { inspect } from 'node:util';

/**
 * What cannot be seen made visible, so that another program's output cannot steer a terminal or turn a line around:
 * control and format characters, line and paragraph separators. The same again when it is done twice.
 */
export function escape(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) =>
    c === '\t' ? ' ' : `\\u${c.codePointAt(0)!.toString(16).padStart(4, '0')}`,
  );
}

/** As `escape`, with tabs: a line of a file. */
export function visible(line: string): string {
  return line.split('\t').map(escape).join('\t');
}

/**
 * JSON as it is printed: characters that `escape` makes visible in text are escaped here as JSON has it (RFC 8259,
 * section 7), so that the values are the same to a program that reads it.
 * @param indent Blanks a level; without it all stands on one line.
 */
export function jsonText(value: unknown, indent?: number): string {
  const unit = (half: string): string => `\\u${half.charCodeAt(0).toString(16).padStart(4, '0')}`;
  // The line ends are those between values: within one, stringify has escaped them.
  return JSON.stringify(value, undefined, indent).replaceAll(
    /(?!\n)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (c) => c.split('').map(unit).join(''),
  );
}

/** A value of a configuration as a message names it; not every object lets itself be made into a text. */
export function shown(value: unknown): string {
  return escape(
    typeof value === 'string' ? value : inspect(value, { depth: 1, breakLength: Infinity }),
  );
}

/** The first lines of what a program said, fit to be printed. */
export function firstLines(text: string, most = 5): string[] {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '')
    .slice(0, most)
    .map((line) => escape(line.slice(0, 300)));
}

/** 262144 as `262,144`; large IPv6 counts as a power of two, `2^96`. */
export function number(value: bigint | number): string {
  const n = BigInt(value);
  if (n >= 1n << 40n) {
    const bits = n.toString(2).length - 1;
    return n === 1n << BigInt(bits) ? `2^${bits}` : `about 2^${bits}`;
  }
  return n.toString().replaceAll(/\B(?=(\d{3})+$)/g, ',');
}

/** `1 prefix`, `2 prefixes`. */
export function count(n: number, one: string, many = `${one}s`): string {
  return `${number(n)} ${n === 1 ? one : many}`;
}

/** The first three, and how many more there are. */
export function few(list: readonly string[]): string {
  const more = list.length > 3 ? `; and ${count(list.length - 3, 'more', 'more')}` : '';
  return `${list.slice(0, 3).join('; ')}${more}`;
}

/** The entry of `known` that is most like `word`, or undefined when none is near. */
function nearest(word: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of known) {
    const d = distance(word.toLowerCase(), candidate.toLowerCase());
    if (d < least) {
      least = d;
      best = candidate;
    }
  }
  return best;
}

/** Edit distance in which two neighbours that changed places count once (optimal string alignment). */
function distance(a: string, b: string): number {
  let above: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let least = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        least = Math.min(least, above[j - 2]! + 1);
      next.push(least);
    }
    above = row;
    row = next;
  }
  return row[b.length]!;
}

/** ` (did you mean X?)`, or nothing; `before` stands in front of the word that is meant. */
export function suggest(word: string, known: readonly string[], before = ''): string {
  const near = nearest(word, known);
  return near === undefined ? '' : ` (did you mean ${before}${near}?)`;
}

/** Lines of at most `width` characters, broken at blanks; a longer word stays whole. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width)
      lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

/** On a terminal, text broken at blanks with all lines but the first moved in; elsewhere one line. */
export function hang(text: string, stream: NodeJS.WriteStream, indent: number): string {
  // A terminal of unknown width has 0 columns.
  const width = stream.isTTY && stream.columns > 0 ? stream.columns - indent : Infinity;
  return wrap(text, width).join(`\n${' '.repeat(indent)}`);
}
