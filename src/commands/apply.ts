/** `apply`: fetch, plan, guard, check, apply, verify. */
import { resolve } from 'node:path';
import { asRecorded } from '../run/again.ts';
import { changing, cutOffText, finishRollback, jobsOf, takeRunBack } from '../run/change.ts';
import { confirmLater, startWatch } from '../run/confirm.ts';
import { unified } from '../engine/diff.ts';
import {
  apply,
  check,
  goBack,
  locked,
  makePlan,
  planDiff,
  planId,
  type Plan,
  type Result,
} from '../engine/engine.ts';
import type { Policy } from '../feed/policy.ts';
import { CfsyncError, exit, worst, type ExitCode } from '../errors.ts';
import { flagSpec, planned } from '../cli/flags.ts';
import { forRanges, ownAmong, type Job } from '../engine/job.ts';
import { openNames, readOpen, type Kept, type Run } from '../state/journal.ts';
import { preflight } from '../run/lockout.ts';
import type { Context } from '../run/context.ts';
import { changeText, isAttended, space, type Output } from '../cli/output.ts';
import { endHold, endPending, readHold, writeHold, type Hold } from '../state/pending.ts';
import { appliedNames, readUsable } from '../state/records.ts';
import { makeJobs, recordedJob, sourceOptions, type Settings } from '../settings/settings.ts';
import { bringToEnd, wasAsked, whileChanging } from '../host/signals.ts';
import { loadBoot } from '../settings/load.ts';
import { installForRoot, mustBeTrusted } from '../host/trust.ts';
import { policyFor } from '../feed/policy.ts';
import { merge } from '../prefix.ts';
import { mustBeRunnable, probe } from '../run/probe.ts';
import { unchanged } from '../report/run-report.ts';
import { mustBeSame, readTrustedPlan, savedJobs, type SavedPlan } from '../run/saved-plan.ts';
import { resolveSource, type Answer } from '../feed/source.ts';
import { escape } from '../text.ts';
import { keepLocked } from '../run/weaker.ts';

/** What planning came to. */
export interface Planned {
  /** Absent for a saved plan, which names its ranges. */
  readonly answer: Answer | undefined;
  readonly jobs: readonly Job[];
  /** Those that could be planned and checked. */
  readonly plans: readonly Plan[];
  /** Those among them that do not cut the session this runs in. */
  readonly cleared: readonly Plan[];
  /** Whether a backend could not be planned, not as desired, or is not cleared. */
  readonly refused: boolean;
  readonly codes: readonly ExitCode[];
}

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const file = settings.values.plan as string | undefined;
  if (file !== undefined) refuseBesidePlan(settings);
  const saved = file === undefined ? undefined : await readTrustedPlan(file);
  const named = saved === undefined ? await makeJobs(settings) : await savedJobs(saved, settings);
  refuseConflicts(named);
  if (settings.values['dry-run'] === true)
    return planAll(context, named, saved, async ({ plans, codes }) => {
      printPlan(plans, output);
      const pending = plans.some((p) => p.steps.length > 0);
      const asked = settings.values['exit-code'] === true;
      return worst([...codes, pending && asked ? exit.pending : exit.ok]);
    });
  return changing(context, 'apply', async (run) => {
    const { content: hold, notices } = await readHold(settings.stateDir);
    output.notices('', notices);
    if (hold !== undefined && !isAttended()) return keepHold(context, hold, run);
    return planAll(context, named, saved, (made) =>
      whileChanging(() => applyAll(context, made, run)),
    );
  });
}

