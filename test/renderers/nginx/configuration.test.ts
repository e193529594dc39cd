import { describe, expect, it } from 'vitest';
import { dumpedFiles, globbed, parse } from '../../../renderers/nginx/configuration.ts';
import { fixture, path } from './given.ts';

describe('the configuration', () => {
  const { directives, includes } = parse(dumpedFiles(fixture('admin.txt')));
  const found = (name: string): string[] =>
    directives
      .filter(({ words }) => words[0] === name)
      .map(
        ({ words, at, blocks }) =>
          `${at} ${blocks.map((b) => b.split('#')[0]).join()} ${words.slice(1).join()}`,
      );

  it('is read through includes, quotes and comments', () => {
    expect(found('set_real_ip_from')).toEqual([
      '/etc/nginx/conf.d/10-real-ip.conf:2 http 173.245.48.0/20',
      '/etc/nginx/conf.d/10-real-ip.conf:2 http 2400:cb00::/32',
      '/etc/nginx/conf.d/site.conf:5 http,server,location 10.0.0.0/8',
      '/etc/nginx/conf.d/site.conf:8 http,server 10.0.0.0/8',
    ]);
    expect(found('real_ip_header')).toEqual([
      '/etc/nginx/conf.d/10-real-ip.conf:3 http X-Forwarded-For',
      '/etc/nginx/conf.d/site.conf:5 http,server,location X-Real-IP',
    ]);
    // One snippet in two servers.
    expect(found('deny')).toEqual([
      '/etc/nginx/snip/only-cloudflare:2 http,server all',
      '/etc/nginx/conf.d/site.conf:5 http,server,location all',
      '/etc/nginx/snip/only-cloudflare:2 http,server all',
    ]);
    expect(found('pid')).toEqual(['/etc/nginx/nginx.conf:3  /run/nginx.pid']);
    expect(found('return').at(-1)).toBe(
      "/etc/nginx/conf.d/site.conf:6 http,server,location 200,it's",
    );
  });

  it('tells which files it would include', () => {
    const http = includes.filter(({ blocks }) => blocks.length === 1).map((i) => i.pattern);
    expect(http).toEqual([
      '/etc/nginx/mime.types',
      '/etc/nginx/conf.d/*.conf',
      '/etc/nginx/sites-enabled/*',
    ]);
    expect(globbed('/etc/nginx/conf.d/*.conf').test(path)).toBe(true);
    expect(globbed('/etc/nginx/*.conf').test(path)).toBe(false);
    expect(globbed('/etc/nginx/conf.d/[!c]*.conf').test(path)).toBe(false);
    expect(globbed('/etc/nginx/conf.d/?fsync.[a-d]onf').test(path)).toBe(true);
    expect(globbed('/etc/nginx/conf.d/cfsync+conf').test(path)).toBe(false);
  });

  it('skips what Lua says', () => {
    const file = `http {
  content_by_lua_block { -- don't }
    --[==[ { ]==] local s = "}" .. '{' .. [[ } ]]
    if s then ngx.say({ 1 }) end
  }
  real_ip_header X-Real-IP;
}`;
    const lua = parse([{ path: '/n.conf', content: file }]).directives;
    expect(lua.find(({ words }) => words[0] === 'real_ip_header')).toMatchObject({
      at: '/n.conf:6',
      blocks: ['http#1'],
    });
  });
});
