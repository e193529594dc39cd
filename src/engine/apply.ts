/** Applies a checked plan to its backend. */
import { isDeepStrictEqual } from 'node:util';
import { CfsyncError, exit } from '../errors.ts';
import { Unsynced } from '../host/files.ts';
import { stopIfAsked } from '../host/signals.ts';
import type { Notice, Step } from '../renderer.ts';
import {
  dropUnusable,
  forgetEntry,
  keepEntry,
  openEntry,
  readOpen,
  type Entry,
  type Run,
} from '../state/journal.ts';
import { readUsable, writeApplied, type Applied } from '../state/records.ts';
import { fileChange, goBack, recorded, tidy, type Result } from './back.ts';
import { Overtaken, perform } from './perform.ts';
import { isUndoable, type Plan } from './plan.ts';
import { settled, stepsNow } from './verify.ts';

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
  const message = `${name}: ${done} and read back`;
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

/** What is written down of an apply; undefined when nothing of it is left on the host. */
function appliedRecord(plan: Plan): Applied | undefined {
  if (plan.wanted === plan.job.renderer.nothing) return undefined;
  const { given, raw } = plan.job;
  return { desired: plan.desired, ...(given && { given }), options: raw };
}

function isNeeded(step: Step, left: readonly Step[]): boolean {
  if (step.kind === 'file' || step.ifLeft !== true) return true;
  return left.some((one) => one.kind === 'run' && isDeepStrictEqual(one.command, step.command));
}
