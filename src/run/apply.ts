/** Applies the plans of a run, and takes them back where that is due. */
import { space } from '../cli/output.ts';
import { unified } from '../engine/diff.ts';
import { apply } from '../engine/apply.ts';
import { goBack, type Result } from '../engine/back.ts';
import { planDiff, type Plan } from '../engine/plan.ts';
import type { Job } from '../engine/job.ts';
import { exit, worst, type ExitCode } from '../errors.ts';
import { bringToEnd, wasAsked } from '../host/signals.ts';
import { openNames, readOpen, type Kept, type Run } from '../state/journal.ts';
import { endHold, endPending } from '../state/pending.ts';
import { attempt } from './attempt.ts';
import { changing, cutOffText, jobsOf, recordBacks, takeBackRun, takeRunBack } from './change.ts';
import { confirmLater, startWatch } from './confirm.ts';
import type { Context } from './context.ts';
import type { Planned } from './plan.ts';
import type { Rules } from './judge.ts';
import { judge, rulesBefore } from './judged.ts';
import { mustBeRunnable, probe } from './probe.ts';
import { planText } from './show-plan.ts';

/** What an apply came to. */
export interface Applied {
  readonly code: ExitCode;
  /** The backends that are as desired now. */
  readonly jobs: readonly Job[];
  /** The rules before the first change of a packet filter; undefined where nothing was changed there. */
  readonly before: Rules | undefined;
}

/** A numbered run that applies; once others have been looked at again, the rules of the host are judged. */
export function applying(
  context: Context,
  command: string,
  work: (run: Run) => Promise<Applied | ExitCode>,
): Promise<ExitCode> {
  let applied: Applied | undefined;
  return changing(
    context,
    command,
    async (run) => {
      const end = await work(run);
      if (typeof end === 'number') return end;
      applied = end;
      return end.code;
    },
    async (run) => (applied === undefined ? exit.ok : judgeRun(context, run, applied)),
  );
}

async function judgeRun(context: Context, run: Run, { jobs, before }: Applied): Promise<ExitCode> {
  const { code, goesBack } = await judge(context, jobs, before);
  if (!goesBack) return code;
  const back = await takeBackRun(context, run);
  await endPending(context.settings.stateDir);
  return back;
}

/**
 * Applies the plans one after the other. What is done goes back on a signal, when the probe fails, and
 * with --all-or-nothing when another backend fails.
 */
export async function applyAll(context: Context, made: Planned, run: Run): Promise<Applied> {
  const { settings, output, record } = context;
  const { stateDir, values } = settings;
  const { jobs, answer } = made;
  const together = values['all-or-nothing'] === true;
  if (settings.probe !== undefined) await mustBeRunnable(settings.probe);
  const plans = together && made.refused ? [] : made.cleared;
  const codes = [...made.codes, ...(await settleCutOff(context, jobs, plans, run))];
  if (together && made.refused) {
    output.error('nothing else was changed, because of --all-or-nothing');
    return { code: worst(codes), jobs: [], before: undefined };
  }
  if (answer !== undefined) output.notices('', await answer.commit());
  await endHold(stateDir);
  const seconds = values.confirm as number | undefined;
  if (seconds !== undefined) await startWatch(settings, run, seconds);
  const toChange = plans.filter(({ steps }) => steps.length > 0).map(({ job }) => job);
  const before = await rulesBefore(toChange, settings);
  const results: ExitCode[] = [];
  const done: Kept[] = [];
  const settled: Job[] = [];
  for (const plan of plans) {
    if (wasAsked() !== undefined || (together && worst(results) !== exit.ok)) break;
    await attempt(context, plan.job.name, results, async () => {
      const { code, entry } = await applyOne(plan, context, run);
      results.push(code);
      if (code === exit.ok) settled.push(plan.job);
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
  results.push(...recordBacks(record, backs));
  if (signal !== undefined && !changed) {
    output.error(`ended by ${signal}; nothing was changed`);
    results.push(exit.failed);
  }
  if (seconds !== undefined) {
    if (changed && !undo) await confirmLater(context, run, seconds);
    else await endPending(stateDir);
  }
  return { code: worst([...codes, ...results]), jobs: undo ? [] : settled, before };
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
