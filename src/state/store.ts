/** Keeps the last accepted ranges, and other records, in the state directory. */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CfsyncError, errno, exit, why } from '../errors.ts';
import { ensureDir, moveAside, removeFile, writeFileAtomic } from '../host/files.ts';
import { digest } from '../digest.ts';
import { host } from '../host/host.ts';
import { isFields } from '../plugin/options.ts';
import { equal, parseRanges } from '../prefix.ts';
import type { Notice, Ranges } from '../renderer.ts';
import { escape } from '../text.ts';

/** Where ranges came from; `detail` is for people: the day of publication of `bundled`, the path of `dir` and `file`. */
export interface Origin {
  readonly kind: 'feeds' | 'bundled' | 'dir' | 'file';
  readonly detail: string;
}

/** The last accepted ranges. */
export interface Snapshot {
  readonly ranges: Ranges;
  readonly origin: Origin;
  /** ISO 8601, UTC. */
  readonly acceptedAt: string;
}

/** What is known of the feeds between two runs. Times are ISO 8601, UTC. */
export interface Check {
  readonly checkedAt: string;
  /** The last time that a feed was believed, and which: `both` when they agreed. */
  readonly believed?: {
    readonly at: string;
    readonly feeds: 'both' | 'differing' | 'text' | 'json';
  };
  /** An answer of one feed alone that would take ranges away: its digest, and when it first came. */
  readonly pending?: { readonly digest: string; readonly since: string };
  /** Why no feed was believed at the last check: no answer, or one that is not to be believed. */
  readonly problem?: 'failed' | 'refused';
  /** Whether all that is not in the snapshot is known not to be Cloudflare's, as removals need it. */
  readonly settled: boolean;
}

export interface State {
  readonly snapshot?: Snapshot;
  readonly check?: Check;
  readonly notices: readonly Notice[];
}

/** The layout of all records; a release that changes it counts up. */
const schema = 1;

/** Replaced snapshots that are kept. */
const kept = 5;

/** A record that cannot be used: not JSON, not what was written, or not what belongs there. */
export class CorruptRecord extends CfsyncError {}

/** A record that a later release wrote; it is never overwritten. */
export class NewerRecord extends CfsyncError {}

/** Whether a record is there and says nothing to this release. */
export function isUnusable(error: unknown): error is CorruptRecord | NewerRecord {
  return error instanceof CorruptRecord || error instanceof NewerRecord;
}

/** Moves a corrupt record aside; answers what is to be said of it. */
export async function setAside(path: string, { message }: CorruptRecord): Promise<string> {
  return `${message}; it was moved to ${escape(await moveAside(path))}`;
}

/** Answers the content of a record, or throws an Error that says what is wrong with it. */
export type Validate<T> = (content: unknown) => T;

/**
 * Reads a record, undefined when there is none.
 * @param read Answers its text, or throws the error of the system.
 * @throws CorruptRecord, NewerRecord, or CfsyncError when it cannot be read.
 */
export async function readRecord<T>(
  path: string,
  kind: string,
  validate: Validate<T>,
  read: (path: string) => Promise<string> = readText,
): Promise<T | undefined> {
  return (await load(path, kind, validate, read))?.content;
}

function readText(path: string): Promise<string> {
  return readFile(path, 'utf8');
}

/**
 * Writes a record; a corrupt one in its place is moved aside, which the notice says.
 * @throws NewerRecord, or CfsyncError when it cannot be written.
 */
export async function writeRecord<T>(
  path: string,
  kind: string,
  content: T,
  validate: Validate<T>,
): Promise<readonly Notice[]> {
  const notices: Notice[] = [];
  const text = canonical(content);
  const record = `{
  "schema": ${schema},
  "kind": "${kind}",
  "digest": "${digest(text)}",
  "content": ${text}
}
`;
  try {
    let expect: string | null = null;
    try {
      const old = await load(path, kind, validate, readText);
      if (old) expect = digest(old.text);
    } catch (error) {
      if (!(error instanceof CorruptRecord)) throw error;
      notices.push(warning(await setAside(path, error)));
    }
    await ensureDir(join(path, '..'), 0o700);
    await writeFileAtomic(path, record, { mode: 0o600, expect });
  } catch (error) {
    throw advised(error);
  }
  return notices;
}

