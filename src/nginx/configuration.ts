/** Reads an nginx configuration as `nginx -T` prints it. */
import { dirname, resolve } from 'node:path';

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

export function dumpedFiles(dump: string): ConfigFile[] {
  const [, ...parts] = dump.split(/^# configuration file (.+):\n/m);
  const files: ConfigFile[] = [];
  for (let i = 0; i + 1 < parts.length; i += 2)
    files.push({ path: parts[i]!, content: parts[i + 1]! });
  return files;
}

/** Directly inside of http { }. */
export function isHttp(blocks: readonly string[]): boolean {
  return blocks.length === 1 && blocks[0]!.startsWith('http#');
}

/** All directives with the blocks they stand in, through includes. */
export function parse(files: readonly ConfigFile[]): {
  directives: readonly Directive[];
  includes: readonly Include[];
} {
  const directives: Directive[] = [];
  const includes: Include[] = [];
  const [main] = files;
  if (main === undefined) return { directives, includes };
  const folder = dirname(main.path);
  let blockCount = 0;

  const walk = (file: ConfigFile, outer: readonly string[], depth: number): void => {
    let blocks = outer;
    let words: string[] = [];
    let start = 0;
    for (const { word, line } of tokens(file.content)) {
      if (word === '}') blocks = blocks.slice(0, Math.max(outer.length, blocks.length - 1));
      if (word !== ';' && word !== '{' && word !== '}') {
        if (words.length === 0) start = line;
        words.push(unquote(word));
        continue;
      }
      if (words.length > 0) directives.push({ words, at: `${file.path}:${start}`, blocks });
      if (word === '{') blocks = [...blocks, `${words[0]}#${++blockCount}`];
      if (word === ';' && words[0] === 'include' && words[1] !== undefined) {
        const pattern = resolve(folder, words[1]);
        includes.push({ pattern, blocks });
        const matching = globbed(pattern);
        // nginx itself refuses a file that includes itself, at a depth of some hundreds.
        if (depth < 20)
          for (const next of files) if (matching.test(next.path)) walk(next, blocks, depth + 1);
      }
      words = [];
    }
  };
  walk(main, [], 0);
  return { directives, includes };
}

/** As ngx_conf_read_token: quotes and comments count at the start of a word alone, `${` does not open a block. */
const token =
  /(?<skip>\s+|#[^\n]*)|(?<word>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[;{}]|(?:\\.|\$\{|[^\s;{\\])+)/gs;
/** The Lua module reads the blocks of *_by_lua_block itself; braces count outside of strings and comments. */
const lua =
  /--\[(=*)\[.*?\]\1\]|--[^\n]*|\[(=*)\[.*?\]\2\]|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}]/gs;

function* tokens(content: string): Generator<{ readonly word: string; readonly line: number }> {
  const scan = new RegExp(token);
  let line = 1;
  let counted = 0;
  let before = '';
  for (let match = scan.exec(content); match !== null; match = scan.exec(content)) {
    const word = match.groups?.word;
    if (word === undefined) continue;
    line += content.slice(counted, match.index).split('\n').length - 1;
    counted = match.index;
    yield { word, line };
    if (word === '{' && before.endsWith('_by_lua_block')) scan.lastIndex = endOfLua(content, scan);
    before = word;
  }
}

/** The place of the brace that closes a block of Lua. */
function endOfLua(content: string, { lastIndex }: RegExp): number {
  const scan = new RegExp(lua);
  scan.lastIndex = lastIndex;
  let depth = 1;
  for (let match = scan.exec(content); match !== null; match = scan.exec(content)) {
    if (match[0] === '{') depth++;
    else if (match[0] === '}') depth--;
    if (depth === 0) return match.index;
  }
  return content.length;
}

function unquote(word: string): string {
  return /^(["']).*\1$/s.test(word) ? word.slice(1, -1) : word;
}

/** As glob(3), which nginx includes files with. */
export function globbed(pattern: string): RegExp {
  const source = pattern.replaceAll(/\[!?[^\]/]+\]|[^\w/]/g, (piece) => {
    if (piece === '*') return '[^/]*';
    if (piece === '?') return '[^/]';
    return piece.startsWith('[') && piece.length > 1 ? piece.replace('[!', '[^') : `\\${piece}`;
  });
  return new RegExp(`^${source}$`);
}
