/**
 * Nasty inputs, made by damaging real ones, and what a reader of them may answer.
 *
 * The cases are the same in every run. CFSYNC_TEST_SEED=NUMBER tries others; a failure prints the seed and the path
 * of its case, which fast-check takes to repeat it.
 */
import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { expect } from 'vitest';
import { CfsyncError, type ExitCode } from '../../src/errors.ts';
import { GateError } from '../../src/feed/gate.ts';

const seed = Number(process.env.CFSYNC_TEST_SEED ?? 20261001);

/** The parameters of a property: so many cases of the seed. */
export function cases(numRuns: number): { readonly seed: number; readonly numRuns: number } {
  return { seed, numRuns };
}

// ---- what a reader may answer ----

/** Control characters, and those that are invisible or turn the direction of the text around them. */
const unfit = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;

const untouched = [Object, Array].map(
  (kind) => [kind, Reflect.ownKeys(kind.prototype).length] as const,
);

/** What a reader answered, or undefined where it refused with an error for people, with one of these codes. */
export function readOrRefused<T>(read: () => T, ...codes: readonly ExitCode[]): T | undefined {
  try {
    return read();
  } catch (error) {
    return refused(error, codes);
  } finally {
    expectNoPollution();
  }
}

/** As `readOrRefused`. */
export async function askedOrRefused<T>(
  read: () => Promise<T>,
  ...codes: readonly ExitCode[]
): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    return refused(error, codes);
  } finally {
    expectNoPollution();
  }
}

function refused(error: unknown, codes: readonly ExitCode[]): undefined {
  // A crash: its own stack says most.
  if (!(error instanceof CfsyncError)) throw error;
  // Without a matcher for each case: they are most of the time of 100,000.
  if (!codes.includes(error.code)) expect.fail(`code ${error.code}: ${error.message}`);
  for (const line of [error.message, ...error.detail]) expectFit(line);
  if (error.message === '') expect.fail('it says nothing');
  // What comes from the network must not bury what is said about it.
  if (error instanceof GateError && error.message.length > 700) expect.fail(error.message);
}

/** One line for a terminal. */
export function expectFit(line: string): void {
  if (unfit.test(line)) expect.fail(`not fit to be said: ${JSON.stringify(line)}`);
}

function expectNoPollution(): void {
  for (const [kind, keys] of untouched)
    if (Reflect.ownKeys(kind.prototype).length !== keys)
      expect.fail(`the prototype of ${kind.name} was changed`);
}

// ---- damage to texts ----

/** The words of a text. */
export function words(text: string): string[] {
  return text.trim().split(/\s+/);
}

/** Characters and pieces that some reader of some text may stumble over. */
const pieces = [
  ...Array.from(
    '\n\r\t \v\f\0\u0007\u007f\u0085\u00a0\u2028\u202e\u200f\ufeff\ud800😀１٣．／：а"\'\\`{}[]();,#%$-!*|<=:/.0159aF',
  ),
  ...words(`-- -A :: .. ../ \${ 00 -1 1e999 65536 4294967296 ${'9'.repeat(40)} 0x10 NaN null true [] {} /0 /33 /129
    0.0.0.0/0 ::/0 10.0.0.0/8 1.1.1.1 __proto__ constructor toString prototype valueOf`),
  '',
  '\n\n',
  '\r\n',
  '\u001b[2J',
  '\\"',
  '"\\',
  'x'.repeat(3000),
];

type Edit = (text: string) => string;

function atLine(edit: (lines: string[], place: number) => void): (place: number) => Edit {
  return (place) => (text) => {
    const lines = text.split('\n');
    edit(lines, place % lines.length);
    return lines.join('\n');
  };
}

const place = fc.nat();

