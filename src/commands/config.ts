/** `config check` and `config show`: is the configuration right, and what counts now. */
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import type { Context } from '../run/context.ts';
import { effective } from '../settings/settings.ts';
import { count, escape, suggest } from '../text.ts';

/** Reading all of it checks all of it; what is wrong ends the command. */
export async function run({ settings, words, output }: Context): Promise<ExitCode> {
  const [what = ''] = words;
  if (words.length > 1 || (what !== 'check' && what !== 'show'))
    throw new CfsyncError(
      exit.usage,
      `config takes one of check and show, not ${escape(words.join(' '))}${suggest(what, ['check', 'show'])}; see cfsync config --help`,
    );
  const rows = await effective(settings);
  const { file, backends } = settings.config;
  if (what === 'check')
    output.print(
      file === undefined
        ? 'there is no configuration: everything is as by default'
        : `${escape(file)}: no mistakes, ${count(Object.keys(backends).length, 'backend')}`,
    );
  else {
    const shown = rows.map(({ name, value }) => escape(`${name}: ${JSON.stringify(value)}`));
    const width = Math.min(Math.max(...shown.map((text) => text.length)), 44);
    for (const [i, text] of shown.entries())
      output.print(`${text.padEnd(width)}  # ${escape(rows[i]!.from)}`);
  }
  return exit.ok;
}
