/** Finds what an nginx configuration decides by the client's address. */
import { groupBy } from '../../src/group.ts';
import type { Directive } from './configuration.ts';

/** A `geo`, `map` or `if` whose source comes from the client's address. */
export interface Decision {
  readonly directive: Directive;
  /** What stands in the block; none of an `if`. */
  readonly lines: readonly Directive[];
  /** How many blocks the address comes through. */
  readonly depth: number;
  /** Undefined where it is the address itself; else a text with variables in it. */
  readonly source?: Source;
}

interface Source {
  readonly text: string;
  /** What gives each of the variables its value, by name; null for the address itself. */
  readonly from: Readonly<Record<string, Decision | null>>;
}

/** What reads a source, and is not known to have to do with the address yet. */
interface Reader {
  readonly directive: Directive;
  readonly text: string;
  readonly at: number;
}

/**
 * By the address; by a variable that is set from it and from nothing else; or by what other such blocks answer, as a
 * map of the result of a geo does.
 */
export function decisions(directives: readonly Directive[]): readonly Decision[] {
  const clients = clientNames(directives);
  const results = new Map<string, Decision | null>([...clients].map((name) => [name, null]));
  const found = new Map<Directive, Decision>();
  let open: readonly Reader[] = directives.flatMap((directive, at) => {
    const text = sourceOf(directive.words);
    return text?.includes('$') === true ? [{ directive, text, at }] : [];
  });
  // A map may stand in front of the one whose result it reads.
  for (let [round, before] = [0, -1]; round < deepest && before < results.size; round++) {
    before = results.size;
    const unknown: Reader[] = [];
    for (const reader of open) {
      const { directive, text, at } = reader;
      const source = sourceFrom(text, results);
      const depth = 1 + Math.max(...Object.values(source?.from ?? {}).map(depthOf));
      if (source === undefined || depth > deepest) unknown.push(reader);
      else {
        const decision = {
          directive,
          lines: linesOf(directives, at),
          depth,
          ...(!clients.has(text) && { source }),
        };
        found.set(directive, decision);
        const result = directive.words.at(-1)!;
        if (directive.words[0] !== 'if' && !results.has(result)) results.set(result, decision);
      }
    }
    open = unknown;
  }
  return directives.flatMap((directive) => found.get(directive) ?? []);
}

/** Of blocks that read each other; nobody writes more than two or three. */
const deepest = 10;

function depthOf(decision: Decision | null): number {
  return decision?.depth ?? 0;
}

/** Undefined where one of its variables has another origin. */
function sourceFrom(
  text: string,
  results: ReadonlyMap<string, Decision | null>,
): Source | undefined {
  const names = text.match(/\$\w+/g) ?? [];
  if (names.length === 0 || !names.every((name) => results.has(name))) return undefined;
  return { text, from: Object.fromEntries(names.map((name) => [name, results.get(name)!])) };
}

/** Variables that are the address, wherever they are set. */
function clientNames(directives: readonly Directive[]): ReadonlySet<string> {
  const names = new Set(['$remote_addr']);
  const sets = groupBy(
    directives.filter(({ words }) => words[0] === 'set' && words.length === 3),
    ({ words }) => words[1]!,
  );
  for (let [round, before] = [0, 0]; round < deepest && before < names.size; round++) {
    before = names.size;
    for (const [name, all] of sets)
      if (all.every(({ words }) => names.has(withoutBraces(words[2]!)))) names.add(name);
  }
  return names;
}

function withoutBraces(text: string): string {
  return text.replaceAll(/\$\{(\w+)\}/g, '$$$1');
}

/** Without a variable geo reads `$remote_addr`; it takes none in braces, and no more than one. */
function sourceOf(words: readonly string[]): string | undefined {
  const [name, source = ''] = words;
  if (name === 'geo') {
    if (words.length === 2) return '$remote_addr';
    return words.length === 3 && /^\$\w+$/.test(source) ? source : undefined;
  }
  if (name === 'map') return words.length === 3 ? withoutBraces(source) : undefined;
  const compared = name === 'if' ? conditionOf(words)[0] : undefined;
  return compared !== undefined && /^\$\w+$/.test(compared) ? compared : undefined;
}

/** What follows a directive deeper than it is inside of its block. */
function linesOf(directives: readonly Directive[], at: number): readonly Directive[] {
  const depth = directives[at]!.blocks.length;
  let end = at + 1;
  while (end < directives.length && directives[end]!.blocks.length > depth) end++;
  return directives[at]!.words[0] === 'if' ? [] : directives.slice(at + 1, end);
}

/** The words between the parentheses, which stand alone or at the first and the last of them. */
export function conditionOf(words: readonly string[]): readonly string[] {
  const inner = words.slice(1);
  inner[0] = (inner[0] ?? '').replace(/^\(/, '');
  inner.push((inner.pop() ?? '').replace(/\)$/, ''));
  if (inner[0] === '') inner.shift();
  if (inner.at(-1) === '') inner.pop();
  return inner;
}

/** What it reads of others, and these of others, itself first. */
export function chainOf(decision: Decision): readonly Decision[] {
  const chain = new Set([decision]);
  for (const one of chain)
    for (const other of Object.values(one.source?.from ?? {})) if (other !== null) chain.add(other);
  return [...chain];
}
