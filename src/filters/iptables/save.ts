/** Reads what iptables-save and ip6tables-save print (1.8.9, both variants): the one truthful view of the rules. */
import { BackendError } from '../../errors.ts';

/** A rule as it was saved, without `-A CHAIN` in front. */
export interface SavedRule {
  readonly chain: string;
  readonly text: string;
}

export interface SavedTable {
  readonly name: string;
  readonly chains: readonly {
    readonly name: string;
    /** Of a base chain; null for any other. */
    readonly policy: string | null;
  }[];
  /** In order. */
  readonly rules: readonly SavedRule[];
}

/**
 * Comments and counters are left out; a table that the output does not have is not loaded.
 * @param program Whose output it is, for the message.
 * @throws BackendError when it is cut off, or anything else than what that program prints.
 */
export function parseSave(text: string, program: string): readonly SavedTable[] {
  const tables: {
    name: string;
    chains: SavedTable['chains'][number][];
    rules: SavedRule[];
  }[] = [];
  let table: (typeof tables)[number] | undefined;
  for (const line of linesOf(text, program)) {
    if (table === undefined && /^\*\w+$/.test(line)) {
      table = { name: line.slice(1), chains: [], rules: [] };
      tables.push(table);
    } else if (table !== undefined && line === 'COMMIT') table = undefined;
    else if (table !== undefined && line.startsWith(':')) {
      const [name, policy] = line.slice(1).split(' ');
      table.chains.push({ name: name!, policy: policy === '-' ? null : (policy ?? null) });
    } else if (table !== undefined && line.startsWith('-A ')) {
      const end = line.indexOf(' ', 3);
      const chain = end < 0 ? line.slice(3) : line.slice(3, end);
      table.rules.push({ chain, text: end < 0 ? '' : line.slice(end + 1) });
    } else if (!/^(#|$)/.test(line)) throw unreadable(program, line);
  }
  if (table !== undefined) throw unreadable(program);
  return tables;
}

/**
 * The lines that a program of netfilter means: a comment in quotes may hold line ends, and whatever looks like
 * other lines (iptables 1.8.9, ipset 7.17).
 * @throws BackendError when the text ends within a line.
 */
export function linesOf(text: string, program: string): string[] {
  const lines: string[] = [];
  let parts: string[] = [];
  let quoted = false;
  for (const part of text.split('\n')) {
    parts.push(part);
    quoted = leavesOpen(part, quoted);
    if (quoted) continue;
    lines.push(parts.join('\n'));
    parts = [];
  }
  if (quoted || lines.pop() !== '') throw unreadable(program);
  return lines;
}

/** Whether quotes are open after a line; they open at the start of a word alone. */
function leavesOpen(line: string, before: boolean): boolean {
  if (!line.includes('"')) return before;
  let open = before;
  for (let i = 0; i < line.length; i++) {
    if (open && line[i] === '\\') i++;
    else if (line[i] === '"' && (open || i === 0 || line[i - 1] === ' ')) open = !open;
  }
  return open;
}

/** @param line None where the text ends too early. */
export function unreadable(program: string, line?: string): BackendError {
  const what = line === undefined ? 'it is cut off' : `"${line.slice(0, 60)}" is no line of it`;
  return new BackendError(
    'broken',
    `what ${program} printed cannot be read: ${what}; nothing was changed; look at what ${program} says`,
  );
}

/** The words of a saved rule; quotes and backslashes as xtables_save_string writes them. */
export function wordsOf(text: string): readonly string[] {
  return [...text.matchAll(/"([^"\\]*(?:\\.[^"\\]*)*)"|(\S+)/gs)].map(
    ([, quoted, plain]) => plain ?? quoted!.replaceAll(/\\(.)/gs, '$1'),
  );
}

/** Where `-j` or `-g` of a rule leads. */
export function targetOf(words: readonly string[]): string | undefined {
  const at = leadOf(words);
  return at < 0 ? undefined : words[at + 1];
}

/** Whether a rule leads there without a way back. */
export function isGoto(words: readonly string[]): boolean {
  return words[leadOf(words)] === '-g';
}

/** A condition of a rule: an option with its values, and whether a `!` stands in front of it. */
interface Option {
  readonly option: string;
  readonly values: readonly string[];
  readonly negated: boolean;
}

/** The conditions of a rule, up to its target; a comment comes without its text. */
export function* optionsOf(words: readonly string[]): Generator<Option> {
  let negated = false;
  for (let i = 0; i < words.length; i++) {
    const option = words[i]!;
    if (option === '-j' || option === '-g') return;
    if (option === '!') {
      negated = true;
      continue;
    }
    const values: string[] = [];
    // A comment is one word, whatever it begins with.
    if (option === '--comment') i++;
    else while (i + 1 < words.length && !/^(-|!$)/.test(words[i + 1]!)) values.push(words[++i]!);
    yield { option, values, negated };
    negated = false;
  }
}

/** A comment may say `-j` as well. */
function leadOf(words: readonly string[]): number {
  return words.findIndex(
    (word, i) => (word === '-j' || word === '-g') && words[i - 1] !== '--comment',
  );
}
