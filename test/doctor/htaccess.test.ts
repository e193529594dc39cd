/** What .htaccess files say is read where Apache reads them, whatever their owners write there. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Directive } from '../../renderers/nginx/configuration.ts';
import { lookAtHtaccess } from '../../src/doctor/htaccess.ts';
import { cases, damaged, expectLinear, pumps } from '../helpers/hostile.ts';
import { web, type Web } from '../helpers/web.ts';

const directive = (text: string, ...blocks: readonly string[]): Directive => ({
  words: text.split(' '),
  at: '/etc/apache2/a.conf:1',
  blocks,
});
const root = '/srv/www';
const served = (override: string): readonly Directive[] => [
  directive('AllowOverride None', 'Directory#1 /'),
  directive(`DocumentRoot ${root}/`),
  directive(`AllowOverride ${override}`, `Directory#2 ${root}/`),
];
const look = async (text: string, override = 'All', more: Web = {}) => {
  const host = web({ files: { [`${root}/.htaccess`]: text }, ...more });
  const found = await lookAtHtaccess(host, served(override));
  return found.map(({ words, at }) => `${at} ${words.join(' ')}`);
};
const text = '# who\n<IfModule mod_authz_core.c>\nRequire ip 173.245.48.0/20\n</IfModule>\n';

describe('.htaccess', () => {
  it.each([
    ['All', 1],
    ['AuthConfig FileInfo', 1],
    ['Limit', 0],
    ['FileInfo', 0],
    ['None', 0],
  ])('counts with AllowOverride %s: %d', async (override, count) => {
    expect(await look(text, override)).toHaveLength(count);
  });

  it('is known by file and line, in the folders of a folder as well', async () => {
    const folders = { [root]: ['wp-admin', 'x.php'] };
    const files = { [`${root}/wp-admin/.htaccess`]: text };
    expect(await look('', 'All', { files, folders })).toEqual([
      `${root}/wp-admin/.htaccess:3 Require ip 173.245.48.0/20`,
    ]);
  });

  it('leaves out what is for another version', async () => {
    const old =
      '<IfModule !mod_authz_core.c>\n<Files x>\nDeny from all\n</Files>\n</IfModule>\n<IfVersion < 2.4>\nAllow from 1.2.3.4\n</IfVersion>\nOrder allow,deny\n';
    expect(await look(old)).toEqual([`${root}/.htaccess:9 Order allow,deny`]);
  });

  it('may say anything', async () => {
    let some = 0;
    const pieces = ['<IfModule !x>', '</IfModule>', '<Files "', 'Require ip ', '\\\n', '>'];
    await fc.assert(
      fc.asyncProperty(damaged(text, pieces), async (one) => {
        const found = await look(one);
        some += found.length;
        expect(found.every((line) => / (?:require|satisfy|allow|deny|order)\b/i.test(line))).toBe(
          true,
        );
      }),
      cases(500),
    );
    expect(some).toBeGreaterThan(100);
  });

  it.each([...pumps, '<Files x>\n', 'Require ip "\\'])('is read in time: %j', async (piece) => {
    await expectLinear((size) => look(`Require ${piece.repeat(size)}`), piece, 2000);
  });
});
