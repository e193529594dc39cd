/** `rollback`: return to the state before the last apply, and hold. */
import { lookAgain } from '../run/again.ts';
import { holdFromNow, jobsOf, takeBack, type Reversal } from '../run/change.ts';
import { unified } from '../engine/diff.ts';
import { locked } from '../engine/locks.ts';
import { planDiff, type Plan } from '../engine/plan.ts';
import { makeRollback, recorded } from '../engine/back.ts';
import { CfsyncError, exit, worst, type ExitCode } from '../errors.ts';
import { bootId } from '../host/host.ts';
import { beginRun, entriesOf, lastRun, openNames } from '../state/journal.ts';
import { withRunLock } from '../state/lock.ts';
import { elsewhere, preflight } from '../run/lockout.ts';
import type { Context } from '../run/context.ts';
import { changeText } from '../cli/output.ts';
import { endPending, takePending } from '../state/pending.ts';
import type { Desired, Notice } from '../renderer.ts';
import { bringToEnd } from '../host/signals.ts';
import { printPlan } from '../run/show-plan.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  if (settings.values['dry-run'] === true)
    return withLast(context, async (reversals) => {
      const entries = new Map<Plan, Reversal['entry']>();
      for (const { job, entry } of reversals) entries.set(await makeRollback(job, entry), entry);
      printPlan([...entries.keys()], output);
      return (await lockedOut(context, entries)) ?? exit.ok;
    });
  const { stateDir, lockTimeout } = settings;
  return withRunLock(stateDir, lockTimeout, 'rollback', async () => {
    const code = await withLast(context, (reversals) => goBackAll(context, reversals));
    const run = await beginRun(stateDir, 'rollback', await bootId());
    return worst([code, await lookAgain(context, run)]);
  });
}

/** Finds what the last run changed, and hands it on while the locks of the backends are held. */
async function withLast(
  { settings, output }: Context,
  then: (reversals: readonly Reversal[]) => Promise<ExitCode>,
): Promise<ExitCode> {
  const { stateDir, lockTimeout, values } = settings;
  const number = await lastRun(stateDir, values.backend as readonly string[] | undefined);
  if (number === undefined)
    throw new CfsyncError(
      exit.failed,
      `there is no apply to go back from, as far as ${stateDir} knows; nothing was changed`,
    );
  const only = values.backend as readonly string[] | undefined;
  const entries = await entriesOf(stateDir, number);
  const reversals = await jobsOf(
    settings,
    entries.filter(({ name }) => only?.includes(name) !== false),
  );
  const open = await openNames(stateDir);
  for (const { name, entry } of reversals) {
    const end = open.includes(name) ? ', which was cut off' : '';
    output.tell(`${name}: goes back to before the ${entry.command} of ${entry.at}${end}`, {
      backend: name,
    });
  }
  return locked(
    reversals.map(({ job }) => job),
    lockTimeout,
    () => then(reversals),
  );
}

/** Whether going back could cut the session it runs in: then none of the backends does. */
async function lockedOut(
  context: Context,
  entries: ReadonlyMap<Plan, Reversal['entry']>,
): Promise<ExitCode | undefined> {
  const codes: ExitCode[] = [];
  await preflight([...entries.keys()], context, codes, {
    after: (plan) => desiredBefore(entries.get(plan)!, plan),
    advice: elsewhere,
  });
  return codes.length > 0 ? worst(codes) : undefined;
}

/** The plans of the packet filters, as far as they can be made: going back itself says where they cannot. */
async function planFilters(
  reversals: readonly Reversal[],
): Promise<ReadonlyMap<Plan, Reversal['entry']>> {
  const entries = new Map<Plan, Reversal['entry']>();
  for (const { job, entry } of reversals)
    try {
      if (job.renderer.kind === 'filter') entries.set(await makeRollback(job, entry), entry);
    } catch (error) {
      if (!(error instanceof CfsyncError)) throw error;
    }
  return entries;
}

/** Rules that were taken over were for the same ports. */
function desiredBefore({ was, desired }: Reversal['entry'], { wanted }: Plan): Desired | undefined {
  const strays = wanted.strays ?? [];
  return was?.desired ?? (strays.length > 0 ? { ...desired, mode: 'allow' } : undefined);
}

async function goBackAll(context: Context, reversals: readonly Reversal[]): Promise<ExitCode> {
  const { settings, output, record } = context;
  const refused = await lockedOut(context, await planFilters(reversals));
  if (refused !== undefined) return refused;
  bringToEnd();
  const { stateDir } = settings;
  // First, so that a rollback that is cut off holds as well.
  const why = `rollback of the ${reversals[0]!.entry.command} of ${reversals[0]!.entry.at}`;
  await holdFromNow({ settings, output }, why, await bootId());
  const codes: ExitCode[] = [];
  for (const reversal of reversals) {
    const { plan, ...back } = await takeBack(reversal, stateDir);
    output.notices(reversal.name, back.notices);
    const { message } = back;
    if (plan === undefined || back.code !== exit.rolledBack) {
      record.backend(reversal.name, {
        code: back.code,
        message,
        changed: back.code === exit.broken,
      });
      output.error(back.message, { backend: reversal.name, detail: back.detail });
      codes.push(back.code);
      continue;
    }
    const moved = { changed: plan.steps.length > 0, gained: plan.added, lost: plan.removed };
    record.backend(reversal.name, { code: exit.ok, message, ...moved });
    // Of what is left the difference would say that it is gone.
    const isWhole = plan.notices.length === 0;
    for (const file of isWhole ? planDiff(plan) : []) output.diff(unified(file, ['a', 'b']));
    const parts = [
      `${back.message}${isWhole ? ', verified' : ''}`,
      changeText(plan.added, plan.removed),
    ];
    output.sentence(parts.filter((part) => part !== '').join('; '));
  }
  // Where only some backends go back, the others still wait for their confirmation.
  output.notices('', await recorded(() => settlePending(stateDir)));
  return worst(codes);
}

/** Nobody waits any more for the confirmation of what has gone back whole. */
async function settlePending(stateDir: string): Promise<readonly Notice[]> {
  const { content: pending, notices } = await takePending(stateDir);
  if (pending !== undefined && (await entriesOf(stateDir, pending.run)).length === 0)
    await endPending(stateDir);
  return notices;
}
