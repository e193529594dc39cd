/** The process that waits for `cfsync confirm`, detached from the session that applied, and else goes back. */
import { setTimeout as sleep } from 'node:timers/promises';
import { lookAgain } from './again.ts';
import { expire } from './change.ts';
import { readConfig } from './config.ts';
import { CfsyncError } from './errors.ts';
import { bootId } from './host.ts';
import { beginRun } from './journal.ts';
import { withRunLock } from './lock.ts';
import { makeOutput } from './output.ts';
import { readPending, secondsLeft, type Pending } from './pending.ts';
import { readSettings } from './settings.ts';

const [stateDir = '', run = '', file = ''] = process.argv.slice(2);

/** Longer than any apply: it must not give up while one holds the lock. */
const patience = 3600;

const output = makeOutput({});

/** The apply of ours that still waits; undefined when it was confirmed or went back. */
async function waiting(): Promise<Pending | undefined> {
  const pending = await readPending(stateDir);
  return pending?.run === Number(run) ? pending : undefined;
}

async function watch(): Promise<void> {
  const settings = await readSettings(
    { 'state-dir': stateDir, 'lock-timeout': patience, ...(file === '' ? {} : { config: file }) },
    await readConfig(file === '' ? undefined : file),
  );
  const boot = await bootId();
  for (let pending = await waiting(); pending !== undefined; pending = await waiting()) {
    const left = secondsLeft(pending, boot);
    if (left > 0) await sleep(left * 1000);
    else
      await withRunLock(stateDir, patience, 'watch', async () => {
        const still = await waiting();
        if (still === undefined || secondsLeft(still, boot) > 0) return;
        await expire({ settings, output }, still, boot);
        await lookAgain({ settings, output }, await beginRun(stateDir, 'watch', boot));
      });
  }
}

watch().catch((error: unknown) => {
  // The next run of cfsync goes back in its place.
  if (!(error instanceof CfsyncError)) throw error;
  output.error(error.message, { detail: error.detail });
  process.exitCode = error.code;
});
