/** Starts the watcher that takes an apply back unless `cfsync confirm` comes in time. */
import { uptime } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { bootId, host, leave, run as runProgram } from '../host/host.ts';
import { openNames, type Run } from '../state/journal.ts';
import type { Output } from '../cli/output.ts';
import {
  endPending,
  readHold,
  readPending,
  secondsLeft,
  writePending,
  type Pending,
} from '../state/pending.ts';
import { hasProgress, waiting } from '../cli/progress.ts';
import type { Settings } from '../settings/settings.ts';
import { leaveToSignals } from '../host/signals.ts';
import { runningFolder } from '../host/systemd.ts';

/** The whole of the built program is in one folder. */
const watcher = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../watcher.ts' : 'watcher.js', import.meta.url),
);

/**
 * Starts it before the first change, so that it is there if the session is lost in the middle. It waits for
 * this run to end, and goes by what is in the state directory.
 */
export async function startWatch(settings: Settings, run: Run, seconds: number): Promise<void> {
  const { stateDir, config } = settings;
  await writePending(stateDir, { run: run.number, until: uptime() + seconds, boot: run.boot });
  const argv = [
    process.execPath,
    watcher,
    stateDir,
    String(run.number),
    config.file ?? '',
  ] as const;
  try {
    if (!(await underSystemd(argv)))
      await leave(argv, process.stderr.isTTY ? 'terminal' : 'nobody');
  } catch (error) {
    await endPending(stateDir);
    if (!(error instanceof CfsyncError)) throw error;
    throw new CfsyncError(
      error.code,
      `the watcher of --confirm cannot be started: ${error.message}; nothing was changed`,
      { cause: error },
    );
  }
}

/** systemd-logind may end all processes of a session with it (KillUserProcesses=, logind.conf(5)), also detached ones. */
async function underSystemd(argv: readonly string[]): Promise<boolean> {
  if ((await host.list(runningFolder)) === undefined) return false;
  const options = ['--quiet', '--collect', '--description=cfsync waits for its confirmation'];
  const { code } = await runProgram({ argv: ['systemd-run', ...options, '--', ...argv] });
  return code === 0;
}

/** Seconds before the end at which the line goes: the watcher writes to the same terminal then. */
const margin = 0.5;

/** Milliseconds between two looks, and after the end until somebody has to be told. */
const interval = 200;
const patience = 10_000;

/**
 * Counts down at a terminal until an apply was confirmed or has gone back. It only watches: who ends it, ends nothing
 * else. Without a terminal there is nobody to see it.
 */
export async function countDown(
  { stateDir }: Pick<Settings, 'stateDir'>,
  output: Output,
): Promise<ExitCode> {
  if (!hasProgress() || !process.stdin.isTTY) return exit.ok;
  const boot = await bootId();
  const first = await readPending(stateDir);
  if (first === undefined) return exit.ok;
  leaveToSignals();
  const text = (pending: Pending): string =>
    `goes back in ${Math.max(0, Math.ceil(secondsLeft(pending, boot)))} s unless confirmed; Ctrl-C: stop watching`;
  const still = async (): Promise<Pending | undefined> => {
    await sleep(interval);
    const pending = await readPending(stateDir);
    return pending?.run === first.run ? pending : undefined;
  };
  let pending: Pending | undefined = first;
  await waiting(
    text(first),
    async (say) => {
      while (pending !== undefined && secondsLeft(pending, boot) > margin) {
        say(text(pending));
        pending = await still();
      }
    },
    true,
  );
  for (let times = 0; pending !== undefined; times++) {
    if (times === patience / interval)
      output.warning(
        'the time is over, and it has not gone back yet; where its watcher is gone, cfsync rollback takes it back',
      );
    pending = await still();
  }
  const { content: hold } = await readHold(stateDir);
  if (hold === undefined) {
    output.tell('confirmed; it stays');
    return exit.ok;
  }
  output.tell('the apply has gone back; cfsync verify says what holds');
  return (await openNames(stateDir)).length === 0 ? exit.rolledBack : exit.broken;
}

/** The time counts from the end of the apply. */
export async function confirmLater(
  { settings, output }: { readonly settings: Settings; readonly output: Output },
  run: Run,
  seconds: number,
): Promise<void> {
  const pending = { run: run.number, until: uptime() + seconds, boot: run.boot };
  try {
    output.notices('', await writePending(settings.stateDir, pending));
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    output.warning(`${error.message}; so the time counts from the start of the apply`);
  }
  output.tell(
    `it goes back in ${seconds} s unless cfsync confirm is run; try from a new session that you can still get in`,
  );
}
