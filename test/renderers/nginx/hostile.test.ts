import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import nginx from '../../../renderers/nginx/index.ts';
import { exit } from '../../../src/errors.ts';
import {
  dumpedFiles,
  globbed,
  parse,
  type ConfigFile,
  type Directive,
} from '../../../renderers/nginx/configuration.ts';
import { desired } from '../../helpers/desired.ts';
import type { Recorded } from '../../helpers/host.ts';
import { nginxHost } from '../../helpers/nginx.ts';
import { damagedHost, runThrough, type Reach } from '../../helpers/hostile-host.ts';
import {
  askedOrRefused,
  cases,
  damaged,
  expectLinear,
  pumps,
  readOrRefused,
} from '../../helpers/hostile.ts';

const read = (name: string) =>
  readFileSync(new URL(`../../fixtures/nginx/${name}.txt`, import.meta.url), 'utf8');

const path = '/etc/nginx/conf.d/cfsync.conf';
const ours = nginx.want(desired(), nginx.options({})).owned.files[0]!.content;
const stat = (start: number) => `7 (nginx) S 1 ${'0 '.repeat(17)}${start} 0 0\n`;
const dump = 'nginx -T -q';
const clock = `sh -c date +%s.%N; cat /proc/self/stat; stat -c %.Z "$@" 2>/dev/null; true sh ${path}`;

/** With nginx running. */
const host = (
  text: string,
  files: Readonly<Record<string, string>> = {},
  answers: Readonly<Record<string, string>> = {},
): Recorded => ({
  answers: {
    'unshare --mount --propagation private mount --bind /etc/nginx/conf.d /etc/nginx/conf.d': '',
    [dump]: text,
    'nginx -V': {
      code: 0,
      stdout: '',
      stderr: '--prefix=/usr/share/nginx --pid-path=/run/nginx.pid',
    },
    [clock]: `1700000100.5\n${stat(9000)}1700000000.25\n`,
    ...answers,
  },
  folders: { '/etc/nginx/conf.d': [] },
  files: {
    '/run/nginx.pid': '7\n',
    '/proc/7/comm': 'nginx\n',
    '/proc/7/task/7/children': '8 9 ',
    '/proc/8/cmdline': 'nginx: worker process\0',
    '/proc/8/stat': stat(8000),
    '/proc/9/cmdline': 'nginx: worker process is shutting down\0',
    '/proc/9/stat': stat(100),
    ...files,
  },
});
const hosts = [
  host(read('package')),
  host(read('admin')),
  host(`${read('admin')}# configuration file ${path}:\n${ours}\n`, { [path]: ours }),
];

const pieces = [
  '\n# configuration file /etc/nginx/conf.d/x.conf:\n',
  'include /etc/nginx/*.conf;',
  'include /etc/nginx/[z-a]*;',
  'include /nowhere;',
  'content_by_lua_block {',
  '--[[',
  'set_real_ip_from ',
  'geo $x {',
  'map $remote_addr $x {',
  '173.245.48.0/20 1;',
  '~^(173|104)\\.(?!245)[^.]+ 1;',
  'if ($remote_addr ~ ^173) {',
  'deny all;',
  'pid /run/x\u0000y;',
];

/** A configuration in which the main file says this. */
const dumped = (main: string, more = ''): ConfigFile[] =>
  dumpedFiles(`# configuration file /etc/nginx/nginx.conf:\n${main}\n${more}\n`);
const parsed = (main: string, more?: string) =>
  parse(dumped(main, more)).directives.map(({ words }) => words.join(' '));

