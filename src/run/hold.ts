/** What a run of a timer does while a rollback holds. */
import { check } from '../engine/perform.ts';
import { locked } from '../engine/locks.ts';
import { makePlan } from '../engine/plan.ts';
import { exit, worst, type ExitCode } from '../errors.ts';
import { whileChanging } from '../host/signals.ts';
import { recordedJob } from '../settings/settings.ts';
import { bootName } from '../plugin/options.ts';
import { forgetEntry, openNames, type Run } from '../state/journal.ts';
import { writeHold, type Hold } from '../state/pending.ts';
import { appliedNames } from '../state/records.ts';
import { asRecorded } from './again.ts';
import { applyOne } from './apply.ts';
import { attempt } from './attempt.ts';
import { finishRollback } from './change.ts';
import type { Context } from './context.ts';

/** Nothing is changed while a rollback holds; only after a boot, which may have lost rules, they are brought back. */
export async function keepHold(context: Context, hold: Hold, run: Run): Promise<ExitCode> {
  const { settings, output } = context;
  output.tell(
    `held since ${hold.at} (${hold.why}); nothing is changed; cfsync apply at a terminal ends the hold`,
  );
  const finished = await finishRollback(context, run.boot);
  if (hold.boot === run.boot || finished !== exit.ok) return finished;
  const code = await bringBack(context, run);
  if (code === exit.ok)
    output.notices('', await writeHold(settings.stateDir, { ...hold, boot: run.boot }));
  return code;
}

/** Brings every backend back to what is recorded of it; `rollback` leads to before the last apply all the same. */
export async function bringBack(context: Context, run: Run): Promise<ExitCode> {
  const { stateDir, lockTimeout } = context.settings;
  const codes: ExitCode[] = [];
  // The boot unit is what runs this; it is no state that a boot could lose.
  for (const name of (await appliedNames(stateDir)).filter((one) => one !== bootName))
    await attempt(context, name, codes, async () => {
      const job = (await recordedJob(context.settings, name))!;
      await locked([job], lockTimeout, async () => {
        const plan = await makePlan(job, asRecorded, stateDir);
        await check(plan);
        const wasOpen = (await openNames(stateDir)).includes(name);
        const { code } = await whileChanging(() => applyOne(plan, context, run));
        codes.push(code);
        // What stood before a cut-off apply is in its entry, which goes on; what a boot left is nothing to go back to.
        if (code === exit.ok && !wasOpen) await forgetEntry(stateDir, name, run.number);
      });
    });
  return worst(codes);
}
