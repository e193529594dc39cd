/** Decides whether a run is judged, and loads what judges only then. */
import type { Job } from '../engine/job.ts';
import { exit } from '../errors.ts';
import type { Settings } from '../settings/settings.ts';
import type { Context } from './context.ts';
import type { Ending, Rules } from './judge.ts';

/** The packet filters among the backends, which are judged; none where that is not wanted. */
function judgedAmong(jobs: readonly Job[], { judge }: Settings): readonly Job[] {
  return judge === 'off' ? [] : jobs.filter(({ renderer }) => renderer.kind === 'filter');
}

/** The rules of the host before a change; undefined where nothing will be judged. */
export async function rulesBefore(
  jobs: readonly Job[],
  settings: Settings,
): Promise<Rules | undefined> {
  if (judgedAmong(jobs, settings).length === 0) return undefined;
  return (await import('./judge.ts')).lookAtRules();
}

/** @param before See `judgeNow`. */
export async function judge(
  context: Context,
  jobs: readonly Job[],
  before: Rules | undefined,
): Promise<Ending> {
  const filters = judgedAmong(jobs, context.settings);
  if (filters.length === 0) return { code: exit.ok, goesBack: false };
  return (await import('./judge.ts')).judgeNow(context, filters, before);
}

/** Says, before a change, what the rules of the host do as they are; no exit code follows. */
export async function warnOfRules(context: Context, jobs: readonly Job[]): Promise<void> {
  const filters = judgedAmong(jobs, context.settings);
  if (filters.length > 0) await (await import('./judge.ts')).warnOfNow(context, filters);
}
