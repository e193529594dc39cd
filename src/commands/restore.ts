/** `restore`: bring back what was applied last, as recorded, for the unit that runs at boot. */
import { exit, worst, type ExitCode } from '../errors.ts';
import { changing, finishRollback } from '../run/change.ts';
import type { Context } from '../run/context.ts';
import { bringBack } from '../run/hold.ts';
import { readHold, readPending } from '../state/pending.ts';
import { appliedNames } from '../state/records.ts';

/** Nothing is downloaded, guarded or judged: early in a boot there is no network, and what was applied was reviewed. */
export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const { stateDir } = settings;
  const recorded = await appliedNames(stateDir);
  if (recorded.length === 0 && (await readPending(stateDir)) === undefined) return exit.ok;
  return changing(context, 'restore', async (run) => {
    const { content: hold, notices } = await readHold(stateDir);
    output.notices('', notices);
    const finished = hold === undefined ? exit.ok : await finishRollback(context, run.boot);
    return worst([finished, await bringBack(context, run)]);
  });
}
