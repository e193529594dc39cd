/** nginx, live: a real nginx (1.22.1 of Debian 12) asked by an edge of Cloudflare and by a stranger. */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { dumpedFiles } from '../../renderers/nginx/configuration.ts';
import type { Outcome } from '../../src/renderer.ts';
import { bundled } from '../helpers/desired.ts';
import { patterns } from '../helpers/nginx-patterns.ts';
import { Lab, type Host } from './lab.ts';
import { describeLive } from './privileges.ts';

const conf = '/etc/nginx/conf.d/cfsync.conf';
const site = '/etc/nginx/conf.d/site.conf';
const program = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));

/** Answers who it takes the visitor to be. */
const answers = `
server {
  listen 8080; listen [::]:8080;
  return 200 "$remote_addr";
}
`;
const tells = `
server {
  listen 8081; listen [::]:8081;
  return 200 "$from_cloudflare";
}
server {
  listen 8082; listen [::]:8082;
  if ($from_cloudflare = 0) { return 403; }
  return 200 "welcome";
}
`;

describeLive('nginx, live', { programs: ['nginx', 'curl', 'find', 'setpriv'] }, () => {
  let lab: Lab;
  let origin: Host;

  const cfsync = (...args: string[]): Promise<Outcome> => lab.cfsync(args);
  const apply = (...args: string[]): Promise<Outcome> =>
    cfsync('apply', '-b', 'nginx', '--source', 'bundled', ...args);
  const must = async (outcome: Promise<Outcome>): Promise<Outcome> => {
    const result = await outcome;
    expect(result, result.stderr).toMatchObject({ code: 0 });
    return result;
  };
  const write = (file: string, content: string): Promise<void> =>
    writeFile(origin.path(file), content);
  const read = (file: string): Promise<string> => readFile(origin.path(file), 'utf8');
  /** Names, owners, modes, times and content of all of the configuration. */
  const tree = (): Promise<string> =>
    origin.must([
      ...(['sh', '-c'] as const),
      'cd /etc/nginx && find . -printf "%p %y %m %U %G %l\\n" | sort && find . -type f | sort | xargs sha256sum',
    ]);
  const ask = (from: Host, port = 8080, header = 'CF-Connecting-IP: 192.0.2.77') => {
    const get = async (address: string): Promise<string> =>
      from.must(['curl', '-s', '-m', '5', '-H', header, `http://${address}:${port}/`]);
    return Promise.all([get(origin.v4), get(`[${origin.v6}]`)]);
  };
  const start = async (): Promise<void> => {
    await origin.must(['nginx']);
  };
  const stop = async (): Promise<void> => {
    // nginx -s stop would first read a configuration that a test has broken.
    await origin.must([
      ...(['sh', '-c'] as const),
      'kill "$(cat /run/nginx.pid)"; for i in $(seq 2000); do pgrep -x nginx >/dev/null || exit 0; sleep 0.05; done; exit 1',
    ]);
  };

  beforeAll(async () => {
    lab = await Lab.create({ privateDirs: ['/var/log/nginx', '/var/lib/nginx'] });
    ({ origin } = lab);
    await origin.must(['cp', '-a', '/etc/nginx', '/run/lab/nginx-of-the-package']);
  });
  afterAll(() => lab.close());
  beforeEach(async () => {
    await write(site, answers);
    await start();
  });
  afterEach(async () => {
    await stop();
    // What is bound stays, its content goes.
    await origin.must([
      ...(['sh', '-c'] as const),
      'rm -rf /etc/nginx/* /run/lab/state/* && cp -a /run/lab/nginx-of-the-package/. /etc/nginx/',
    ]);
  });

  test('takes the visitor from the header when Cloudflare says it, and from nobody else', async () => {
    expect(await ask(lab.edge)).toEqual([lab.edge.v4, lab.edge.v6]);
    await must(apply());
    expect(await ask(lab.edge)).toEqual(['192.0.2.77', '192.0.2.77']);
    expect(await ask(lab.edge, 8080, 'CF-Connecting-IP: 2001:db8::77')).toEqual([
      '2001:db8::77',
      '2001:db8::77',
    ]);
    expect(await ask(lab.edge, 8080, 'CF-Connecting-IP: <x>')).toEqual([lab.edge.v4, lab.edge.v6]);
    expect(await ask(lab.stranger)).toEqual([lab.stranger.v4, lab.stranger.v6]);
  });

  test('tells with a variable whether Cloudflare is at the other end', async () => {
    await must(apply());
    await write(site, answers + tells);
    await origin.must(['nginx', '-s', 'reload']);
    await expect.poll(() => ask(lab.edge, 8081)).toEqual(['1', '1']);
    expect(await ask(lab.stranger, 8081)).toEqual(['0', '0']);
    expect(await ask(lab.edge, 8082)).toEqual(['welcome', 'welcome']);
    expect((await ask(lab.stranger, 8082)).join()).toContain('403 Forbidden');
  });

  test('reads another header when told so', async () => {
    await must(lab.cfsync(['apply', '-b', 'nginx', '--source', 'bundled', ...(await header())]));
    expect(await ask(lab.edge, 8080, 'True-Client-IP: 192.0.2.5')).toEqual([
      '192.0.2.5',
      '192.0.2.5',
    ]);
    expect(await ask(lab.edge)).toEqual([lab.edge.v4, lab.edge.v6]);
    await must(cfsync('verify'));
  });

  async function header(): Promise<string[]> {
    await write('/etc/cfsync.yaml', 'backends: { nginx: { header: True-Client-IP } }\n');
    return ['--config', '/etc/cfsync.yaml'];
  }

  test('writes nothing and reloads nothing when all is as it should be', async () => {
    await must(apply());
    const state = async (): Promise<string> =>
      origin.must(['sh', '-c', `stat -c "%i %Y %Z" ${conf}; pgrep -x nginx`]);
    const before = await state();
    const second = await must(apply('--verbose'));
    expect(second.stdout).toBe('');
    expect(second.stderr).toContain('nginx: no changes');
    expect(await state()).toBe(before);
  });

  test('keeps owner and mode of its file', async () => {
    await must(apply());
    await origin.must(['chown', '33:4', conf]);
    await origin.must(['chmod', '640', conf]);
    await write(conf, '# changed\n');
    await must(apply());
    expect(await origin.must(['stat', '-c', '%u:%g %a', conf])).toBe('33:4 640\n');
  });

  test('leaves no trace behind', async () => {
    const before = await tree();
    await must(apply());
    expect(await tree()).not.toBe(before);
    await must(cfsync('remove'));
    expect(await tree()).toBe(before);
    expect(await ask(lab.edge)).toEqual([lab.edge.v4, lab.edge.v6]);
  });

  describe('drift', () => {
    test.each([
      ['a range is missing', `sed -i /173.245.48.0/d ${conf}`],
      ['a range is wider', `sed -i 's|from 173.245.48.0/20|from 173.245.0.0/16|' ${conf}`],
      ['the file is gone', `rm ${conf}`],
      ['nginx would not take the file', `echo '}' >>${conf}`],
      ['the file is empty', `: >${conf}`],
    ])('is found and repaired: %s', async (_what, command) => {
      await must(apply());
      const good = await read(conf);
      await origin.must(['sh', '-c', command]);
      expect(await cfsync('verify')).toMatchObject({ code: 2 });
      await must(apply());
      expect(await read(conf)).toBe(good);
      await must(cfsync('verify'));
      expect(await ask(lab.edge)).toEqual(['192.0.2.77', '192.0.2.77']);
    });

    test('is found and repaired: the site needs the variable of a file that is gone', async () => {
      await must(apply());
      await write(site, answers + tells);
      await origin.must(['rm', conf]);
      expect(await cfsync('verify')).toMatchObject({ code: 2 });
      await must(apply());
      expect(await ask(lab.edge, 8081)).toEqual(['1', '1']);
    });

    test('is found and repaired: the workers run with a file that is no more', async () => {
      await must(apply());
      const good = await read(conf);
      await write(conf, 'geo $realip_remote_addr $from_cloudflare { default 1; }');
      await origin.must(['nginx', '-s', 'reload']);
      await expect.poll(() => ask(lab.edge)).toEqual([lab.edge.v4, lab.edge.v6]);
      // The tolerance of the comparison.
      await new Promise((resolve) => setTimeout(resolve, 1500));
      await write(conf, good);
      const found = await cfsync('verify');
      expect(found).toMatchObject({ code: 2 });
      expect(found.stdout).toContain('-started before the files were last written');
      await must(apply());
      await must(cfsync('verify'));
      expect(await ask(lab.edge)).toEqual(['192.0.2.77', '192.0.2.77']);
    });
  });

  describe('refuses, and changes nothing', () => {
    const refused = async (code: number, ...message: string[]): Promise<boolean> => {
      const before = await tree();
      const outcome = await apply();
      expect(outcome, outcome.stderr).toMatchObject({ code });
      for (const part of message) expect(outcome.stderr).toContain(part);
      return (await tree()) === before;
    };

    test('a broken configuration of the admin', async () => {
      await write(site, 'server { listen 8080 }');
      expect(await refused(1, 'nginx refuses its present configuration', `${site}:1`)).toBe(true);
    });

    test('a second real_ip_header at http level', async () => {
      await write(site, `${answers}real_ip_header X-Real-IP;\n`);
      expect(await refused(1, `nginx: ${site}:6 already says "real_ip_header X-Real-IP"`)).toBe(
        true,
      );
    });

    test('a configuration that does not include the file', async () => {
      await origin.must([
        'sed',
        '-i',
        's|conf.d/[*].conf|conf.d/site.conf|',
        '/etc/nginx/nginx.conf',
      ]);
      expect(await refused(1, `does not include ${conf} at http level`)).toBe(true);
    });

    test('an allow of Cloudflare that would shut out its visitors', async () => {
      await write(
        site,
        'server {\n listen 8080;\n allow 173.245.48.0/20;\n deny all;\n return 200 x;\n}\n',
      );
      expect(await refused(3, `${site}:3 says "allow 173.245.48.0/20"`, 'every visitor')).toBe(
        true,
      );
    });

    test('a variable of the same name', async () => {
      await write(site, `${answers}geo $remote_addr $from_cloudflare { default 0; }\n`);
      expect(await refused(1, `${site}:6 gives $from_cloudflare a value of its own`)).toBe(true);
    });

    test('what only nginx itself can tell', async () => {
      await write(site, `${answers}include /etc/nginx/conf.d/cf*.conf;\n`);
      expect(
        await refused(1, 'nginx: the check failed', '"real_ip_header" directive is duplicate'),
      ).toBe(true);
    });

    test('a removal that the site could not bear', async () => {
      await must(apply());
      await write(site, answers + tells);
      const before = await tree();
      const outcome = await cfsync('remove');
      expect(outcome).toMatchObject({ code: 1 });
      expect(outcome.stderr).toContain('unknown "from_cloudflare" variable');
      expect(await tree()).toBe(before);
    });

    test('a symbolic link', async () => {
      await write('/etc/nginx/elsewhere', '# the admin\n');
      await origin.must(['ln', '-s', '/etc/nginx/elsewhere', conf]);
      expect(await refused(1, `${conf} is a symbolic link`)).toBe(true);
    });
  });

  describe('goes back', () => {
    test('when nginx cannot load what passed its test', async () => {
      await must(apply());
      await write(conf, '# older\n');
      await origin.must(['nginx', '-s', 'reload']);
      await expect.poll(() => ask(lab.edge)).toEqual([lab.edge.v4, lab.edge.v6]);
      // nginx -t does not mind a port that is taken; the reload does.
      await origin.listen({ tcp: [8099] });
      await write('/etc/nginx/conf.d/taken.conf', 'server { listen 8099; }\n');
      const before = await tree();
      const outcome = await apply();
      expect(outcome, outcome.stderr).toMatchObject({ code: 4 });
      expect(outcome.stderr).toContain('nginx goes on with its old workers');
      expect(await tree()).toBe(before);
      expect(await ask(lab.edge)).toEqual([lab.edge.v4, lab.edge.v6]);
    });

    test('without the right to try the file before it is in place', async () => {
      const unprivileged = (): Promise<Outcome> =>
        origin.run(
          [
            ...(['setpriv', '--bounding-set', '-sys_admin', '--inh-caps', '-sys_admin'] as const),
            process.execPath,
            program,
            'apply',
            '--backend=nginx',
            '--source=bundled',
          ],
          { env: { CFSYNC_STATE_DIR: '/run/lab/state' } },
        );
      await write(site, `${answers}include /etc/nginx/conf.d/cf*.conf;\n`);
      const before = await tree();
      const outcome = await unprivileged();
      expect(outcome, outcome.stderr).toMatchObject({ code: 4 });
      expect(outcome.stderr).toContain('"real_ip_header" directive is duplicate');
      expect(await tree()).toBe(before);
      await write(site, answers);
      await must(unprivileged());
      expect(await ask(lab.edge)).toEqual(['192.0.2.77', '192.0.2.77']);
    });
  });

  describe('says', () => {
    test('that nginx is not running, and is in force when it starts', async () => {
      await stop();
      expect((await must(apply('--verbose'))).stderr).toContain('nginx is not running');
      await must(cfsync('verify'));
      await start();
      expect(await ask(lab.edge)).toEqual(['192.0.2.77', '192.0.2.77']);
    });

    test('which servers do not inherit the ranges', async () => {
      await write(site, answers.replace('server {', 'server {\nset_real_ip_from 10.0.0.0/8;'));
      const { stderr } = await must(apply('--verbose'));
      expect(stderr).toContain(
        `"set_real_ip_from 10.0.0.0/8" at ${site}:3: nginx does not inherit the ranges there`,
      );
      expect(await ask(lab.edge)).toEqual([lab.edge.v4, lab.edge.v6]);
    });

    test('whom else nginx believes', async () => {
      await write(site, `${answers}set_real_ip_from 198.51.100.10;\n`);
      const { stderr } = await must(apply());
      expect(stderr).toContain(`warning: nginx: "set_real_ip_from 198.51.100.10" at ${site}:6`);
      expect(await ask(lab.stranger)).toEqual(['192.0.2.77', lab.stranger.v6]);
    });
  });

  describe('an allow-list by the address', () => {
    const gate = '/etc/nginx/conf.d/cloudflare-only.conf';
    const list = (value: number): string =>
      ['173.245.48.0/20', '2400:cb00::/32'].map((range) => `  ${range} ${value};\n`).join('');
    const only = `geo $is_cloudflare {\n  default 0;\n${list(1)}}\n`;
    const guarded = answers.replace('return', 'if ($is_cloudflare = 0) { return 403; }\n  return');
    /** Until the old workers are gone. */
    const reload = async (): Promise<void> => {
      await origin.must([
        ...(['sh', '-c'] as const),
        'm=$(cat /run/nginx.pid); old=$(cat /proc/$m/task/$m/children); nginx -s reload; for w in $old; do for i in $(seq 200); do [ -e /proc/$w ] || break; sleep 0.05; done; done',
      ]);
    };
    const expectEnters = async (as: readonly (string | undefined)[]): Promise<void> => {
      expect(await ask(lab.edge)).toEqual(as);
      expect((await ask(lab.stranger)).join()).toMatch(/403 Forbidden[^]*,[^]*403 Forbidden/);
    };

    test('that would shut out every visitor is refused, with the word that mends it', async () => {
      await write(gate, only);
      await write(site, guarded);
      await reload();
      const edge = [lab.edge.v4, lab.edge.v6];
      await expectEnters(edge);
      const before = await tree();

      const diff = await cfsync('diff', '-b', 'nginx', '--source', 'bundled');
      expect(diff).toMatchObject({ code: 3 });
      expect(diff.stdout).toContain('+set_real_ip_from 173.245.48.0/20;');
      const refusal = `nginx: ${gate}:1 says "geo $is_cloudflare" and names Cloudflare's ranges`;
      expect(diff.stderr).toContain(`warning: ${refusal}`);

      const refused = await apply();
      expect(refused).toMatchObject({ code: 3 });
      expect(refused.stderr).toContain(refusal);
      const [, from, to] = /says "(geo [^"]+)".*write "(geo [^"]+) \{" there/.exec(refused.stderr)!;
      expect(await tree()).toBe(before);
      await expectEnters(edge);

      await write(gate, only.replace(from!, to!));
      await reload();
      await expectEnters(edge);
      await must(apply());
      await expectEnters(['192.0.2.77', '192.0.2.77']);
      expect(await must(cfsync('verify'))).toMatchObject({ stdout: '', stderr: '' });
      expect(await must(apply())).toMatchObject({ stdout: '', stderr: '' });
      await must(cfsync('remove'));
      await expectEnters(edge);
    });

    const table = (source: string): string =>
      `geo ${source}$net {\n${Array.from({ length: 40 }, (_, i) => `  ${i + 1}.0.0.0/24 c${i};\n`).join('')}  173.245.48.0/20 cf;\n  2400:cb00::/32 cf;\n}\n`;
    const cf = '^(173\\.245\\.(4[89]|5\\d|6[0-3])\\.|2400:cb00:)';
    const deny = '{ return 403; }';
    test.each([
      [
        'a variable that is set from it',
        '',
        `set $ip $remote_addr; if ($ip !~ "${cf}") ${deny}`,
        (text: string) => text.replace('if ($ip', 'if ($realip_remote_addr'),
      ],
      [
        'a map of such a variable',
        `map $ip $ok { default 0; "~${cf}" 1; }\n`,
        `set $ip \${remote_addr}; if ($ok = 0) ${deny}`,
        (text: string) => text.replace('map $ip $ok', 'map $realip_remote_addr $ok'),
      ],
      [
        'the answer of a table',
        `map $net $ok { default ''; cf 1; }\n${table('')}`,
        `if ($ok = '') ${deny}`,
        (text: string) => text.replace('geo $net', 'geo $realip_remote_addr $net'),
      ],
      [
        'the answer of a table, in an if',
        table('$remote_addr '),
        `if ($net != cf) ${deny}`,
        (text: string) => text.replace('geo $remote_addr $net', 'geo $realip_remote_addr $net'),
      ],
    ])('by %s is refused as well, until what it says is done', async (_, http, server, mend) => {
      const put = async (change: (text: string) => string): Promise<void> => {
        await write(gate, change(http));
        await write(site, change(answers.replace('return', `${server}\n  return`)));
        await reload();
      };
      await put((text) => text);
      await expectEnters([lab.edge.v4, lab.edge.v6]);
      const refused = await apply();
      expect(refused, refused.stderr).toMatchObject({ code: 3 });
      expect(refused.stderr).toMatch(/write .*\$realip_remote_addr.* (there|at \/etc)/);
      await expectEnters([lab.edge.v4, lab.edge.v6]);
      await put(mend);
      await must(apply());
      await expectEnters(['192.0.2.77', '192.0.2.77']);
    });

    test("that came when real-IP was in force is said, and stands in nobody's way", async () => {
      await must(apply());
      await write(gate, only);
      await write(site, guarded);
      await reload();
      // The admin has done this, not cfsync.
      expect((await ask(lab.edge)).join()).toContain('403 Forbidden');
      expect((await must(apply('--verbose'))).stderr).toContain(
        `"geo $is_cloudflare" at ${gate}:1: this is for Cloudflare's addresses, and sees the visitors'`,
      );
      expect(await must(apply())).toMatchObject({ stdout: '', stderr: '' });
      await must(cfsync('verify'));
      await must(cfsync('remove'));
      await expectEnters([lab.edge.v4, lab.edge.v6]);
    });

    test('is found in every form in which real-IP changes its answer', async () => {
      const dump = await readFile(
        new URL('../fixtures/nginx/by-address.txt', import.meta.url),
        'utf8',
      );
      const files = dumpedFiles(dump).filter(({ path }) => !/binary|nginx\.conf$/.test(path));
      const put = async (change: (text: string) => string): Promise<void> => {
        for (const { path, content } of files) await write(path, change(content));
        await reload();
      };
      const values = async (): Promise<string[]> => {
        const get = (address: string): Promise<string> =>
          lab.edge.must([
            'curl',
            '-s',
            '-m',
            '5',
            '-H',
            'CF-Connecting-IP: 192.0.2.77',
            `http://${address}:8080/named`,
          ]);
        const lines = await Promise.all([get(origin.v4), get(`[${origin.v6}]`)]);
        const [v4, v6] = lines.map((line) => line.split(' '));
        return v4!.map((value, i) => `${value} ${v6![i]}`);
      };
      await put((text) => text.replace('listen 8080;', 'listen 8080; listen [::]:8080;'));
      const before = await values();
      expect(before).toHaveLength(18);
      const realIp = '/etc/nginx/conf.d/zz-real-ip.conf';
      await write(
        realIp,
        'set_real_ip_from 173.245.48.0/20; set_real_ip_from 2400:cb00::/32; real_ip_header CF-Connecting-IP;\n',
      );
      await reload();
      const after = await values();
      expect(after.filter((value, i) => value === before[i])).toEqual([]);
      await put((text) =>
        text
          .replace('listen 8080;', 'listen 8080; listen [::]:8080;')
          .replace(/^geo (?:\$remote_addr )?(?=\$\w+ \{)/m, 'geo $realip_remote_addr ')
          .replace(/^map \S+/m, 'map $realip_remote_addr'),
      );
      expect(await values()).toEqual(before);
    });

    test('is read with patterns as nginx reads them', async () => {
      const tried = patterns.filter(([pattern]) => pattern !== '');
      const maps = tried.map(
        ([pattern], i) => `map $arg_${i} $p${i} { default 0; "~${pattern}" 1; }\n`,
      );
      const shown = tried.map((_, i) => `$p${i}`).join('');
      await write(site, `${maps.join('')}server { listen 8080; return 200 "${shown}"; }\n`);
      await origin.must(['nginx', '-t', '-q']);
      await reload();
      const query = tried.map(([, text], i) => `${i}=${text}`).join('&');
      const url = `http://${origin.v4}:8080/?${query}`;
      expect(await lab.edge.must(['curl', '-s', '-g', '-m', '5', url])).toBe(
        tried.map(([, , matches]) => (matches ? '1' : '0')).join(''),
      );
    });
  });

  describe('the file of a script', () => {
    const script = '/etc/nginx/conf.d/cloudflare.conf';
    const all = [...bundled.v4, ...bundled.v6];
    const said = `# from update-cloudflare.sh
${all.map((prefix) => `set_real_ip_from ${prefix};\n`).join('')}set_real_ip_from 104.28.0.0/14; # gone
set_real_ip_from 10.0.0.0/8;
real_ip_header CF-Connecting-IP;
real_ip_recursive on;
`;
    const bare =
      '# from update-cloudflare.sh\nset_real_ip_from 10.0.0.0/8;\nreal_ip_recursive on;\n';
    const visitor = ['192.0.2.77', '192.0.2.77'];
    const adopt = (...args: string[]): Promise<Outcome> =>
      cfsync('adopt', '-b', 'nginx', '--source', 'bundled', ...args);
    const begin = async (files: Readonly<Record<string, string>>): Promise<string> => {
      for (const [file, content] of Object.entries(files)) await write(file, content);
      await origin.must(['nginx', '-s', 'reload']);
      await expect.poll(() => ask(lab.edge)).toEqual(visitor);
      return tree();
    };

    test('is refused by apply, taken over by adopt, and put back by rollback', async () => {
      const before = await begin({ [script]: said });
      const refused = await apply();
      expect(refused).toMatchObject({ code: 1 });
      expect(refused.stderr).toContain('cfsync adopt --backend nginx takes it over');
      const shown = await must(adopt('--dry-run'));
      expect(shown.stdout).toContain(`${script}:2: set_real_ip_from ${all[0]};\n`);
      expect(shown.stdout).toContain("stale: 104.28.0.0/14 (not Cloudflare's any more)");
      expect(await tree()).toBe(before);

      // Each answer is a new connection, before, while and after the reload.
      const done = new AbortController();
      const seen = (async () => {
        const answers = new Set<string>();
        while (!done.signal.aborted) for (const one of await ask(lab.edge)) answers.add(one);
        return [...answers];
      })();
      const taken = await must(adopt());
      done.abort();
      expect(await seen).toEqual([visitor[0]]);
      expect(taken.stderr).toContain('stop that script');
      expect(await read(script)).toBe(bare);
      expect(await ask(lab.edge)).toEqual(visitor);
      await must(cfsync('verify'));
      expect(await must(apply())).toMatchObject({ stdout: '', stderr: '' });
      expect((await must(adopt())).stdout).toBe('nginx: nothing to take over\n');

      await must(cfsync('rollback'));
      expect(await tree()).toBe(before);
      expect(await ask(lab.edge)).toEqual(visitor);
    });

    test('comes back into what the admin has changed since', async () => {
      await begin({ [script]: said });
      await must(adopt());
      await write(script, `${bare}server_tokens off;\n`);
      await must(cfsync('rollback'));
      const now = await read(script);
      expect(now.startsWith(`${bare}server_tokens off;\n`)).toBe(true);
      expect(now.split('\n').sort()).toEqual(
        [...said.replace(' # gone', '').split('\n'), 'server_tokens off;'].sort(),
      );
      expect(await ask(lab.edge)).toEqual(visitor);
    });

    test('may be lines of nginx.conf, and a snippet of servers', async () => {
      const main = '/etc/nginx/nginx.conf';
      const snippet = '/etc/nginx/snippets/cloudflare.conf';
      const text = await read(main);
      const before = await begin({
        [main]: text.replace('http {', 'http {\n\treal_ip_header CF-Connecting-IP;'),
        [snippet]: all.map((prefix) => `set_real_ip_from ${prefix};\n`).join(''),
        [site]: answers.replace('server {', `server {\n  include ${snippet};`),
      });
      const { stdout } = await must(adopt());
      expect(stdout).toContain(`${main}:`);
      expect(await read(main)).toBe(text);
      expect(await read(snippet)).toBe('');
      expect(await ask(lab.edge)).toEqual(visitor);
      await must(cfsync('verify'));
      await must(cfsync('rollback'));
      expect(await tree()).toBe(before);
      expect(await ask(lab.edge)).toEqual(visitor);
    });

    test('stays as it is when nginx would not take the rest', async () => {
      const before = await begin({ [script]: said });
      await write('/etc/nginx/conf.d/zz.conf', 'include /etc/nginx/conf.d/cf*.conf;\n');
      const outcome = await adopt();
      expect(outcome).toMatchObject({ code: 1 });
      expect(outcome.stderr).toContain('nginx: the check failed');
      await origin.must(['rm', '/etc/nginx/conf.d/zz.conf']);
      expect(await tree()).toBe(before);
    });

    test('comes back when nginx cannot load what passed its test', async () => {
      const before = await begin({ [script]: said });
      await origin.listen({ tcp: [8098] });
      await write('/etc/nginx/conf.d/taken.conf', 'server { listen 8098; }\n');
      const outcome = await adopt();
      expect(outcome, outcome.stderr).toMatchObject({ code: 4 });
      await origin.must(['rm', '/etc/nginx/conf.d/taken.conf']);
      expect(await tree()).toBe(before);
      expect(await ask(lab.edge)).toEqual(visitor);
    });

    test('behind a link is left alone, and that is said', async () => {
      await write('/etc/nginx/elsewhere', said);
      await origin.must(['ln', '-s', '/etc/nginx/elsewhere', script]);
      const outcome = await adopt();
      expect(outcome).toMatchObject({ code: 1 });
      expect(outcome.stderr).toContain(`${script}:`);
      expect(await read('/etc/nginx/elsewhere')).toBe(said);
    });
  });

  test('takes its file away from where an earlier configuration had it', async () => {
    await write(
      '/etc/cfsync.yaml',
      'backends: { nginx: { path: /etc/nginx/conf.d/00-cfsync.conf } }\n',
    );
    await must(lab.cfsync(['apply', '--config', '/etc/cfsync.yaml', '--source', 'bundled']));
    await must(apply());
    expect(await origin.must(['ls', '/etc/nginx/conf.d'])).toBe('cfsync.conf\nsite.conf\n');
    expect(await ask(lab.edge)).toEqual(['192.0.2.77', '192.0.2.77']);
  });
});
