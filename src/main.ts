/** Runs one command and turns errors into one line and an exit code. */
import { parseArguments } from './arguments.ts';
import { CfsyncError, exit, type ExitCode } from './errors.ts';
import type { CommandName } from './flags.ts';
import { makeOutput, type Output } from './output.ts';
import { readSettings, type Settings } from './settings.ts';
import { escape } from './text.ts';

export interface Context {
  readonly settings: Settings;
  readonly words: readonly string[];
  readonly output: Output;
}

interface Command {
  run(context: Context): Promise<ExitCode>;
}

const load: Readonly<Record<CommandName, () => Promise<Command>>> = {
  fetch: () => import('./commands/fetch.ts'),
  diff: () => import('./commands/diff.ts'),
  render: () => import('./commands/render.ts'),
  apply: () => import('./commands/apply.ts'),
  adopt: () => import('./commands/adopt.ts'),
  verify: () => import('./commands/verify.ts'),
  confirm: () => import('./commands/confirm.ts'),
  rollback: () => import('./commands/rollback.ts'),
  remove: () => import('./commands/remove.ts'),
  show: () => import('./commands/show.ts'),
  contains: () => import('./commands/contains.ts'),
  config: () => import('./commands/config.ts'),
  completion: () => import('./commands/completion.ts'),
  backends: () => import('./commands/backends.ts'),
};

export async function main(argv: readonly string[]): Promise<ExitCode> {
  let output = makeOutput({});
  try {
    const { command, words, values } = parseArguments(argv);
    output = makeOutput(values);
    const settings = await readSettings(values);
    const module = await load[command as CommandName]();
    return await module.run({ settings, words, output });
  } catch (error) {
    if (error instanceof CfsyncError) {
      output.error(error.message, { detail: error.detail });
      return error.code;
    }
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    const [first = '', ...detail] = text.split('\n').map(escape);
    output.error(`internal error, please report it: ${first}`, { detail });
    return exit.failed;
  }
}
