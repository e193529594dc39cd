/** What every command that changes backends goes through: alone, undone on a signal, and never over a pending confirm. */
import { locked } from '../engine/locks.ts';
import type { Plan } from '../engine/plan.ts';
import { check } from '../engine/perform.ts';
import { makeRollback, rollBack, type Result } from '../engine/back.ts';
import { lookAgain } from './again.ts';
import { CfsyncError, exit, worst, type ExitCode } from '../errors.ts';
import { bootId } from '../host/host.ts';
import type { Job } from '../engine/job.ts';
import {
  beginRun,
  entriesOf,
  openNames,
  readOpen,
  type Entry,
  type Kept,
  type Run,
} from '../state/journal.ts';
import { withRunLock } from '../state/lock.ts';
import type { Output } from '../cli/output.ts';
import { endPending, secondsLeft, takePending, writeHold, type Pending } from '../state/pending.ts';
import { unchanged, type Recorder } from '../report/run-report.ts';
import { makeNotedJob, withFlags, type Settings } from '../settings/settings.ts';
import { bringToEnd } from '../host/signals.ts';

interface Context {
  readonly settings: Settings;
  readonly output: Output;
}

/** In which it is kept what became of the backends. */
interface Recording extends Context {
  readonly record: Recorder;
}

/**
 * Runs `work` as a numbered run, in which a signal undoes what was begun. An apply whose time to be confirmed
 * is over, and whose watcher is gone, goes back first.
 * @param judge What follows when what others wrote over it is put right.
 * @throws CfsyncError with code `busy` while an apply waits for its confirmation.
 */
export async function changing(
  context: Recording,
  command: string,
  work: (run: Run) => Promise<ExitCode>,
  judge?: (run: Run) => Promise<ExitCode>,
): Promise<ExitCode> {
  const { stateDir, lockTimeout } = context.settings;
  return withRunLock(stateDir, lockTimeout, command, async () => {
    const boot = await bootId();
    const { content: pending, notices } = await takePending(stateDir);
    context.output.notices('', notices);
    if (pending !== undefined) {
      const left = Math.ceil(secondsLeft(pending, boot));
      if (left > 0)
        throw new CfsyncError(
          exit.busy,
          `an apply waits ${left} s more for its confirmation; nothing was changed; cfsync confirm keeps it, cfsync rollback takes it back`,
        );
      const code = await expire(context, pending, boot);
      if (code !== exit.ok) return code;
    }
    const run = await beginRun(stateDir, command, boot);
    const code = await work(run);
    const again = await lookAgain(context, run);
    return worst([code, again, (await judge?.(run)) ?? exit.ok]);
  });
}

/**
 * Takes back an apply that nobody confirmed, and holds.
 * @param entries What the run changed, as far as it is known; none: as the state directory says.
 */
export async function expire(
  context: Recording,
  { run }: Pending,
  boot: string,
  entries: readonly Kept[] = [],
): Promise<ExitCode> {
  const { settings, output, record } = context;
  const { stateDir } = settings;
  const reversals = await jobsOf(
    settings,
    entries.length > 0 ? entries : await entriesOf(stateDir, run),
  );
  const [last] = reversals;
  if (last === undefined) {
    await endPending(stateDir);
    return exit.ok;
  }
  const why = `no confirm came for the ${last.entry.command} of ${last.entry.at}`;
  // First, so that the next run does not apply it again whatever happens here.
  output.warning(`${why}: it goes back`);
  for (const { name } of reversals) record.backend(name, { code: exit.rolledBack, message: why });
  await holdFromNow({ settings, output }, why, boot);
  const code = await goBackNow(context, reversals);
  await endPending(stateDir);
  return code;
}

/** Takes back all that a run has changed, once it is over. */
export async function takeBackRun(context: Recording, run: Run): Promise<ExitCode> {
  const { settings, record } = context;
  const reversals = await jobsOf(settings, await entriesOf(settings.stateDir, run.number));
  return worst(recordBacks(record, await takeBackLocked(context, reversals)));
}

/** Writes down that a run went back in these backends; answers their codes. */
export function recordBacks(record: Recorder, backs: readonly Back[]): readonly ExitCode[] {
  for (const { name, ...back } of backs)
    record.backend(name, { ...back, ...(back.code === exit.rolledBack && unchanged) });
  return backs.map(({ code }) => code);
}

