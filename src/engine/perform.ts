/** Takes the steps of a plan one by one, each of which was checked before the first. */
import { isDeepStrictEqual } from 'node:util';
import { CfsyncError, exit } from '../errors.ts';
import { mustBeFile, removeFile, writeFileAtomic } from '../host/files.ts';
import { run, show } from '../host/host.ts';
import type { Command, Outcome, RunStep, Step } from '../renderer.ts';
import { firstLines } from '../text.ts';
import type { Job } from './job.ts';
import { deedOf, type Plan } from './plan.ts';
import { noteChange } from './rivals.ts';

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
export class Overtaken extends CfsyncError {}

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
export async function perform(
  step: Step,
  job: Job,
  anew: () => Promise<readonly Step[]>,
): Promise<void> {
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
