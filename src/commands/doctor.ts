/** `doctor`: why Cloudflare cannot get in here, most likely cause first; changes nothing. */
import { chosen, loadCheck } from '../doctor/checks.ts';
import { checkNames } from '../cli/flags.ts';
import { gatherContext } from '../doctor/context.ts';
import { codeOf, examine } from '../doctor/examine.ts';
import { asJson, asProbe, asText } from '../doctor/report.ts';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { host } from '../host/host.ts';
import { journalPrefix } from '../cli/log.ts';
import type { Context } from '../run/context.ts';
import { escape, firstLines, jsonText } from '../text.ts';

export async function run({ settings, output }: Context): Promise<ExitCode> {
  const { values } = settings;
  const json = values.format === 'json';
  if (values.format === 'markdown')
    throw new CfsyncError(
      exit.usage,
      '--format: doctor prints text or json; see cfsync doctor --help',
    );
  if (values.host !== undefined || values['origin-ip'] !== undefined)
    (await import('../doctor/target.ts')).targetOf(values);
  const names = chosen(list(values.only), list(values.skip));
  if (values.list === true) {
    const all = await Promise.all(names.map(loadCheck));
    if (json)
      output.print(
        jsonText(
          all.map(({ name, title }) => ({ name, title })),
          2,
        ),
      );
    else {
      const width = Math.max(...checkNames.map((name) => name.length)) + 2;
      for (const { name, title } of all) output.print(`${name.padEnd(width)}${title}`);
    }
    return exit.ok;
  }
  const context = await gatherContext(settings);
  const report = await examine(await Promise.all(names.map(loadCheck)), host, context);
  const code = codeOf(report);
  if (values.probe === true) {
    const { level, text } = asProbe(report);
    output.print(`${journalPrefix(level, process.stdout.fd)}${text}`);
    return code;
  }
  output.print(json ? asJson(report) : asText(report));
  for (const { check, error } of report.failed) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    output.error(`check ${check} failed, please report it: ${escape(text.split('\n')[0]!)}`, {
      detail: firstLines(text, 10).slice(1),
    });
  }
  return code;
}

function list(value: unknown): readonly string[] | undefined {
  return Array.isArray(value) ? (value as readonly string[]) : undefined;
}