/** One damage; `more` are pieces that mean something to the reader. */
function anEdit(more: readonly string[]): fc.Arbitrary<Edit> {
  const piece = fc.constantFrom(...pieces, ...more);
  const splice =
    (at: number, length: number, insert: string): Edit =>
    (text) => {
      const start = at % (text.length + 1);
      return text.slice(0, start) + insert + text.slice(start + length);
    };
  const lines = [
    atLine((all, at) => all.splice(at, 1)),
    atLine((all, at) => all.splice(at, 0, all[at]!)),
    atLine((all, at) => all.splice(at, 1, all[at]!.repeat(40))),
    atLine((all, at) => all.push(...all.splice(at, 1))),
    atLine((all, at) => all.unshift(...all.splice(at, 1))),
    atLine((all, at) => all.splice(at, 1, `${all[at]}${all[at]}`)),
  ];
  return fc.oneof(
    { weight: 8, arbitrary: fc.tuple(place, fc.nat(3), piece).map((args) => splice(...args)) },
    { weight: 2, arbitrary: fc.tuple(place, fc.nat(60), piece).map((args) => splice(...args)) },
    {
      weight: 3,
      arbitrary: fc.tuple(fc.constantFrom(...lines), place).map(([edit, at]) => edit(at)),
    },
    // Cut off.
    place.map(
      (at): Edit =>
        (text) =>
          text.slice(0, at % (text.length + 1)),
    ),
    place.map(
      (at): Edit =>
        (text) =>
          text.slice(at % (text.length + 1)),
    ),
    fc.constant<Edit>((text) => text.replaceAll('\n', '\r\n')),
    fc.constant<Edit>((text) => `\ufeff${text}`),
    fc.constant<Edit>((text) => text.replaceAll(' ', '\u00a0')),
  );
}

/** A text with one to four damages. */
export function damaged(
  text: string | fc.Arbitrary<string>,
  more: readonly string[] = [],
): fc.Arbitrary<string> {
  const whole = typeof text === 'string' ? fc.constant(text) : text;
  return fc
    .tuple(whole, fc.array(anEdit(more), { minLength: 1, maxLength: 4 }))
    .map(([start, edits]) => edits.reduce((now, edit) => edit(now), start));
}

// ---- damage to JSON ----

/** Written out, because some are no values. */
const jsonValues = [
  ...words(String.raw`null true false 0 -1 1.5 1e999 9007199254740993 "" "x" [] {} [null] [[]] [{}] ["x"] {"x":null}
    "\u0000\u001b[2J\u202e" "\ud800" "\ufeff" "__proto__" "constructor" "10.0.0.0/8" "1.1.1.1" "::/0"
    "1.1.1.0/24\n1.1.2.0/24" {"__proto__":{"polluted":true}} {"constructor":{"prototype":{"polluted":true}}}
    {"toString":1,"valueOf":1} {"length":4294967296} nul 01 'x' undefined`),
  '',
  `"${'x'.repeat(3000)}"`,
];

