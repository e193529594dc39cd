/** Runs one command and turns errors into one line and an exit code. */
import { parseArguments } from './cli/arguments.ts';
import { conclude } from './report/conclude.ts';
import { CfsyncError, exit, worst, type ExitCode } from './errors.ts';
import type { CommandName } from './cli/flags.ts';
import { makeOutput, type Output } from './cli/output.ts';
import { makeRecorder } from './report/run-report.ts';
import type { Context } from './run/context.ts';
import { escape } from './text.ts';

interface Command {
  run(context: Context): Promise<ExitCode>;
}

/** All but `completion`: every shell that starts asks for it, and it must not fail for a mistake in the configuration. */
const load: Readonly<Record<Exclude<CommandName, 'completion'>, () => Promise<Command>>> = {
  fetch: () => import('./commands/fetch.ts'),
  diff: () => import('./commands/diff.ts'),
  render: () => import('./commands/render.ts'),
  apply: () => import('./commands/apply.ts'),
  adopt: () => import('./commands/adopt.ts'),
  verify: () => import('./commands/verify.ts'),
  confirm: () => import('./commands/confirm.ts'),
  rollback: () => import('./commands/rollback.ts'),
  restore: () => import('./commands/restore.ts'),
  remove: () => import('./commands/remove.ts'),
  show: () => import('./commands/show.ts'),
  contains: () => import('./commands/contains.ts'),
  init: () => import('./commands/init.ts'),
  config: () => import('./commands/config.ts'),
  backends: () => import('./commands/backends.ts'),
  doctor: () => import('./commands/doctor.ts'),
};

export async function main(argv: readonly string[]): Promise<ExitCode> {
  const record = makeRecorder(new Date());
  let output = makeOutput({});
  try {
    const { command, words, values } = parseArguments(argv);
    output = makeOutput(values);
    const name = command as CommandName;
    if (name === 'completion')
      return (await import('./commands/completion.ts')).run({ words, output });
    const { noConfig, readConfig } = await import('./settings/config.ts');
    const { readSettings } = await import('./settings/settings.ts');
    // `init` writes the file, and does not mind what is in another one.
    const config =
      command === 'init' ? noConfig : await readConfig(values.config as string | undefined);
    const settings = await readSettings(values, config);
    const context = { settings, words, output, record };
    const code = await load[name]()
      .then((module) => module.run(context))
      .catch((error: unknown) => complain(output, error));
    // By now every lock is free, so that a hook may run cfsync itself.
    if (values['dry-run'] === true) return code;
    await conclude(name, code, context, (error) => complain(output, error));
    if (values.confirm === undefined || code === exit.busy) return code;
    const { countDown } = await import('./run/confirm.ts');
    return worst([code, await countDown(settings, output)]);
  } catch (error) {
    return complain(output, error);
  }
}

/** Says what went wrong, and answers the exit code that follows from it. */
function complain(output: Output, error: unknown): ExitCode {
  if (error instanceof CfsyncError) {
    output.error(error.message, { detail: error.detail });
    return error.code;
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const [first = '', ...detail] = text.split('\n').map(escape);
  output.error(`internal error, please report it: ${first}`, { detail });
  return exit.failed;
}