/** Plans all backends, and hands that on while their locks are held. */
async function planAll(
  context: Context,
  named: readonly Job[],
  saved: SavedPlan | undefined,
  then: (planned: Planned) => Promise<ExitCode>,
): Promise<ExitCode> {
  const { settings, output, record } = context;
  const acceptLargeChange = settings.values['accept-large-change'] === true;
  const answer = saved === undefined ? await resolveSource(sourceOptions(settings)) : undefined;
  output.notices('', answer?.notices ?? []);
  const policy =
    answer === undefined
      ? { mayRemove: true, known: undefined, acceptLargeChange }
      : await policyFor(answer, settings.stateDir, { acceptLargeChange });
  const boot = settings.values.persist === true ? [await bootJob(named[0]!, settings)] : [];
  const codes: ExitCode[] = [answer?.fallback?.staleExit ?? exit.ok];
  const kept = await keepLocked(named, context, codes);
  const jobs = answer === undefined ? kept : forRanges([...kept, ...boot], answer.ranges);
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

/** Plans and checks one backend, and says what is to be said of it. */
export async function planOne(
  context: Context,
  job: Job,
  policy: Policy,
  codes: ExitCode[],
): Promise<Plan | undefined> {
  const { settings, output } = context;
  const plan = await attempt(context, job.name, codes, async () => {
    const made = await makePlan(job, policy, settings.stateDir);
    // Said even if the check fails: they may say why.
    output.notices(job.name, made.notices);
    await check(made);
    return made;
  });
  if (plan !== undefined) codes.push(...explainVerdict(plan, context));
  return plan;
}

/**
 * Applies the plans one after the other. What is done goes back on a signal, when the probe fails, and
 * with --all-or-nothing when another backend fails.
 */
export async function applyAll(context: Context, made: Planned, run: Run): Promise<ExitCode> {
  const { settings, output, record } = context;
  const { stateDir, values } = settings;
  const { jobs, answer } = made;
  const together = values['all-or-nothing'] === true;
  if (settings.probe !== undefined) await mustBeRunnable(settings.probe);
  const plans = together && made.refused ? [] : made.cleared;
  const codes = [...made.codes, ...(await settleCutOff(context, jobs, plans, run))];
  if (together && made.refused) {
    output.error('nothing else was changed, because of --all-or-nothing');
    return worst(codes);
  }
  if (answer !== undefined) output.notices('', await answer.commit());
  await endHold(stateDir);
  if (values.persist !== true) await remindOfBoot(settings, output);
  const seconds = values.confirm as number | undefined;
  if (seconds !== undefined) await startWatch(settings, run, seconds);
  const results: ExitCode[] = [];
  const done: Kept[] = [];
  for (const plan of plans) {
    if (wasAsked() !== undefined || (together && worst(results) !== exit.ok)) break;
    await attempt(context, plan.job.name, results, async () => {
      const { code, entry } = await applyOne(plan, context, run);
      results.push(code);
      if (entry !== undefined) done.unshift({ name: plan.job.name, entry });
    });
  }
  const changed = done.length > 0;
  const failed = together && worst(results) !== exit.ok;
  const passed = !changed || failed || wasAsked() !== undefined || (await probePasses(context));
  const signal = wasAsked();
  bringToEnd();
  const undo = failed || !passed || signal !== undefined;
  const backs = undo ? await takeRunBack(context, await jobsOf(settings, done)) : [];
  for (const { name, ...back } of backs) {
    results.push(back.code);
    record.backend(name, { ...back, ...(back.code === exit.rolledBack && unchanged) });
  }
  if (signal !== undefined && !changed) {
    output.error(`ended by ${signal}; nothing was changed`);
    results.push(exit.failed);
  }
  if (seconds !== undefined) {
    if (changed && !undo) await confirmLater(context, run, seconds);
    else await endPending(stateDir);
  }
  return worst([...codes, ...results]);
}

async function probePasses({ settings, output }: Context): Promise<boolean> {
  if (settings.probe === undefined) return true;
  const why = await probe(settings.probe);
  if (why === undefined) return true;
  output.error(`the probe failed: ${why}; what was applied goes back`);
  return false;
}

/**
 * What runs that were cut off left behind. A backend with a plan is brought to what is wanted now, another one
 * of this run back to what was before; those that are not of this run are named.
 */
async function settleCutOff(
  { settings, output, record }: Context,
  jobs: readonly Job[],
  plans: readonly Plan[],
  run: Run,
): Promise<ExitCode[]> {
  const { stateDir } = settings;
  const codes: ExitCode[] = [];
  for (const name of await openNames(stateDir)) {
    const { content: entry, notices } = await readOpen(stateDir, name);
    output.notices(name, notices);
    if (entry === undefined) continue;
    const job = jobs.find((one) => one.name === name);
    const onward = plans.some((p) => p.job.name === name && p.verdict.kind !== 'no change');
    const then = onward
      ? 'the backend is brought to the state wanted now'
      : job === undefined
        ? 'cfsync rollback takes it back'
        : 'the backend goes back to what was before';
    output.warning(`${name}: ${cutOffText(entry, run.boot)}; ${then}`, { backend: name });
    if (onward || job === undefined) continue;
    const back = await goBack(job, entry, stateDir);
    const { message, detail } = back;
    const code = back.code === exit.rolledBack ? exit.ok : back.code;
    record.backend(name, { code, message, changed: true });
    if (code === exit.ok) output.tell(message, { backend: name, detail });
    else output.error(message, { backend: name, detail });
    codes.push(code);
  }
  return codes;
}

/** Nothing is changed while a rollback holds; only after a boot, which may have lost rules, they are brought back. */
async function keepHold(context: Context, hold: Hold, run: Run): Promise<ExitCode> {
  const { settings, output } = context;
  output.tell(
    `held since ${hold.at} (${hold.why}); nothing is changed; cfsync apply at a terminal ends the hold`,
  );
  const finished = await finishRollback(context, run.boot);
  if (hold.boot === run.boot || finished !== exit.ok) return finished;
  const codes: ExitCode[] = [];
  for (const name of await appliedNames(settings.stateDir))
    await attempt(context, name, codes, async () => {
      const job = (await recordedJob(settings, name))!;
      await locked([job], settings.lockTimeout, async () => {
        const plan = await makePlan(job, asRecorded, settings.stateDir);
        await check(plan);
        codes.push((await whileChanging(() => applyOne(plan, context, run))).code);
      });
    });
  if (worst(codes) === exit.ok)
    output.notices('', await writeHold(settings.stateDir, { ...hold, boot: run.boot }));
  return worst(codes);
}

/** A saved plan says what is desired, and of which backends. */
export function refuseBesidePlan({ values }: Settings): void {
  const given = planned.find((name) => values[name] !== undefined);
  if (given !== undefined)
    throw new CfsyncError(
      exit.usage,
      `--${given} cannot be given with --plan, which says what is desired; nothing was changed`,
    );
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
  const renderer = await loadBoot();
  await mustBeTrusted(process.argv[1]!, 'program', { instead: installForRoot });
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
        'confirm',
        'allow-lockout',
        'allow-weaker',
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
    const change = planText(plan);
    if (change !== '') output.sentence(`${name}: ${change}`);
  }
  if (plans.some((p) => p.steps.length > 0))
    output.print(`plan ${planId(plans)}: nothing was changed`);
}

