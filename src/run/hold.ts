/** What a run of a timer does while a rollback holds. */
import { check } from '../engine/perform.ts';
import { isDeepStrictEqual } from 'node:util';
import type { Job } from '../engine/job.ts';
import { locked } from '../engine/locks.ts';
import { makePlan } from '../engine/plan.ts';
import { exit, worst, type ExitCode } from '../errors.ts';
import { whileChanging } from '../host/signals.ts';
import { recordedJob, type Settings } from '../settings/settings.ts';
import { bootName } from '../plugin/options.ts';
import { forgetEntry, openNames, type Run } from '../state/journal.ts';
import { writeHold, type Hold } from '../state/pending.ts';
import { appliedNames, readUsable } from '../state/records.ts';
import { asRecorded } from './again.ts';
import { applyOne } from './apply.ts';
import { attempt } from './attempt.ts';
import { finishRollback } from './change.ts';
import type { Context } from './context.ts';

/** Nothing is changed while a rollback holds; only after a boot, which may have lost rules, they are brought back. */
export async function keepHold(
  context: Context,
  hold: Hold,
  run: Run,
  asked: readonly Job[],
): Promise<ExitCode> {
  const { settings, output, record } = context;
  const held = `held since ${hold.at} (${hold.why})`;
  const old = isOld(hold, new Date());
  record.held({ isOld: old });
  const busy = (await asksForOther(asked, settings))
    ? `${held}, and this run asks for another state than is held; nothing is changed`
    : old
      ? `${held}, which is not within the last seven days; nothing is changed`
      : undefined;
  if (busy === undefined)
    output.tell(`${held}; nothing is changed; cfsync apply at a terminal ends the hold`);
  else output.error(`${busy}; cfsync apply at a terminal, or with --end-hold, ends the hold`);
  return worst([busy === undefined ? exit.ok : exit.busy, await keepHeld(context, hold, run)]);
}

/** A time in the future is of a clock that was ahead: it says nothing of how long. */
export function isOld({ at }: Pick<Hold, 'at'>, now: Date): boolean {
  const age = now.getTime() - Date.parse(at);
  return age < 0 || age > 7 * 24 * 60 * 60 * 1000;
}

/** Whether flags or a plan name another state than the one that is held. */
async function asksForOther(
  asked: readonly Job[],
  { stateDir, values }: Settings,
): Promise<boolean> {
  const byPlan = values.plan !== undefined;
  const named = (['mode', 'ports', 'udp-ports'] as const).some(
    (name) => values[name] !== undefined,
  );
  if (!byPlan && !named) return false;
  for (const { name, renderer, desired } of asked) {
    if (!byPlan && renderer.kind !== 'filter') continue;
    const { content } = await readUsable(stateDir, name);
    if (content === undefined) return true;
    const { mode, tcpPorts, udpPorts, ranges, extra } = desired;
    const wanted = { mode, tcpPorts, udpPorts, ...(byPlan && { ranges, extra }) };
    if (!isDeepStrictEqual({ ...content.desired, ...wanted }, content.desired)) return true;
  }
  return false;
}

async function keepHeld(context: Context, hold: Hold, run: Run): Promise<ExitCode> {
  const { settings, output } = context;
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
