/** `contains`: is an address Cloudflare's? */
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import type { Context } from '../main.ts';
import { contains, PrefixError } from '../prefix.ts';
import { sourceOptions } from '../settings.ts';
import { resolveSource } from '../source.ts';

export async function run({ settings, words, output }: Context): Promise<ExitCode> {
  const { ranges, notices } = await resolveSource(sourceOptions(settings));
  output.notices('', notices);
  const answers = words.map((word) => {
    try {
      return contains(ranges, word);
    } catch (error) {
      if (!(error instanceof PrefixError)) throw error;
      throw new CfsyncError(exit.usage, `${error.message}; give addresses like 173.245.48.10`);
    }
  });
  words.forEach((word, i) => output.print(`${word} ${answers[i] ? 'yes' : 'no'}`));
  return answers.every(Boolean) ? exit.ok : exit.pending;
}
