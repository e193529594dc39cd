/** `remove`: take away everything that cfsync owns, and leave the rest as it is. */
import { changing } from '../run/change.ts';
import { locked } from '../engine/locks.ts';
import { makePlan, makeRemoval } from '../engine/plan.ts';
import { check } from '../engine/perform.ts';
import { worst, type ExitCode } from '../errors.ts';
import type { Run } from '../state/journal.ts';
import { elsewhere, preflight, type Course } from '../run/lockout.ts';
import type { Context } from '../run/context.ts';
import { appliedNames } from '../state/records.ts';
import { appliedBackends, makeJob, recordedJob, type Settings } from '../settings/settings.ts';
import { whileChanging } from '../host/signals.ts';
import { applyOne } from '../run/apply.ts';
import { asRecorded } from '../run/again.ts';
import { attempt } from '../run/attempt.ts';
import { renewedBoot } from '../run/boot.ts';
import { bootName } from '../plugin/options.ts';
import { printPlan } from '../run/show-plan.ts';

const course: Course = { after: () => undefined, advice: elsewhere };

export async function run(context: Context): Promise<ExitCode> {
  if (context.settings.values['dry-run'] === true) return removeAll(context, undefined);
  return changing(context, 'remove', (run) => removeAll(context, run));
}

/** @param run Undefined for a dry run. */
async function removeAll(context: Context, run: Run | undefined): Promise<ExitCode> {
  const { settings, output } = context;
  const names = await withBoot(settings, await appliedBackends(settings));
  const codes: ExitCode[] = [];
  if (!names.includes(bootName)) await renewBoot(context, run, codes);
  for (const name of names)
    await attempt(context, name, codes, async () => {
      const job = (await recordedJob(settings, name)) ?? (await makeJob(settings, name));
      await locked([job], settings.lockTimeout, async () => {
        const plan = await makeRemoval(job);
        await check(plan);
        if ((await preflight([plan], context, codes, course)).length === 0) return;
        if (run === undefined) printPlan([plan], output);
        else codes.push((await whileChanging(() => applyOne(plan, context, run))).code);
      });
    });
  return worst(codes);
}

/** The boot unit brings back what is recorded, so it goes with the last of the backends. */
async function withBoot(settings: Settings, names: readonly string[]): Promise<readonly string[]> {
  const others = (await appliedNames(settings.stateDir)).filter((name) => !names.includes(name));
  return others.length === 1 && others[0] === bootName ? [bootName, ...names] : names;
}

/** One of 0.1.0 would apply again what is removed now. */
async function renewBoot(context: Context, run: Run | undefined, codes: ExitCode[]): Promise<void> {
  const job = await renewedBoot(context);
  if (job === undefined) return;
  await attempt(context, bootName, codes, async () => {
    const plan = await makePlan(job, asRecorded, context.settings.stateDir);
    await check(plan);
    if (run === undefined) printPlan([plan], context.output);
    else codes.push((await whileChanging(() => applyOne(plan, context, run))).code);
  });
}
