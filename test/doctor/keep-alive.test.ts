import { describe, expect, it } from 'vitest';
import keepAlive from '../../src/doctor/checks/keep-alive.ts';
import { seconds } from '../../src/doctor/nginx.ts';
import { dumped, fixture, lines, look, web } from '../helpers/web.ts';

const nginx = async (http: string, running = ['nginx', 'nginx']) =>
  look(keepAlive, web({ nginx: dumped(`events {}\nhttp {\n${http}\n}`), running }));
const apache = async (text: string) => look(keepAlive, web({ apache: text, running: ['apache2'] }));
const dump = (...directives: readonly string[]): string =>
  directives.map((one, i) => `# In file: /etc/apache2/a.conf\n#  ${i + 1}:\n${one}\n`).join('');

const closes = (what: string) => `note all 520: ${what}`;

describe('keep-alive of nginx', () => {
  it('as the package comes is a note', async () => {
    const found = await look(
      keepAlive,
      web({ nginx: fixture('nginx/package.txt'), running: ['nginx'] }),
    );
    expect(lines(found)).toEqual([closes('nginx closes idle connections after 75 s')]);
    expect(found[0]!.evidence[0]).toBe('no directive; nginx comes with 75 s');
  });

  it.each([
    ['300', []],
    ['5m', []],
    ['299', ['note all 520: nginx closes idle connections after 299 s']],
    ['65 60', ['note all 520: nginx closes idle connections after 65 s']],
    ['5s', ['note all 520: nginx closes idle connections after 5 s']],
    ['4s', ['warning all 520: nginx closes idle connections after 4 s']],
    ['900ms', ['warning all 520: nginx closes idle connections after 0.9 s']],
    ['0', ['warning all 520: nginx closes connections after each request']],
  ])('%s', async (value, expected) => {
    const found = await nginx(`keepalive_timeout ${value};\nserver { listen 80; }`);
    expect(lines(found)).toEqual(expected);
    for (const { evidence } of found)
      expect(evidence[0]).toBe(`/etc/nginx/nginx.conf:3: keepalive_timeout ${value}`);
  });

  it('does not matter where another program speaks to Cloudflare', async () => {
    const told = async (ss: string) =>
      look(
        keepAlive,
        web({
          nginx: dumped(
            'events {}\nhttp {\nkeepalive_timeout 1s;\nserver { listen 127.0.0.1:8080; }\n}',
          ),
          running: ['nginx'],
          answers: { 'ss -Hltnp': ss },
        }),
      );
    expect(await told(fixture('doctor/fronted.ss'))).toEqual([]);
    expect(await told(fixture('doctor/fronted.ss').replace('127.0.0.1', '0.0.0.0'))).toHaveLength(
      1,
    );
  });

  it('of one server is about a part, and that of http counts where no server says otherwise', async () => {
    const own = 'server { listen 80; keepalive_timeout 2; }';
    expect(lines(await nginx(`keepalive_timeout 600;\n${own}\nserver { listen 81; }`))).toEqual([
      'warning part 520: nginx closes idle connections after 2 s',
    ]);
    expect(
      lines(await nginx(`keepalive_timeout 2;\nserver { listen 80; keepalive_timeout 600; }`)),
    ).toEqual([]);
    expect(lines(await nginx(`${own}\nserver { listen 81; }`))).toEqual([
      'warning part 520: nginx closes idle connections after 2 s',
      closes('nginx closes idle connections after 75 s'),
    ]);
    expect(lines(await nginx(own))).toEqual([
      'warning part 520: nginx closes idle connections after 2 s',
    ]);
    expect(
      lines(await nginx('keepalive_timeout 600;\nserver { location / { keepalive_timeout 1; } }')),
    ).toEqual(['warning part 520: nginx closes idle connections after 1 s']);
  });

  it('to an upstream is another matter', async () => {
    const upstream =
      'upstream a { server 127.0.0.1:9; keepalive_timeout 1; keepalive_requests 1; }';
    expect(
      lines(await nginx(`keepalive_timeout 600;\n${upstream}\nserver { listen 80; }`)),
    ).toEqual([]);
  });

  it.each([
    ['1', ['warning all 520: nginx closes connections after each request']],
    ['0', ['warning all 520: nginx closes connections after each request']],
    ['99', ['note all 520: nginx closes connections after 99 requests']],
    ['100', []],
  ])('for %s requests', async (value, expected) => {
    const found = await nginx(
      `keepalive_timeout 300;\nkeepalive_requests ${value};\nserver { listen 80; }`,
    );
    expect(lines(found)).toEqual(expected);
  });

  it('is not judged where nginx does not run, and not guessed where it refuses', async () => {
    expect(await nginx('keepalive_timeout 0;', [])).toEqual([]);
    const stderr = 'nginx: [emerg] unexpected "}" in /etc/nginx/nginx.conf:3\n';
    const refused = web({ nginx: { code: 1, stdout: '', stderr }, running: ['nginx'] });
    await expect(look(keepAlive, refused)).rejects.toThrow('nginx refuses its configuration');
  });

  it('cannot be read in a container, or by others than root', async () => {
    await expect(look(keepAlive, web({ running: ['nginx'] }))).rejects.toThrow('in a container?');
    const stderr = 'nginx: [emerg] open() "/etc/x" failed (13: Permission denied)\n';
    const host = web({ nginx: { code: 1, stdout: '', stderr }, running: ['nginx'] });
    await expect(look(keepAlive, host)).rejects.toThrow('nginx -T needs root');
    expect(await look(keepAlive, web({}))).toEqual([]);
  });

  it.each([
    ['1h 30m', 5400],
    ['1m30s', 90],
    ['65', 65],
    ['500ms', 0.5],
    ['soon', undefined],
    ['1x', undefined],
    ['1m x', undefined],
  ])('reads %s', (text, value) => {
    expect(seconds(text)).toBe(value);
  });
});