/** The same error, with what to do about a state directory that is not one to write to. */
export function advised(error: unknown): unknown {
  // Only a system error has a cause.
  if (!(error instanceof CfsyncError) || errno(error.cause) === undefined) return error;
  const advice = 'run as root, or name another state directory with --state-dir';
  return new CfsyncError(exit.failed, `${error.message}; ${advice}`, { cause: error });
}

/** A record that cannot be used counts as none, which a notice says, and what follows from it. */
export async function tolerant<T>(
  read: () => Promise<T | undefined>,
  consequence: string,
): Promise<{ readonly content: T | undefined; readonly notices: readonly Notice[] }> {
  try {
    return { content: await read(), notices: [] };
  } catch (error) {
    if (!(error instanceof CorruptRecord)) throw error;
    return { content: undefined, notices: [warning(`${error.message}; ${consequence}`)] };
  }
}

/** The snapshot and what is known of the feeds. A corrupt record counts as none, which a notice says. */
export async function readState(dir: string): Promise<State> {
  const notices: Notice[] = [];
  const read = async <T>(name: string, kind: string, validate: Validate<T>) => {
    const record = await tolerant(
      () => readRecord(join(dir, name), kind, validate),
      'it is not used',
    );
    notices.push(...record.notices);
    return record.content;
  };
  const snapshot = await read('snapshot.json', 'snapshot', validSnapshot);
  const check = await read('check.json', 'check', validCheck);
  return { ...(snapshot && { snapshot }), ...(check && { check }), notices };
}

/** Stores a snapshot and keeps the one it replaces; the same addresses as before are no change. */
export async function storeSnapshot(dir: string, snapshot: Snapshot): Promise<readonly Notice[]> {
  const path = join(dir, 'snapshot.json');
  const { snapshot: old } = await readState(dir);
  if (old && equal(old.ranges, snapshot.ranges)) return [];
  // The copy first: a crash in between leaves one snapshot twice, never none.
  const copied = old ? await keep(join(dir, 'previous'), old) : [];
  return [...copied, ...(await writeRecord(path, 'snapshot', snapshot, validSnapshot))];
}

export async function storeCheck(dir: string, check: Check): Promise<readonly Notice[]> {
  return writeRecord(join(dir, 'check.json'), 'check', check, validCheck);
}

/** Numbered, not dated: a clock that was wrong once must not decide which ones are the oldest. */
async function keep(dir: string, snapshot: Snapshot): Promise<readonly Notice[]> {
  const names = await replacedNames(dir);
  const next = String(parseInt(names.at(-1) ?? '0', 10) + 1).padStart(6, '0');
  const path = join(dir, `${next}.json`);
  const notices = await writeRecord(path, 'snapshot', snapshot, validSnapshot);
  for (const name of names.slice(0, -(kept - 1))) await removeFile(join(dir, name));
  return notices;
}

/** The ranges of the snapshots that were replaced, as far as they are kept; unreadable ones are left out. */
export async function replacedRanges(dir: string): Promise<readonly Ranges[]> {
  const folder = join(dir, 'previous');
  const found: Ranges[] = [];
  for (const name of await replacedNames(folder)) {
    const path = join(folder, name);
    const { content } = await tolerant(() => readRecord(path, 'snapshot', validSnapshot), '');
    if (content) found.push(content.ranges);
  }
  return found;
}

async function replacedNames(folder: string): Promise<readonly string[]> {
  return ((await host.list(folder)) ?? []).filter((name) => /^\d{6}\.json$/.test(name));
}

