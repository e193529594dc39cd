/** What scripts wrote to have nginx believe Cloudflare: what is taken over, and the text of the files around it. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parse } from '../../../renderers/nginx/configuration.ts';
import nginx from '../../../renderers/nginx/index.ts';
import { placed, withAgain, without, type NginxStray } from '../../../renderers/nginx/lines.ts';
import { digest } from '../../../src/digest.ts';
import { parseRanges } from '../../../src/prefix.ts';
import { desired } from '../../helpers/desired.ts';
import { cases, damaged, expectLinear } from '../../helpers/hostile.ts';
import { nginxHost } from '../../helpers/nginx.ts';

const own = '/etc/nginx/conf.d/cfsync.conf';
const script = '/etc/nginx/conf.d/cloudflare.conf';
const site = '/etc/nginx/conf.d/site.conf';
const probe =
  'unshare --mount --propagation private mount --bind /etc/nginx/conf.d /etc/nginx/conf.d';
const main = 'events {}\nhttp {\n  include conf.d/*.conf;\n}\n';
const small = desired({ ranges: parseRanges(['173.245.48.0/20', '2400:cb00::/32']) });
/** With what left the list. */
const known = parseRanges(['173.245.48.0/20', '104.16.0.0/12', '2400:cb00::/32']);

type Files = Readonly<Record<string, string>>;

const observe = (files: Files, links: readonly string[] = [], options = nginx.options({})) => {
  const dump = Object.entries({ '/etc/nginx/nginx.conf': main, ...files })
    .map(([path, content]) => `# configuration file ${path}:\n${content}\n`)
    .join('');
  const host = {
    answers: {
      [probe]: '',
      'nginx -T -q': dump,
      'nginx -V': { code: 0, stdout: '', stderr: '--prefix=/x --pid-path=/run/nginx.pid' },
    },
    folders: { '/etc/nginx/conf.d': [] },
    files,
  };
  return nginx.observe(nginxHost(host, links), options);
};
const adopt = async (files: Files, links?: readonly string[], raw = {}) => {
  const options = nginx.options(raw);
  const observed = nginx.adopt!(await observe(files, links, options), small, known);
  const wanted = () => nginx.want(small, options, observed.around);
  return { observed, wanted, texts: (observed.owned.strays ?? []).map(({ text }) => text) };
};
/** The files as they are after the plan. */
const after = (files: Files, steps: ReturnType<typeof nginx.plan>): Files => {
  const all = new Map(Object.entries({ '/etc/nginx/nginx.conf': main, ...files }));
  for (const step of steps) {
    if (step.kind !== 'file') continue;
    const old = all.get(step.path);
    expect(step.expect).toBe(old === undefined ? null : digest(old));
    if (step.content === null) all.delete(step.path);
    else all.set(step.path, step.content);
  }
  return Object.fromEntries(all);
};

const lines = (words: readonly string[]): string =>
  words.map((word) => `set_real_ip_from ${word};\n`).join('');
const header = 'real_ip_header CF-Connecting-IP;\n';

