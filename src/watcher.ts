/** The process that waits for `cfsync confirm`, detached from the session that applied, and else goes back. */
import { setTimeout as sleep } from 'node:timers/promises';
import { lookAgain } from './run/again.ts';
import { expire } from './run/change.ts';
import { conclude } from './report/conclude.ts';
import { readConfig } from './settings/config.ts';
import { CfsyncError, exit, worst, type ExitCode } from './errors.ts';
import { bootId } from './host/host.ts';
import { beginRun } from './state/journal.ts';
import { withRunLock } from './state/lock.ts';
import type { Context } from './run/context.ts';
import { makeOutput } from './cli/output.ts';
import { readPending, secondsLeft, type Pending } from './state/pending.ts';
import { makeRecorder } from './report/run-report.ts';
import { readSettings } from './settings/settings.ts';

const [stateDir = '', run = '', file = ''] = process.argv.slice(2);

/** Longer than any apply: it must not give up while one holds the lock. */
const patience = 3600;

// The terminal that it was left belongs to somebody else by now: no progress there.
const output = makeOutput({ quiet: true });

/** The apply of ours that still waits; undefined when it was confirmed or went back. */
async function waiting(): Promise<Pending | undefined> {
  const pending = await readPending(stateDir);
  return pending?.run === Number(run) ? pending : undefined;
}

/** Answers how it went, once the apply has gone back; undefined when it was confirmed, or when somebody else was faster. */
async function watch(context: Omit<Context, 'words'>, boot: string): Promise<ExitCode | undefined> {
  let code: ExitCode | undefined;
  for (let pending = await waiting(); pending !== undefined; pending = await waiting()) {
    const left = secondsLeft(pending, boot);
    if (left > 0) await sleep(left * 1000);
    else
      await withRunLock(stateDir, patience, 'watch', async () => {
        const still = await waiting();
        if (still === undefined || secondsLeft(still, boot) > 0) return;
        code = worst([exit.rolledBack, await expire(context, still, boot)]);
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
