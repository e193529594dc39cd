import { describe, expect, it } from 'vitest';
import nginx from '../../../renderers/nginx/index.ts';
import type { NginxAround, NginxOptions } from '../../../renderers/nginx/state.ts';
import { digest } from '../../../src/digest.ts';
import { CfsyncError, exit } from '../../../src/errors.ts';
import { parseRanges } from '../../../src/prefix.ts';
import type { Host } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { nginxHost } from '../../helpers/nginx.ts';
import { fixture, hostWith, options, path, probe, small, text } from './given.ts';

describe('render', () => {
  const cases: [string, Parameters<typeof desired>[0], Record<string, unknown>][] = [
    ['bundled', {}, {}],
    ['header', { ranges: small.ranges }, { header: 'True-Client-IP' }],
    ['path', { ranges: small.ranges }, { path: '/etc/nginx/http.d/00-cfsync.conf' }],
    // A list has no mode and no ports, and extra prefixes are never believed.
    [
      'mode',
      {
        ranges: small.ranges,
        mode: 'lockdown',
        tcpPorts: [443],
        udpPorts: [443],
        extra: parseRanges(['198.51.100.0/24']),
      },
      {},
    ],
    ['ipv4', { ranges: parseRanges(['173.245.48.0/20']) }, {}],
  ];
  it.each(cases)('%s', (name, changes, raw) => {
    for (const _ of ['once', 'again']) {
      const [artifact, ...rest] = nginx.print(
        nginx.want(desired(changes), nginx.options(raw)).owned,
      );
      expect(rest).toEqual([]);
      golden(`nginx/${name}.txt`, `== ${artifact!.path}\n${artifact!.content}`);
    }
  });

  it('prints nothing for a host that cfsync never touched', () => {
    expect(nginx.print(nginx.nothing)).toEqual([]);
  });

  it('takes a long list', () => {
    const ranges = parseRanges(
      Array.from({ length: 20_000 }, (_, i) => `10.${i >> 7}.${(i & 127) * 2}.0/24`),
    );
    const { owned } = nginx.want(desired({ ranges }), options);
    expect(owned.ranges).toEqual(ranges);
    expect(owned.files[0]!.content.split('\n')).toHaveLength(40_011);
  });
});

describe('options', () => {
  it.each([
    [{ heder: 'x' }, 'unknown key heder (did you mean header?)'],
    [{ header: 'CF Connecting' }, 'not the name of a header'],
    [{ header: 'X;include /etc/shadow' }, 'not the name of a header'],
    [{ header: 'proxy_protocol' }, 'not the name of a header'],
    [{ header: 'X-Real-IP\n' }, 'not the name of a header'],
    [{ path: 'cfsync.conf' }, 'not an absolute path'],
    [{ path: '/etc/nginx/conf.d/../cfsync.conf' }, 'not an absolute path'],
    [{ path: '/etc/nginx/nginx.conf' }, 'with cfsync in its name'],
    [{ path: '/etc/nginx/{stage}/cfsync.conf' }, 'not an absolute path'],
  ])('refuses %o', (raw, message) => {
    expect(() => nginx.options(raw)).toThrow(message);
  });
});

const around: NginxAround = {
  decisions: [],
  servers: [],
  present: null,
  broken: null,
  included: true,
  directives: [],
  stage: true,
  pidFile: null,
  readable: true,
  header: 'CF-Connecting-IP',
  texts: {},
  links: [],
};