/** Deeper than the stack of a function that calls itself. */
const deepValues = ['[', '{"set":', '{"elem":{"val":'].map((open) => {
  const close = open.replaceAll(/[^[{]/g, '').replaceAll('[', ']').replaceAll('{', '}');
  return `${open.repeat(10_000)}1${close.repeat(10_000)}`;
});
const jsonKeys = ['__proto__', 'constructor', 'toString', 'length', '', 'x', '\u001b[2J'] as const;

/** What becomes of one value; undefined for what stays. */
interface JsonEdit {
  readonly kind: 'replace' | 'drop' | 'twice' | 'rename' | 'wrap' | 'add';
  readonly value: string;
  readonly key: string;
}

/** JSON text of a value with edits at some of its parts, which are counted as they are written. */
function written(root: unknown, edits: ReadonlyMap<number, JsonEdit>): string {
  let count = 0;
  const member = (key: string | undefined, value: unknown): string[] => {
    const edit = edits.get(count++);
    const name = (text: string): string => (key === undefined ? '' : `${JSON.stringify(text)}:`);
    const whole = write(value, edit);
    if (edit?.kind === 'drop') return [];
    if (edit?.kind === 'twice') return [name(key ?? '') + whole, name(key ?? '') + edit.value];
    return [name(edit?.kind === 'rename' ? edit.key : (key ?? '')) + whole];
  };
  const write = (value: unknown, edit: JsonEdit | undefined): string => {
    const added = edit?.kind === 'add' ? [edit.value] : [];
    let text: string;
    if (Array.isArray(value))
      text = `[${[...value.flatMap((part) => member(undefined, part)), ...added].join()}]`;
    else if (typeof value === 'object' && value !== null)
      text = `{${[
        ...Object.entries(value).flatMap(([key, part]) => member(key, part)),
        ...added.map((part) => `${JSON.stringify(edit!.key)}:${part}`),
      ].join()}}`;
    else text = JSON.stringify(value);
    if (edit?.kind === 'replace') return edit.value;
    return edit?.kind === 'wrap' ? `[${text}]` : text;
  };
  return write(root, edits.get(count++));
}

/** The value and all values in it, in the order in which they are written. */
function parts(value: unknown): unknown[] {
  if (typeof value !== 'object' || value === null) return [value];
  return [value, ...Object.values(value).flatMap(parts)];
}

/** JSON text with a wrong type, a missing or repeated part or a strange key, at any place; or damaged as any text. */
export function damagedJson(text: string, more: readonly string[] = []): fc.Arbitrary<string> {
  const root: unknown = JSON.parse(text);
  const all = parts(root);
  const plain = all.filter((part) => typeof part !== 'object').map((part) => JSON.stringify(part));
  const edit = fc.record<JsonEdit>({
    kind: fc.oneof(
      { weight: 3, arbitrary: fc.constant('replace' as const) },
      fc.constantFrom('drop', 'twice', 'rename', 'wrap', 'add'),
    ),
    value: fc.oneof(
      { weight: 50, arbitrary: fc.constantFrom(...jsonValues, ...more) },
      // Of the right type, in the wrong place.
      { weight: 50, arbitrary: fc.constantFrom(...new Set(plain)) },
      fc.constantFrom(...deepValues),
    ),
    key: fc.constantFrom(...jsonKeys),
  });
  const some = fc.array(fc.tuple(fc.nat(all.length - 1), edit), { minLength: 1, maxLength: 3 });
  return fc.oneof(
    { weight: 4, arbitrary: some.map((edits) => written(root, new Map(edits))) },
    damaged(text),
  );
}

// ---- time ----

/** What a reader that goes over its input more than once for each character would trip over. */
export const pumps = [
  ...Array.from('a0/-. \t\n\r"\'\\{}[(<;,#$=|\u2028\u0000😀'),
  ...words(String.raw`1. :: \" \' "\ '\ [[ <title a/ /a`),
  '${',
  '--[[\n',
  '* ',
  '-A ',
  '-s ',
  'a ',
  'a\n',
  '" ',
  "' ",
  '\\ ',
  '- a',
  'a: ',
  '--dport 1 ',
  '-p tcp ',
];

/** Milliseconds of processor time: a busy machine does not lengthen it much. */
async function work(run: () => unknown): Promise<number> {
  const start = spent();
  await run();
  return spent() - start;
}

/**
 * Of this thread alone, where the kernel tells (nanoseconds, the first number): the helpers that collect garbage wait
 * for each other by turning in circles, on a busy machine for long.
 */
function spent(): number {
  try {
    return Number.parseInt(readFileSync('/proc/thread-self/schedstat', 'utf8')) / 1e6;
  } catch {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  }
}

const factor = 10;

/**
 * Reads longer and longer inputs. One that takes its time may take up to forty times as long as a tenth of it; the
 * best of several tries counts.
 * @param read May answer a promise.
 */
export async function expectLinear(
  read: (size: number) => unknown,
  what: string,
  size = 6000,
): Promise<void> {
  let before = 0;
  for (const now of [size / 100, size / 10, size, size * factor]) {
    if (!(await isInStep(read, before, now)))
      expect.fail(`${factor} times as much takes more than 40 times as long: ${what}`);
    before = now;
  }
}

async function isInStep(
  read: (size: number) => unknown,
  before: number,
  now: number,
): Promise<boolean> {
  for (let tries = 0; tries < 5; tries++) {
    const slow = await work(() => read(now));
    if (slow < 150) return true;
    let quick = Infinity;
    for (let again = 0; again < 3; again++) quick = Math.min(quick, await work(() => read(before)));
    if (slow < 40 * Math.max(quick, 0.5)) return true;
  }
  return false;
}
