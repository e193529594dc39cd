/** Brings backends to the desired state: observe, plan, guard, check, apply, verify, and back on failure. */
import { changed, type FileDiff } from './diff.ts';
import { CfsyncError, exit, type ExitCode } from './errors.ts';
import { digest, mustBeFile, removeFile, writeFileAtomic } from './files.ts';
import { guard, type Verdict } from './guard.ts';
import { extraOf, type Job } from './job.ts';
import { firstLines } from './text.ts';
import { host, run, show } from './host.ts';
import { withLocks } from './lock.ts';
import { subtract } from './prefix.ts';
import type {
  Command,
  Desired,
  Notice,
  Observed,
  Owned,
  Ranges,
  Step,
  Wanted,
} from './renderer.ts';
import {
  closeJournal,
  journalPath,
  openJournal,
  readUsable,
  writeApplied,
  type Applied,
} from './records.ts';

/** How a source and the person at the keyboard limit a change. */
export interface Policy {
  readonly mayRemove: boolean;
  /** Every range that was accepted before, where that is known. */
  readonly known: Ranges | undefined;
  readonly acceptLargeChange: boolean;
}

/** What a run would do to one backend. */
export interface Plan {
  readonly job: Job;
  readonly observed: Observed<Owned, unknown>;
  readonly wanted: Owned;
  readonly desired: Desired;
  readonly verdict: Verdict;
  readonly notices: readonly Notice[];
  readonly steps: readonly Step[];
  /** The prefixes that come and go, in address space. */
  readonly added: Ranges;
  readonly removed: Ranges;
}

/** How the apply of one backend ended. */
export interface Result {
  readonly code: ExitCode;
  readonly message: string;
  readonly detail: readonly string[];
}

/** The desired state cannot be had on this host as it is: `want` refused it, and says why. */
export class Unplannable extends CfsyncError {}

function wantOrRefuse(job: Job, desired: Desired, around: unknown): Wanted<Owned> {
  try {
    return job.renderer.want(desired, job.options, around);
  } catch (cause) {
    if (!(cause instanceof CfsyncError)) throw cause;
    throw new Unplannable(cause.code, cause.message, { detail: cause.detail, cause });
  }
}

/** What is there now. */
async function look({ renderer, options, desired, adopting }: Job): Promise<Plan['observed']> {
  const observed = await renderer.observe(host, options);
  return adopting === undefined
    ? observed
    : (renderer.adopt?.(observed, desired, adopting) ?? observed);
}

/** Observes one backend and plans the way from there to the desired state. */
export async function makePlan(job: Job, policy: Policy, stateDir: string): Promise<Plan> {
  const observed = await look(job);
  const { content: applied, notices: remarks } = await readUsable(stateDir, job.name);
  const extra = extraOf(job);
  const verdict = guard({
    held: observed.owned.ranges,
    applied: applied?.desired,
    ranges: job.desired.ranges,
    extra,
    ...policy,
  });
  const ranges = verdict.kind === 'no change' ? observed.owned.ranges : verdict.ranges;
  const desired = { ...job.desired, ranges, extra };
  const { owned: wanted, notices } =
    verdict.kind === 'no change'
      ? { owned: observed.owned, notices: [] }
      : wantOrRefuse(job, desired, observed.around);
  return {
    job,
    observed,
    wanted,
    desired,
    verdict,
    notices: [...remarks, ...notices],
    steps: verdict.kind === 'no change' ? [] : job.renderer.plan(wanted, observed),
    added: subtract(wanted.ranges, observed.owned.ranges),
    removed: subtract(observed.owned.ranges, wanted.ranges),
  };
}

/** The way back to a host without cfsync. */
export async function makeRemoval(job: Job): Promise<Plan> {
  const observed = await look(job);
  const wanted = job.renderer.nothing;
  return {
    job,
    observed,
    wanted,
    desired: job.desired,
    notices: [],
    verdict: { kind: 'go', ranges: wanted.ranges, kept: wanted.ranges },
    steps: job.renderer.plan(wanted, observed),
    added: wanted.ranges,
    removed: observed.owned.ranges,
  };
}

/** What the plan changes, in the backend's own syntax. */
export function planDiff(plan: Plan): FileDiff[] {
  const { renderer } = plan.job;
  return changed(renderer.print(plan.observed.owned), renderer.print(plan.wanted));
}

/** Two plans with the same id do the same. */
export function planId(plans: readonly Plan[]): string {
  return digest(JSON.stringify(plans.map((p) => [p.job.name, p.steps]))).slice(0, 12);
}

/** Asks whether every file can be replaced, and every program whether it would take its part; nothing is changed. */
export async function check(plan: Plan): Promise<void> {
  for (const step of plan.steps) {
    if (step.kind === 'file') await mustBeFile(step.path);
    if (step.check !== undefined) await must(step.check, `${plan.job.name}: the check failed`);
  }
}

