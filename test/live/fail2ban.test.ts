/** fail2ban with a real server: bans that are real nftables rules, and a configuration that an admin edits. */

import {
  appendFile,
  chmod,
  chown,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Outcome } from '../../src/renderer.ts';
import { bundled } from '../helpers/desired.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const edge = ['173.245.48.10', '2400:cb00::10'];
const stranger = ['198.51.100.10', '2001:db8::10'];
const office = '203.0.113.77';

const early = '/etc/fail2ban/jail.d/00-cfsync.conf';
const late = '/etc/fail2ban/jail.d/zz-cfsync.local';
const log = '/run/lab.log';
/** Found before /usr/bin, by cfsync too. */
const wrapper = '/usr/local/bin/fail2ban-client';

const defaults = `bantime = 600
findtime = 600
maxretry = 2
backend = polling
usedns = no
banaction = nftables[type=allports]`;
const jail = (name: string, more = ''): string =>
  `[${name}]\nenabled = true\nfilter = lab\nlogpath = ${log}\naction = %(banaction)s\n${more}`;
/** One jail, no ignoreip. */
const plain = `[DEFAULT]\n${defaults}\n${jail('labt')}`;
const withOffice = `[DEFAULT]\n${defaults}\nignoreip = ${office}\n${jail('labt')}`;

const cloudflare = [...bundled.v4, ...bundled.v6];
/** As the server lists it: networks, then addresses. */
const listed = (...more: string[]): string[] => [...cloudflare, ...more].sort();

