/** `fetch`: download and check the ranges, show what changed since the snapshot, store them. */
import { exit, type ExitCode } from '../errors.ts';
import { withRunLock } from '../state/lock.ts';
import type { Context } from '../run/context.ts';
import { changeText, space } from '../cli/output.ts';
import { sourceOptions } from '../settings/settings.ts';
import { resolveSource } from '../feed/source.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { stateDir, lockTimeout } = context.settings;
  return withRunLock(stateDir, lockTimeout, 'fetch', () => fetchRanges(context));
}

async function fetchRanges({ settings, output, record }: Context): Promise<ExitCode> {
  const answer = await resolveSource(sourceOptions(settings));
  output.notices('', answer.notices);
  record.source(answer);
  const { added, removed } = answer.changes;
  output.notices('', await answer.commit());
  const change = changeText(added, removed);
  if (change === '') output.note(`no changes: ${space(answer.ranges)}`);
  else {
    for (const [sign, ranges] of [
      ['+', added],
      ['-', removed],
    ] as const)
      for (const prefix of [...ranges.v4, ...ranges.v6]) output.print(`${sign} ${prefix}`);
    output.note(change);
  }
  return answer.fallback === undefined ? exit.ok : answer.fallback.reason.code;
}
