/** `render`: write the rules, and the lists they came from, without touching the system. */
import { join } from 'node:path';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { ensureDir, writeFileAtomic } from '../host/files.ts';
import type { Context } from '../run/context.ts';
import { forRanges } from '../engine/job.ts';
import { lists, render } from '../engine/render.ts';
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