describeLive('fail2ban', { programs: ['fail2ban-server', 'nft', 'setpriv'] }, () => {
  let lab: Lab;

  beforeAll(async () => {
    lab = await Lab.create({ privateDirs: ['/var/lib/fail2ban', '/var/log', '/usr/local/bin'] });
    await lab.origin.listen({ tcp: [80] });
    // Every run copies the folder some times; what these tests do not need would cost them half of their time.
    await lab.origin.must([
      'find',
      '/etc/fail2ban/filter.d',
      '/etc/fail2ban/action.d',
      '-type',
      'f',
      '!',
      '-name',
      'nftables*',
      '-delete',
    ]);
    await put(
      '/etc/fail2ban/filter.d/lab.conf',
      '[Definition]\nfailregex = ^ bad <HOST>$\ndatepattern = ^EPOCH\n',
    );
    await put(
      '/etc/fail2ban/fail2ban.local',
      '[DEFAULT]\nallowipv6 = yes\n[Definition]\nallowipv6 = yes\n',
    );
    await put(log, '');
    // The server resolves its own name now and then; unanswered questions would cost 5 s each.
    await put('/etc/resolv.conf', 'nameserver 127.0.0.1\n');
    await lab.origin.must(['mkdir', '-p', '/run/fail2ban']);
    await configure(plain);
    await lab.origin.must(['fail2ban-server', 'start']);
  });
  afterAll(() => lab.close());
  beforeEach(async () => {
    await rm(lab.origin.path(wrapper), { force: true });
    await rm(lab.origin.path('/run/lab/state'), { recursive: true, force: true });
    for (const path of [early, late]) await rm(lab.origin.path(path), { force: true });
    await configure(plain);
    await lab.origin.must(['fail2ban-client', 'reload', '--restart', '--unban', '--all']);
  });

  // ---- the machine ----

  async function put(path: string, text: string): Promise<void> {
    await mkdir(dirname(lab.origin.path(path)), { recursive: true });
    await writeFile(lab.origin.path(path), text);
  }
  const get = (path: string): Promise<string> => readFile(lab.origin.path(path), 'utf8');

  /** Writes the admin's files; those of an earlier test go. */
  async function configure(jailLocal: string, more: Record<string, string> = {}): Promise<void> {
    const folder = lab.origin.path('/etc/fail2ban/jail.d');
    for (const name of await readdir(folder))
      if (!name.includes('cfsync')) await rm(join(folder, name));
    await rm(lab.origin.path('/etc/fail2ban/jail.local'), { force: true });
    await put('/etc/fail2ban/jail.local', jailLocal);
    for (const [name, text] of Object.entries(more)) await put(`/etc/fail2ban/${name}`, text);
  }

  const client = (...words: string[]): Promise<string> =>
    lab.origin.must(['fail2ban-client', ...words]);

  async function edit(jailLocal: string, more: Record<string, string> = {}): Promise<void> {
    await configure(jailLocal, more);
    await client('reload');
  }

  async function ignored(name = 'labt'): Promise<string[]> {
    const text = await client('get', name, 'ignoreip');
    return [...text.matchAll(/^[|`]- (.+)$/gm)].map(([, entry]) => entry!).sort();
  }

  async function banned(name = 'labt'): Promise<string[]> {
    return (await client('get', name, 'banip')).split(/\s+/).filter(Boolean).sort();
  }

  /** Makes log lines, enough for a ban each. */
  async function misbehave(addresses: readonly string[]): Promise<void> {
    const now = Math.floor(Date.now() / 1000);
    const lines = addresses.flatMap((ip) => [`${now} bad ${ip}\n`, `${now} bad ${ip}\n`]);
    await appendFile(lab.origin.path(log), lines.join(''));
  }

  async function untilBanned(addresses: readonly string[]): Promise<void> {
    for (const end = Date.now() + 240_000; ; await sleep(100)) {
      const now = await banned();
      if (addresses.every((ip) => now.includes(ip))) return;
      if (Date.now() > end)
        throw new Error(`banned are ${now.join(' ')}, awaited ${addresses.join(' ')}`);
    }
  }

  /** Every file below /etc/fail2ban: content or target, mode, owner. */
  async function tree(): Promise<Record<string, string>> {
    const root = lab.origin.path('/etc/fail2ban');
    const found: Record<string, string> = {};
    for (const name of (await readdir(root, { recursive: true })).sort()) {
      const path = join(root, name);
      const { mode, uid, gid } = await lstat(path);
      const link = await readlink(path).catch(() => undefined);
      const content = link ?? (await readFile(path, 'utf8').catch(() => ''));
      found[name] = `${mode.toString(8)} ${uid}:${gid}\n${content}`;
    }
    return found;
  }

  const without = (all: Record<string, string>, ...names: string[]): Record<string, string> =>
    Object.fromEntries(
      Object.entries(all).filter(([name]) => !names.includes(`/etc/fail2ban/${name}`)),
    );

  // ---- cfsync ----

  const run = (...args: string[]): Promise<Outcome> => lab.cfsync(args);

  async function apply(...more: string[]): Promise<string> {
    const { code, stdout, stderr } = await run(
      'apply',
      '-b',
      'fail2ban',
      '--source',
      'bundled',
      '-v',
      ...more,
    );
    expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
    return stdout + stderr;
  }

  async function failed(code: number, ...args: string[]): Promise<string> {
    const outcome = await run(...args);
    expect(outcome).toMatchObject({ code });
    return outcome.stdout + outcome.stderr;
  }
  const applyFails = (code: number): Promise<string> =>
    failed(code, 'apply', '-b', 'fail2ban', '--source', 'bundled');

  async function verify(code: 0 | 2): Promise<string> {
    const outcome = await run('verify', '-b', 'fail2ban');
    expect(outcome).toMatchObject({ code });
    return outcome.stdout + outcome.stderr;
  }

  /** The second run has nothing to do: no file is touched, nothing is reloaded. */
  async function settled(): Promise<void> {
    const marks = async (): Promise<unknown[]> => [
      await Promise.all(
        [early, late].map((path) =>
          stat(lab.origin.path(path)).then(
            ({ ino, mtimeMs, ctimeMs }) => [ino, mtimeMs, ctimeMs],
            () => 'absent',
          ),
        ),
      ),
      (await get('/var/log/fail2ban.log')).match(/Reload finished/g)?.length,
    ];
    const before = await marks();
    expect(await apply()).toContain('fail2ban: no changes');
    expect(await marks()).toEqual(before);
  }

  /** A wrapper that behaves differently for one word of the command line. */
  async function sabotage(word: string, script: string): Promise<void> {
    const text = `#!/bin/sh\nif [ "$1" = ${word} ]; then\n${script}\nfi\nexec /usr/bin/fail2ban-client "$@"\n`;
    await put(wrapper, text);
    await chmod(lab.origin.path(wrapper), 0o755);
  }

  // ---- tests ----

  describe('bans', () => {
    test('a banned edge is freed and then ignored, the office still is, a stranger is still banned', async () => {
      await edit(withOffice);
      await misbehave([...edge, ...stranger, office]);
      await untilBanned([...edge, ...stranger]);
      await lab.expectVerdict(80, { edge: 'closed', stranger: 'closed' });

      expect(await apply()).toContain('addresses of Cloudflare are banned; apply lifts 2 bans');
      await lab.expectVerdict(80, { edge: 'open', stranger: 'closed' });
      expect(await banned()).toEqual(stranger.toSorted());

      const another = '198.51.100.99';
      await misbehave([...edge, office, another]);
      await untilBanned([another]);
      expect(await banned()).toEqual([...stranger, another].sort());
      const journal = await get('/var/log/fail2ban.log');
      for (const ip of [...edge, office]) expect(journal).toContain(`Ignore ${ip} by ip`);
      await lab.expectVerdict(80, { edge: 'open', stranger: 'closed' });
      await settled();
    });

    test('of networks inside the ranges are lifted, wider ones are told', async () => {
      await client('set', 'labt', 'banip', '173.245.49.0/24', '172.0.0.0/8', '198.51.100.0/24');
      const said = await apply();
      expect(said).toContain('apply lifts 1 ban: 173.245.49.0/24 (jail labt)');
      expect(said).toContain("wider than Cloudflare's ranges: 1 ban: 172.0.0.0/8 (jail labt)");
      expect(await banned()).toEqual(['172.0.0.0/8', '198.51.100.0/24']);
      expect(await verify(0)).toContain('172.0.0.0/8');
    });

    test('made by hand afterwards are drift, and lifted without a reload', async () => {
      await apply();
      await client('set', 'labt', 'banip', edge[0]!);
      const reloads = (await get('/var/log/fail2ban.log')).match(/Reload finished/g)?.length;
      expect(await verify(2)).toContain(edge[0]);
      await apply();
      expect(await banned()).toEqual([]);
      expect((await get('/var/log/fail2ban.log')).match(/Reload finished/g)?.length).toBe(reloads);
    });

    test('made while the configuration is loaded are lifted, and without any nothing is', async () => {
      const unbans = 'echo >> /run/unbans';
      const word = '/usr/bin/fail2ban-client';
      await sabotage('unban', unbans);
      await apply();
      await expect(get('/run/unbans')).rejects.toThrow('ENOENT');
      await run('remove', '-b', 'fail2ban');
      await put(
        wrapper,
        `#!/bin/sh\n[ "$1" != unban ] || ${unbans}\n${word} "$@" || exit\n[ "$1" != reload ] || ${word} set labt banip ${edge[0]} ${stranger[0]}\n`,
      );
      await apply();
      expect(await get('/run/unbans')).toBe('\n');
      expect(await banned()).toEqual([stranger[0]]);
      await rm(lab.origin.path('/run/unbans'));
    });

    test('are lifted only after everything else is verified', async () => {
      await client('set', 'labt', 'banip', ...edge);
      await sabotage('reload', 'echo OK; exit 0');
      const said = await applyFails(4);
      expect(said).toContain('fail2ban is back to what it was before');
      expect(await banned()).toEqual(edge.toSorted());
      expect(await ignored()).toEqual([]);
    });
  });

  describe('nobody sets ignoreip', () => {
    test('an early file of low priority; remove leaves nothing', async () => {
      const before = await tree();
      await apply();
      expect(await ignored()).toEqual(listed('127.0.0.0/8', '::1'));
      expect(without(await tree(), early)).toEqual(before);
      expect((await stat(lab.origin.path(early))).mode & 0o777).toBe(0o644);
      await settled();
      expect((await run('remove', '-b', 'fail2ban')).code).toBe(0);
      expect(await tree()).toEqual(before);
      expect(await ignored()).toEqual([]);
      expect((await run('remove', '-b', 'fail2ban')).stdout).toBe('');
    });

    test('drift is found and repaired', async () => {
      await apply();
      const text = await get(early);
      const drifts: (() => Promise<unknown>)[] = [
        () => put(early, text.replace('    104.16.0.0/13\n', '')),
        () => put(early, `${text}    198.51.100.0/24\n`),
        () => rm(lab.origin.path(early)),
        // A reload that never came: the file is right, the server does not know.
        () => client('set', 'labt', 'delignoreip', '104.16.0.0/13'),
      ];
      for (const drift of drifts) {
        await drift();
        expect(await verify(2)).toContain('drift');
        await apply();
        expect(await get(early)).toBe(text);
        expect(await ignored()).toEqual(listed('127.0.0.0/8', '::1'));
      }
      await settled();
    });

    test('a value of the admin replaces it at once, and the next run carries both', async () => {
      await apply();
      await edit(withOffice);
      expect(await ignored()).toEqual([office]);
      expect(await verify(2)).toContain('zz-cfsync.local');
      expect(await apply()).toContain('ignoreip is set in [DEFAULT]');
      expect(await ignored()).toEqual(listed(office));
      expect(Object.keys(await tree())).not.toContain('jail.d/00-cfsync.conf');
      await settled();
      await edit(plain);
      await verify(2);
      await apply();
      expect(await ignored()).toEqual(listed('127.0.0.0/8', '::1'));
      expect(Object.keys(await tree())).not.toContain('jail.d/zz-cfsync.local');
      await settled();
    });

    test('a jail that adds to it by %(known/ignoreip)s works on, and remove would break it', async () => {
      await apply();
      await edit(plain + 'ignoreip = %(known/ignoreip)s 203.0.113.9\n');
      expect(await ignored()).toEqual(listed('127.0.0.0/8', '::1', '203.0.113.9'));
      await verify(0);
      await settled();
      const before = await tree();
      expect(await failed(1, 'remove', '-b', 'fail2ban')).toContain(
        'a jail refers to the ignoreip of jail.d/00-cfsync.conf',
      );
      expect(await tree()).toEqual(before);
      await client('reload');
      await edit(withOffice + 'ignoreip = %(known/ignoreip)s 203.0.113.9\n');
      expect((await run('remove', '-b', 'fail2ban')).code).toBe(0);
      await client('reload');
      expect(await ignored()).toEqual(['203.0.113.77', '203.0.113.9']);
    });
  });

  describe('the admin sets ignoreip', () => {
    test.for([
      ['in jail.local', withOffice, {}],
      [
        'in a file that sorts before ours',
        plain,
        { 'jail.d/00-a.conf': `[DEFAULT]\nignoreip = ${office}\n` },
      ],
      [
        'in an included file',
        `[INCLUDES]\nbefore = inc.local\n${plain}`,
        { 'inc.local': `[DEFAULT]\nignoreip = ${office}\n` },
      ],
    ] as const)('for all jails, %s', async ([, jailLocal, more]) => {
      await edit(jailLocal, more);
      const before = await tree();
      await apply();
      expect(await ignored()).toEqual(listed(office));
      expect(without(await tree(), late)).toEqual(before);
      expect((await run('remove', '-b', 'fail2ban')).code).toBe(0);
      expect(await tree()).toEqual(before);
      expect(await ignored()).toEqual([office]);
      await rm(lab.origin.path('/etc/fail2ban/inc.local'), { force: true });
    });

    test('in jail.conf itself, which is read before every other file', async () => {
      const stock = await get('/etc/fail2ban/jail.conf');
      await put(
        '/etc/fail2ban/jail.conf',
        stock.replace('#ignoreip = 127.0.0.1/8 ::1', `ignoreip = 127.0.0.1/8 ${office}`),
      );
      try {
        await apply();
        expect(await ignored()).toEqual(listed('127.0.0.0/8', office));
      } finally {
        await put('/etc/fail2ban/jail.conf', stock);
      }
    });

    test('to nothing', async () => {
      await edit(`[DEFAULT]\n${defaults}\nignoreip =\n${jail('labt')}`);
      await apply();
      expect(await ignored()).toEqual(listed());
    });

    test('in some jails: exactly those sections are carried', async () => {
      const jails = [
        jail('own', 'ignoreip = 203.0.113.1\n'),
        jail('empty', 'ignoreip =\n'),
        jail('adds', 'ignoreip = %(known/ignoreip)s 203.0.113.2\n'),
        jail('spread'),
        jail('labt'),
      ];
      await edit(`[DEFAULT]\n${defaults}\nignoreip = ${office}\n${jails.join('')}`, {
        'jail.d/more.conf': '[spread]\nignoreip = 203.0.113.3\n',
        'jail.d/more.local': '[spread]\nignoreip = %(known/ignoreip)s 203.0.113.4\n',
      });
      expect(await apply()).toContain('ignoreip is set in [DEFAULT], [empty], [own], [spread]:');
      expect((await get(late)).match(/^\[.*\]$/gm)).toEqual([
        '[DEFAULT]',
        '[empty]',
        '[own]',
        '[spread]',
      ]);
      expect(await ignored('labt')).toEqual(listed(office));
      expect(await ignored('own')).toEqual(listed('203.0.113.1'));
      expect(await ignored('empty')).toEqual(listed());
      expect(await ignored('adds')).toEqual(listed(office, '203.0.113.2'));
      expect(await ignored('spread')).toEqual(listed('203.0.113.3', '203.0.113.4'));
      await settled();
    });

    test('in a jail alone: the early file stays for the others', async () => {
      await edit(plain + jail('own', 'ignoreip = 203.0.113.1\n'));
      const before = await tree();
      await apply();
      expect(await ignored('labt')).toEqual(listed('127.0.0.0/8', '::1'));
      expect(await ignored('own')).toEqual(listed('203.0.113.1'));
      expect(without(await tree(), early, late)).toEqual(before);
      await run('remove', '-b', 'fail2ban');
      expect(await tree()).toEqual(before);
      expect(await ignored('own')).toEqual(['203.0.113.1']);
      expect(await ignored('labt')).toEqual([]);
    });

    test('in every odd way that fail2ban takes', async () => {
      const value = `127.0.0.1/8, 10.0.0.0/255.0.0.0
  # a comment
  203.0.113.5   ; another
    #dropped
  fe80::1%%eth0,2001:DB8:1::/48

  203.0.113.6 # not a comment
office = 203.0.113.7
banaction_allports = nftables`;
      await edit(
        `[DEFAULT]\n${defaults}\nignoreip = ${value}\n${jail('labt')}${jail('own', 'ignoreip = # %(office)s\n')}`,
      );
      const [all, own] = [await ignored('labt'), await ignored('own')];
      expect(all).toContain('203.0.113.6');
      await apply();
      expect(await ignored('labt')).toEqual(listed(...all));
      expect(await ignored('own')).toEqual(listed(...own));
      await settled();
    });

    test('by a relative link that leads out of the folder', async () => {
      await put('/etc/ansible/jail.local', withOffice);
      await rm(lab.origin.path('/etc/fail2ban/jail.local'));
      await symlink('../ansible/jail.local', lab.origin.path('/etc/fail2ban/jail.local'));
      await client('reload');
      expect(await ignored()).toEqual([office]);
      await apply();
      expect(await ignored()).toEqual(listed(office));
    });

    test('in a jail.d that is a link to elsewhere: nothing is tried there', async () => {
      const jails = lab.origin.path('/etc/fail2ban/jail.d');
      await lab.origin.must(['mv', '/etc/fail2ban/jail.d', '/etc/jails']);
      await symlink('../jails', jails);
      try {
        await edit(plain, { 'jail.d/a.local': `[DEFAULT]\nignoreip = ${office}\n` });
        const before = await lab.origin.must(['ls', '-l', '--full-time', '/etc/jails']);
        expect((await run('backends')).stdout).toMatch(/^fail2ban +usable/m);
        expect(await lab.origin.must(['ls', '-l', '--full-time', '/etc/jails'])).toBe(before);
        await apply();
        expect(await ignored()).toEqual(listed(office));
        await run('remove', '-b', 'fail2ban');
      } finally {
        await rm(jails);
        await lab.origin.must(['mv', '/etc/jails', '/etc/fail2ban/jail.d']);
      }
    });

    test('and changes it: verify sees it, the next run carries it', async () => {
      await edit(withOffice);
      await apply();
      await edit(withOffice.replace(office, '203.0.113.78'));
      expect(await verify(2)).toContain('+ignoreip = 203.0.113.78');
      await apply();
      expect(await ignored()).toEqual(listed('203.0.113.78'));
    });

    test.for([
      [
        'uses %(known/ignoreip)s in the jail',
        withOffice + 'ignoreip = %(known/ignoreip)s 203.0.113.9\n',
        [office, '203.0.113.9'],
      ],
      ['deletes the value of [DEFAULT]', plain, ['127.0.0.0/8', '::1']],
    ] as const)('and later %s: it still loads', async ([, later, values]) => {
      await edit(withOffice);
      await apply();
      await configure(later);
      await lab.origin.must(['fail2ban-client', '-t']);
      await client('reload');
      expect(await ignored()).toEqual(expect.arrayContaining(cloudflare));
      await apply();
      expect(await ignored()).toEqual(listed(...values));
    });

    test.for([
      [
        'uses %(known/ignoreip)s in its section',
        'ignoreip = %(known/ignoreip)s 203.0.113.9\n',
        ['127.0.0.0/8', '::1', '203.0.113.9'],
      ],
      ['deletes its value', '', ['127.0.0.0/8', '::1']],
    ] as const)('in a jail and later %s: it still loads', async ([, later, values]) => {
      await edit(plain + 'ignoreip = 203.0.113.1\n');
      await apply();
      await configure(plain + later);
      await lab.origin.must(['fail2ban-client', '-t']);
      await client('reload');
      expect(await ignored()).toEqual(expect.arrayContaining(cloudflare));
      await apply();
      expect(await ignored()).toEqual(listed(...values));
    });

    test('in a jail that he takes away later: it does not come back', async () => {
      const enabled = plain.replace('[DEFAULT]', '[DEFAULT]\nenabled = true');
      const stock = await get('/etc/fail2ban/jail.conf');
      await put('/etc/fail2ban/jail.conf', stock.slice(0, stock.indexOf('# JAILS')));
      try {
        await edit(enabled + jail('own', 'ignoreip = 203.0.113.1\n'));
        await apply();
        await edit(enabled);
        expect(await client('status')).toMatch(/Jail list:\s+labt$/m);
        await apply();
        expect(Object.keys(await tree())).not.toContain('jail.d/zz-cfsync.local');
      } finally {
        await put('/etc/fail2ban/jail.conf', stock);
      }
    });

    test('in a file that is read after ours: refused, nothing is changed', async () => {
      await edit(plain, { 'jail.d/zzz.local': `[labt]\nignoreip = ${office}\n` });
      const before = await tree();
      expect(await applyFails(1)).toContain('a file that is read later sets ignoreip');
      expect(await tree()).toEqual(before);
      expect(await ignored()).toEqual([office]);
    });
  });

  test('what was ignored at run time survives the reload', async () => {
    await client('set', 'labt', 'addignoreip', office, '203.0.113.128/25');
    await apply();
    expect(await ignored()).toEqual(listed('127.0.0.0/8', '::1', office, '203.0.113.128/25'));
    await run('remove', '-b', 'fail2ban');
    expect(await ignored()).toEqual(['203.0.113.128/25', office]);
  });

  test('a range that is gone leaves files and server, owner and mode stay', async () => {
    await edit(withOffice);
    await put(
      '/run/ranges/ips-v4',
      [...bundled.v4, '198.18.0.0/24'].filter((p) => !p.startsWith('198.18')).join('\n'),
    );
    await put('/run/ranges/ips-v6', bundled.v6.join('\n'));
    await apply();
    await chown(lab.origin.path(late), 65534, 65534);
    await chmod(lab.origin.path(late), 0o640);
    await put('/run/ranges/ips-v4', bundled.v4.filter((p) => p !== '131.0.72.0/22').join('\n'));
    const { code } = await run('apply', '-b', 'fail2ban', '--source', '/run/ranges');
    expect(code).toBe(0);
    expect(await ignored()).toEqual(listed(office).filter((p) => p !== '131.0.72.0/22'));
    const { mode, uid, gid } = await stat(lab.origin.path(late));
    expect([mode & 0o777, uid, gid]).toEqual([0o640, 65534, 65534]);
    expect(await get(late)).not.toContain('Not loaded');
  });

  describe('failures', () => {
    test.for([
      ['the first apply', plain, plain],
      ['a change from the early to the late file', plain, withOffice],
      ['a change from the late to the early file', withOffice, plain],
    ] as const)('a reload that fails is undone (%s)', async ([, first, second]) => {
      await edit(first);
      if (first !== second) await apply();
      await edit(second);
      const [before, server] = [await tree(), await ignored()];
      await sabotage(
        'reload',
        'if [ ! -e /run/failed ]; then touch /run/failed; echo broken >&2; exit 255; fi',
      );
      expect(await applyFails(4)).toContain('fail2ban is back to what it was before');
      await rm(lab.origin.path('/run/failed'));
      expect(await tree()).toEqual(before);
      expect(await ignored()).toEqual(server);
    });

    test('what the admin changes meanwhile survives the way back', async () => {
      await edit(withOffice);
      await apply();
      await edit(withOffice.replace(office, '203.0.113.78'));
      await put('/run/meanwhile', withOffice.replace(office, '203.0.113.79'));
      await sabotage(
        'reload',
        'if [ ! -e /run/failed ]; then touch /run/failed; cp /run/meanwhile /etc/fail2ban/jail.local; exit 255; fi',
      );
      expect(await applyFails(4)).toContain('fail2ban is back to what it was before');
      await rm(lab.origin.path('/run/failed'));
      expect(await ignored()).toEqual(listed('203.0.113.79'));
    });

    test('unbanning that fails takes the rest back, and is not tried on the way', async () => {
      const before = await tree();
      await client('set', 'labt', 'banip', edge[0]!);
      await sabotage('unban', 'echo >> /run/unbans; exit 255');
      expect(await applyFails(4)).toContain('fail2ban is back to what it was before');
      expect(await tree()).toEqual(before);
      expect(await ignored()).toEqual([]);
      await rm(lab.origin.path(wrapper));
      await apply();
      await client('set', 'labt', 'banip', edge[0]!);
      await sabotage('unban', 'echo >> /run/unbans; exit 255');
      expect(await applyFails(4)).toContain('fail2ban is back to what it was before');
      expect(await get('/run/unbans')).toBe('\n\n');
    });

    test('a removal that is cut off before the reload goes on the next time', async () => {
      const before = await tree();
      await apply();
      await sabotage('reload', 'kill -9 $PPID; exit 1');
      expect((await run('remove', '-b', 'fail2ban')).code).toBe(137);
      await rm(lab.origin.path(wrapper));
      expect(await ignored()).toEqual(listed('127.0.0.0/8', '::1'));
      await verify(2);
      expect((await run('remove', '-b', 'fail2ban')).code).toBe(0);
      expect(await ignored()).toEqual([]);
      expect(await tree()).toEqual(before);
    });

    test('a configuration that is broken already is left alone', async () => {
      await apply();
      await configure(`${plain}ignoreip = 1\nignoreip = 2\n`);
      const before = await tree();
      for (const command of ['apply', 'remove', 'verify']) {
        const args = command === 'apply' ? ['--source', 'bundled'] : [];
        expect(await failed(1, command, '-b', 'fail2ban', ...args)).toContain('does not load');
      }
      expect((await run('backends')).stdout).toMatch(/^fail2ban +misconfigured/m);
      expect(await tree()).toEqual(before);
    });

    test('a log file that is missing would stop the reload: nothing is changed', async () => {
      await configure(plain + jail('gone').replace(log, '/run/no.log'));
      const before = await tree();
      expect(await applyFails(1)).toContain('Have not found any log file for gone jail');
      expect(await tree()).toEqual(before);
    });

    test('a jail that is skipped for its errors stops nobody', async () => {
      await edit(plain + jail('odd').replace('filter = lab', 'filter = nosuch'));
      await apply();
      expect(await ignored()).toEqual(listed('127.0.0.0/8', '::1'));
    });

    test('a symbolic link in our place is not followed', async () => {
      await put('/run/target', 'theirs');
      await symlink('../../../run/target', lab.origin.path(early));
      expect(await applyFails(1)).toContain('is a symbolic link');
      expect(await get('/run/target')).toBe('theirs');
      expect((await lstat(lab.origin.path(early))).isSymbolicLink()).toBe(true);
    });

    test('without root', async () => {
      const bin = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));
      const { stdout } = await lab.origin.run(
        [
          'setpriv',
          '--reuid=65534',
          '--regid=65534',
          '--clear-groups',
          process.execPath,
          bin,
          'backends',
        ],
        { env: { CFSYNC_STATE_DIR: '/nonexistent' } },
      );
      expect(stdout).toMatch(/^fail2ban +no permission/m);
    });
  });

  describe('adopt', () => {
    /** What a script and a person wrote: old ranges too, between what is not Cloudflare's. */
    const leftovers = `[DEFAULT]
${defaults}
ignoreip = 127.0.0.1/8, ${office} 173.245.48.0/20,104.16.0.0/12
    # Cloudflare
    2400:cb00::/32 2c0f:f248::/32 ; IPv6
    203.0.113.78
    103.21.244.0/22
${jail('labt')}${jail('own', 'ignoreip = 162.158.0.0/15\n')}`;
    const cleaned = `[DEFAULT]
${defaults}
ignoreip = 127.0.0.1/8, ${office}
    # Cloudflare
     ; IPv6
    203.0.113.78
${jail('labt')}${jail('own', 'ignoreip =\n')}`;
    const theirs = ['127.0.0.0/8', office, '203.0.113.78'];
    const adopt = (): Promise<Outcome> =>
      run('adopt', '-b', 'fail2ban', '--source', 'bundled', '-v');
    const adopted = async (): Promise<string> => {
      const { code, stdout, stderr } = await adopt();
      expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
      return stdout + stderr;
    };

    test('takes the ranges out of the values, and nothing else', async () => {
      const more = { 'jail.d/cf.conf': '[own]\nignoreip = 131.0.72.0/22 10.0.0.0/8\n' };
      await edit(leftovers, more);
      expect(await ignored()).toContain('104.16.0.0/12');
      const dry = await tree();
      const shown = await run('adopt', '-b', 'fail2ban', '--source', 'bundled', '--dry-run');
      expect(shown.stdout).toContain(
        '/etc/fail2ban/jail.local: [DEFAULT] ignoreip = 173.245.48.0/20 104.16.0.0/12 2400:cb00::/32',
      );
      expect(shown.stdout).toContain("stale: 104.28.0.0/14 (not Cloudflare's any more)");
      expect(await tree()).toEqual(dry);

      await adopted();
      expect(await get('/etc/fail2ban/jail.local')).toBe(cleaned);
      expect(await get('/etc/fail2ban/jail.d/cf.conf')).toBe('[own]\nignoreip = 10.0.0.0/8\n');
      expect(await ignored()).toEqual(listed(...theirs));
      expect(await ignored('own')).toEqual(listed());
      await verify(0);
      await settled();
      expect(await adopted()).toContain('fail2ban: nothing to take over');
      // What is left is a configuration without us as well.
      expect((await run('remove', '-b', 'fail2ban')).code).toBe(0);
      expect(await ignored()).toEqual(theirs.toSorted());
      expect(await ignored('own')).toEqual([]);
    });

    test('reads the files as fail2ban does', async () => {
      const cf = '173.245.48.0/20';
      const values = [
        `ignoreip=${cf}`,
        `ignoreip : ${cf},10.0.0.1`,
        `IgnoreIP = 10.0.0.1,,${cf} , 10.0.0.2 ;${cf} 10.0.0.3`,
        `ignoreip = 10.0.0.1;${cf}`,
        `ignoreip = 10.0.0.1\n# ${cf}\n; ${cf}\n\n  \n\t${cf}\n 10.0.0.2 ${cf}`,
        `ignoreip =\r\n   10.0.0.1\r\n   ${cf}\r\n   10.0.0.2`,
        `ignoreip = 10.0.0.1 # ${cf} why`,
        `ignoreip = ${cf}\n  bantime = 10.0.0.1\n  [x] 104.16.0.0/13\nusedns = no`,
        `ignoreip = %(known/ignoreip)s ${cf} 104.16.0.0/12`,
        `ignoreip = 10.0.0.1`,
        `ignoreip =\n  ${cf} #Cloudflare\n  104.16.0.0/13 10.0.0.1 # why\n  10.0.0.2`,
        `findtime = 600\n     \nignoreip:10.0.0.1 173.245.48.7/20 2400:CB00:0::/32\n  #x\n  104.16.0.0/13`,
      ];
      const cloud = { 'jail.d/a.local': `[j3]\nignoreip = 10.0.0.9 ${cf}\n` };
      const text = `[DEFAULT]\n${defaults}\nignoreip = ${office} ${cf}\n`;
      const jails = values.map((value, i) => jail(`j${i}`, `${value}\n`)).join('');
      await edit(text + jails, cloud);
      const isTheirs = (entry: string): boolean => !/^(173|104|2400|#Cloudflare)/.test(entry);
      const before = await Promise.all(values.map((_, i) => ignored(`j${i}`)));
      expect(before.filter((list) => list.some((entry) => !isTheirs(entry)))).toHaveLength(11);
      await adopted();
      for (const i of values.keys())
        expect(await ignored(`j${i}`), values[i]).toEqual(listed(...before[i]!.filter(isTheirs)));
      await run('remove', '-b', 'fail2ban');
      for (const i of values.keys())
        expect(await ignored(`j${i}`), values[i]).toEqual(before[i]!.filter(isTheirs));
    });

    test.for(['reload', 'unban'])('a %s that fails puts every value back', async (word) => {
      await edit(leftovers, { 'jail.d/cf.conf': '[labt]\nignoreip = 131.0.72.0/22\n' });
      await client('set', 'labt', 'banip', stranger[0]!, edge[0]!);
      const [before, server] = [await tree(), await ignored()];
      await sabotage(
        word,
        'if [ ! -e /run/failed ]; then touch /run/failed; echo broken >&2; exit 255; fi',
      );
      const { code, stderr } = await adopt();
      expect(stderr).toContain('fail2ban is back to what it was before');
      expect(code).toBe(4);
      await rm(lab.origin.path('/run/failed'));
      expect(await tree()).toEqual(before);
      expect(await ignored()).toEqual(server);
    });

    test('what the admin writes meanwhile survives the way back', async () => {
      await edit(leftovers);
      const server = await ignored();
      const later = cleaned.replace(office, `${office} 203.0.113.99`) + jail('late');
      await put('/run/meanwhile', later);
      await sabotage(
        'reload',
        'if [ ! -e /run/failed ]; then touch /run/failed; cp /run/meanwhile /etc/fail2ban/jail.local; exit 255; fi',
      );
      expect((await adopt()).code).toBe(4);
      await rm(lab.origin.path('/run/failed'));
      expect(await ignored()).toEqual([...server, '203.0.113.99'].sort());
      expect(await ignored('own')).toEqual(['162.158.0.0/15']);
      expect(await ignored('late')).toEqual([...server, '203.0.113.99'].sort());
    });

    test('cut off before the reload: the next run finishes, also in the server', async () => {
      await edit(leftovers);
      await sabotage('reload', 'kill -9 $PPID; exit 1');
      expect((await adopt()).code).toBe(137);
      await rm(lab.origin.path(wrapper));
      expect(await ignored()).toContain('104.16.0.0/12');
      await apply();
      expect(await get('/etc/fail2ban/jail.local')).toBe(cleaned);
      expect(await ignored()).toEqual(listed(...theirs));
      await settled();
    });

    test('leaves alone what it cannot edit, and says so', async () => {
      const stock = await get('/etc/fail2ban/jail.conf');
      await put(
        '/etc/fail2ban/jail.conf',
        stock.replace('\n[DEFAULT]\n', '\n[DEFAULT]\nignoreip = 173.245.48.0/20\n'),
      );
      await put('/etc/ansible/cf.local', '[own]\nignoreip = 103.21.244.0/22\n');
      try {
        const variable = jail('var', 'cf = 131.0.72.0/22\nignoreip = %(cf)s 104.16.0.0/12\n');
        await configure(plain + jail('own') + variable);
        await symlink('../../ansible/cf.local', lab.origin.path('/etc/fail2ban/jail.d/cf.local'));
        await client('reload');
        const said = await adopted();
        for (const [name, range] of [
          ['labt', '173.245.48.0/20'],
          ['own', '103.21.244.0/22'],
          ['var', '131.0.72.0/22'],
        ])
          expect(said).toContain(`left alone: jail ${name} ignores ${range} by what`);
        expect(await ignored('var')).toEqual(listed());
        expect(await get('/etc/ansible/cf.local')).toBe('[own]\nignoreip = 103.21.244.0/22\n');
        await settled();
      } finally {
        await rm(lab.origin.path('/etc/fail2ban/jail.d/cf.local'), { force: true });
        await put('/etc/fail2ban/jail.conf', stock);
      }
    });
  });

  test.for([
    ['of this Python', '#!/usr/bin/python3', 'True'],
    ['of another one', '#!/usr/bin/env python3', 'False'],
  ])(
    'a client %s is asked, with its modules where they are the same',
    async ([, first, loaded]) => {
      await edit(plain + jail('own', 'ignoreip = 203.0.113.1\n'));
      await put(
        wrapper,
        `${first}
import sys
with open("/run/asked", "a") as file:
    print("fail2ban.client.configurator" in sys.modules, *sys.argv[1:], file=file)
from fail2ban.client.fail2banclient import exec_command_line
exec_command_line(sys.argv)
`,
      );
      await chmod(lab.origin.path(wrapper), 0o755);
      await rm(lab.origin.path('/run/asked'), { force: true });
      await run('diff', '-b', 'fail2ban', '--source', 'bundled');
      const asked = (await get('/run/asked')).replaceAll(/\/\S+(?=\/try-)/g, '').trim();
      expect(asked.split('\n').sort()).toEqual(
        [
          'banned',
          'get labt ignoreip',
          'get own ignoreip',
          '-c /try-0 -d',
          '-c /try-1 -d',
          '-c /try-2 -d',
          '-c /etc/fail2ban -d',
        ]
          .map((words) => `${loaded} ${words}`)
          .sort(),
      );
      await apply();
      expect(await ignored('own')).toEqual(listed('203.0.113.1'));
    },
  );

  test('dry run and render change nothing', async () => {
    await client('set', 'labt', 'banip', edge[0]!);
    const before = await tree();
    const { code, stdout } = await run(
      'apply',
      '-b',
      'fail2ban',
      '--source',
      'bundled',
      '--dry-run',
    );
    expect(code).toBe(0);
    expect(stdout).toContain('step 1: fail2ban: write /etc/fail2ban/jail.d/00-cfsync.conf');
    expect(stdout).toContain('lift 1 ban: 173.245.48.10 (jail labt)');
    await run('render', '-b', 'fail2ban', '--source', 'bundled');
    expect(await tree()).toEqual(before);
    expect(await banned()).toEqual([edge[0]]);
  });

  // The last ones: they stop the server.
  test('while the server is stopped: files only, and it reads them when it starts', async () => {
    await client('set', 'labt', 'banip', ...edge, ...stranger);
    await client('stop');
    expect(await apply()).toContain('the server is not running');
    await settled();
    await lab.origin.must(['fail2ban-server', 'start']);
    await verify(0);
    expect(await ignored()).toEqual(listed('127.0.0.0/8', '::1'));
    expect(await banned()).toEqual(stranger.toSorted());
    await client('stop');
    expect((await run('remove', '-b', 'fail2ban')).code).toBe(0);
    expect(Object.keys(await tree())).not.toContain('jail.d/00-cfsync.conf');
    await lab.origin.must(['fail2ban-server', 'start']);
  });

  test('a socket that a killed server left behind is no server', async () => {
    const pid = (await get('/run/fail2ban/fail2ban.pid')).trim();
    await lab.origin.must(['kill', '-9', pid]);
    expect(await apply()).toContain('the server is not running');
    await lab.origin.must(['fail2ban-client', '-x', 'start']);
    expect(await ignored()).toEqual(listed('127.0.0.0/8', '::1'));
    await verify(0);
  });
});
