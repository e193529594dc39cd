/** `backends`: which are usable here, and why not. */
import { BackendError, CfsyncError, exit, type ExitCode } from '../errors.ts';
import { host } from '../host/host.ts';
import { builtIn } from '../settings/load.ts';
import type { Context } from '../run/context.ts';
import { makeJob } from '../settings/settings.ts';
import { space } from '../cli/output.ts';
import { escape, hang, jsonText } from '../text.ts';

interface Line {
  readonly name: string;
  readonly state: string;
  readonly text: string;
}

export async function run({ settings, output }: Context): Promise<ExitCode> {
  const names = [
    ...new Set([...Object.keys(builtIn), ...Object.keys(settings.config.backends)]),
  ].sort();
  const lines: Line[] = [];
  for (const name of names) {
    try {
      const { renderer, options } = await makeJob(settings, name);
      const { owned } = await renderer.observe(host, options);
      const held = space(owned.ranges);
      lines.push({ name, state: 'usable', text: held === '' ? 'holds nothing' : `holds ${held}` });
    } catch (error) {
      if (!(error instanceof CfsyncError)) throw error;
      const state = error instanceof BackendError ? error.reason : 'misconfigured';
      lines.push({ name, state, text: error.message.replace(`${name}: `, '') });
    }
  }
  if (settings.values.format === 'json') output.print(jsonText(lines, 2));
  else
    for (const { name, state, text } of lines)
      output.print(
        `${name.padEnd(14)}${state.padEnd(15)}${hang(escape(text), process.stdout, 29)}`,
      );
  return exit.ok;
}
