/** What a source's answer allows a plan to take away, and how long it is good for. */
import { merge } from '../prefix.ts';
import { exit, type ExitCode } from '../errors.ts';
import type { Notice, Ranges } from '../renderer.ts';
import type { Answer } from './source.ts';
import { readState, replacedRanges } from '../state/store.ts';

/** How a source and the person at the keyboard limit a change. */
export interface Policy {
  readonly mayRemove: boolean;
  /** Every range that was accepted before, where that is known. */
  readonly known: Ranges | undefined;
  readonly acceptLargeChange: boolean;
}

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

/** Whether the feeds were last believed too long ago, with the code that `apply` ends with as well. */
export async function staleness(
  stateDir: string,
  maxAge: number,
  now: Date,
): Promise<{ readonly code: ExitCode; readonly notices: readonly Notice[] }> {
  const { check, notices } = await readState(stateDir);
  const { believed, problem } = check ?? {};
  // A list that a person named, and that no failed download replaced, does not age.
  if (believed === undefined && problem === undefined) return { code: exit.ok, notices };
  const age = believed && Math.floor((now.getTime() - Date.parse(believed.at)) / 86_400_000);
  if (age !== undefined && age < maxAge) return { code: exit.ok, notices };
  const last = age === undefined ? 'never believed' : `last believed ${age} days ago`;
  const text = `the feeds were ${last}; cfsync fetch says why`;
  return { code: exit[problem ?? 'failed'], notices: [...notices, { level: 'warning', text }] };
}
