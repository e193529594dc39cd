/** Writes down what an apply is about to change, and keeps the last five: enough to go back by planning. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { CfsyncError } from '../errors.ts';
import { moveAside, moveFile, removeFile, removeTemporary } from '../host/files.ts';
import { host } from '../host/host.ts';
import { validApplied, type Applied } from './records.ts';
import type { Desired, Notice, Owned, Ranges } from '../renderer.ts';
import { fields, readRecord, texts, textOf, time, tolerant, writeRecord } from './store.ts';
import { escape } from '../text.ts';

/** One run of a command that changes backends. */
export interface Run {
  /** Counts up; the same for all backends of the run. */
  readonly number: number;
  /** `apply`, `adopt` or `remove`. */
  readonly command: string;
  /** /proc/sys/kernel/random/boot_id, proc_sys_kernel(5): another one after every boot. */
  readonly boot: string;
}

/** A change of one backend: open while it is at work, then kept for `cfsync rollback`. */
export interface Entry extends Run {
  /** When its change began: ISO 8601, UTC. */
  readonly at: string;
  /** The owned state to go back to. */
  readonly before: Owned;
  /** What it was to be, for whoever has to look by hand. */
  readonly wanted: Owned;
  /** The files that the steps write, as SHA-256 (hex) before and after; null: no such file. */
  readonly files: readonly FileChange[];
  /** What was desired, and the backend's options: how to look at it again. */
  readonly desired: Desired;
  readonly options: Readonly<Record<string, unknown>>;
  /** Set by `adopt`: what other hands wrote for these counts as owned. */
  readonly adopting?: Ranges;
  /** What was recorded as applied before; null: nothing. */
  readonly was: Applied | null;
}

export interface FileChange {
  readonly path: string;
  readonly before: string | null;
  readonly after: string | null;
}

/** A kept entry with the backend it is of. */
export interface Kept {
  readonly name: string;
  readonly entry: Entry;
}

/** Runs that can be gone back through. */
const keptRuns = 5;

export function journalPath(stateDir: string, name: string): string {
  return join(stateDir, 'journal', `${name}.json`);
}

function keptPath(stateDir: string, name: string, run: number): string {
  return join(stateDir, 'history', `${String(run).padStart(6, '0')}-${name}.json`);
}

function validEntry(content: unknown): Entry {
  const entry = fields(content);
  const owned = (value: unknown): Owned => {
    const { ranges } = fields(value) as { readonly ranges?: unknown };
    validRanges(ranges);
    return value as Owned;
  };
  const { number } = entry;
  if (!Number.isInteger(number) || Number(number) < 1) throw new Error('it has no run number');
  if (!Array.isArray(entry.files)) throw new Error('the files are missing');
  const { desired, options } = validApplied(content);
  return {
    number: Number(number),
    at: time(entry.at),
    command: textOf(entry.command),
    boot: textOf(entry.boot),
    before: owned(entry.before),
    wanted: owned(entry.wanted),
    files: entry.files.map((file: unknown) => {
      const { path, before, after } = fields(file);
      const sum = (value: unknown): string | null => (value === null ? null : textOf(value));
      return { path: textOf(path), before: sum(before), after: sum(after) };
    }),
    desired,
    options,
    ...(entry.adopting !== undefined && { adopting: validRanges(entry.adopting) }),
    was: entry.was === null ? null : validApplied(entry.was),
  };
}

function validRanges(value: unknown): Ranges {
  const { v4, v6 } = fields(value);
  return { v4: texts(v4), v6: texts(v6) };
}

/** What follows when an entry cannot be used. */
const keptAside = 'what was there before is not known; the file is kept aside';

/** The entry of an apply that began and did not end; one that cannot be used is said. */
export function readOpen(
  stateDir: string,
  name: string,
): Promise<{ readonly content: Entry | undefined; readonly notices: readonly Notice[] }> {
  const path = journalPath(stateDir, name);
  return tolerant(() => readRecord(path, 'journal', validEntry), keptAside);
}

/** Moves an open entry aside that cannot be used; the notice says where it is. */
export async function dropUnusable(stateDir: string, name: string): Promise<Notice> {
  const aside = await moveAside(journalPath(stateDir, name));
  return { level: 'warning', text: `it was moved to ${escape(aside)}` };
}

/** The backends with an open entry. */
export async function openNames(stateDir: string): Promise<readonly string[]> {
  return (await names(join(stateDir, 'journal'))).map((name) => name.slice(0, -'.json'.length));
}

/** Fsynced before the first step. */
export function openEntry(
  stateDir: string,
  name: string,
  entry: Entry,
): Promise<readonly Notice[]> {
  return writeRecord(journalPath(stateDir, name), 'journal', entry, validEntry);
}