/** As `takeRunBack`, for a caller that does not hold the locks. */
function takeBackLocked(
  context: Recording,
  reversals: readonly Reversal[],
): Promise<readonly Back[]> {
  return locked(
    reversals.map(({ job }) => job),
    context.settings.lockTimeout,
    () => takeRunBack(context, reversals),
  );
}

/** Goes back as a command of its own: what is back is done. */
async function goBackNow(context: Recording, reversals: readonly Reversal[]): Promise<ExitCode> {
  const backs = await takeBackLocked(context, reversals);
  for (const { name, code, message } of backs)
    context.record.backend(name, {
      code: code === exit.broken ? code : exit.ok,
      message,
      changed: true,
    });
  return backs.some(({ code }) => code === exit.broken) ? exit.broken : exit.ok;
}

/** Goes on with a rollback that was cut off, because that is what is held. */
export async function finishRollback(context: Recording, boot: string): Promise<ExitCode> {
  const { settings, output } = context;
  const open: Kept[] = [];
  for (const name of await openNames(settings.stateDir)) {
    const { content: entry, notices } = await readOpen(settings.stateDir, name);
    output.notices(name, notices);
    if (entry === undefined) continue;
    output.warning(`${name}: ${cutOffText(entry, boot)}; it goes back`, { backend: name });
    open.push({ name, entry });
  }
  const reversals = await jobsOf(settings, open);
  return reversals.length === 0 ? exit.ok : goBackNow(context, reversals);
}

/** How a change that did not end is told. */
export function cutOffText(entry: Entry, boot: string): string {
  const since = entry.boot === boot ? '' : ', and the machine was started anew since';
  return `the ${entry.command} of ${entry.at} was cut off${since}`;
}

/** Holds, if that can be written down: to go back is more. */
export async function holdFromNow(
  { settings, output }: Context,
  why: string,
  boot: string,
): Promise<void> {
  try {
    const hold = { at: new Date().toISOString(), why, boot };
    output.notices('', await writeHold(settings.stateDir, hold));
    output.tell('timer runs change nothing from now on, until cfsync apply is run at a terminal');
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    output.warning(`${error.message}; so the next timer run applies again`);
  }
}

/** How it went for one backend. */
export interface Back {
  readonly name: string;
  readonly code: typeof exit.rolledBack | typeof exit.broken;
  readonly message: string;
}

export interface Reversal extends Kept {
  readonly job: Job;
}

/** The backends as they were when their changes began. */
export async function jobsOf(
  settings: Settings,
  entries: readonly Kept[],
): Promise<readonly Reversal[]> {
  const jobs: Reversal[] = [];
  for (const { name, entry } of entries) {
    const now = await makeNotedJob(settings, name);
    const raw = withFlags(entry.options, name, settings.values);
    const options = now.renderer.options(raw);
    jobs.push({ name, entry, job: { ...now, raw, options, desired: entry.desired } });
  }
  return jobs;
}

/** Goes back in one backend, whose locks the caller holds; whatever goes wrong is the answer. */
export async function takeBack(
  { name, job, entry }: Reversal,
  stateDir: string,
): Promise<Result & { readonly plan?: Plan }> {
  try {
    const plan = await makeRollback(job, entry);
    await check(plan);
    return { ...(await rollBack(plan, entry, stateDir)), plan };
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    const { code, detail } = error;
    const message = `${name}: cannot go back: ${error.message}`;
    return { code, message, detail, notices: [] };
  }
}

/**
 * Takes back what a run changed, the last backend first, and says so; their locks are held by the caller.
 * Each answers `rolledBack` or `broken`.
 */
export async function takeRunBack(
  { settings, output }: Context,
  reversals: readonly Reversal[],
): Promise<readonly Back[]> {
  bringToEnd();
  const backs: Back[] = [];
  for (const reversal of reversals) {
    const { code, message, detail, notices } = await takeBack(reversal, settings.stateDir);
    output.notices(reversal.name, notices);
    output.error(message, { backend: reversal.name, detail });
    const end = code === exit.rolledBack ? code : exit.broken;
    backs.push({ name: reversal.name, code: end, message });
  }
  return backs;
}
