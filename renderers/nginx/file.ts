/** Our file: writes it, knows it again, reads what it says. */
import { basename } from 'node:path';
import { network, parseRanges } from '../../src/prefix.ts';
import type { Desired } from '../../src/renderer.ts';
import { isHttp, type Directive } from './configuration.ts';
import type { HttpLevel } from './real-ip.ts';
import type { NginxOptions } from './state.ts';

export const mark = '# Written by cfsync; changes are overwritten.';
export const variable = '$from_cloudflare';

export function configuration({ ranges }: Desired, { header }: NginxOptions): string {
  const prefixes = [...ranges.v4, ...ranges.v6];
  return [
    `${mark} cfsync remove --backend nginx takes it away.`,
    '',
    ...prefixes.map((prefix) => `set_real_ip_from ${prefix};`),
    `real_ip_header ${header};`,
    '',
    '# 1 when the connection comes from Cloudflare, whoever the visitor is. Only Cloudflare, in a server:',
    `#     if (${variable} = 0) { return 403; }`,
    '# allow and deny do not do it: they see the visitor.',
    `geo $realip_remote_addr ${variable} {`,
    '    default 0;',
    ...prefixes.map((prefix) => `    ${prefix} 1;`),
    '}',
    '',
  ].join('\n');
}

/** What our file says, whatever made it say that. */
export function presentIn(directives: readonly Directive[]): HttpLevel | null {
  const said = (name: string): readonly string[] =>
    directives
      .filter(({ words, blocks }) => words[0] === name && isHttp(blocks))
      .map(({ words }) => words[1] ?? '');
  const [header] = said('real_ip_header');
  if (header === undefined) return null;
  const prefixes = said('set_real_ip_from').flatMap((word) => network(word) ?? []);
  return { header, ranges: parseRanges(prefixes) };
}

export function isOurName(path: string): boolean {
  return basename(path).includes('cfsync');
}