/** Applies one plan and says how it ended. */
export async function applyOne(
  plan: Plan,
  { settings, output, record }: Context,
  run: Run,
): Promise<Result> {
  const { name } = plan.job;
  const result = await apply(plan, settings.stateDir, run);
  const { code, message } = result;
  const changed = plan.steps.length > 0 && (code === exit.ok || code === exit.broken);
  if (plan.verdict.kind !== 'no change')
    record.backend(name, {
      code,
      message,
      ...(changed && { changed, gained: plan.added, lost: plan.removed }),
    });
  output.notices(name, result.notices);
  if (result.code !== exit.ok) {
    output.error(result.message, { backend: name, detail: result.detail });
    return result;
  }
  if (plan.steps.length === 0) {
    output.note(`${name}: no changes, holds ${space(plan.wanted.ranges) || 'nothing'}`, {
      backend: name,
    });
    return result;
  }
  for (const file of planDiff(plan)) output.diff(unified(file, ['a', 'b']));
  const parts = [result.message, planText(plan)];
  output.sentence(parts.filter((part) => part !== '').join('; '));
  return result;
}

/** What changes in address space, with the admin's own prefixes in it. */
function planText({ job, added, removed }: Plan): string {
  const own = ownAmong(job, added, removed);
  return `${changeText(added, removed)}${own === '' ? '' : `; among them your own ${own}`}`;
}

/** Says what the guard held back; answers the exit codes that follow from it. */
export function explainVerdict(plan: Plan, { output, record }: Context): ExitCode[] {
  const { verdict, job } = plan;
  const about = { backend: job.name };
  if (verdict.kind === 'go') {
    const kept = space(verdict.kept);
    if (kept !== '') output.note(`${job.name}: kept until a removal is confirmed: ${kept}`, about);
    return [];
  }
  const what =
    verdict.kind === 'no loss'
      ? 'the additions are taken and the old ranges stay'
      : 'nothing was changed';
  const message = `${job.name}: refused: ${verdict.why}; ${what}; look at the difference with cfsync diff, then run again with --accept-large-change`;
  output.error(message, about);
  record.backend(job.name, { code: exit.refused, message });
  return [exit.refused];
}

/** Runs the part of one backend; an error is said and does not stop the others. */
export async function attempt<T>(
  { output, record }: Context,
  name: string,
  codes: ExitCode[],
  work: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    output.error(error.message, { backend: name, detail: error.detail });
    record.backend(name, { code: error.code, message: error.message });
    codes.push(error.code);
    return undefined;
  }
}
