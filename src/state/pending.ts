/** Remembers, between two runs, that an apply waits for its confirmation, or that a rollback holds. */
import { uptime } from 'node:os';
import { join } from 'node:path';
import { removeFile } from '../host/files.ts';
import type { Notice } from '../renderer.ts';
import {
  CorruptRecord,
  fields,
  readRecord,
  setAside,
  textOf,
  time,
  tolerant,
  writeRecord,
} from './store.ts';

/** An apply that goes back unless `cfsync confirm` comes in time. */
export interface Pending {
  /** The number of the run. */
  readonly run: number;
  /**
   * Seconds since boot (CLOCK_BOOTTIME) at which the time is over; the clock of the day may jump. Counted anew
   * when the apply has ended.
   */
  readonly until: number;
  /** /proc/sys/kernel/random/boot_id: after a boot the time is over. */
  readonly boot: string;
}

/** Set by a rollback: runs without a person change nothing until a person applies again. */
export interface Hold {
  /** ISO 8601, UTC. */
  readonly at: string;
  /** What went back, for people. */
  readonly why: string;
  /** As of the rollback; after a boot the held state is brought back once. */
  readonly boot: string;
}

const pendingPath = (stateDir: string): string => join(stateDir, 'pending.json');
const holdPath = (stateDir: string): string => join(stateDir, 'hold.json');

function validPending(content: unknown): Pending {
  const { run, until, boot } = fields(content);
  if (!Number.isInteger(run) || typeof until !== 'number') throw new Error('a number is missing');
  return { run: Number(run), until, boot: textOf(boot) };
}

function validHold(content: unknown): Hold {
  const { at, why, boot } = fields(content);
  return { at: time(at), why: textOf(why), boot: textOf(boot) };
}

/** @throws CorruptRecord, NewerRecord */
export function readPending(stateDir: string): Promise<Pending | undefined> {
  return readRecord(pendingPath(stateDir), 'pending', validPending);
}

/** As `readPending`, under the lock of the run: one that is corrupt is moved aside, which a notice says. */
export async function takePending(
  stateDir: string,
): Promise<{ readonly content: Pending | undefined; readonly notices: readonly Notice[] }> {
  try {
    return { content: await readPending(stateDir), notices: [] };
  } catch (error) {
    if (!(error instanceof CorruptRecord)) throw error;
    const moved = await setAside(pendingPath(stateDir), error);
    const text = `${moved}; if an apply waited for its confirmation, it stays unless cfsync rollback is run`;
    return { content: undefined, notices: [{ level: 'warning', text }] };
  }
}

export function writePending(stateDir: string, pending: Pending): Promise<readonly Notice[]> {
  return writeRecord(pendingPath(stateDir), 'pending', pending, validPending);
}

export function endPending(stateDir: string): Promise<void> {
  return removeFile(pendingPath(stateDir));
}

/** Seconds that are left; 0 or less when the time is over. */
export function secondsLeft(pending: Pending, boot: string): number {
  return pending.boot === boot ? pending.until - uptime() : 0;
}

/** A hold that cannot be read holds nothing, which a notice says. */
export function readHold(
  stateDir: string,
): Promise<{ readonly content: Hold | undefined; readonly notices: readonly Notice[] }> {
  return tolerant(
    () => readRecord(holdPath(stateDir), 'hold', validHold),
    'if a rollback was to hold, it does not',
  );
}

export function writeHold(stateDir: string, hold: Hold): Promise<readonly Notice[]> {
  return writeRecord(holdPath(stateDir), 'hold', hold, validHold);
}

export function endHold(stateDir: string): Promise<void> {
  return removeFile(holdPath(stateDir));
}