describe('the file of a script', () => {
  const text = `# by update-cloudflare.sh\n${lines(['173.245.48.0/20', '104.16.0.0/12', '10.0.0.0/8'])}${header}real_ip_recursive on;\n`;

  test('is taken over but for what is not for Cloudflare, and comes back as it was', async () => {
    const { observed, wanted, texts } = await adopt({ [script]: text });
    expect(texts).toEqual([
      `${script}:2: set_real_ip_from 173.245.48.0/20;`,
      `${script}:3: set_real_ip_from 104.16.0.0/12;`,
      `${script}:5: real_ip_header CF-Connecting-IP;`,
    ]);
    const { owned, notices } = wanted();
    expect(notices.map(({ text }) => text).join('\n')).toContain('stop that script');
    const steps = nginx.plan(owned, observed);
    expect(steps.map(({ summary }) => summary)).toEqual([
      `nginx: write ${own}`,
      `nginx: change ${script}`,
    ]);
    expect(steps[0]!.check?.stage?.copy).toBe('/etc/nginx/conf.d');
    const changed = after({ [script]: text }, steps);
    expect(changed[script]).toBe(
      '# by update-cloudflare.sh\nset_real_ip_from 10.0.0.0/8;\nreal_ip_recursive on;\n',
    );
    expect(nginx.plan(owned, (await adopt(changed)).observed)).toEqual([]);
    expect(nginx.plan(observed.owned, observed)).toEqual([]);
    const back = after(changed, nginx.plan(observed.owned, (await adopt(changed)).observed));
    expect(back).toEqual({ '/etc/nginx/nginx.conf': main, [script]: text });
  });

  test('that the admin has changed or deleted since gets its lines back', async () => {
    const { observed, wanted } = await adopt({ [script]: text });
    const changed = after({ [script]: text }, nginx.plan(wanted().owned, observed));
    const since = { ...changed, [script]: `${changed[script]}# mine` };
    const back = after(since, nginx.plan(observed.owned, (await adopt(since)).observed));
    expect(back[script]).toBe(
      `${since[script]}\n${lines(['173.245.48.0/20', '104.16.0.0/12'])}${header}`,
    );
    const { [script]: _, ...rest } = changed;
    expect(after(rest, nginx.plan(observed.owned, (await adopt(rest)).observed))[script]).toBe(
      text,
    );
  });

  test('stays, with the reason, where it is a link or for another header', async () => {
    const linked = await adopt({ [script]: text }, [script]);
    expect(linked.texts).toEqual([]);
    expect(() => linked.wanted()).toThrow('delete that line');
    expect(linked.observed.around.left).toHaveLength(2);
    const other = await adopt({ [script]: text }, [], { header: 'True-Client-IP' });
    expect(other.texts).toEqual([]);
    expect(other.observed.around.left![0]!.why).toBe(
      `real_ip_header CF-Connecting-IP counts there (${script}:5), and not True-Client-IP`,
    );
  });

  test('is named by apply, which does not take it over by itself', async () => {
    const { around } = await observe({ [script]: text });
    const want = () => nginx.want(small, nginx.options({}), around);
    expect(want).toThrow(
      `${script}:5 already says "real_ip_header CF-Connecting-IP" at http level`,
    );
    expect(want).toThrow('cfsync adopt --backend nginx takes it over');
    const lone = await observe({ [script]: header });
    expect(() => nginx.want(small, nginx.options({}), lone.around)).toThrow('delete that line');
  });

  test('that is not UTF-8 is refused', async () => {
    const { observed, wanted } = await adopt({ [script]: `# \ufffd\n${text}` });
    expect(() => nginx.plan(wanted().owned, observed)).toThrow('not UTF-8');
  });
});

describe('a block of a server', () => {
  const server = (inside: string): Files => ({ [site]: `server {\n${inside}}\n` });

  test('goes whole, and inherits ours then', async () => {
    const { texts } = await adopt(server(`listen 80;\n${lines(['173.245.48.0/20'])}${header}`));
    expect(texts).toEqual([
      `${site}:3: set_real_ip_from 173.245.48.0/20;`,
      `${site}:4: real_ip_header CF-Connecting-IP;`,
    ]);
  });

  test('stays where another proxy is believed there', async () => {
    const inside = lines(['173.245.48.0/20', '10.0.0.0/8']);
    const { texts, observed } = await adopt(server(inside));
    expect(texts).toEqual([]);
    expect(observed.around.left![0]!.why).toContain('set_real_ip_from 10.0.0.0/8 counts there');
    // In a location as well, which would inherit that.
    const nested = `${lines(['10.0.0.0/8'])}location / { ${lines(['173.245.48.0/20'])} }\n`;
    expect((await adopt(server(nested))).texts).toEqual([]);
    const whole = `${lines(['173.245.48.0/20'])}location / { ${lines(['2400:cb00::/32'])} }\n`;
    expect((await adopt(server(whole))).texts).toHaveLength(2);
  });

  test('that includes a file with another one goes where both can do without it', async () => {
    const list = '/etc/nginx/cloudflare';
    const two = (inside: string): Files => ({
      [site]: `server {\ninclude ${list};\n}\nserver {\n${inside}include ${list};\n}\n`,
      [list]: lines(['173.245.48.0/20']),
    });
    expect((await adopt(two(''))).texts).toEqual([`${list}:1: set_real_ip_from 173.245.48.0/20;`]);
    const { texts, observed } = await adopt(two(lines(['10.0.0.0/8'])));
    expect(texts).toEqual([]);
    expect(observed.around.left!.map(({ why }) => why)).toContain(
      'it stands in several blocks, and one of them needs it',
    );
  });
});

test('real-IP that was in force already shuts nobody out anew', async () => {
  const gate = 'geo $cf { default 0; 173.245.48.0/20 1; 2400:cb00::/32 1; }\n';
  const both = `${lines(['173.245.48.0/20', '2400:cb00::/32'])}${header}${gate}`;
  const { notices } = (await adopt({ [script]: both })).wanted();
  expect(notices.map(({ text }) => text).join()).toContain('because real-IP is in force already');
  const fresh = await adopt({ [script]: `${lines(['173.245.48.0/20'])}${header}${gate}` });
  expect(() => fresh.wanted()).toThrow('every visitor through Cloudflare');
});

