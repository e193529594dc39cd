/** `diff`: what apply would change, on the live system or in rendered files. */
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { asRecorded } from '../run/again.ts';
import { changed, unified } from '../engine/diff.ts';
import { CfsyncError, errno, exit, type ExitCode } from '../errors.ts';
import { makePlan, planDiff, planId, type Plan } from '../engine/plan.ts';
import type { Policy } from '../feed/policy.ts';
import type { Context } from '../run/context.ts';
import { forRanges, ownAmong, type Job } from '../engine/job.ts';
import { changeText } from '../cli/output.ts';
import { merge, none, subtract } from '../prefix.ts';
import type { Artifact, Ranges } from '../renderer.ts';
import { reportJson, reportMarkdown, type Report } from '../engine/report.ts';
import {
  isSame,
  readPlan,
  refuseBesidePlan,
  savedJobs,
  savePlan,
  staleText,
  type SavedPlan,
} from '../run/saved-plan.ts';
import { makeJobs, sourceOptions } from '../settings/settings.ts';
import { policyFor } from '../feed/policy.ts';
import { resolveSource } from '../feed/source.ts';
import { warnOfRules } from '../run/judged.ts';
import { keepLocked } from '../run/weaker.ts';
import { lists, render } from '../engine/render.ts';
import { explainVerdict } from '../run/plan.ts';
import { escape } from '../text.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const { dir, out, plan } = settings.values as Readonly<Record<string, string | undefined>>;
  if ([dir, out, plan].filter((value) => value !== undefined).length > 1)
    throw new CfsyncError(exit.usage, '--dir, --out and --plan exclude each other');
  if (plan !== undefined) refuseBesidePlan(settings);
  const { code, own, saved, ...report } =
    dir === undefined
      ? await live(context, out, plan === undefined ? undefined : await readPlan(plan))
      : await onDisk(context, dir);
  const { files, before, after } = report;
  const { format } = settings.values;
  if (format === 'json') output.print(reportJson(report));
  else if (format === 'markdown') output.print(reportMarkdown(report));
  else {
    for (const file of files) output.diff(unified(file, ['a', 'b']));
    for (const step of saved?.steps ?? []) output.print(escape(`step: ${step}`));
    const change = changeText(subtract(after, before), subtract(before, after));
    const among = own === '' ? '' : `; among them your own ${own}`;
    if (change !== '') output.note(`${change}${among}`);
    if (files.length === 0) output.note('no changes');
    if (saved?.id !== undefined) output.print(`plan ${saved.id}`);
  }
  if (code !== exit.ok) return code;
  const pending = files.length > 0 || (saved?.steps ?? []).length > 0;
  return settings.values['exit-code'] === true && pending ? exit.pending : exit.ok;
}

interface Outcome extends Report {
  readonly code: ExitCode;
  /** The admin's own prefixes that come or go, by their comments. */
  readonly own: string;
  /** Of a saved plan: what it would do now, and its id while that is what was saved. */
  readonly saved?: { readonly steps: readonly string[]; readonly id: string | undefined };
}

/** What is to be had, and how the change is limited: from the source, or from a saved plan. */
async function wanted(
  context: Context,
  saved: SavedPlan | undefined,
): Promise<{
  readonly jobs: readonly Job[];
  readonly policy: Policy;
  /** The codes of what is refused of it. */
  readonly refused: ExitCode[];
}> {
  const { settings, output } = context;
  const acceptLargeChange = settings.values['accept-large-change'] === true;
  const refused: ExitCode[] = [];
  if (saved !== undefined) {
    const jobs = await savedJobs(saved, settings);
    await keepLocked(jobs, context, refused).catch((error: unknown) => {
      if (!(error instanceof CfsyncError) || error.code !== exit.refused) throw error;
      output.warning(error.message);
      refused.push(error.code);
    });
    return { jobs, policy: { ...asRecorded, acceptLargeChange }, refused };
  }
  const jobs = await makeJobs(settings);
  const answer = await resolveSource(sourceOptions(settings));
  output.notices('', answer.notices);
  const policy = await policyFor(answer, settings.stateDir, { acceptLargeChange });
  const kept = await keepLocked(jobs, context, refused);
  return { jobs: forRanges(kept, answer.ranges), policy, refused };
}

/** @param out Where to save the plan. */
async function live(
  context: Context,
  out: string | undefined,
  saved: SavedPlan | undefined,
): Promise<Outcome> {
  const { settings, output } = context;
  const { jobs, policy, refused } = await wanted(context, saved);
  const plans: Plan[] = [];
  for (const job of jobs) {
    const plan = await makePlan(job, policy, settings.stateDir, ({ code, message, detail }) => {
      refused.push(code);
      output.warning(message, { backend: job.name, detail });
    });
    output.notices(job.name, plan.notices);
    plans.push(plan);
  }
  refused.push(...plans.flatMap((plan) => explainVerdict(plan, context)));
  await warnOfRules(context, jobs);
  if (out !== undefined) {
    output.notices('', await savePlan(resolve(out), plans));
    output.note(`plan ${planId(plans)} saved in ${out}; cfsync apply --plan ${out} applies it`);
  }
  const id = saved !== undefined && isSame(plans, saved) ? saved.id : undefined;
  if (saved !== undefined && id === undefined)
    output.warning(`${staleText(saved)}, which is what is shown; cfsync apply refuses the plan`);
  const after = merge(...plans.map((p) => p.wanted.ranges));
  const gained = merge(...plans.map((p) => p.added));
  const lost = merge(...plans.map((p) => p.removed));
  return {
    files: plans.flatMap(planDiff),
    // What one backend lacks counts as missing, even where another one has it.
    before: merge(subtract(after, gained), lost),
    after,
    code: refused.length > 0 ? exit.refused : exit.ok,
    own: [...new Set(plans.map((p) => ownAmong(p.job, p.added, p.removed)).filter(Boolean))].join(
      ', ',
    ),
    ...(saved && {
      saved: {
        steps: plans.flatMap(({ steps }) => steps.map(({ summary }) => summary)),
        id,
      },
    }),
  };
}

async function onDisk({ settings, output }: Context, dir: string): Promise<Outcome> {
  const jobs = await makeJobs(settings);
  const answer = await resolveSource(sourceOptions(settings));
  output.notices('', answer.notices);
  const after: Artifact[] = forRanges(jobs, answer.ranges).flatMap(render);
  after.push(...lists(answer.ranges));
  const before = await Promise.all(
    after.map(async ({ path }) => ({ path, content: await textAt(join(dir, path)) })),
  );
  const old = await listsIn(dir);
  return {
    files: changed(before, after),
    before: old,
    after: answer.ranges,
    code: exit.ok,
    own: '',
  };
}

async function listsIn(dir: string): Promise<Ranges> {
  const text = (await textAt(join(dir, 'ips-v4'))) + (await textAt(join(dir, 'ips-v6')));
  if (text === '') return none;
  const { parseList } = await import('../feed/gate.ts');
  return parseList(text, 'any', `${dir}/ips-v4 and ips-v6`);
}

async function textAt(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    if (errno(cause) === 'ENOENT') return '';
    throw new CfsyncError(exit.failed, `cannot read ${file}: ${errno(cause)}`, { cause });
  }
}
