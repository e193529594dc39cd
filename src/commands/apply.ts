/** `apply`: fetch, plan, guard, check, apply, verify. */
import { isAttended } from '../cli/output.ts';
import { locked } from '../engine/locks.ts';
import type { Plan } from '../engine/plan.ts';
import { forRanges, type Job } from '../engine/job.ts';
import { exit, worst, type ExitCode } from '../errors.ts';
import { policyFor } from '../feed/policy.ts';
import { resolveSource } from '../feed/source.ts';
import { whileChanging } from '../host/signals.ts';
import { merge } from '../prefix.ts';
import { applyAll, applying } from '../run/apply.ts';
import type { Context } from '../run/context.ts';
import { warnOfRules } from '../run/judged.ts';
import { preflight } from '../run/lockout.ts';
import { bootName } from '../plugin/options.ts';
import { appliedNames } from '../state/records.ts';
import { planOne, refuseConflicts, type Planned } from '../run/plan.ts';
import {
  mustBeSame,
  readTrustedPlan,
  refuseBesidePlan,
  savedJobs,
  type SavedPlan,
} from '../run/saved-plan.ts';
import { printPlan } from '../run/show-plan.ts';
import { keepLocked } from '../run/weaker.ts';
import { makeJobs, sourceOptions } from '../settings/settings.ts';
import { readHold } from '../state/pending.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const file = settings.values.plan as string | undefined;
  if (file !== undefined) refuseBesidePlan(settings);
  const saved = file === undefined ? undefined : await readTrustedPlan(file);
  const named = saved === undefined ? await makeJobs(settings) : await savedJobs(saved, settings);
  refuseConflicts(named);
  if (settings.values['dry-run'] === true)
    return planAll(context, named, saved, async ({ jobs, plans, codes }) => {
      printPlan(plans, output);
      await warnOfRules(context, jobs);
      const pending = plans.some((p) => p.steps.length > 0);
      const asked = settings.values['exit-code'] === true;
      return worst([...codes, pending && asked ? exit.pending : exit.ok]);
    });
  return applying(context, 'apply', async (run) => {
    const { content: hold, notices } = await readHold(settings.stateDir);
    output.notices('', notices);
    if (hold !== undefined && !isAttended() && settings.values['end-hold'] !== true) {
      const { keepHold } = await import('../run/hold.ts');
      return keepHold(context, hold, run, named);
    }
    return planAll(context, named, saved, (made) =>
      whileChanging(() => applyAll(context, made, run)),
    );
  });
}

/** The boot unit, where one is asked for or is to be renewed. */
async function bootOf(context: Context, { desired }: Job): Promise<Job | undefined> {
  const { settings } = context;
  const asked = settings.values.persist === true;
  if (!asked && !(await appliedNames(settings.stateDir)).includes(bootName)) return undefined;
  const { bootJob, renewedBoot } = await import('../run/boot.ts');
  return asked ? bootJob(desired, settings) : renewedBoot(context);
}

/** Plans all backends, and hands that on while their locks are held. */
async function planAll<T>(
  context: Context,
  named: readonly Job[],
  saved: SavedPlan | undefined,
  then: (planned: Planned) => Promise<T>,
): Promise<T> {
  const { settings, output, record } = context;
  const acceptLargeChange = settings.values['accept-large-change'] === true;
  const answer = saved === undefined ? await resolveSource(sourceOptions(settings)) : undefined;
  output.notices('', answer?.notices ?? []);
  const policy =
    answer === undefined
      ? { mayRemove: true, known: undefined, acceptLargeChange }
      : await policyFor(answer, settings.stateDir, { acceptLargeChange });
  const boot = saved === undefined ? await bootOf(context, named[0]!) : undefined;
  const codes: ExitCode[] = [answer?.fallback?.staleExit ?? exit.ok];
  const kept = await keepLocked(named, context, codes);
  const jobs =
    answer === undefined
      ? kept
      : forRanges(boot === undefined ? kept : [...kept, boot], answer.ranges);
  record.source(
    answer ?? {
      origin: { kind: 'plan', detail: saved!.path },
      ranges: merge(...named.map(({ desired }) => desired.ranges)),
    },
  );
  record.expect(jobs.map(({ name }) => name));
  return locked(jobs, settings.lockTimeout, async () => {
    const plans: Plan[] = [];
    for (const job of jobs) {
      // A backend that cannot be applied now is not promised for the next boot.
      if (job.name === 'boot' && plans.length < jobs.length - 1) continue;
      const plan = await planOne(context, job, policy, codes);
      if (plan !== undefined) plans.push(plan);
    }
    if (saved !== undefined) mustBeSame(plans, saved);
    const cleared = await preflight(plans, context, codes);
    const refused =
      kept.length < named.length ||
      cleared.length < jobs.length ||
      plans.some((p) => p.verdict.kind === 'no change');
    return then({ answer, jobs, plans, cleared, refused, codes });
  });
}
