/** `remove`: take away everything that cfsync owns, and leave the rest as it is. */
import { locked, makeRemoval, check } from '../engine.ts';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { worst, type Context } from '../main.ts';
import { none } from '../prefix.ts';
import { appliedNames } from '../records.ts';
import { makeJob } from '../settings.ts';
import { applyOne, attempt, printPlan } from './apply.ts';

export async function run(context: Context): Promise<ExitCode> {
  const { settings, output } = context;
  const named = settings.values.backend as readonly string[] | undefined;
  const names = named ?? (await appliedNames(settings.stateDir));
  if (names.length === 0)
    throw new CfsyncError(
      exit.usage,
      'nothing was applied yet, as far as the state directory knows; name a backend with --backend',
    );
  const codes: ExitCode[] = [];
  for (const name of names)
    await attempt(output, codes, async () => {
      const job = await makeJob(settings, name, none);
      await locked([job], settings.lockTimeout, async () => {
        const plan = await makeRemoval(job);
        await check(plan);
        if (settings.values['dry-run'] === true) printPlan([plan], output);
        else codes.push(await applyOne(plan, context));
      });
    });
  return codes.length === 0 ? exit.ok : worst(codes);
}