describe('what nginx -T prints', () => {
  test('is read or refused', () => {
    let taken = 0;
    fc.assert(
      fc.property(damaged(fc.constantFrom(read('admin'), read('package')), pieces), (text) => {
        if (readOrRefused(() => parse(dumpedFiles(text)), exit.failed)) taken++;
      }),
      cases(1500),
    );
    expect(taken).toBeGreaterThan(300);
    expect(taken).toBeLessThan(1400);
  });

  test('leads to a plan or a refusal', async () => {
    const reach: Reach = { observed: 0, planned: 0 };
    await fc.assert(
      fc.asyncProperty(damagedHost(hosts, pieces), (one) => runThrough(nginx, {}, one, reach)),
      cases(500),
    );
    expect(reach.observed).toBeGreaterThan(150);
    expect(reach.planned).toBeGreaterThan(300);
  }, 60_000);

  test('leads to a plan or a refusal, whatever decides by the address', async () => {
    const reach: Reach = { observed: 0, planned: 0 };
    const texts = damaged(fc.constantFrom(read('in-servers'), read('by-address')), pieces);
    await fc.assert(
      fc.asyncProperty(texts, (text) => runThrough(nginx, {}, host(text), reach)),
      cases(150),
    );
    expect(reach.observed).toBeGreaterThan(30);
    expect(reach.planned).toBeGreaterThan(60);
  }, 60_000);

  test('is refused where it is cut off within a file', () => {
    const text = read('admin');
    const whole = parse(dumpedFiles(text)).directives;
    for (let length = 0; length < text.length; length++) {
      const cut = text.slice(0, length);
      const found = readOrRefused(() => parse(dumpedFiles(cut)), exit.failed);
      if (found === undefined) continue;
      // What is left are whole lines, outside of every block, and nothing else is said in them.
      expect(cut.endsWith('\n')).toBe(true);
      const said = new Set(whole.map(one));
      expect(found.directives.filter((each) => !said.has(one(each)))).toEqual([]);
    }
  });

  test.each([
    ['nothing', ''],
    ['something else', 'nginx: all is well\n'],
    ['something in front', `nginx: careful\n${read('package')}`],
    ['a name alone', '# configuration file /etc/nginx/nginx.conf:'],
    ['no end of the last line', read('package').trimEnd()],
    ['one file less', read('package').replace(/# configuration file \S+mime\.types:\n[^#]*/, '')],
  ])('that is %s is refused', async (_, text) => {
    const asked = () => nginx.observe(nginxHost(host(text)), nginx.options({}));
    expect(await askedOrRefused(asked, exit.failed)).toBeUndefined();
  });

  test.each([
    ['http {', 'ends within a directive'],
    ['http { } worker_processes', 'ends within a directive'],
    ['http { } content_by_lua_block { "', 'ends within a directive'],
    ['http { } content_by_lua_block { --[[ } ', 'ends within a directive'],
    [`${'a {'.repeat(300)}${'}'.repeat(300)}`, 'nests its blocks too deeply'],
    ['include mime.types;', '/etc/nginx/mime.types is missing in it'],
    ['include /a*/../b;include /b;', '/b is missing in it'],
    [`include /${'*'.repeat(5000)};`, 'a path that is too long for one'],
  ])('with %j is refused', (main, why) => {
    expect(() => parse(dumped(main))).toThrow(why);
  });

  test('finds files under the names that nginx gives them', () => {
    // As nginx 1.22.1 prints them: what is written, behind the folder of the main file.
    const more = ['../shared/a.conf', 's//b.conf', 's/./d.conf']
      .map((name, i) => `# configuration file /etc/nginx/${name}:\na ${i};\n\n`)
      .join('');
    const main = 'include ../shared/a.conf; http { include s//b.conf; include s/./d*; }';
    expect(parsed(main, more).filter((words) => words.startsWith('a '))).toEqual([
      'a 0',
      'a 1',
      'a 2',
    ]);
  });

  test('need not hold a list whose binary form geo takes', () => {
    expect(parsed('http { geo $x { include list; } }').at(-1)).toBe('include list');
  });

  test('with files that include each other over and over is refused', () => {
    const files = Array.from({ length: 19 }, (_, i) => {
      const next = `include /f${i + 1};`;
      return `# configuration file /f${i}:\n${i === 18 ? 'a b;' : next.repeat(4)}\n`;
    });
    expect(() => parse(dumpedFiles(files.join('')))).toThrow('include each other too often');
  });

  test('with a file for each of many sites is read in time that grows with their number', async () => {
    await expectLinear(
      (size) => {
        const sites = Array.from(
          { length: size },
          (_, i) =>
            `# configuration file /etc/nginx/sites/${i}:\nserver { include snippets/tls; include /etc/nginx/own/${i}; }\n# configuration file /etc/nginx/own/${i}:\n`,
        );
        const main = 'http { include sites/*; }';
        const tls = '# configuration file /etc/nginx/snippets/tls:\nssl on;\n';
        expect(parse(dumped(main, sites.join('') + tls)).includes).toHaveLength(2 * size + 1);
      },
      'sites',
      300,
    );
  });

  test.each(pumps)('is read in time that grows with its length: %j', async (piece) => {
    const starts = ['', 'a ', '"', "'", 'x_by_lua_block { ', 'x_by_lua_block { --', '${'];
    for (const start of starts)
      await expectLinear(
        (size) => readOrRefused(() => parse(dumped(start + piece.repeat(size))), exit.failed),
        `${start} ${piece}`,
        2000,
      );
    await expectLinear(
      (size) => readOrRefused(() => dumpedFiles(piece.repeat(size)), exit.failed),
      piece,
    );
  });

  test.each([
    ['quotes', `a "${'\\x'.repeat(4_000_000)}";`],
    ['variables', `a ${'${x'.repeat(4_000_000)};`],
    ['a string of Lua', `x_by_lua_block { "${'\\x'.repeat(4_000_000)}" }`],
  ])('with a word that is longer than nginx takes is no crash: %s', (_, main) => {
    expect(() => parse(dumped(main))).not.toThrow();
  });
});

function one({ words, at, blocks }: Directive): string {
  return JSON.stringify([words, at, blocks]);
}

describe('a configuration', () => {
  /** A word as it is written, and as it is meant; nginx takes no escapes away but those of quotes, and we none. */
  const plain = fc.string({
    unit: fc.constantFrom('a', 'Z', '0', '/', '.', '#', '$', '"', "'", 'é', '-', '='),
    minLength: 1,
    maxLength: 6,
  });
  const word = fc.oneof(
    plain.map((text) => `w${text}`).map((text) => ({ written: text, meant: text })),
    fc
      .tuple(
        fc.constantFrom('"', "'"),
        fc.string({ unit: fc.constantFrom('a', ' ', ';', '{', '}', '#', '\n') }),
      )
      .map(([quote, text]) => ({ written: quote + text + quote, meant: text })),
    fc
      .constantFrom('${host}', '\\;', '\\{x', 'a\\ b', '$x')
      .map((text) => ({ written: text, meant: text })),
  );
  const gap = fc.constantFrom(' ', '\n', '\t ', ' # a { "comment;\n ', '\r\n');
  const simple = fc
    .tuple(fc.array(word, { minLength: 1, maxLength: 4 }), gap)
    .map(([list, blank]) => ({
      written: `d${blank}${list.map(({ written }) => written).join(blank)}${blank};`,
      meant: [['d', ...list.map(({ meant }) => meant)]],
    }));
  interface Piece {
    readonly written: string;
    readonly meant: string[][];
  }
  const lua = fc
    .constantFrom(
      '--[[ } ]] ',
      '-- }\n',
      's = "}" ',
      "s = '{' ",
      't = {} ',
      '[==[ } ]] ]==] ',
      '"\\"}" ',
    )
    .map((text): Piece => ({ written: `x_by_lua_block { ${text}}`, meant: [['x_by_lua_block']] }));
  const { all } = fc.letrec<{ all: Piece; block: Piece }>((tie) => ({
    block: fc.tuple(plain, fc.array(tie('all'), { maxLength: 3 })).map(([name, inner]) => ({
      written: `b${name} {${inner.map(({ written }) => written).join('\n')}}`,
      meant: [[`b${name}`], ...inner.flatMap(({ meant }) => meant)],
    })),
    all: fc.oneof({ maxDepth: 4, withCrossShrink: true }, simple, lua, tie('block')),
  }));

  test('is read as it is written, whatever it is made of', () => {
    fc.assert(
      fc.property(fc.array(all, { maxLength: 5 }), (list) => {
        const text = list.map(({ written }) => written).join('\n');
        const found = parse(dumped(text)).directives.map(({ words }) => words);
        expect(found).toEqual(list.flatMap(({ meant }) => meant));
      }),
      cases(1000),
    );
  });
});

describe('a pattern of include', () => {
  // As fnmatch(3) of glibc 2.36 answers with FNM_PATHNAME and FNM_PERIOD, which its glob(3) asks.
  test.each([
    ['/a/*.conf', '/a/b.conf', true],
    ['/a/*.conf', '/a/.conf', false],
    ['/a/*', '/a/.hidden', false],
    ['/a/.*', '/a/.hidden', true],
    ['/a/?hidden', '/a/.hidden', false],
    ['/a/[.]hidden', '/a/.hidden', false],
    ['/a/*', '/a/b/c', false],
    ['/*/c', '/a/c', true],
    ['/a/*b*c*', '/a/xbxxcx', true],
    ['/a/*b*c', '/a/xbxxcx', false],
    ['/a/*b*c', '/a/xbcxbxc', true],
    ['/a/*', '/a/', true],
    ['/a/**', '/a/b', true],
    ['/a/[z-a]', '/a/z', false],
    ['/a/[z-a]', '/a/[z-a]', false],
    ['/a/[a-]', '/a/-', true],
    ['/a/[]x]', '/a/]', true],
    ['/a/[!]x]', '/a/y', true],
    ['/a/[!]x]', '/a/]', false],
    ['/a/[^x]', '/a/y', true],
    ['/a/[^x]', '/a/x', false],
    ['/a/[!!]', '/a/!', false],
    ['/a/[!]', '/a/[!]', true],
    ['/a/[]', '/a/[]', true],
    ['/a/[x', '/a/[x', true],
    ['/a[/]b', '/a/b', false],
    ['/a/\\*', '/a/*', true],
    ['/a/\\*', '/a/b', false],
    ['/a/b+c(d)', '/a/b+c(d)', true],
    ['/a/b+c(d)', '/a/bbc(d)', false],
    ['/a/b.c', '/a/bxc', false],
  ])('%s names %s: %s', (pattern, name, expected) => {
    expect(globbed(pattern).test(name)).toBe(expected);
  });

  test('is compared in time that grows with its length', async () => {
    // No path is longer than 4096, and so no pattern is.
    for (const pattern of [
      '/*a*a*a*a*a*b',
      '/?*?*?*?*b',
      '/[a]*[a]*[a]*[b]',
      `/${'*'.repeat(4000)}b`,
    ])
      await expectLinear((size) => globbed(pattern).test(`/${'a'.repeat(size)}`), pattern, 400);
    for (const piece of pumps)
      await expectLinear((size) => globbed(piece.repeat(size)).test('/etc/nginx/a'), piece, 100);
  });
});

describe('the running nginx', () => {
  const running = async (files: Readonly<Record<string, string>>, answers = {}) => {
    const one = host(read('admin'), files, answers);
    return (await nginx.observe(nginxHost(one), nginx.options({}))).around;
  };

  test('is known by a master whose workers can be looked at', async () => {
    expect(await running({})).toMatchObject({ pidFile: '/run/nginx.pid', readable: true });
  });

  test.each([
    ['the number of no process', { '/run/nginx.pid': '7 8\n' }],
    ['a path', { '/run/nginx.pid': '../self\n' }],
    ['another program', { '/proc/7/comm': 'nginx-x\n' }],
  ])('is none with %s', async (_, files) => {
    expect((await running(files)).pidFile).toBeNull();
  });

  test.each([
    ['a worker without a time', { '/proc/8/stat': '8 (nginx) S 1\n' }, {}],
    ['a worker whose time is none', { '/proc/8/stat': stat(NaN) }, {}],
    [
      'a worker whose time is half a number',
      { '/proc/8/stat': stat(8000).replace('8000', '0x8') },
      {},
    ],
    ['a clock that is none', {}, { [clock]: `soon\n${stat(9000)}1700000000.25\n` }],
    ['no clock', {}, { [clock]: '' }],
    ['a file whose time is no end', {}, { [clock]: `1700000100.5\n${stat(9000)}Infinity\n` }],
    ['a file whose time is none', {}, { [clock]: `1700000100.5\n${stat(9000)}\n0x10\n` }],
  ])('is not known with %s', async (_, files, answers) => {
    expect((await running(files, answers)).readable).toBe(false);
  });

  test('may have very many files', async () => {
    const many = '1700000000.25\n'.repeat(300_000);
    const answers = { [clock]: `1700000100.5\n${stat(9000)}${many}` };
    expect((await running({}, answers)).readable).toBe(true);
  });
});

test('our own file may hold anything', async () => {
  for (const piece of ['a', 'a:', '1.1.1.1/', '/8'])
    await expectLinear((size) => {
      const content = piece.repeat(size);
      return nginx.observe(
        nginxHost(
          host(`${read('admin')}# configuration file ${path}:\n${ours}\n`, { [path]: content }),
        ),
        nginx.options({}),
      );
    }, piece);
});
