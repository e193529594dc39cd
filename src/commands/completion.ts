/** `completion`: print the completion for a shell. */
import { completion, shells } from '../cli/completion.ts';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { builtIn } from '../settings/load.ts';
import type { Context } from '../run/context.ts';
import { escape } from '../text.ts';

export async function run({ words, output }: Pick<Context, 'words' | 'output'>): Promise<ExitCode> {
  const shell = shells.find((name) => name === words.join(' '));
  if (shell === undefined)
    throw new CfsyncError(
      exit.usage,
      `completion takes one of ${shells.join(', ')}, not ${escape(words.join(' '))}; see cfsync completion --help`,
    );
  output.print(completion(shell, Object.keys(builtIn).sort()));
  return exit.ok;
}
