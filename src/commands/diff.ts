/** `diff`: what apply would change, on the live system or in rendered files. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { changed, unified, type FileDiff } from '../diff.ts';
import { CfsyncError, errno, exit, type ExitCode } from '../errors.ts';
import { makePlan, planDiff, type Plan } from '../engine.ts';
import type { Context } from '../main.ts';
import { forRanges } from '../job.ts';
import { changeText } from '../output.ts';
import { merge, none, subtract } from '../prefix.ts';
import type { Artifact, Ranges } from '../renderer.ts';
import { makeJobs, sourceOptions } from '../settings.ts';
import { policyFor } from '../policy.ts';
import { resolveSource } from '../source.ts';
import { lists, render } from './render.ts';
import { explainVerdict } from './apply.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const { dir, format } = settings.values;
  const report = dir === undefined ? await live(context) : await onDisk(context, String(dir));
  if (format === 'json')
    output.print(
      JSON.stringify(
        {
          changed: report.files.length > 0,
          added: report.added,
          removed: report.removed,
          files: report.files.map((f) => ({ path: f.path, diff: unified(f, ['a', 'b']) })),
        },
        undefined,
        2,
      ),
    );
  else {
    for (const file of report.files) output.diff(unified(file, ['a', 'b']));
    const change = changeText(report.added, report.removed);
    if (change !== '') output.note(change);
    if (report.files.length === 0) output.note('no changes');
  }
  if (report.code !== exit.ok) return report.code;
  return settings.values['exit-code'] === true && report.files.length > 0 ? exit.pending : exit.ok;
}

interface Report {
  readonly files: readonly FileDiff[];
  readonly added: Ranges;
  readonly removed: Ranges;
  readonly code: ExitCode;
}

async function live({ settings, output }: Context): Promise<Report> {
  const jobs = await makeJobs(settings);
  const answer = await resolveSource(sourceOptions(settings));
  output.notices('', answer.notices);
  const policy = await policyFor(answer, settings.stateDir, {
    acceptLargeChange: settings.values['accept-large-change'] === true,
  });
  const plans: Plan[] = [];
  for (const job of forRanges(jobs, answer.ranges)) {
    const plan = await makePlan(job, policy, settings.stateDir);
    output.notices(job.name, plan.notices);
    plans.push(plan);
  }
  const refused = plans.flatMap((plan) => explainVerdict(plan, output));
  return {
    files: plans.flatMap(planDiff),
    added: merge(...plans.map((p) => p.added)),
    removed: merge(...plans.map((p) => p.removed)),
    code: refused.length > 0 ? exit.refused : exit.ok,
  };
}

async function onDisk({ settings, output }: Context, dir: string): Promise<Report> {
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
    added: subtract(answer.ranges, old),
    removed: subtract(old, answer.ranges),
    code: exit.ok,
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