describe('the text of a file', () => {
  const pieces = [
    'set_real_ip_from 173.245.48.0/20;',
    'set_real_ip_from\n  "2400:cb00::/32" ;',
    'real_ip_header CF-Connecting-IP;',
    'set_real_ip_from 10.0.0.0/8;',
    'gzip on;',
    'http { ',
    'server {',
    '}',
    '# set_real_ip_from 173.245.48.0/20;\n',
    ' # why\n',
    '\n',
    '\r\n',
    '  ',
    '\t',
    'add_header X "; set_real_ip_from 173.245.48.0/20;";',
    'x_by_lua_block { } }',
  ];
  const texts = fc.array(fc.constantFrom(...pieces), { maxLength: 25 }).map((all) => all.join(''));
  const isTheirs = ({ words }: { readonly words: readonly string[] }): boolean =>
    words.length === 2 &&
    ['173.245.48.0/20', '2400:cb00::/32', 'CF-Connecting-IP'].includes(words[1]!);
  const straysIn = (text: string): NginxStray[] =>
    [...placed(text)].filter(isTheirs).map(({ words, within, start, end }) => ({
      text: '',
      prefixes: [],
      file: script,
      words,
      within,
      source: text.slice(start, end),
    }));
  const said = (text: string): string[] =>
    [...placed(text)].map(({ words, within }) => JSON.stringify([within, words]));

  test('without them says all else in the same places, and has its lines again', () => {
    let some = 0;
    fc.assert(
      fc.property(fc.oneof(texts, damaged(texts, pieces)), (text) => {
        const strays = straysIn(text);
        if (strays.length > 0) some++;
        const bare = without(text, strays);
        const rest = [...placed(text)].filter((one) => !isTheirs(one));
        expect(said(bare)).toEqual(
          rest.map(({ words, within }) => JSON.stringify([within, words])),
        );
        expect(straysIn(bare)).toEqual([]);
        expect(withAgain(bare, text, strays)).toBe(text);
        expect(withAgain(null, text, strays)).toBe(text);
      }),
      cases(1500),
    );
    expect(some).toBeGreaterThan(500);
  });

  test('that has changed has them again at the end, where they were in no block', () => {
    const flat = fc.array(fc.constantFrom(...pieces.slice(0, 5), '\n', ' # why\n'));
    const written = flat.map((all) => `${all.join('')}\n`);
    fc.assert(
      fc.property(written, written, (text, more) => {
        const strays = straysIn(text);
        const back = withAgain(`${without(text, strays)}${more}`, text, strays);
        expect(said(back)).toEqual(expect.arrayContaining(said(text)));
      }),
      cases(300),
    );
  });

  test.each([
    ['a line', 'a;\n  S  # of Cloudflare\nb;\n', 'a;\nb;\n'],
    ['the last line', 'a;\nS', 'a;\n'],
    ['beside others', 'a; S b; S S c;\n', 'a; b; c;\n'],
    ['all of a line', '  S S\n# S\n', '# S\n'],
    ['in a block', 'http { S }\r\n', 'http { }\r\n'],
    ['lines of Windows', 'a;\r\nS\r\nb;\r\n', 'a;\r\nb;\r\n'],
  ])('loses %s', (_, text, bare) => {
    const whole = text.replaceAll('S', pieces[0]!);
    expect(without(whole, straysIn(whole))).toBe(bare.replaceAll('S', pieces[0]!));
  });

  test('that has changed gets them into its http block, and in no other', () => {
    const put = (block: string): string => {
      const before = `${block} {\n${pieces[0]}\n}\n`;
      const strays = straysIn(before);
      return withAgain(`# new\n${without(before, strays)}`, before, strays);
    };
    expect(put('http')).toBe(`# new\nhttp {\n${pieces[0]}\n\n}\n`);
    expect(() => put('server')).toThrow('put them back there by hand');
    const before = `server {\n${pieces[0]}\n}\n`;
    expect(() => withAgain('gzip on;', before, straysIn(before))).toThrow('by hand');
  });

  test('may be long', async () => {
    await expectLinear(
      (size) => {
        const text = `${pieces[0]} gzip on; `.repeat(size);
        const strays = straysIn(text);
        withAgain(`${without(text, strays)}a;`, text, strays);
      },
      'one line',
      1000,
    );
    await expectLinear(
      (size) => {
        const text = `http { ${pieces[0]}\n }\n`.repeat(size);
        const strays = straysIn(text);
        expect(withAgain(without(text, strays), text, strays)).toBe(text);
      },
      'blocks',
      1000,
    );
  });

  test('is read alike by those who take out and those who judge', () => {
    fc.assert(
      fc.property(texts, (text) => {
        let directives: readonly { readonly words: readonly string[] }[];
        try {
          ({ directives } = parse([{ path: script, content: text }]));
        } catch {
          return;
        }
        const names = ['set_real_ip_from', 'real_ip_header', 'gzip'];
        const plain = (list: readonly { readonly words: readonly string[] }[]) =>
          list.map(({ words }) => words).filter(([name]) => names.includes(name!));
        expect(plain([...placed(text)])).toEqual(plain(directives));
      }),
      cases(1000),
    );
  });
});
