/** `render`: write the rules, and the lists they came from, without touching the system. */
import { join } from 'node:path';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { ensureDir, writeFileAtomic } from '../host/files.ts';
import type { Context } from '../run/context.ts';
import { extraOf, forRanges, type Job } from '../engine/job.ts';
import type { Artifact, Ranges } from '../renderer.ts';
import { makeJobs, sourceOptions } from '../settings/settings.ts';
import { resolveSource } from '../feed/source.ts';
import { count } from '../text.ts';

export async function run({ settings, output }: Context): Promise<ExitCode> {
  const jobs = await makeJobs(settings);
  const out = settings.values.out as string | undefined;
  if (out === undefined && jobs.length > 1)
    throw new CfsyncError(exit.usage, 'several backends need --out DIR; standard output takes one');
  const answer = await resolveSource(sourceOptions(settings));
  output.notices('', answer.notices);
  const artifacts = forRanges(jobs, answer.ranges).flatMap(render);
  if (out === undefined) {
    for (const { content } of artifacts) output.print(content);
    return exit.ok;
  }
  const all = [...artifacts, ...lists(answer.ranges)];
  for (const { path, content } of all) {
    const file = join(out, path);
    await ensureDir(join(file, '..'), 0o755);
    await writeFileAtomic(file, content, { mode: 0o644 });
  }
  output.note(`${count(all.length, 'file')} written to ${out}`);
  return exit.ok;
}

/** What `render` writes for one backend. */
export function render(job: Job): readonly Artifact[] {
  const { owned } = job.renderer.want({ ...job.desired, extra: extraOf(job) }, job.options);
  return job.renderer.print(owned);
}

/** The lists as `--source DIR` reads them. */
export function lists(ranges: Ranges): readonly Artifact[] {
  return [
    { path: 'ips-v4', content: `${ranges.v4.join('\n')}\n` },
    { path: 'ips-v6', content: `${ranges.v6.join('\n')}\n` },
  ];
}