async function must(command: Command, what: string): Promise<void> {
  const outcome = await run(command);
  if (outcome.code !== 0)
    throw new CfsyncError(
      exit.failed,
      `${what}: ${show(command)} ended with code ${outcome.code}`,
      {
        detail: firstLines(outcome.stderr || outcome.stdout),
      },
    );
}

async function perform(step: Step): Promise<void> {
  if (step.kind === 'run') await must(step.command, step.summary);
  else if (step.content === null) await removeFile(step.path, { expect: step.expect });
  else await writeFileAtomic(step.path, step.content, { mode: step.mode, expect: step.expect });
}

/**
 * Applies a checked plan and verifies it. When a step fails or the backend does not settle, it is planned
 * back to what was observed before: by looking at it as it is then, so that what others did survives.
 */
export async function apply(plan: Plan, stateDir: string): Promise<Result> {
  const { job } = plan;
  const before = plan.observed.owned;
  if (plan.steps.length === 0) {
    if (plan.verdict.kind !== 'no change')
      await writeApplied(stateDir, job.name, appliedRecord(plan));
    await closeJournal(stateDir, job.name);
    return { code: exit.ok, message: `${job.name}: no changes`, detail: [] };
  }
  await openJournal(stateDir, job.name, { before, wanted: plan.wanted });
  const written = new Set<string>();
  let begun = false;
  try {
    const undoable = plan.steps.filter(isUndoable);
    for (const step of undoable) {
      // A program may have done half of its work when it fails; a file is written whole or not at all.
      begun ||= step.kind === 'run';
      await perform(step);
      begun = true;
      if (step.kind === 'file') written.add(step.path);
    }
    if (undoable.length > 0) await settled(plan, isUndoable);
    const final = plan.steps.filter((step) => !isUndoable(step));
    begun ||= final.length > 0;
    for (const step of final) await perform(step);
    if (final.length > 0) await settled(plan);
  } catch (error) {
    if (!begun && error instanceof CfsyncError) {
      await closeJournal(stateDir, job.name);
      return {
        code: exit.failed,
        message: `${error.message}; nothing was changed`,
        detail: error.detail,
      };
    }
    return goBack(job, before, written, error, stateDir);
  }
  await writeApplied(stateDir, job.name, appliedRecord(plan));
  await closeJournal(stateDir, job.name);
  const done = plan.wanted === job.renderer.nothing ? 'removed' : 'applied';
  return { code: exit.ok, message: `${job.name}: ${done} and verified`, detail: [] };
}

/** What is written down of an apply; undefined when nothing of it is left on the host. */
function appliedRecord(plan: Plan): Applied | undefined {
  if (plan.wanted === plan.job.renderer.nothing) return undefined;
  return { desired: plan.desired, options: plan.job.raw };
}

function isUndoable(step: Step): boolean {
  return step.kind === 'file' || step.final !== true;
}

/** Observes again and throws unless nothing is left to do, of those steps that count. */
async function settled(plan: Plan, counts: (step: Step) => boolean = () => true): Promise<void> {
  const { renderer, options } = plan.job;
  const observed = await look(plan.job);
  const wanted =
    plan.wanted === renderer.nothing
      ? plan.wanted
      : renderer.want(plan.desired, options, observed.around).owned;
  const left = renderer.plan(wanted, observed).filter(counts);
  if (left.length > 0)
    throw new CfsyncError(
      exit.rolledBack,
      `${plan.job.name}: every step succeeded, and the backend still differs from the plan`,
      { detail: left.map((step) => `left to do: ${step.summary}`) },
    );
}

/** `written`: the files that the apply did change; what stands in any other is not ours to take back. */
async function goBack(
  job: Job,
  before: Owned,
  written: ReadonlySet<string>,
  cause: unknown,
  stateDir: string,
): Promise<Result> {
  const { renderer, name } = job;
  const why = cause instanceof Error ? cause.message : String(cause);
  const detail = cause instanceof CfsyncError ? cause.detail : [];
  try {
    const wayBack = async (): Promise<readonly Step[]> =>
      renderer
        .plan(before, await look(job))
        .filter((step) => isUndoable(step) && (step.kind === 'run' || written.has(step.path)));
    for (const step of await wayBack()) await perform(step);
    const left = await wayBack();
    if (left.length > 0)
      throw new CfsyncError(exit.broken, `it still differs: ${left[0]!.summary}`);
  } catch (error) {
    return {
      code: exit.broken,
      message: `${why}; going back failed as well: ${error instanceof Error ? error.message : String(error)}; what was there before is in ${journalPath(stateDir, name)}: look at the backend by hand`,
      detail,
    };
  }
  await closeJournal(stateDir, name);
  return {
    code: exit.rolledBack,
    message: `${why}; the backend is back to what it was before`,
    detail,
  };
}

/** Runs `work` under the locks that all the backends name. */
export function locked<T>(
  jobs: readonly Job[],
  seconds: number,
  work: () => Promise<T>,
): Promise<T> {
  const locks = jobs.flatMap((job) => job.renderer.locks?.(job.options) ?? []);
  return withLocks(locks, seconds, work);
}
