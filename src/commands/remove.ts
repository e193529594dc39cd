/** `remove`: take away everything that cfsync owns, and leave the rest as it is. */
import { locked, makeRemoval, check } from '../engine.ts';
import { exit, type ExitCode } from '../errors.ts';
import { worst, type Context } from '../main.ts';
import { appliedNames } from '../records.ts';
import { appliedBackends, makeJob, recordedJob, type Settings } from '../settings.ts';
import { applyOne, attempt, printPlan } from './apply.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const names = await withBoot(settings, await appliedBackends(settings));
  const codes: ExitCode[] = [];
  for (const name of names)
    await attempt(output, codes, async () => {
      const job = (await recordedJob(settings, name)) ?? (await makeJob(settings, name));
      await locked([job], settings.lockTimeout, async () => {
        const plan = await makeRemoval(job);
        await check(plan);
        if (settings.values['dry-run'] === true) printPlan([plan], output);
        else codes.push(await applyOne(plan, context));
      });
    });
  return codes.length === 0 ? exit.ok : worst(codes);
}

/** The boot unit applies all backends again, so it goes with the first of them. */
async function withBoot(settings: Settings, names: readonly string[]): Promise<readonly string[]> {
  const recorded = await appliedNames(settings.stateDir);
  return recorded.includes('boot') && !names.includes('boot') ? ['boot', ...names] : names;
}
