/** Runs one command and turns errors into one line and an exit code. */
import { parseArguments } from './arguments.ts';
import { CfsyncError, exit, type ExitCode } from './errors.ts';
import type { CommandName } from './flags.ts';
import { hang, makeOutput, type Output } from './output.ts';
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
  try {
    const { command, words, values } = parseArguments(argv);
    const output = makeOutput(values);
    const settings = await readSettings(values);
    const module = await load[command as CommandName]();
    return await module.run({ settings, words, output });
  } catch (error) {
    if (!(error instanceof CfsyncError)) {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      const lines = text.split('\n').map(escape);
      process.stderr.write(`cfsync: internal error, please report it: ${lines.join('\n')}\n`);
      return exit.failed;
    }
    process.stderr.write(`${hang(`cfsync: ${error.message}`, process.stderr, 2)}\n`);
    for (const line of error.detail) process.stderr.write(`  ${line}\n`);
    return error.code;
  }
}
