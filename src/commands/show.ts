/** `show`: print the ranges. */
import { exit, type ExitCode } from '../errors.ts';
import type { Context } from '../run/context.ts';
import { sourceOptions } from '../settings/settings.ts';
import { resolveSource } from '../feed/source.ts';
import { jsonText } from '../text.ts';

export async function run({ settings, output }: Context): Promise<ExitCode> {
  const { ranges, origin, notices } = await resolveSource(sourceOptions(settings));
  output.notices('', notices);
  if (settings.values.format === 'json')
    output.print(jsonText({ origin, ipv4_cidrs: ranges.v4, ipv6_cidrs: ranges.v6 }, 2));
  else output.print([...ranges.v4, ...ranges.v6].join('\n'));
  return exit.ok;
}
