/** Plans and checks the backends of a run, and says what is to be said of it. */
import { check } from '../engine/perform.ts';
import { makePlan, type Plan } from '../engine/plan.ts';
import type { Job } from '../engine/job.ts';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { space } from '../cli/output.ts';
import type { Policy } from '../feed/policy.ts';
import type { Answer } from '../feed/source.ts';
import { attempt } from './attempt.ts';
import type { Context } from './context.ts';

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