describe('keep-alive of Apache', () => {
  it('as the package comes is a note', async () => {
    const found = await apache(fixture('doctor/apache/package.txt'));
    expect(lines(found)).toEqual([closes('Apache closes idle connections after 5 s')]);
    expect(found[0]!.evidence[0]).toBe('/etc/apache2/apache2.conf:111: KeepAliveTimeout 5');
  });

  it('off for one site is about a part; what stands in an IfModule that does not apply is not there', async () => {
    const found = await apache(fixture('doctor/apache/site.txt'));
    expect(lines(found)).toEqual([
      'warning part 520: Apache closes connections after each request',
      closes('Apache closes idle connections after 5 s'),
    ]);
    expect(found[0]!.evidence[0]).toBe('/etc/apache2/sites-enabled/site.conf:2: KeepAlive off');
  });

  it.each([
    [
      ['KeepAlive Off', 'KeepAliveTimeout 1'],
      ['warning all 520: Apache closes connections after each request'],
    ],
    [['KeepAlive Off', 'KeepAlive On', 'KeepAliveTimeout 300'], []],
    [['KeepAliveTimeout 500ms'], ['warning all 520: Apache closes idle connections after 0.5 s']],
    [
      ['KeepAliveTimeout soon'],
      ['note maybe -: Apache: how long connections are kept is not understood'],
    ],
    [['KeepAliveTimeout 300', 'MaxKeepAliveRequests 0'], []],
    [
      ['KeepAliveTimeout 300', 'MaxKeepAliveRequests 1'],
      ['warning all 520: Apache closes connections after each request'],
    ],
    [['MaxKeepAliveRequests 100'], [closes('Apache closes idle connections after 5 s')]],
  ])('%j', async (directives, expected) => {
    expect(lines(await apache(dump(...directives)))).toEqual(expected);
  });
});
