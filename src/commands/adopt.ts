/** `adopt`: take over what other hands wrote to let Cloudflare in: ours in, theirs out, no gap. */
import { cutOffText } from '../run/change.ts';
import { locked } from '../engine/locks.ts';
import type { Plan } from '../engine/plan.ts';
import { CfsyncError, exit, worst, type ExitCode } from '../errors.ts';
import { groupBy } from '../group.ts';
import { largeLoss } from '../engine/guard.ts';
import { forRanges, type Job } from '../engine/job.ts';
import { bootId } from '../host/host.ts';
import { openNames, readOpen } from '../state/journal.ts';
import { warnOfRules } from '../run/judged.ts';
import { preflight } from '../run/lockout.ts';
import type { Context } from '../run/context.ts';
import { isAttended, type Output } from '../cli/output.ts';
import { readHold } from '../state/pending.ts';
import { policyFor } from '../feed/policy.ts';
import { merge, parseRanges, subtract } from '../prefix.ts';
import { everPublished, retired } from '../feed/published.ts';
import type { Ranges, Stray } from '../renderer.ts';
import { makeJobs, sourceOptions } from '../settings/settings.ts';
import { whileChanging } from '../host/signals.ts';
import { resolveSource } from '../feed/source.ts';
import { escape } from '../text.ts';
import { keepLocked } from '../run/weaker.ts';
import { applyAll, applying } from '../run/apply.ts';
import { planOne, refuseConflicts, type Planned } from '../run/plan.ts';
import { printPlan } from '../run/show-plan.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const named = await makeJobs(settings);
  refuseConflicts(named);
  for (const { name, renderer } of named)
    if (renderer.adopt === undefined)
      output.print(
        `${name}: not looked at: its renderer cannot tell what scripts left there; look by hand`,
      );
  const jobs = named.filter((job) => job.renderer.adopt !== undefined);
  if (jobs.length === 0) return exit.ok;
  if (settings.values['dry-run'] === true)
    return planAll(context, jobs, async ({ jobs: planned, plans, codes }) => {
      printPlan(plans, output);
      await warnOfRules(context, planned);
      return worst(codes);
    });
  return applying(context, 'adopt', async (run) => {
    const { content: hold, notices } = await readHold(settings.stateDir);
    output.notices('', notices);
    if (hold !== undefined && !isAttended())
      throw new CfsyncError(
        exit.refused,
        `held since ${hold.at} (${hold.why}); nothing was changed; cfsync adopt at a terminal ends the hold`,
      );
    return planAll(context, jobs, async (made) =>
      made.plans.length === 0
        ? worst(made.codes)
        : whileChanging(() => applyAll(context, made, run)),
    );
  });
}

/** Shows what there is to be taken over, and hands on the plans for it while their locks are held. */
async function planAll<T>(
  context: Context,
  named: readonly Job[],
  then: (planned: Planned) => Promise<T>,
): Promise<T> {
  const { settings, output, record } = context;
  const { stateDir, lockTimeout, values } = settings;
  const answer = await resolveSource(sourceOptions(settings));
  output.notices('', answer.notices);
  const policy = await policyFor(answer, stateDir, {
    acceptLargeChange: values['accept-large-change'] === true,
  });
  const adopting = await everPublished(answer, stateDir);
  const codes: ExitCode[] = [answer.fallback?.staleExit ?? exit.ok];
  const kept = await keepLocked(named, context, codes);
  const jobs = forRanges(kept, answer.ranges).map((job) => ({ ...job, adopting }));
  record.source(answer);
  record.expect(jobs.map(({ name }) => name));
  return locked(jobs, lockTimeout, async () => {
    const plans: Plan[] = [];
    let refused = kept.length < named.length;
    const cutOff = await openNames(stateDir);
    for (const { name } of jobs) await refuseBehind(name, stateDir);
    for (const job of jobs) {
      const plan = await planOne(context, job, policy, codes);
      refused ||= plan === undefined || plan.verdict.kind === 'no change';
      if (plan === undefined) continue;
      const strays = plan.observed.owned.strays ?? [];
      printStrays(job.name, strays, answer.ranges, output);
      if (!policy.acceptLargeChange && losesMuch(plan, strays, context)) {
        refused = true;
        codes.push(exit.refused);
      }
      // What an adopt that was cut off has begun is carried on.
      else if (strays.length > 0 || cutOff.includes(job.name)) plans.push(plan);
      else record.backend(job.name, { code: exit.ok, message: 'nothing to take over' });
    }
    const cleared = await preflight(plans, context, codes);
    refused ||= cleared.length < plans.length;
    return then({ answer, jobs, plans, cleared, refused, codes });
  });
}

/**
 * What an apply that was cut off wrote down to go back to does not have what scripts wrote in it: taken over behind
 * that, it would not come back.
 */
async function refuseBehind(name: string, stateDir: string): Promise<void> {
  const { content: entry } = await readOpen(stateDir, name);
  if (entry === undefined || entry.adopting !== undefined) return;
  throw new CfsyncError(
    exit.failed,
    `${name}: ${cutOffText(entry, await bootId())}; nothing was changed; cfsync apply or cfsync rollback settles it, then run cfsync adopt again`,
  );
}

/** What is taken over, in the backend's own words; the same line several times is said once. */
function printStrays(name: string, strays: readonly Stray[], ranges: Ranges, output: Output): void {
  if (strays.length === 0) {
    output.print(`${name}: nothing to take over`);
    return;
  }
  output.print(`${name}: to be taken over:`);
  for (const [text, same] of groupBy(strays, (stray) => stray.text)) {
    const { prefixes, beyond } = same[0]!;
    output.print(`  ${escape(text)}${same.length === 1 ? '' : ` (${same.length} times)`}`);
    const { v4, v6 } = subtract(parseRanges(prefixes), ranges);
    const stale = [...v4, ...v6].join(', ');
    if (stale !== '') output.print(`    stale: ${stale} (not Cloudflare's any more)`);
    if (beyond !== undefined) output.print(`    ends with it: ${escape(beyond)}`);
  }
}

/** A list that is old or incomplete must not take away what their rules let in. */
function losesMuch(plan: Plan, strays: readonly Stray[], { output, record }: Context): boolean {
  const { name } = plan.job;
  const held = parseRanges(strays.flatMap((stray) => stray.prefixes));
  const lost = largeLoss(held, merge(plan.wanted.ranges, retired));
  if (lost !== undefined) {
    const message = `${name}: refused: ${lost} that these let in would be taken away; nothing was changed; look at what is stale with --dry-run, then run again with --accept-large-change`;
    output.error(message, { backend: name });
    record.backend(name, { code: exit.refused, message });
  }
  return lost !== undefined;
}
