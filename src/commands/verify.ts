/** `verify`: is the live system still what was applied? */
import { cutOffText } from '../run/change.ts';
import { unified } from '../engine/diff.ts';
import type { Job } from '../engine/job.ts';
import { locked } from '../engine/locks.ts';
import { makePlan, planDiff, Unplannable, type Plan } from '../engine/plan.ts';
import { CfsyncError, exit, worst, type ExitCode } from '../errors.ts';
import { withoutName } from '../cli/log.ts';
import type { Context } from '../run/context.ts';
import { space } from '../cli/output.ts';
import { readOpen } from '../state/journal.ts';
import { bootId } from '../host/host.ts';
import { appliedBackends, recordedJob, type Settings } from '../settings/settings.ts';
import { staleness } from '../feed/policy.ts';
import { attempt } from '../run/attempt.ts';
import { judge } from '../run/judged.ts';
import { escape } from '../text.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const names = await appliedBackends(settings);
  const stale = await staleness(settings.stateDir, settings.maxAge, new Date());
  output.notices('', stale.notices);
  const codes: ExitCode[] = [stale.code];
  const jobs: Job[] = [];
  for (const name of names)
    await attempt(context, name, codes, async () => {
      const job = await mustBeRecorded(name, settings);
      codes.push(await verifyOne(job, context));
      jobs.push(job);
    });
  codes.push((await judge(context, jobs, undefined)).code);
  return worst(codes);
}

async function mustBeRecorded(name: string, settings: Settings): Promise<Job> {
  const job = await recordedJob(settings, name);
  if (job !== undefined) return job;
  throw new CfsyncError(
    exit.failed,
    `${name}: nothing was applied yet, as far as ${settings.stateDir} knows; cfsync apply --backend ${name} does it`,
  );
}

async function verifyOne(job: Job, { settings, output, record }: Context): Promise<ExitCode> {
  const { name } = job;
  const policy = { mayRemove: true, known: undefined, acceptLargeChange: true };
  let plan: Plan;
  try {
    plan = await locked([job], settings.lockTimeout, () =>
      makePlan(job, policy, settings.stateDir),
    );
  } catch (error) {
    // What was applied cannot be had any more: somebody else changed what it rests on.
    if (!(error instanceof Unplannable)) throw error;
    const message = `${name}: drift: ${withoutName(error.message, name)}`;
    record.backend(name, { code: exit.pending, message });
    output.sentence(message);
    for (const line of error.detail) output.print(`  ${escape(line)}`);
    return exit.pending;
  }
  output.notices(name, plan.notices);
  const { content: open, notices } = await readOpen(settings.stateDir, name);
  output.notices(name, notices);
  if (open !== undefined)
    output.warning(
      `${name}: ${cutOffText(open, await bootId())}; cfsync apply or cfsync rollback settles it`,
      { backend: name },
    );
  if (plan.steps.length === 0) {
    output.note(`${name}: as applied, holds ${space(plan.wanted.ranges)}`, { backend: name });
    record.backend(name, { code: exit.ok, message: 'as applied' });
    return exit.ok;
  }
  for (const file of planDiff(plan)) output.diff(unified(file, ['is', 'should-be']));
  const message = `${name}: drift: the system differs from what was applied; cfsync apply repairs it`;
  record.backend(name, { code: exit.pending, message });
  output.sentence(message);
  return exit.pending;
}
