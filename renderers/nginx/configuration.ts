/** Reads an nginx configuration as `nginx -T` prints it. */
import { resolve } from 'node:path';
import { BackendError } from '../../src/errors.ts';

export interface ConfigFile {
  readonly path: string;
  readonly content: string;
}

/** A directive of the admin's, with where it stands. */
export interface Directive {
  readonly words: readonly string[];
  /** `FILE:LINE`. */
  readonly at: string;
  /** The blocks around it from outside in, as `http#1`, `server#7`. */
  readonly blocks: readonly string[];
}

export interface Include {
  /** Absolute; may hold wildcards. */
  readonly pattern: string;
  readonly blocks: readonly string[];
}

/**
 * The main file comes first.
 * @throws BackendError when it is cut off, or something else: nginx ends each file with a line feed of its own.
 */
export function dumpedFiles(dump: string): ConfigFile[] {
  const [head, ...parts] = dump.split(/^# configuration file (.+):\n/m);
  if (head !== '' || parts.length === 0) throw unreadable('it does not begin with a file');
  if (!dump.endsWith('\n')) throw unreadable('it is cut off');
  const files: ConfigFile[] = [];
  for (let i = 0; i < parts.length; i += 2) files.push({ path: parts[i]!, content: parts[i + 1]! });
  return files;
}

/** Directly inside of http { }. */
export function isHttp(blocks: readonly string[]): boolean {
  return blocks.length === 1 && blocks[0]!.startsWith('http#');
}

/** The blocks of servers of http, as `http#1,server#7`. */
export function serversOf(directives: readonly Directive[]): readonly string[] {
  const found = new Set<string>();
  for (const { blocks } of directives)
    if (blocks[0]?.startsWith('http#') === true && blocks[1]?.startsWith('server#') === true)
      found.add(`${blocks[0]},${blocks[1]}`);
  return [...found];
}

/** Blocks in blocks; nginx itself nests no deeper than http, server and some locations. */
const deepest = 100;

/**
 * Characters that are read, those of an included file once for each place, and some more for each; 20 MiB take one to
 * four seconds.
 */
const most = 64 * 1024 * 1024;

/**
 * All directives with the blocks they stand in, through includes.
 * @throws BackendError when a file ends too early, or includes multiply without end.
 */
export function parse(files: readonly ConfigFile[]): {
  directives: readonly Directive[];
  includes: readonly Include[];
} {
  const directives: Directive[] = [];
  const includes: Include[] = [];
  const [main] = files;
  if (main === undefined) return { directives, includes };
  const folder = main.path.slice(0, main.path.lastIndexOf('/') + 1);
  const find = finder(files);
  let blockCount = 0;
  let read = 0;

  const walk = (file: ConfigFile, outer: readonly string[], depth: number): void => {
    read += file.content.length + 256;
    if (read > most) throw unreadable('its files include each other too often');
    let blocks = outer;
    for (const { words, line, mark } of statements(file.content)) {
      if (mark === '}') blocks = blocks.slice(0, Math.max(outer.length, blocks.length - 1));
      if (mark === '') throw unreadable(`${file.path} ends within a directive`);
      if (words.length > 0) directives.push({ words, at: `${file.path}:${line}`, blocks });
      if (mark === '{') blocks = [...blocks, `${words[0]}#${++blockCount}`];
      if (blocks.length > deepest) throw unreadable(`${file.path} nests its blocks too deeply`);
      if (mark === ';' && words[0] === 'include' && words[1] !== undefined) {
        // As nginx puts it together, `..` and all: the dump has such names.
        const pattern = words[1].startsWith('/') ? words[1] : folder + words[1];
        includes.push({ pattern: resolve(pattern), blocks });
        // nginx itself refuses a file that includes itself, at a depth of some hundreds.
        if (depth < 20) for (const next of find(pattern, blocks)) walk(next, blocks, depth + 1);
      }
    }
    if (blocks.length !== outer.length) throw unreadable(`${file.path} ends within a directive`);
  };
  walk(main, [], 0);
  return { directives, includes };
}

function unreadable(why: string): BackendError {
  return new BackendError(
    'broken',
    `nginx: what nginx -T printed cannot be read: ${why}; nothing was changed; look at what nginx -T says`,
  );
}

/** The files that a pattern names, in the order of the dump; each pattern is compared with their names once. */
function finder(
  files: readonly ConfigFile[],
): (pattern: string, blocks: readonly string[]) => readonly ConfigFile[] {
  const found = new Map(files.map((file): [string, ConfigFile[]] => [file.path, [file]]));
  return (pattern, blocks) => {
    let matching = found.get(pattern);
    if (matching !== undefined) return matching;
    if (pattern.length > 4096) throw unreadable('it includes a path that is too long for one');
    const wild = /[*?[]/.test(pattern);
    // geo takes the binary form of a list in place of the file, where there is one.
    if (!wild && blocks.at(-1)?.startsWith('geo#') !== true)
      throw unreadable(`${pattern} is missing in it`);
    const names = globbed(pattern);
    matching = wild ? files.filter((file) => names.test(file.path)) : [];
    found.set(pattern, matching);
    return matching;
  };
}

/**
 * As ngx_conf_read_token: quotes and comments count at the start of a word alone, `${` does not open a block. It
 * takes no word of more than 4096 bytes; a regular expression without that limit exhausts the stack on one of 16 MB.
 */
const token =
  /\s+|#[^\n]*|("[^"\\]*(?:\\.[^"\\]*){0,4096}"|'[^'\\]*(?:\\.[^'\\]*){0,4096}'|[;{}]|(?:[^\s;{\\$]+|\\.|\$\{?){1,4096})/gs;

interface Token {
  readonly word: string;
  readonly line: number;
  readonly start: number;
  readonly end: number;
}

function* tokens(content: string): Generator<Token> {
  const scan = new RegExp(token);
  let line = 1;
  let newline = content.indexOf('\n');
  let before = '';
  for (let match = scan.exec(content); match !== null; match = scan.exec(content)) {
    const word = match[1];
    if (word === undefined) continue;
    for (; newline >= 0 && newline < match.index; line++)
      newline = content.indexOf('\n', newline + 1);
    yield { word, line, start: match.index, end: scan.lastIndex };
    if (word === '{' && before.endsWith('_by_lua_block'))
      scan.lastIndex = endOfLua(content, scan.lastIndex);
    before = word;
  }
}

/** What stands up to a mark. */
export interface Statement {
  readonly words: readonly string[];
  /** Of its first word. */
  readonly line: number;
  /** Of its first word, and behind its mark. */
  readonly start: number;
  readonly end: number;
  /** Empty where the text ends without one. */
  readonly mark: ';' | '{' | '}' | '';
}

export function* statements(content: string): Generator<Statement> {
  let words: string[] = [];
  let [line, start, end] = [0, 0, 0];
  for (const one of tokens(content)) {
    if (words.length === 0) ({ line, start } = one);
    ({ end } = one);
    const { word } = one;
    if (word !== ';' && word !== '{' && word !== '}') {
      words.push(unquote(word));
      continue;
    }
    yield { words, line, start, end, mark: word };
    words = [];
  }
  if (words.length > 0) yield { words, line, start, end, mark: '' };
}

/**
 * The place of the brace that closes a block of Lua, or the end of the text. The Lua module reads these blocks
 * itself; braces count outside of strings and comments.
 */
function endOfLua(content: string, start: number): number {
  const scan = /--\[=*\[|--|\[=*\[|["'{}]/g;
  scan.lastIndex = start;
  let depth = 1;
  for (let match = scan.exec(content); match !== null; match = scan.exec(content)) {
    const [mark] = match;
    let end: number | undefined;
    if (mark === '{') depth++;
    else if (mark === '}') depth--;
    else if (mark === '"' || mark === "'") end = endOfString(content, scan.lastIndex, mark);
    else if (mark === '--') end = content.indexOf('\n', scan.lastIndex);
    else {
      const close = mark.replace('--', '').replaceAll('[', ']');
      end = content.indexOf(close, scan.lastIndex);
      if (end >= 0) end += close.length;
    }
    if (depth === 0) return match.index;
    // What is not closed is all of the rest.
    if (end !== undefined && end < 0) break;
    scan.lastIndex = end ?? scan.lastIndex;
  }
  return content.length;
}

/** The place behind a quote, -1 where there is none. */
function endOfString(content: string, start: number, quote: string): number {
  for (let i = start; i < content.length; i++) {
    if (content[i] === '\\') i++;
    else if (content[i] === quote) return i + 1;
  }
  return -1;
}

function unquote(word: string): string {
  return /^(["']).*\1$/s.test(word) ? word.slice(1, -1) : word;
}

/** A member of a name pattern; one that is `wild` does not take a dot at the start of a name. */
interface Piece {
  readonly wild: boolean;
  readonly star: boolean;
  fits(character: string): boolean;
}

/**
 * As glob(3), which nginx includes files with. A regular expression would try every way to share a name out among
 * the stars.
 */
export function globbed(pattern: string): { test(path: string): boolean } {
  const patterns = pattern.split('/').map(piecesOf);
  return {
    test(path) {
      const names = path.split('/');
      return names.length === patterns.length && names.every((name, i) => fits(patterns[i]!, name));
    },
  };
}

/** A star takes as little as it can; only the last one may have to take more. */
function fits(pieces: readonly Piece[], name: string): boolean {
  if (name.startsWith('.') && pieces[0]?.wild === true) return false;
  let piece = 0;
  let star = -1;
  let taken = 0;
  for (let at = 0; at < name.length; at++) {
    while (pieces[piece]?.star === true) {
      star = piece++;
      taken = at;
    }
    if (pieces[piece]?.fits(name[at]!) === true) piece++;
    else if (star < 0) return false;
    else {
      piece = star + 1;
      at = taken++;
    }
  }
  return pieces.slice(piece).every((rest) => rest.star);
}

/** A bracket counts where it is closed; as the first of its list, `]` is a member. */
function piecesOf(name: string): readonly Piece[] {
  const words = name.match(/\[(?:[!^][^]|[^!^])[^\]]*\]|\\?[^]/g) ?? [];
  return words.map((word) => {
    const star = word === '*';
    if (star || word === '?') return { wild: true, star, fits: () => true };
    if (word.length > 2) return { wild: true, star, fits: listed(word.slice(1, -1)) };
    return { wild: false, star, fits: (c) => c === word.at(-1) };
  });
}

/** `a-z0`, `!a` and the like. */
function listed(list: string): Piece['fits'] {
  const not = /^[!^]/.test(list);
  const ranges = [...list.slice(not ? 1 : 0).matchAll(/([^])-([^])|([^])/g)].map(
    ([, low, high, one]) => [low ?? one!, high ?? one!] as const,
  );
  return (c) => ranges.some(([low, high]) => low <= c && c <= high) !== not;
}
