/** `adopt`: take over what other hands wrote to let Cloudflare in: ours in, theirs out, no gap. */
import { check, locked, makePlan, type Plan } from '../engine.ts';
import { exit, type ExitCode } from '../errors.ts';
import { largeLoss } from '../guard.ts';
import { forRanges } from '../job.ts';
import { worst, type Context } from '../main.ts';
import type { Output } from '../output.ts';
import { policyFor } from '../policy.ts';
import { merge, parseRanges, subtract } from '../prefix.ts';
import { everPublished, retired } from '../published.ts';
import type { Ranges, Stray } from '../renderer.ts';
import { makeJobs, sourceOptions } from '../settings.ts';
import { resolveSource } from '../source.ts';
import { escape } from '../text.ts';
import { applyOne, attempt, explainVerdict, printPlan, refuseConflicts } from './apply.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const named = await makeJobs(settings);
  refuseConflicts(named);
  const answer = await resolveSource(sourceOptions(settings));
  output.notices('', answer.notices);
  const policy = await policyFor(answer, settings.stateDir, {
    acceptLargeChange: settings.values['accept-large-change'] === true,
  });
  const adopting = await everPublished(answer, settings.stateDir);
  const jobs = forRanges(named, answer.ranges).map((job) => ({ ...job, adopting }));
  return locked(jobs, settings.lockTimeout, async () => {
    const codes: ExitCode[] = [answer.fallback?.staleExit ?? exit.ok];
    const plans: Plan[] = [];
    for (const job of jobs)
      await attempt(output, codes, async () => {
        if (job.renderer.adopt === undefined) {
          output.print(`${job.name}: nothing to take over: scripts leave no rules there`);
          return;
        }
        const plan = await makePlan(job, policy, settings.stateDir);
        output.notices(job.name, plan.notices);
        const strays = plan.observed.owned.strays ?? [];
        printStrays(job.name, strays, answer.ranges, output);
        if (strays.length === 0) return;
        await check(plan);
        const refused = explainVerdict(plan, output);
        if (!policy.acceptLargeChange) refused.push(...explainLoss(plan, strays, output));
        codes.push(...refused);
        if (refused.length === 0) plans.push(plan);
      });
    if (settings.values['dry-run'] === true) {
      printPlan(plans, output);
      return worst(codes);
    }
    if (plans.length > 0) output.notices('', await answer.commit());
    for (const plan of plans)
      await attempt(output, codes, async () => {
        codes.push(await applyOne(plan, context));
      });
    return worst(codes);
  });
}

/** What is taken over, in the backend's own words; the same line several times is said once. */
function printStrays(name: string, strays: readonly Stray[], ranges: Ranges, output: Output): void {
  if (strays.length === 0) {
    output.print(`${name}: nothing to take over`);
    return;
  }
  output.print(`${name}: to be taken over:`);
  const times = new Map<string, Stray[]>();
  for (const stray of strays) times.set(stray.text, [...(times.get(stray.text) ?? []), stray]);
  for (const [text, same] of times) {
    const { prefixes, beyond } = same[0]!;
    output.print(`  ${escape(text)}${same.length === 1 ? '' : ` (${same.length} times)`}`);
    const { v4, v6 } = subtract(parseRanges(prefixes), ranges);
    const stale = [...v4, ...v6].join(', ');
    if (stale !== '') output.print(`    stale: ${stale} (not Cloudflare's any more)`);
    if (beyond !== undefined) output.print(`    ends with it: ${beyond}`);
  }
}

/** A list that is old or incomplete must not take away what their rules let in. */
function explainLoss(plan: Plan, strays: readonly Stray[], output: Output): ExitCode[] {
  const held = parseRanges(strays.flatMap((stray) => stray.prefixes));
  const lost = largeLoss(held, merge(plan.wanted.ranges, retired));
  if (lost === undefined) return [];
  output.warn(
    `${plan.job.name}: refused: ${lost} that these let in would be taken away; nothing was changed; look at what is stale with --dry-run, then run again with --accept-large-change`,
  );
  return [exit.refused];
}
