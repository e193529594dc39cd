/** `diff`: what apply would change, on the live system or in rendered files. */
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { changed, unified } from '../diff.ts';
import { CfsyncError, errno, exit, type ExitCode } from '../errors.ts';
import { makePlan, planDiff, planId, type Plan } from '../engine.ts';
import type { Context } from '../main.ts';
import { forRanges, ownAmong } from '../job.ts';
import { changeText } from '../output.ts';
import { merge, none, subtract } from '../prefix.ts';
import type { Artifact, Ranges } from '../renderer.ts';
import { reportJson, reportMarkdown, type Report } from '../report.ts';
import { readPlan, savePlan } from '../saved-plan.ts';
import { makeJobs, sourceOptions } from '../settings.ts';
import { policyFor } from '../policy.ts';
import { resolveSource } from '../source.ts';
import { escape } from '../text.ts';
import { keepLocked } from '../weaker.ts';
import { lists, render } from './render.ts';
import { explainVerdict } from './apply.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const { dir, out, plan } = settings.values as Readonly<Record<string, string | undefined>>;
  if ([dir, out, plan].filter((value) => value !== undefined).length > 1)
    throw new CfsyncError(exit.usage, '--dir, --out and --plan exclude each other');
  if (plan !== undefined) return printSaved(plan, context);
  const { code, own, ...report } =
    dir === undefined ? await live(context, out) : await onDisk(context, dir);
  const { files, before, after } = report;
  const { format } = settings.values;
  if (format === 'json') output.print(reportJson(report));
  else if (format === 'markdown') output.print(reportMarkdown(report));
  else {
    for (const file of files) output.diff(unified(file, ['a', 'b']));
    const change = changeText(subtract(after, before), subtract(before, after));
    const among = own === '' ? '' : `; among them your own ${own}`;
    if (change !== '') output.note(`${change}${among}`);
    if (files.length === 0) output.note('no changes');
  }
  if (code !== exit.ok) return code;
  return settings.values['exit-code'] === true && files.length > 0 ? exit.pending : exit.ok;
}

async function printSaved(path: string, { settings, output }: Context): Promise<ExitCode> {
  const { id, lines } = await readPlan(path);
  // The file may come from anywhere.
  output.diff(lines.map((line) => line.split('\t').map(escape).join('\t')).join('\n'));
  output.print(lines.length === 0 ? `plan ${escape(id)}: no changes` : `plan ${escape(id)}`);
  return settings.values['exit-code'] === true && lines.length > 0 ? exit.pending : exit.ok;
}

interface Outcome extends Report {
  readonly code: ExitCode;
  /** The admin's own prefixes that come or go, by their comments. */
  readonly own: string;
}

/** @param out Where to save the plan. */
async function live(context: Context, out: string | undefined): Promise<Outcome> {
  const { settings, output } = context;
  const jobs = await makeJobs(settings);
  const answer = await resolveSource(sourceOptions(settings));
  output.notices('', answer.notices);
  const policy = await policyFor(answer, settings.stateDir, {
    acceptLargeChange: settings.values['accept-large-change'] === true,
  });
  const refused: ExitCode[] = [];
  const kept = await keepLocked(jobs, context, refused);
  const plans: Plan[] = [];
  let declined = false;
  for (const job of forRanges(kept, answer.ranges)) {
    const plan = await makePlan(job, policy, settings.stateDir, ({ message, detail }) => {
      declined = true;
      output.warning(message, { backend: job.name, detail });
    });
    output.notices(job.name, plan.notices);
    plans.push(plan);
  }
  refused.push(...plans.flatMap((plan) => explainVerdict(plan, context)));
  if (out !== undefined) {
    output.notices('', await savePlan(resolve(out), plans));
    output.note(`plan ${planId(plans)} saved in ${out}; cfsync apply --plan ${out} applies it`);
  }
  const after = merge(...plans.map((p) => p.wanted.ranges));
  const gained = merge(...plans.map((p) => p.added));
  const lost = merge(...plans.map((p) => p.removed));
  return {
    files: plans.flatMap(planDiff),
    // What one backend lacks counts as missing, even where another one has it.
    before: merge(subtract(after, gained), lost),
    after,
    code: declined || refused.length > 0 ? exit.refused : exit.ok,
    own: [...new Set(plans.map((p) => ownAmong(p.job, p.added, p.removed)).filter(Boolean))].join(
      ', ',
    ),
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
  const { parseList } = await import('../gate.ts');
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
