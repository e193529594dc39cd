/** What a source's answer allows a plan to take away, and how long it is good for. */
import type { Policy } from './engine.ts';
import { merge } from './prefix.ts';
import { exit, type ExitCode } from './errors.ts';
import type { Notice } from './renderer.ts';
import type { Answer } from './source.ts';
import { readState, replacedRanges } from './store.ts';

/** Days for which the last believed answer is good enough. */
export const maxAge = 30;

export async function policyFor(
  answer: Answer,
  stateDir: string,
  said: { readonly acceptLargeChange: boolean },
): Promise<Policy> {
  const { mayRemove, snapshot } = answer;
  // Without a snapshot nobody knows what was ever accepted here, so all that a backend holds counts.
  const known =
    mayRemove || snapshot === undefined
      ? undefined
      : merge(snapshot.ranges, ...(await replacedRanges(stateDir)));
  return { mayRemove, known, ...said };
}

/** Whether the feeds were last believed too long ago; lists that a person named do not age. */
export async function staleness(
  stateDir: string,
  now: Date,
): Promise<{ readonly code: ExitCode; readonly notices: readonly Notice[] }> {
  const { check, notices } = await readState(stateDir);
  if (check?.believed === undefined) return { code: exit.ok, notices };
  const days = Math.floor((now.getTime() - Date.parse(check.believed.at)) / 86_400_000);
  if (days < maxAge) return { code: exit.ok, notices };
  const text = `the feeds were last believed ${days} days ago, on ${check.believed.at.slice(0, 10)}; cfsync fetch says why`;
  return { code: exit.failed, notices: [...notices, { level: 'warning', text }] };
}