async function load<T>(
  path: string,
  kind: string,
  validate: Validate<T>,
  read: (path: string) => Promise<string>,
): Promise<{ text: string; content: T } | undefined> {
  const where = escape(path);
  let text: string;
  try {
    text = await read(path);
  } catch (cause) {
    if (cause instanceof CfsyncError) throw cause;
    if (errno(cause) === 'ENOENT') return undefined;
    throw new CfsyncError(exit.failed, `cannot read ${where}: ${why(cause)}`, { cause });
  }
  try {
    const record = fields(JSON.parse(text));
    if (Number.isInteger(record.schema) && Number(record.schema) > schema) {
      throw new NewerRecord(
        exit.failed,
        `${where} has schema ${Number(record.schema)} and this cfsync knows ${schema}; it is left as it is: install the later cfsync that wrote it, or move the file away`,
      );
    }
    if (record.schema !== schema) throw new Error('it has no schema number');
    if (record.kind !== kind) throw new Error(`it is not of the kind ${kind}`);
    if (record.digest !== digest(canonical(record.content))) {
      throw new Error('its content does not have the digest it was written with');
    }
    return { text, content: validate(record.content) };
  } catch (cause) {
    if (cause instanceof NewerRecord) throw cause;
    throw new CorruptRecord(exit.failed, `${where} is corrupt (${escape(why(cause))})`, { cause });
  }
}

/** JSON with sorted keys and no white space: the same data is always the same text. */
function canonical(value: unknown): string {
  return JSON.stringify(sorted(value));
}

/** Lists of texts stay as they are: to look at each of 100,000 would take half of the time of writing them. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value))
    return value.some((part) => typeof part === 'object') ? value.map(sorted) : value;
  if (!isFields(value)) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, part]) => [key, sorted(part)]));
}

function warning(text: string): Notice {
  return { level: 'warning', text };
}

function validSnapshot(content: unknown): Snapshot {
  const snapshot = fields(content);
  const origin = fields(snapshot.origin);
  const kinds: readonly Origin['kind'][] = ['feeds', 'bundled', 'dir', 'file'];
  const kind = oneOf(kinds, origin.kind);
  return {
    ranges: rangesOf(snapshot.ranges),
    origin: { kind, detail: textOf(origin.detail) },
    acceptedAt: time(snapshot.acceptedAt),
  };
}

function validCheck(content: unknown): Check {
  const check = fields(content);
  const believed = check.believed === undefined ? undefined : fields(check.believed);
  const pending = check.pending === undefined ? undefined : fields(check.pending);
  if (typeof check.settled !== 'boolean') throw new Error('it does not say what is settled');
  return {
    checkedAt: time(check.checkedAt),
    ...(believed && {
      believed: {
        at: time(believed.at),
        feeds: oneOf(['both', 'differing', 'text', 'json'], believed.feeds),
      },
    }),
    ...(pending && { pending: { digest: textOf(pending.digest), since: time(pending.since) } }),
    ...(check.problem !== undefined && { problem: oneOf(['failed', 'refused'], check.problem) }),
    settled: check.settled,
  };
}

export function fields(value: unknown): Readonly<Record<string, unknown>> {
  if (!isFields(value)) throw new Error('an object is missing');
  return value;
}

/** Renderers rely on canonical text, sorted and minimal. */
export function rangesOf(value: unknown): Ranges {
  const ranges = fields(value);
  const parsed = parseRanges([...texts(ranges.v4), ...texts(ranges.v6)]);
  if (canonical(parsed) !== canonical(ranges)) throw new Error('its ranges are not canonical');
  return parsed;
}

export function textOf(value: unknown): string {
  if (typeof value !== 'string') throw new Error('a text is missing');
  return value;
}

export function texts(value: unknown): string[] {
  if (!Array.isArray(value)) throw new Error('a list is missing');
  return value.map(textOf);
}

export function oneOf<T extends string>(known: readonly T[], value: unknown): T {
  const found = known.find((word) => word === value);
  if (found === undefined) throw new Error(`it has none of ${known.join(', ')}`);
  return found;
}

export function time(value: unknown): string {
  const text = textOf(value);
  if (Number.isNaN(Date.parse(text)) || new Date(text).toISOString() !== text) {
    throw new Error('a time is not ISO 8601 in UTC');
  }
  return text;
}
