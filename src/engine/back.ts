/** Goes back from a change, by a plan as well: from what is there now to what was there before. */
import { dirname } from 'node:path';
import { digest } from '../digest.ts';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { removeTemporary } from '../host/files.ts';
import { none, subtract } from '../prefix.ts';
import type { FileStep, Notice, Step } from '../renderer.ts';
import {
  claimFiles,
  entryPath,
  forgetEntry,
  reopenEntry,
  type Entry,
  type FileChange,
} from '../state/journal.ts';
import { writeApplied } from '../state/records.ts';
import type { Job } from './job.ts';
import { perform } from './perform.ts';
import { isUndoable, look, type Plan } from './plan.ts';

/** How the apply of one backend ended. */
export interface Result {
  readonly code: ExitCode;
  readonly message: string;
  readonly detail: readonly string[];
  readonly notices: readonly Notice[];
  /** Of a change that is done: what was written down to go back from it. */
  readonly entry?: Entry;
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

export function fileChange({ path, expect, content }: FileStep): FileChange {
  return { path, before: expect, after: content === null ? null : digest(content) };
}

/** The backend is right whatever becomes of the records: the next run sees the entry, and that nothing is left to do. */
export async function recorded(
  write: () => Promise<readonly Notice[]>,
): Promise<readonly Notice[]> {
  try {
    return await write();
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    return [{ level: 'warning', text: error.message }];
  }
}

/** A write that was cut off leaves a temporary file beside the one that it was to replace. */
export function tidy({ files }: Entry): Promise<void> {
  return removeTemporary(files.map(({ path }) => dirname(path)));
}
