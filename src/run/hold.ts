/** What a run of a timer does while a rollback holds. */
import { check } from '../engine/perform.ts';
import { locked } from '../engine/locks.ts';
import { makePlan } from '../engine/plan.ts';
import { exit, worst, type ExitCode } from '../errors.ts';
import { whileChanging } from '../host/signals.ts';
import { recordedJob } from '../settings/settings.ts';
import type { Run } from '../state/journal.ts';
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
  const codes: ExitCode[] = [];
  for (const name of await appliedNames(settings.stateDir))
    await attempt(context, name, codes, async () => {
      const job = (await recordedJob(settings, name))!;
      await locked([job], settings.lockTimeout, async () => {
        const plan = await makePlan(job, asRecorded, settings.stateDir);
        await check(plan);
        codes.push((await whileChanging(() => applyOne(plan, context, run))).code);
      });
    });
  if (worst(codes) === exit.ok)
    output.notices('', await writeHold(settings.stateDir, { ...hold, boot: run.boot }));
  return worst(codes);
}