describe('on a host', () => {
  const observe = (host: Host) => nginx.observe(host, options);

  it('plans one file, tried before it is in place', async () => {
    const observed = await observe(hostWith(fixture('package.txt')));
    const { owned, notices } = nginx.want(small, options, observed.around);
    expect(nginx.plan(owned, observed)).toEqual([
      {
        kind: 'file',
        summary: `nginx: write ${path}`,
        path,
        content: text(),
        mode: 0o644,
        expect: null,
        check: {
          argv: expect.arrayContaining(['unshare', '{stage}', '/etc/nginx/conf.d', 'nginx', '-t']),
          stage: { copy: '/etc/nginx/conf.d', files: { 'cfsync.conf': text() } },
        },
      },
    ]);
    expect(notices.map((n) => n.text)).toEqual([
      'nginx is not running; it will use the file when it starts',
    ]);
  });

  it('tests the configuration afterwards where it cannot be tried before', async () => {
    const observed = await observe(hostWith(fixture('package.txt'), {}, false));
    const { owned } = nginx.want(small, options, observed.around);
    expect(nginx.plan(owned, observed)).toMatchObject([
      { kind: 'file' },
      { kind: 'run', command: { argv: ['nginx', '-t', '-q'] } },
    ]);
    expect(nginx.plan(owned, observed)[0]!.check).toBeUndefined();
  });

  it('has nothing to do when the file is there, and deletes what it finds to remove it', async () => {
    const observed = await observe(hostWith(fixture('package.txt'), { [path]: text() }));
    expect(observed.owned.ranges).toEqual(small.ranges);
    expect(nginx.plan(nginx.want(small, options, observed.around).owned, observed)).toEqual([]);
    expect(nginx.plan(nginx.nothing, observed)).toMatchObject([
      { kind: 'file', path, content: null, expect: digest(text()) },
    ]);
  });

  it('finds its file where an earlier configuration had it', async () => {
    const old = '/etc/nginx/sites-enabled/00-cfsync.conf';
    const dump = `${fixture('package.txt')}# configuration file ${old}:\n${text()}\n`;
    const observed = await observe(hostWith(dump, { [old]: text() }));
    const plan = nginx.plan(nginx.want(small, options, observed.around).owned, observed);
    expect(plan.map((step) => step.summary)).toEqual([
      `nginx: write ${path}`,
      `nginx: delete ${old}`,
    ]);
    expect(plan[0]!.check?.stage).toMatchObject({
      copy: '/etc/nginx',
      files: { 'sites-enabled/00-cfsync.conf': null },
    });
  });

  it('refuses what the admin says already, by file and line', async () => {
    const observed = await observe(hostWith(fixture('admin.txt')));
    expect(() => nginx.want(small, options, observed.around)).toThrow(
      'nginx: /etc/nginx/conf.d/10-real-ip.conf:3 already says "real_ip_header X-Forwarded-For" at http level',
    );
    const without = observed.around.directives.filter(({ words }) => words[0] !== 'real_ip_header');
    expect(() => nginx.want(small, options, { ...observed.around, directives: without })).toThrow(
      '/etc/nginx/snip/only-cloudflare:1 says "allow 173.245.48.0/20"',
    );
  });

  it('lets allow and deny be where they do no harm', async () => {
    const observed = await observe(hostWith(fixture('admin.txt')));
    const { directives } = observed.around;
    const snippet = directives.find(({ at }) => at.startsWith('/etc/nginx/snip/'))!;
    // What is left is the snippet in the server that has ranges of its own.
    const harmless = directives.filter(
      ({ words, blocks }) => words[0] !== 'real_ip_header' && blocks[1] !== snippet.blocks[1],
    );
    expect(
      nginx.want(small, options, { ...observed.around, directives: harmless }).notices,
    ).toEqual([
      {
        level: 'warning',
        text: '"set_real_ip_from 173.245.48.0/20" at /etc/nginx/conf.d/10-real-ip.conf:2 and 1 other place at http level: these are believed as well, in CF-Connecting-IP; cfsync adopt --backend nginx takes over those that are Cloudflare\'s',
      },
      {
        level: 'note',
        text: '"set_real_ip_from 10.0.0.0/8" at /etc/nginx/conf.d/site.conf:8: nginx does not inherit the ranges there, visitors through Cloudflare keep its address',
      },
      { level: 'note', text: 'nginx is not running; it will use the file when it starts' },
    ]);
  });

  describe('what decides by the client address', () => {
    const all = desired({});
    const wantWith = (seen: NginxAround, raw = options, wish = all) => nginx.want(wish, raw, seen);
    /** All of the configuration, and of what decides by the address what stands in these files. */
    const seenIn = async (dump: string, files: RegExp, canRead: Record<string, string> = {}) => {
      const { around } = await observe(hostWith(dump, canRead));
      return {
        ...around,
        decisions: around.decisions.filter(({ directive }) => files.test(directive.at)),
      };
    };
    const dump = fixture('by-address.txt');
    const names = (kind: string): string[] =>
      [...dump.matchAll(/^# configuration file \/etc\/nginx\/conf\.d\/(\S+)\.conf:$/gm)]
        .map(([, name]) => name!)
        .filter((name) => name.startsWith(kind));
    /** With our file in place. */
    const inForce = (text: string, raw: NginxOptions = options, wish = all): string =>
      `${text}# configuration file ${path}:\n${nginx.want(wish, raw).owned.files[0]!.content}\n`;
    const mine = { [path]: nginx.want(all, options).owned.files[0]!.content };

    it.each(names('named-'))('refuses what names Cloudflare: %s', async (name) => {
      const seen = await seenIn(dump, new RegExp(`/${name}\\.`));
      expect(seen.decisions).toHaveLength(1);
      const [{ directive }] = seen.decisions as [NginxAround['decisions'][number]];
      const [kind, ...words] = directive.words;
      expect(() => wantWith(seen)).toThrow(
        expect.objectContaining({
          code: exit.refused,
          message: expect.stringMatching(
            new RegExp(
              `^nginx: /etc/nginx/conf\\.d/${name}\\.conf:1 says "[^"]+" and names Cloudflare's ranges \\(.*; nothing was changed; write "${kind} \\$realip_remote_addr \\${words.at(-1)} {" there`,
            ),
          ),
        }),
      );
    });

    it.each(names('other-'))('has nothing against what does not: %s', async (name) => {
      const seen = await seenIn(dump, new RegExp(`/${name}\\.`));
      expect(wantWith(seen).notices.map(({ text }) => text)).toEqual([
        'nginx is not running; it will use the file when it starts',
      ]);
    });

    it('tells a list of countries, with a few networks of Cloudflare in it, from one of Cloudflare', async () => {
      const countries = fixture('countries.txt');
      const other = await seenIn(countries, /other-/);
      expect(other.decisions).toHaveLength(1);
      expect(wantWith(other).notices.map(({ text }) => text)).toEqual([
        'nginx is not running; it will use the file when it starts',
      ]);
      for (const name of ['office', 'provider']) {
        const seen = await seenIn(countries, new RegExp(`/named-beside-${name}`));
        expect(() => wantWith(seen)).toThrow(`write "geo $realip_remote_addr $beside_${name} {"`);
      }
    });

    it('reads all of these blocks', () => {
      expect(names('named-')).toHaveLength(18);
      expect(names('other-')).toHaveLength(14);
    });

    it.each([
      [
        'pattern',
        'the pattern ^173\\.245\\.\\d++\\. is not understood',
        'map $realip_remote_addr $unclear_pattern {',
      ],
      [
        'binary',
        '"include binary.geo" is empty, or in binary form',
        'geo $realip_remote_addr $unclear_binary {',
      ],
    ])('notes what it cannot read: %s', async (name, why, mend) => {
      const seen = await seenIn(dump, new RegExp(`/unclear-${name}\\.`));
      const note = wantWith(seen).notices.at(-1);
      expect(note).toMatchObject({ level: 'note' });
      expect(note!.text).toContain(why);
      expect(note!.text).toContain(mend);
      const later = await seenIn(inForce(dump), new RegExp(`/unclear-${name}\\.`), mine);
      expect(wantWith(later).notices).toHaveLength(1);
    });

    it('names every place that is to be mended', async () => {
      const seen = await seenIn(dump, /named-(?:around|case)/);
      expect(() => wantWith(seen)).toThrow(
        expect.objectContaining({
          detail: [
            '/etc/nginx/conf.d/named-case.conf:1 says "map $remote_addr $map_case": write "map $realip_remote_addr $map_case {" there',
          ],
        }),
      );
    });

    describe('where real-IP is in force already', () => {
      const gate = /named-default/;

      it('goes on and notes it', async () => {
        const seen = await seenIn(inForce(dump), gate, mine);
        const { notices } = wantWith(seen);
        expect(notices.at(-1)).toEqual({
          level: 'note',
          text: `"geo $geo_default" at /etc/nginx/conf.d/named-default.conf:1: this is for Cloudflare's addresses, and sees the visitors', because real-IP is in force already; write "geo $realip_remote_addr $geo_default {" there`,
        });
      });

      it('refuses what would come to it', async () => {
        const old = { ...all, ranges: { ...all.ranges, v4: all.ranges.v4.slice(1) } };
        const text = inForce(dump, options, old);
        const seen = await seenIn(text, gate, mine);
        expect(() => wantWith(seen)).toThrow(expect.objectContaining({ code: exit.refused }));
        // What is not named may come, and that is news.
        const other = await seenIn(text, /named-case/, mine);
        expect(wantWith(other).notices.at(-1)).toMatchObject({ level: 'warning' });
      });

      it('counts the file only where its header stays', async () => {
        const another = nginx.options({ header: 'X-Client' });
        const seen = await seenIn(inForce(dump, another), gate, mine);
        expect(() => wantWith(seen)).toThrow(expect.objectContaining({ code: exit.refused }));
        expect(wantWith(seen, another).notices.at(-1)!.text).toContain('in force already');
      });

      it('counts the file only where nginx has read it', async () => {
        const seen = await seenIn(inForce(dump), gate, mine);
        expect(() => wantWith({ ...seen, present: null })).toThrow(
          expect.objectContaining({ code: exit.refused }),
        );
      });

      it('does not count what the admin believes in a header that Cloudflare does not send', async () => {
        const from = '# configuration file /etc/nginx/conf.d/site.conf:\n';
        const admins = dump.replace(from, `${from}set_real_ip_from 173.245.48.0/20;\n`);
        expect(admins).not.toBe(dump);
        const seen = await seenIn(admins, /named-source/);
        expect(() => wantWith(seen)).toThrow(expect.objectContaining({ code: exit.refused }));
      });
    });

    describe('in servers with settings of their own', () => {
      const servers = fixture('in-servers.txt');
      const refusal = async (keep: RegExp): Promise<string[]> => {
        const { around: seen } = await observe(hostWith(servers));
        const [directives, found] = [
          seen.directives.filter(
            ({ words, at }) => !/^(?:allow|deny)$/.test(words[0]!) || keep.test(at),
          ),
          seen.decisions.filter(({ directive }) => keep.test(directive.at)),
        ];
        try {
          wantWith({ ...seen, directives, decisions: found });
          return [];
        } catch (error) {
          const { code, message, detail } = error as CfsyncError;
          expect(code).toBe(exit.refused);
          return [message, ...detail].map((line) => /conf\.d\/\S+/.exec(line)![0]);
        }
      };

      it('refuses an if, an allow below a location, and one with host bits', async () => {
        expect(await refusal(/plain/)).toEqual([
          // Its location believes others; the server has replaced the address by then.
          'conf.d/plain.conf:13',
          'conf.d/plain.conf:17',
          'conf.d/plain.conf:3',
          'conf.d/plain.conf:4',
          'conf.d/plain.conf:5',
        ]);
      });

      it('refuses where a server has ranges, and lacked the header', async () => {
        expect(await refusal(/ranges/)).toEqual(['conf.d/ranges.conf:5']);
      });

      it('refuses a variable that a server without settings may use', async () => {
        expect(await refusal(/gate/)).toEqual(['conf.d/gate.conf:1']);
      });

      it('goes on where the server believes Cloudflare by itself, or others alone', async () => {
        expect(await refusal(/believes|elsewhere/)).toEqual([]);
      });

      it('says which of them see visitors already', async () => {
        const { around: seen } = await observe(hostWith(servers));
        const directives = seen.directives.filter(
          ({ words, at }) => !/^(?:allow|deny)$/.test(words[0]!) || at.includes('believes'),
        );
        const { notices } = wantWith({ ...seen, directives, decisions: [] });
        expect(notices.filter(({ text }) => text.includes('in force already'))).toEqual([
          {
            level: 'warning',
            text: `"allow 173.245.48.0/20" at /etc/nginx/conf.d/believes.conf:7: this is for Cloudflare's addresses, and sees the visitors', because real-IP is in force already; say "if ($from_cloudflare = 0) { return 403; }" there instead`,
          },
        ]);
      });
    });

    it('notes what counts by the address, and what asks somebody else, where that is news', async () => {
      const main = `pid /run/nginx.pid; events {}\nhttp {\ninclude /etc/nginx/conf.d/*.conf;\nlimit_req_zone $binary_remote_addr zone=z:1m rate=1r/s;\nlimit_conn_zone $server_name zone=y:1m;\nserver { satisfy any; allow 173.245.48.0/20; deny all; auth_request /x; location /y { auth_request off; } }\n}\n`;
      const { around: seen } = await observe(
        hostWith(`# configuration file /etc/nginx/nginx.conf:\n${main}\n`),
      );
      const open = {
        ...seen,
        directives: seen.directives.filter(({ words }) => words[0] !== 'deny'),
      };
      const said = (one: NginxAround) => wantWith(one).notices.map(({ text }) => text);
      expect(said(open).slice(0, 2)).toEqual([
        expect.stringMatching(/nginx is not running/),
        `"limit_req_zone $binary_remote_addr zone=z:1m rate=1r/s" at /etc/nginx/nginx.conf:4: each visitor is counted by himself from now on, and no more all behind one address of Cloudflare's as one`,
      ]);
      expect(said(open).at(-1)).toBe(
        '"auth_request /x" at /etc/nginx/nginx.conf:6: not judged: what is asked there may go by the address, which will be the visitor\'s',
      );
      const present = { header: 'CF-Connecting-IP', ranges: desired().ranges };
      expect(said({ ...open, present })).toHaveLength(1);
      expect(() => wantWith(seen)).toThrow(
        'let in nobody but those who have another way (satisfy any)',
      );
    });

    it('does not stand in the way back', async () => {
      const observed = await observe(hostWith(inForce(dump), mine));
      expect(nginx.plan(nginx.nothing, observed)).toMatchObject([{ kind: 'file', content: null }]);
    });
  });

  it('refuses a configuration that does not include the file', () => {
    expect(() => nginx.want(small, options, { ...around, included: false })).toThrow(
      'does not include /etc/nginx/conf.d/cfsync.conf at http level',
    );
  });

  it.each([
    ['open() "/run/nginx.pid" failed (13: Permission denied)', 'no permission'],
    ['unexpected end of file, expecting "}" in /etc/nginx/nginx.conf:84', 'misconfigured'],
  ])('does not go on when nginx says %s', async (stderr, reason) => {
    const refused = { code: 1, stdout: '', stderr: `nginx: [emerg] ${stderr}\n` };
    const host = nginxHost({
      answers: { [probe]: { ...refused, stderr: '' }, 'nginx -T -q': refused },
      folders: { '/etc/nginx/conf.d': [] },
    });
    await expect(observe(host)).rejects.toMatchObject({ reason });
  });

  it('says what to do where there is no such folder', async () => {
    const host = nginxHost({ answers: { 'nginx -v': '' } });
    await expect(observe(host)).rejects.toThrow('there is no folder /etc/nginx/conf.d');
  });
});
