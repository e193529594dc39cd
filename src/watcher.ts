/** The process that waits for `cfsync confirm`, detached from the session that applied, and else goes back. */
import { setTimeout as sleep } from 'node:timers/promises';
import { lookAgain } from './run/again.ts';
import { expire } from './run/change.ts';
import { conclude } from './report/conclude.ts';
import { readConfig } from './settings/config.ts';
import { CfsyncError, exit, worst, type ExitCode } from './errors.ts';
import { bootId } from './host/host.ts';
import { beginRun, entriesOf, type Kept } from './state/journal.ts';
import { withRunLock } from './state/lock.ts';
import type { Context } from './run/context.ts';
import { makeOutput } from './cli/output.ts';
import { readHold, readPending, secondsLeft, type Pending } from './state/pending.ts';
import { makeRecorder } from './report/run-report.ts';
import { readSettings } from './settings/settings.ts';
import { isUnusable } from './state/store.ts';
import { escape } from './text.ts';

const [stateDir = '', run = '', file = ''] = process.argv.slice(2);

/** Longer than any apply: it must not give up while one holds the lock. */
const patience = 3600;

// The terminal that it was left belongs to somebody else by now: no progress there.
const output = makeOutput({ quiet: true });

/** Milliseconds after which it looks again: what it goes back by may be deleted while it waits. */
const interval = 1000;

/** An apply that waits, with what it changed. */
interface Waiting {
  readonly pending: Pending;
  readonly entries: readonly Kept[];
  /** The state directory does not have it any more. */
  readonly isLost?: true;
}

/**
 * The apply of ours that still waits; undefined when it was confirmed or went back. Then the journal or a hold says so:
 * where neither is there, nor a record that can be read, it is as it was.
 */
async function look(known: Waiting | undefined, boot: string): Promise<Waiting | undefined> {
  const number = Number(run);
  const found = await entriesOf(stateDir, number).catch(ifUnusable);
  const pending = await readPending(stateDir).catch(ifUnusable);
  const entries = found?.length ? found : (known?.entries ?? []);
  if (pending === null) return { pending: { run: number, until: 0, boot }, ...known, entries };
  if (pending !== undefined) return pending.run === number ? { pending, entries } : undefined;
  if (found === null || found.length > 0 || entries.length === 0) return undefined;
  return (await readHold(stateDir)).content === undefined ? { ...known!, isLost: true } : undefined;
}

function ifUnusable(error: unknown): null {
  if (isUnusable(error)) return null;
  throw error;
}

/** Answers how it went, once the apply has gone back; undefined when it was confirmed, or when somebody else was faster. */
async function watch(context: Omit<Context, 'words'>, boot: string): Promise<ExitCode | undefined> {
  let code: ExitCode | undefined;
  const next = (known?: Waiting): Promise<Waiting | undefined> => look(known, boot);
  for (let known = await next(); known !== undefined; known = await next(known)) {
    const left = secondsLeft(known.pending, boot);
    if (left > 0) await sleep(Math.min(left * 1000, interval));
    else
      await withRunLock(stateDir, patience, 'watch', async () => {
        const still = await next(known);
        if (still === undefined || secondsLeft(still.pending, boot) > 0) return;
        const { pending, entries, isLost } = still;
        if (isLost)
          context.output.warning(
            `what was written in ${escape(stateDir)} of the apply is gone; it goes back by what is remembered`,
          );
        code = worst([exit.rolledBack, await expire(context, pending, boot, entries)]);
        known = undefined;
        const looked = await lookAgain(context, await beginRun(stateDir, 'watch', boot));
        code = worst([code, looked]);
      });
  }
  return code;
}

function complain(error: unknown): ExitCode {
  if (!(error instanceof CfsyncError)) throw error;
  output.error(error.message, { detail: error.detail });
  return error.code;
}

async function main(): Promise<void> {
  const settings = await readSettings(
    { 'state-dir': stateDir, 'lock-timeout': patience, ...(file === '' ? {} : { config: file }) },
    await readConfig(file === '' ? undefined : file),
  );
  const context = { settings, output, record: makeRecorder(new Date()) };
  // What fails here, the next run of cfsync does in its place.
  const code = await watch(context, await bootId()).catch(complain);
  // By now the lock is free, as at the end of any other run. It is the apply that has failed.
  if (code !== undefined) await conclude('apply', code, context, complain);
  if (code !== exit.rolledBack) process.exitCode = code ?? exit.ok;
}

void main();
