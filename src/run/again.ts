/** Looks again at backends that another program may have written over right after they were changed. */
import { locked } from '../engine/locks.ts';
import { makePlan, makeRemoval } from '../engine/plan.ts';
import { check } from '../engine/perform.ts';
import { apply } from '../engine/apply.ts';
import type { Result } from '../engine/back.ts';
import type { Policy } from '../feed/policy.ts';
import { CfsyncError, exit, worst, type ExitCode } from '../errors.ts';
import { ended } from '../host/host.ts';
import type { Job } from '../engine/job.ts';
import { entriesOf, forgetEntry, openEntry, type Run } from '../state/journal.ts';
import type { Output } from '../cli/output.ts';
import { readUsable } from '../state/records.ts';
import { takeOverlaps } from '../engine/rivals.ts';
import { makeNotedJob, recordedJob, type Settings } from '../settings/settings.ts';

interface Context {
  readonly settings: Settings;
  readonly output: Output;
}

/** Milliseconds that such programs are waited for before it is looked whether they have written. */
const patience = 2000;
/** Milliseconds after which they are left to themselves. */
const longest = 60_000;

/**
 * Brings backends to their record again that another program has written over, because it had read them before
 * it waited for the lock that this run held.
 */
export async function lookAgain({ settings, output }: Context, run: Run): Promise<ExitCode> {
  const end = Date.now() + longest;
  const codes: ExitCode[] = [];
  for (let overlaps = takeOverlaps(); overlaps.size > 0; overlaps = takeOverlaps())
    for (const [name, pids] of overlaps)
      try {
        await ended(pids, patience);
        const job = (await recordedJob(settings, name)) ?? (await makeNotedJob(settings, name));
        const late = Date.now() > end;
        await locked([job], settings.lockTimeout, async () => {
          const repaired = await repair(job, settings.stateDir, run, late);
          if (repaired === undefined) return;
          output.notices(name, repaired.notices);
          output.error(repaired.message, { detail: repaired.detail });
          codes.push(repaired.code);
        });
      } catch (error) {
        if (!(error instanceof CfsyncError)) throw error;
        output.error(error.message, { detail: error.detail });
        codes.push(error.code);
      }
  return worst(codes);
}

/** Undefined where nothing is to be done. */
async function repair(
  recorded: Job,
  stateDir: string,
  run: Run,
  late: boolean,
): Promise<Result | undefined> {
  const { name, renderer } = recorded;
  const kept = (await entriesOf(stateDir, run.number)).find((entry) => entry.name === name)?.entry;
  const job = { ...recorded, ...(kept?.adopting && { adopting: kept.adopting }) };
  const removed = (await readUsable(stateDir, name)).content === undefined;
  const plan = removed ? await makeRemoval(job) : await makePlan(job, asRecorded, stateDir);
  if (plan.steps.length === 0) return undefined;
  const what = `${name}: ${renderer.rivals!.join(' or ')} wrote over it what it had read before`;
  if (late) {
    const message = `${what}, and goes on; run cfsync apply when that has ended`;
    return { code: exit.failed, message, detail: [], notices: [] };
  }
  await check(plan);
  // What stood before this run stays what rollback leads to.
  const notices = kept === undefined ? [] : await openEntry(stateDir, name, kept);
  const result = await apply(plan, stateDir, run);
  if (kept === undefined) await forgetEntry(stateDir, name, run.number);
  const message =
    result.code === exit.ok ? `${what}; it is put right` : `${what}; ${result.message}`;
  return { ...result, message, notices: [...notices, ...result.notices] };
}

/** How a backend is brought to what is recorded of it. */
export const asRecorded: Policy = { mayRemove: true, known: undefined, acceptLargeChange: true };
