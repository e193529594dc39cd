/** `apply`: fetch, plan, guard, check, apply, verify. */
import { resolve } from 'node:path';
import { unified } from '../diff.ts';
import { apply, check, locked, makePlan, planDiff, planId, type Plan } from '../engine.ts';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { flagSpec } from '../flags.ts';
import { forRanges, type Job } from '../job.ts';
import { preflight } from '../lockout.ts';
import { worst, type Context } from '../main.ts';
import { changeText, space, type Output } from '../output.ts';
import { isCutOff, readUsable } from '../records.ts';
import { makeJobs, sourceOptions, type Settings } from '../settings.ts';
import { loadRenderer } from '../load.ts';
import { mustBeTrusted } from '../trust.ts';
import { policyFor } from '../policy.ts';
import { resolveSource } from '../source.ts';
import { escape } from '../text.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const named = await makeJobs(settings);
  refuseConflicts(named);
  const answer = await resolveSource(sourceOptions(settings));
  output.notices('', answer.notices);
  const policy = await policyFor(answer, settings.stateDir, {
    acceptLargeChange: settings.values['accept-large-change'] === true,
  });
  const boot = settings.values.persist === true ? [await bootJob(named[0]!, settings)] : [];
  const jobs = forRanges([...named, ...boot], answer.ranges);
  return locked(jobs, settings.lockTimeout, async () => {
    const codes: ExitCode[] = [answer.fallback?.staleExit ?? exit.ok];
    const plans: Plan[] = [];
    for (const job of jobs) {
      // A backend that cannot be applied now is not promised for the next boot.
      if (job.name === 'boot' && plans.length < jobs.length - 1) continue;
      const plan = await attempt(output, codes, async () => {
        const made = await makePlan(job, policy, settings.stateDir);
        // Said even if the check fails: they may say why.
        output.notices(job.name, made.notices);
        await check(made);
        return made;
      });
      if (plan === undefined) continue;
      codes.push(...explainVerdict(plan, output));
      plans.push(plan);
    }
    const cleared = await preflight(plans, context, codes);
    if (settings.values['dry-run'] === true) {
      printPlan(plans, output);
      const pending = plans.some((p) => p.steps.length > 0);
      if (pending && settings.values['exit-code'] === true) codes.push(exit.pending);
      return worst(codes);
    }
    output.notices('', await answer.commit());
    if (boot.length === 0) await remindOfBoot(settings, output);
    for (const plan of cleared)
      await attempt(output, codes, async () => {
        codes.push(await applyOne(plan, context));
      });
    return worst(codes);
  });
}

/** Two backends of one run may undo each other's work. */
export function refuseConflicts(jobs: readonly Job[]): void {
  for (const { name, renderer } of jobs)
    for (const other of jobs) {
      const why = renderer.conflicts?.[other.renderer.name];
      if (why !== undefined)
        throw new CfsyncError(
          exit.usage,
          `${name} and ${other.name} cannot be kept in one run: ${why}; nothing was changed; name one of them with --backend`,
        );
    }
}

/** The unit that runs this command again at boot, from the snapshot. */
async function bootJob(like: Job, settings: Settings): Promise<Job> {
  const renderer = await loadRenderer('boot', undefined, undefined);
  await mustBeTrusted(process.argv[1]!, 'program');
  const raw = { argv: bootCommand(settings) };
  return { name: 'boot', renderer, raw, options: renderer.options(raw), desired: like.desired };
}

/** This command line, for the snapshot and without what is for people. */
function bootCommand(settings: Settings): readonly string[] {
  const given = Object.entries(settings.values).filter(
    ([name]) =>
      ![
        'persist',
        'source',
        'state-dir',
        'dry-run',
        'exit-code',
        'verbose',
        'allow-lockout',
      ].includes(name),
  );
  const words = given.flatMap(([name, value]) =>
    value === true
      ? [`--${name}`]
      : // A unit has no working directory that a relative path could be seen from.
        [`--${name}`, flagSpec(name)?.path === true ? resolve(String(value)) : String(value)],
  );
  const fixed = ['apply', '--source', 'snapshot', '--state-dir', settings.stateDir];
  return [process.execPath, process.argv[1]!, ...fixed, ...words];
}

/** A unit of an earlier run goes on applying what was said then. */
async function remindOfBoot(settings: Settings, output: Output): Promise<void> {
  const { content } = await readUsable(settings.stateDir, 'boot');
  const unit = content?.options.argv;
  if (!Array.isArray(unit) || unit.join(' ') === bootCommand(settings).join(' ')) return;
  output.note(
    `boot: the next boot still runs cfsync ${escape(unit.slice(2).join(' '))}; --persist renews it`,
  );
}

/** Prints what would be done: the difference, then the steps, then the id. */
export function printPlan(plans: readonly Plan[], output: Output): void {
  for (const plan of plans) {
    for (const file of planDiff(plan)) output.diff(unified(file, ['a', 'b']));
    const name = plan.job.name;
    if (plan.steps.length === 0) output.note(`${name}: no changes`);
    for (const [i, step] of plan.steps.entries()) output.print(`step ${i + 1}: ${step.summary}`);
    const change = changeText(plan.added, plan.removed);
    if (change !== '') output.print(`${name}: ${change}`);
  }
  if (plans.some((p) => p.steps.length > 0))
    output.print(`plan ${planId(plans)}: nothing was changed`);
}

/** Applies one plan and says how it ended. */
export async function applyOne(plan: Plan, { settings, output }: Context): Promise<ExitCode> {
  const { name } = plan.job;
  if (await isCutOff(settings.stateDir, name))
    output.warn(
      `warning: ${name}: an earlier run was cut off; the backend is brought to the state wanted now`,
    );
  const result = await apply(plan, settings.stateDir);
  if (result.code !== exit.ok) {
    complain(output, result);
    return result.code;
  }
  if (plan.steps.length === 0) {
    output.note(`${name}: no changes, holds ${space(plan.wanted.ranges) || 'nothing'}`);
    return result.code;
  }
  for (const file of planDiff(plan)) output.diff(unified(file, ['a', 'b']));
  const parts = [result.message, changeText(plan.added, plan.removed)];
  output.print(parts.filter((part) => part !== '').join('; '));
  return result.code;
}

/** Says what the guard held back; answers the exit codes that follow from it. */
export function explainVerdict(plan: Plan, output: Output): ExitCode[] {
  const { verdict, job } = plan;
  if (verdict.kind === 'go') {
    const kept = space(verdict.kept);
    if (kept !== '') output.note(`${job.name}: kept until a removal is confirmed: ${kept}`);
    return [];
  }
  const what =
    verdict.kind === 'no loss'
      ? 'the additions are taken and the old ranges stay'
      : 'nothing was changed';
  output.warn(
    `${job.name}: refused: ${verdict.why}; ${what}; look at the difference with cfsync diff, then run again with --accept-large-change`,
  );
  return [exit.refused];
}

function complain(
  output: Output,
  { message, detail }: Pick<CfsyncError, 'message' | 'detail'>,
): void {
  output.warn(message);
  for (const line of detail) output.warn(`  ${line}`);
}

/** Runs the part of one backend; an error is said and does not stop the others. */
export async function attempt<T>(
  output: Output,
  codes: ExitCode[],
  work: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    complain(output, error);
    codes.push(error.code);
    return undefined;
  }
}