/** The change is done and verified: its entry is kept, in one rename, and older runs are let go. */
export async function keepEntry(
  stateDir: string,
  name: string,
  run: number,
): Promise<readonly Notice[]> {
  await moveFile(journalPath(stateDir, name), keptPath(stateDir, name, run));
  try {
    const kept = await keptNames(stateDir);
    const runs = [...new Set(kept.map((file) => file.run))].slice(0, -keptRuns);
    for (const file of kept)
      if (runs.includes(file.run)) await removeFile(keptPath(stateDir, file.name, file.run));
    return [];
  } catch (error) {
    // No reason to go back: it is tried again after the next change.
    if (!(error instanceof CfsyncError)) throw error;
    return [{ level: 'warning', text: error.message }];
  }
}

/** A kept entry counts as open again while it is gone back from; a full disk takes a rename as well. */
export async function reopenEntry(stateDir: string, name: string, run: number): Promise<void> {
  const kept = keptPath(stateDir, name, run);
  if (existsSync(kept)) await moveFile(kept, journalPath(stateDir, name));
}

/** Where an entry is, open or kept. */
export function entryPath(stateDir: string, name: string, run: number): string {
  const open = journalPath(stateDir, name);
  const kept = keptPath(stateDir, name, run);
  return existsSync(open) || !existsSync(kept) ? open : kept;
}

/** The backend is as it was before: nothing of the change is left to go back from. */
export async function forgetEntry(stateDir: string, name: string, run: number): Promise<void> {
  await removeFile(keptPath(stateDir, name, run));
  await removeFile(journalPath(stateDir, name));
}

/** What going back from a run wrote is cfsync's for the runs before it as well. */
export async function claimFiles(
  stateDir: string,
  name: string,
  run: number,
  files: readonly FileChange[],
): Promise<readonly Notice[]> {
  if (files.length === 0) return [];
  const notices: Notice[] = [];
  for (const kept of await keptNames(stateDir)) {
    if (kept.name !== name || kept.run > run) continue;
    const path = keptPath(stateDir, name, kept.run);
    // One that cannot be used leads nowhere; it is said when it is asked for.
    const { content: entry } = await tolerant(() => readRecord(path, 'journal', validEntry), '');
    if (entry === undefined) continue;
    const claimed = { ...entry, files: [...files, ...entry.files] };
    notices.push(...(await writeRecord(path, 'journal', claimed, validEntry)));
  }
  return notices;
}

async function keptNames(
  stateDir: string,
): Promise<readonly { readonly name: string; readonly run: number }[]> {
  return (await names(join(stateDir, 'history'))).flatMap((file) => {
    const [, run, name] = /^(\d{6,})-(.+)\.json$/.exec(file) ?? [];
    return name === undefined ? [] : [{ name, run: Number(run) }];
  });
}

/**
 * The number of the last run that can be gone back from; of the named backends, where some are named.
 * One that was cut off comes before all that ended. Undefined when there is none.
 */
export async function lastRun(
  stateDir: string,
  only: readonly string[] | undefined,
): Promise<number | undefined> {
  const counts = (name: string): boolean => only?.includes(name) !== false;
  const open: number[] = [];
  for (const name of (await openNames(stateDir)).filter(counts))
    open.push((await mustReadOpen(stateDir, name))?.number ?? 0);
  const closed = (await keptNames(stateDir)).filter(({ name }) => counts(name));
  const runs = open.length > 0 ? open : closed.map(({ run }) => run);
  return runs.length === 0 ? undefined : Math.max(...runs);
}

/**
 * What a run changed, the last backend first.
 * @throws CorruptRecord, NewerRecord
 */
export async function entriesOf(stateDir: string, run: number): Promise<readonly Kept[]> {
  const found: Kept[] = [];
  for (const name of await openNames(stateDir)) {
    const entry = await mustReadOpen(stateDir, name);
    if (entry?.number === run) found.push({ name, entry });
  }
  for (const { name } of (await keptNames(stateDir)).filter((kept) => kept.run === run)) {
    if (found.some((kept) => kept.name === name)) continue;
    const entry = await readRecord(keptPath(stateDir, name, run), 'journal', validEntry);
    if (entry !== undefined) found.push({ name, entry });
  }
  return found.sort((a, b) => (a.entry.at < b.entry.at ? 1 : -1));
}

function mustReadOpen(stateDir: string, name: string): Promise<Entry | undefined> {
  return readRecord(journalPath(stateDir, name), 'journal', validEntry);
}

/** The next run, by number; its lock is held, so nobody else writes here. */
export async function beginRun(stateDir: string, command: string, boot: string): Promise<Run> {
  const folders = ['', 'journal', 'applied', 'previous'];
  await removeTemporary(folders.map((folder) => join(stateDir, folder)));
  const taken = (await keptNames(stateDir)).map((file) => file.run);
  for (const name of await openNames(stateDir))
    taken.push((await readOpen(stateDir, name)).content?.number ?? 0);
  return { number: Math.max(0, ...taken) + 1, command, boot };
}

async function names(folder: string): Promise<readonly string[]> {
  return ((await host.list(folder)) ?? []).filter((name) => name.endsWith('.json'));
}
