/** Plans the way of a backend from what is observed to what should be. */
import { digest } from '../digest.ts';
import { CfsyncError, exit } from '../errors.ts';
import type { Policy } from '../feed/policy.ts';
import { host } from '../host/host.ts';
import { subtract } from '../prefix.ts';
import type { Desired, Notice, Observed, Owned, Ranges, Step, Wanted } from '../renderer.ts';
import { readUsable } from '../state/records.ts';
import { changed, type FileDiff } from './diff.ts';
import { guard, type Verdict } from './guard.ts';
import { extraOf, type Job } from './job.ts';

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

/** The desired state cannot be had on this host as it is: `want` refused it, and says why. */
export class Unplannable extends CfsyncError {}

function wantOrRefuse(
  { renderer, options }: Job,
  desired: Desired,
  around: unknown,
  onRefusal?: (why: Unplannable) => void,
): Wanted<Owned> {
  try {
    return renderer.want(desired, options, around);
  } catch (cause) {
    if (!(cause instanceof CfsyncError)) throw cause;
    const error = new Unplannable(cause.code, cause.message, { detail: cause.detail, cause });
    if (onRefusal === undefined || error.code !== exit.refused) throw error;
    onRefusal(error);
    // As it is rendered to disk: without what it refuses.
    return renderer.want(desired, options);
  }
}

/** What is there now. */
export async function look({
  renderer,
  options,
  desired,
  adopting,
}: Job): Promise<Plan['observed']> {
  const observed = await renderer.observe(host, options);
  return adopting === undefined
    ? observed
    : (renderer.adopt?.(observed, desired, adopting) ?? observed);
}

/**
 * Observes one backend and plans the way from there to the desired state.
 *
 * @param onRefusal Takes what a backend refuses; the plan is then what it would do, for a person to read.
 */
export async function makePlan(
  job: Job,
  policy: Policy,
  stateDir: string,
  onRefusal?: (why: Unplannable) => void,
): Promise<Plan> {
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
      : wantOrRefuse(job, desired, observed.around, onRefusal);
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
  const deeds = plans.map((p) => [p.job.name, p.steps.map(deedOf)]);
  return digest(JSON.stringify(deeds)).slice(0, 12);
}

/** A step without the version of what it writes over. */
export function deedOf(step: Step): Step {
  if (step.kind === 'file' || step.guard === undefined) return step;
  const { guard: _, ...deed } = step;
  return deed;
}

export function isUndoable(step: Step): boolean {
  return step.kind === 'file' || step.final !== true;
}
