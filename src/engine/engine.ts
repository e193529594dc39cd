/** Brings backends to the desired state: observe, plan, guard, check, apply, verify, and back on failure. */
import { dirname } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { changed, type FileDiff } from './diff.ts';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import {
  Unsynced,
  mustBeFile,
  removeFile,
  removeTemporary,
  writeFileAtomic,
} from '../host/files.ts';
import { digest } from '../digest.ts';
import { guard, type Verdict } from './guard.ts';
import { extraOf, type Job } from './job.ts';
import type { Policy } from '../feed/policy.ts';
import { firstLines } from '../text.ts';
import { host, run, show } from '../host/host.ts';
import { withLocks } from '../state/lock.ts';
import { none, subtract } from '../prefix.ts';
import { noteChange, noteRivals } from './rivals.ts';
import { stopIfAsked } from '../host/signals.ts';
import type {
  Command,
  Desired,
  FileStep,
  Notice,
  Observed,
  Outcome,
  Owned,
  Ranges,
  RunStep,
  Step,
  Wanted,
} from '../renderer.ts';
import {
  claimFiles,
  dropUnusable,
  forgetEntry,
  entryPath,
  keepEntry,
  openEntry,
  reopenEntry,
  readOpen,
  type Entry,
  type FileChange,
  type Run,
} from '../state/journal.ts';
import { readUsable, writeApplied, type Applied } from '../state/records.ts';

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
  readonly notices: readonly Notice[];
  /** Of a change that is done: what was written down to go back from it. */
  readonly entry?: Entry;
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
async function look({ renderer, options, desired, adopting }: Job): Promise<Plan['observed']> {
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
function deedOf(step: Step): Step {
  if (step.kind === 'file' || step.guard === undefined) return step;
  const { guard: _, ...deed } = step;
  return deed;
}

/**
 * Asks whether every file can be replaced, and every program whether it would take its part; nothing is changed. All
 * are asked at once, and waited for: of several that say no the first step's answer counts.
 */
export async function check(plan: Plan): Promise<void> {
  const answers = await Promise.allSettled(plan.steps.map((step) => checkStep(step, plan.job)));
  const failed = answers.find((answer) => answer.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

async function checkStep(step: Step, { name }: Job): Promise<void> {
  if (step.kind === 'file') await mustBeFile(step.path);
  if (step.check !== undefined) await must(step.check, `${name}: the check failed`);
}

async function must(command: Command, what: string): Promise<void> {
  const outcome = await run(command);
  if (outcome.code !== 0) throw ended(command, outcome, what);
}

function ended(command: Command, { code, stderr, stdout }: Outcome, what: string): CfsyncError {
  return new CfsyncError(exit.failed, `${what}: ${show(command)} ended with code ${code}`, {
    detail: firstLines(stderr || stdout),
  });
}

/** A guarded step has written nothing: somebody else changes the same thing. */
class Overtaken extends CfsyncError {}

async function runGuarded({ command, guard, summary }: RunStep): Promise<void> {
  if (guard === undefined) return must(command, summary);
  const outcome = await run(withVersion(command, guard.version));
  if (outcome.code === 0) return;
  if (!outcome.stderr.includes(guard.refusal)) throw ended(command, outcome, summary);
  const message = `${summary}: somebody else is changing it at the same time; run it again`;
  throw new Overtaken(exit.failed, message, { detail: firstLines(outcome.stderr) });
}

function withVersion(command: Command, version: string): Command {
  const { stage } = command;
  if (stage === undefined) return command;
  const files = Object.entries(stage.files).map(([name, content]) => [
    name,
    content?.replace('{version}', () => version) ?? null,
  ]);
  return { ...command, stage: { ...stage, files: Object.fromEntries(files) } };
}

/** The same step, for the version of now; @throws `overtaken` when there is another thing to do, or to be refused. */
async function stillPlanned(
  step: RunStep,
  anew: () => Promise<readonly Step[]>,
  overtaken: Overtaken,
): Promise<RunStep> {
  const { message, detail } = overtaken;
  try {
    const still = (await anew()).find((one) => isDeepStrictEqual(deedOf(one), deedOf(step)));
    if (still?.kind === 'run') return still;
  } catch (cause) {
    if (!(cause instanceof CfsyncError)) throw cause;
    throw new Overtaken(exit.failed, message, { detail: [...detail, cause.message], cause });
  }
  throw overtaken;
}

/** @param anew Plans again, for a step that was overtaken: it is run once more if it is still planned. */
async function perform(step: Step, job: Job, anew: () => Promise<readonly Step[]>): Promise<void> {
  noteChange(job);
  if (step.kind === 'run') {
    try {
      await runGuarded(step);
    } catch (error) {
      if (!(error instanceof Overtaken)) throw error;
      await runGuarded(await stillPlanned(step, anew, error));
    }
  } else if (step.content === null) await removeFile(step.path, { expect: step.expect });
  else await writeFileAtomic(step.path, step.content, { mode: step.mode, expect: step.expect });
}

/**
 * Applies a checked plan and verifies it. When a step fails or the backend does not settle, it is planned
 * back to what was observed before: by looking at it as it is then, so that what others did survives.
 * After a run that was cut off, that is what stood before that run.
 */
export async function apply(plan: Plan, stateDir: string, run: Run): Promise<Result> {
  const { name, renderer } = plan.job;
  const { content: open, notices } = await readOpen(stateDir, name);
  const said: Notice[] = [...notices];
  if (plan.steps.length === 0) {
    if (plan.verdict.kind !== 'no change') {
      said.push(...(await writeApplied(stateDir, name, appliedRecord(plan))));
      if (open !== undefined) {
        await tidy(open);
        said.push(...(await keepEntry(stateDir, name, open.number)));
      } else if (notices.length > 0) said.push(await dropUnusable(stateDir, name));
    }
    return { code: exit.ok, message: `${name}: no changes`, detail: [], notices: said };
  }
  const entry = await entryOf(plan, stateDir, run, open);
  said.push(...(await openEntry(stateDir, name, entry)));
  let begun = open !== undefined;
  try {
    const undoable = plan.steps.filter(isUndoable);
    for (const step of undoable) {
      stopIfAsked(name);
      try {
        await perform(step, plan.job, () => stepsNow(plan));
      } catch (error) {
        // A program may have done half of its work when it fails; a file is written whole or not at all.
        begun ||= step.kind === 'run' && !(error instanceof Overtaken);
        throw error;
      }
      begun = true;
    }
    const left = undoable.length > 0 ? await settled(plan, isUndoable) : plan.steps;
    const final = plan.steps.filter((step) => !isUndoable(step) && isNeeded(step, left));
    stopIfAsked(name);
    begun ||= final.length > 0;
    for (const step of final) await perform(step, plan.job, () => stepsNow(plan));
    if (final.length > 0) await settled(plan);
    said.push(...(await writeApplied(stateDir, name, appliedRecord(plan))));
    if (open !== undefined) await tidy(entry);
    said.push(...(await keepEntry(stateDir, name, entry.number)));
  } catch (error) {
    const detail = error instanceof CfsyncError ? error.detail : [];
    const why = error instanceof Error ? error.message : String(error);
    if (!begun && error instanceof CfsyncError && !(error instanceof Unsynced)) {
      const forgotten = forgetEntry(stateDir, name, entry.number);
      said.push(...(await recorded(() => forgotten.then(() => []))));
      const message = `${why}; nothing was changed`;
      return { code: exit.failed, message, detail, notices: said };
    }
    const back = await goBack(plan.job, entry, stateDir);
    const message = `${why}; ${back.message}`;
    return { ...back, message, detail, notices: [...said, ...back.notices] };
  }
  const done = plan.wanted === renderer.nothing ? 'removed' : 'applied';
  const message = `${name}: ${done} and verified`;
  return { code: exit.ok, message, detail: [], notices: said, entry };
}

async function entryOf(
  plan: Plan,
  stateDir: string,
  run: Run,
  open: Entry | undefined,
): Promise<Entry> {
  const { job, desired } = plan;
  const files = plan.steps.flatMap((step) => (step.kind === 'file' ? [fileChange(step)] : []));
  const adopting = job.adopting ?? open?.adopting;
  return {
    ...run,
    at: new Date().toISOString(),
    before: open?.before ?? plan.observed.owned,
    wanted: plan.wanted,
    files: [...files, ...(open?.files ?? [])],
    desired,
    options: job.raw,
    ...(adopting && { adopting }),
    was: open === undefined ? ((await readUsable(stateDir, job.name)).content ?? null) : open.was,
  };
}

function fileChange({ path, expect, content }: FileStep): FileChange {
  return { path, before: expect, after: content === null ? null : digest(content) };
}

/** Goes back to what was there before a change that was verified; until it is done, the change counts as open. */
export async function rollBack(plan: Plan, entry: Entry, stateDir: string): Promise<Result> {
  const { job } = plan;
  const notices: Notice[] = [];
  try {
    await reopenEntry(stateDir, job.name, entry.number);
  } catch (error) {
    // It is more to go back than to be able to go on with it after a crash.
    if (!(error instanceof CfsyncError)) throw error;
    notices.push({ level: 'warning', text: error.message });
  }
  const back = await goBack(job, entry, stateDir);
  return { ...back, notices: [...notices, ...back.notices] };
}

/** What is written down of an apply; undefined when nothing of it is left on the host. */
function appliedRecord(plan: Plan): Applied | undefined {
  if (plan.wanted === plan.job.renderer.nothing) return undefined;
  const { given, raw } = plan.job;
  return { desired: plan.desired, ...(given && { given }), options: raw };
}

function isUndoable(step: Step): boolean {
  return step.kind === 'file' || step.final !== true;
}

function isNeeded(step: Step, left: readonly Step[]): boolean {
  if (step.kind === 'file' || step.ifLeft !== true) return true;
  return left.some((one) => one.kind === 'run' && isDeepStrictEqual(one.command, step.command));
}

/** Observes again: the steps from there to what is wanted. */
async function stepsNow(plan: Plan): Promise<readonly Step[]> {
  const { renderer, options } = plan.job;
  const observed = await look(plan.job);
  const wanted =
    plan.wanted === renderer.nothing
      ? plan.wanted
      : renderer.want(plan.desired, options, observed.around).owned;
  return renderer.plan(wanted, observed);
}

/** Observes again and throws unless nothing is left to do, of those steps that count; answers the others. */
async function settled(
  plan: Plan,
  counts: (step: Step) => boolean = () => true,
): Promise<readonly Step[]> {
  const steps = await stepsNow(plan);
  const left = steps.filter(counts);
  if (left.length > 0)
    throw new CfsyncError(
      exit.rolledBack,
      `${plan.job.name}: every step succeeded, and the backend still differs from the plan`,
      { detail: left.map((step) => `left to do: ${step.summary}`) },
    );
  return steps;
}

/** The way from what is there now to what was there before a change. */
export async function makeRollback(job: Job, entry: Entry): Promise<Plan> {
  const { desired, adopting } = entry;
  const then = { ...job, desired, ...(adopting && { adopting }) };
  const observed = await look(then);
  const wanted = entry.before;
  const all = job.renderer.plan(wanted, observed).filter(isUndoable);
  const steps = withoutForeign(all, entry);
  const notices = all
    .filter((step) => !steps.includes(step))
    .flatMap((step) => foreignNotice(step, job.name));
  return {
    job: then,
    observed,
    wanted,
    desired,
    notices,
    verdict: { kind: 'go', ranges: wanted.ranges, kept: none },
    steps,
    added: subtract(wanted.ranges, observed.owned.ranges),
    // What stays in a file that is left goes nowhere.
    removed: notices.length > 0 ? none : subtract(observed.owned.ranges, wanted.ranges),
  };
}

function foreignNotice(step: Step, name: string): readonly Notice[] {
  if (step.kind === 'run') return [];
  const text = `${step.path} is left as it is, because somebody else has changed it since, and is still in force; look at it, then delete it, or run cfsync remove --backend ${name}`;
  return [{ level: 'warning', text }];
}

/** A file that the change created and that somebody else has replaced since is not ours to take away. */
function withoutForeign(steps: readonly Step[], { files }: Entry): readonly Step[] {
  // What an earlier step of the way back leaves there is ours too.
  const known = [...files];
  return steps.filter((step) => {
    if (step.kind === 'run') return true;
    const ours = known.filter((file) => file.path === step.path);
    const created = ours.some((file) => file.before === null);
    if (created && !ours.some((file) => file.after === step.expect)) return false;
    known.push(fileChange(step));
    return true;
  });
}

/**
 * Plans a backend back to what it was before a change, and verifies that. Nothing is replayed: what is there
 * now is observed, and what others did in the meantime stays.
 */
export async function goBack(job: Job, entry: Entry, stateDir: string): Promise<Result> {
  const { name } = job;
  const notices: Notice[] = [];
  const written: FileChange[] = [];
  try {
    const anew = async () => (await makeRollback(job, entry)).steps;
    for (const step of await anew()) {
      await perform(step, job, anew);
      if (step.kind === 'file') written.push(fileChange(step));
    }
    const { steps, notices: foreign } = await makeRollback(job, entry);
    const [left] = steps;
    if (left !== undefined) throw new CfsyncError(exit.broken, `it still differs: ${left.summary}`);
    notices.push(...foreign);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return {
      code: exit.broken,
      message: `${name}: going back failed: ${why}; what was there before is in ${entryPath(stateDir, name, entry.number)}: look at the backend by hand, then run cfsync rollback`,
      detail: error instanceof CfsyncError ? error.detail : [],
      notices,
    };
  }
  const isWhole = notices.length === 0;
  notices.push(
    ...(await recorded(async () => {
      await tidy(entry);
      const said = await writeApplied(stateDir, name, entry.was ?? undefined);
      await forgetEntry(stateDir, name, entry.number);
      return [...said, ...(await claimFiles(stateDir, name, entry.number, written))];
    })),
  );
  return {
    code: exit.rolledBack,
    message: `${name} is back to what it was before${isWhole ? '' : ', but for what is left'}`,
    detail: [],
    notices,
  };
}

/** The backend is right whatever becomes of the records: the next run sees the entry, and that nothing is left to do. */
async function recorded(write: () => Promise<readonly Notice[]>): Promise<readonly Notice[]> {
  try {
    return await write();
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    return [{ level: 'warning', text: error.message }];
  }
}

/** A write that was cut off leaves a temporary file beside the one that it was to replace. */
function tidy({ files }: Entry): Promise<void> {
  return removeTemporary(files.map(({ path }) => dirname(path)));
}

/** Runs `work` under the locks that all the backends name. */
export function locked<T>(
  jobs: readonly Job[],
  seconds: number,
  work: () => Promise<T>,
): Promise<T> {
  const locks = jobs.flatMap((job) => job.renderer.locks?.(job.options) ?? []);
  return withLocks(locks, seconds, async () => {
    try {
      return await work();
    } finally {
      await noteRivals(jobs);
    }
  });
}
