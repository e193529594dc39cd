/** `contains`: is an address Cloudflare's, and in which prefix? */
import IPCIDR from 'ip-cidr';
import { isIP } from 'node:net';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import type { Context } from '../run/context.ts';
import { sourceOptions } from '../settings/settings.ts';
import { resolveSource } from '../feed/source.ts';
import { escape } from '../text.ts';

export async function run({ settings, words, output }: Context): Promise<ExitCode> {
  const asked = words.map((word) => {
    // How a dual-stack socket reports an IPv4 peer.
    const address = word.replace(/^::ffff:(?=\d+\.)/i, '');
    if (isIP(address) !== 0 && !address.includes('%')) return { word, address };
    throw new CfsyncError(
      exit.usage,
      `${escape(word)} is not an address; give one like 173.245.48.10`,
    );
  });
  const { ranges, notices } = await resolveSource(sourceOptions(settings));
  output.notices('', notices);
  const prefixes = {
    4: ranges.v4.map((prefix) => new IPCIDR(prefix)),
    6: ranges.v6.map((prefix) => new IPCIDR(prefix)),
  };
  let all = true;
  for (const { word, address } of asked) {
    const found = prefixes[isIP(address) as 4 | 6].find((prefix) => prefix.contains(address));
    all &&= found !== undefined;
    output.print(found === undefined ? `${word} no` : `${word} yes ${found.toString()}`);
  }
  return all ? exit.ok : exit.pending;
}
