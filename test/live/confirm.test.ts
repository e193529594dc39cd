/** apply --confirm, its watcher, the hold after it, and the probe. */

import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { boot, Halt, haltDir, until } from './halt.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';
import { ruleset } from './ruleset.ts';
import { quoted } from '../helpers/program.ts';

const lists = {
  old: { v4: '173.245.48.0/20', v6: '2400:cb00::/32' },
  new: { v4: '173.245.48.0/20\n104.16.0.0/13', v6: '2400:cb00::/32\n2606:4700::/32' },
} as const;
const bin = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));
const preload = new URL('preload.mjs', import.meta.url).href;

const programs = ['nft', 'iptables', 'ipset', 'pgrep', 'script', 'setsid'];

describeLive('apply --confirm', { programs }, () => {
  let lab: Lab;
  let old: string;
  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);
  const rules = () => ruleset(lab.origin);
  const line = (list: keyof typeof lists, ...more: string[]): string[] => [
    'apply',
    '-b',
    'nftables',
    '--mode=lockdown',
    `--source=/run/lab/${list}`,
    '--accept-large-change',
    ...more,
  ];
  const apply = (list: keyof typeof lists, ...more: string[]) => lab.cfsync(line(list, ...more));
  const command = (...args: string[]): string =>
    [process.execPath, bin, ...args].map(quoted).join(' ');
  const env = { CFSYNC_STATE_DIR: '/run/lab/state' };
  const atTerminal = (...args: string[]) =>
    lab.origin.run(['script', '-qec', command(...args), '/dev/null'], { env });
  /** The process ids of watchers, in origin. */
  const watchers = () => shell('pgrep -f [/]watcher.js || true');
  /** Whether the apply itself has ended: the lock is free. */
  const waits = async () =>
    (await lab.origin.run(['flock', '-n', '/run/lab/state/lock', 'true'])).code === 0;
  const wentBack = () => until('it goes back', async () => (await rules()) === old);
  const holds =
    /^cfsync: held since \S+ \(.*\); nothing is changed; cfsync apply at a terminal ends the hold\n$/;

  beforeEach(async () => {
    lab = await Lab.create({ privateDirs: [haltDir] });
    for (const [name, { v4, v6 }] of Object.entries(lists))
      await shell(
        `mkdir /run/lab/${name}; echo '${v4}' >/run/lab/${name}/ips-v4; echo '${v6}' >/run/lab/${name}/ips-v6`,
      );
    expect((await apply('old')).code).toBe(exit.ok);
    old = await rules();
  });

  afterEach(() => lab.close());

  it('goes back when nobody confirms, and holds until a person applies again', async () => {
    const { code, stderr } = await apply('new', '--confirm=6');
    expect(stderr).toBe(
      'cfsync: it goes back in 6 s unless cfsync confirm is run; try from a new session that you can still get in\n',
    );
    expect(code).toBe(exit.ok);
    const applied = await rules();
    expect(applied).not.toBe(old);
    await wentBack();
    await until('the watcher ends', async () => (await watchers()) === '');

    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
    expect(await lab.cfsync(['confirm'])).toMatchObject({
      code: exit.failed,
      stderr: expect.stringContaining('it has gone back already'),
    });
    for (const list of ['new', 'old'] as const)
      expect(await apply(list)).toEqual({
        code: exit.ok,
        stdout: '',
        stderr: expect.stringMatching(holds),
      });
    expect(await rules()).toBe(old);
    expect((await atTerminal(...line('new'))).code).toBe(exit.ok);
    expect(await rules()).toBe(applied);
    expect(await apply('new')).toEqual({ code: exit.ok, stdout: '', stderr: '' });
  });

  it.each([
    ['the state directory is gone', 'rm -rf /run/lab/state'],
    ['all in it is gone', 'rm -rf /run/lab/state/*'],
    ['that it waits cannot be read', 'echo "{" >/run/lab/state/pending.json'],
    ['a later release has written that', `echo '{"schema":2}' >/run/lab/state/pending.json`],
  ])('goes back by what its watcher remembers where %s', async (_, script) => {
    expect((await apply('new', '--confirm=8')).code).toBe(exit.ok);
    // It looks every second.
    await sleep(4000);
    await shell(script);
    expect(await rules()).not.toBe(old);
    await wentBack();
    await until('the watcher ends', async () => (await watchers()) === '');
    expect((await apply('new')).stderr).toMatch(holds);
  });

  it('stays where that it waits cannot be read, when it is confirmed or another apply comes', async () => {
    for (const [next, said] of [
      [['confirm'], /pending\.json is corrupt .* it was moved to \S+corrupt-1; .*\n$/],
      [line('new'), /pending\.json is corrupt .* it was moved to \S+corrupt-2; .*\n$/],
    ] as const) {
      expect((await apply('old')).code).toBe(exit.ok);
      expect((await apply('new', '--confirm=20')).code).toBe(exit.ok);
      const applied = await rules();
      await sleep(4000);
      await shell('echo "{" >/run/lab/state/pending.json');
      const { code, stderr } = await lab.cfsync(next);
      expect(stderr).toMatch(said);
      expect(code).toBe(exit.ok);
      await until('the watcher ends', async () => (await watchers()) === '');
      expect(await rules()).toBe(applied);
    }
  });

  it.each([
    ['what waits cannot be read', `echo '{"schema":1' >/run/lab/state/pending.json`],
    ['a later release has written it', `echo '{"schema":2}' >/run/lab/state/pending.json`],
    [
      'a later release has written what was applied',
      `echo '{"schema":2}' >/run/lab/state/applied/nftables.json`,
    ],
  ])('rollback goes back where %s', async (_, script) => {
    expect((await apply('new', '--confirm=60')).code).toBe(exit.ok);
    // Its watcher has looked by then, so that it knows how long it waits.
    await sleep(4000);
    await shell(script);
    const { code, stderr } = await lab.cfsync(['rollback']);
    expect(stderr).toMatch(/warning: (nftables: )?\S+ (is corrupt|has schema 2)/);
    expect(code).toBe(exit.ok);
    expect(await rules()).toBe(old);
  });

  it('keeps others waiting meanwhile, and stays when it is confirmed', async () => {
    expect((await apply('new', '--confirm=20')).code).toBe(exit.ok);
    const applied = await rules();
    const waits = /^cfsync: an apply waits \d+ s more for its confirmation; nothing was changed; /;
    const adopt = ['adopt', '-b', 'iptables', '--source=/run/lab/old'];
    for (const args of [line('old'), line('new', '--confirm=9'), ['remove'], adopt])
      expect(await lab.cfsync(args)).toEqual({
        code: exit.busy,
        stdout: '',
        stderr: expect.stringMatching(waits),
      });
    expect(await rules()).toBe(applied);
    expect(await lab.cfsync(['confirm'])).toEqual({
      code: exit.ok,
      stdout: 'confirmed; it stays\n',
      stderr: '',
    });
    expect((await lab.cfsync(['confirm'])).code).toBe(exit.failed);
    await until('the watcher ends', async () => (await watchers()) === '');
    expect(await rules()).toBe(applied);
    expect((await apply('old')).code).toBe(exit.ok);
    expect(await rules()).toBe(old);
  });

  it('waits for nothing when nothing was changed', async () => {
    expect(await apply('old', '--confirm=60')).toEqual({ code: exit.ok, stdout: '', stderr: '' });
    expect((await apply('new')).code).toBe(exit.ok);
  });

  it('counts the time from the end of the apply', async () => {
    await apply('old', '-b', 'iptables');
    old = await rules();
    const halt = await Halt.before(lab.origin, '/usr/sbin/iptables-restore');
    const running = apply('new', '-b', 'iptables', '--confirm=8');
    await halt.reached();
    await sleep(8500);
    await halt.goOn();
    expect((await running).code).toBe(exit.ok);
    expect(await rules()).not.toBe(old);
    expect((await apply('new')).code).toBe(exit.busy);
    await wentBack();
  });

  it('changes nothing when its watcher cannot be started', async () => {
    const log = '/run/lab/log';
    const run = (act: string) =>
      lab.cfsync(line('new', '--confirm=60'), {
        env: {
          CFSYNC_TEST_LOG: log,
          CFSYNC_TEST_ACT: act,
          NODE_OPTIONS: `--import=${preload}`,
        },
      });
    expect((await run('')).code).toBe(exit.ok);
    const start = (await shell(`grep watcher.js ${log}`)).trim();
    expect((await lab.cfsync(['rollback'])).code).toBe(exit.ok);
    await shell('rm /run/lab/state/hold.json');
    const { code, stderr } = await run(`fail:EACCES run ${JSON.parse(start).n}`);
    expect(stderr).toMatch(
      /^cfsync: the watcher of --confirm cannot be started: .*; nothing was changed\n$/,
    );
    expect(code).toBe(exit.failed);
    expect(await rules()).toBe(old);
    expect((await apply('new')).code).toBe(exit.ok);
  });

  it('goes back at once with rollback, and the watcher does nothing more', async () => {
    await apply('new', '--confirm=15');
    expect((await lab.cfsync(['rollback'])).code).toBe(exit.ok);
    expect(await rules()).toBe(old);
    expect((await atTerminal(...line('new'))).code).toBe(exit.ok);
    const applied = await rules();
    await until('the watcher ends', async () => (await watchers()) === '');
    expect(await rules()).toBe(applied);
  });

  it('still waits for the backends that a rollback did not name', async () => {
    await apply('old', '-b', 'iptables');
    old = await rules();
    await apply('new', '-b', 'iptables', '--confirm=15');
    expect((await lab.cfsync(['rollback', '-b', 'iptables'])).code).toBe(exit.ok);
    expect(await rules()).not.toBe(old);
    await wentBack();
  });

  describe('survives', () => {
    /** Ends all that a lost connection ends, and more: every process of the terminal's session, at once. */
    async function loseTerminal(): Promise<void> {
      const session = (await shell('cat /run/lab/session')).trim();
      await shell(`kill -s KILL $(pgrep -x script) $(pgrep -s ${session})`);
      expect(await shell(`pgrep -s ${session} || true`)).toBe('');
    }
    const session = (...args: string[]) =>
      lab.origin.spawn(
        [
          'script',
          '-qec',
          `sh -c ${quoted(`echo $$ >/run/lab/session; ${command(...args)}; echo $? >/run/lab/ended; sleep 600`)}`,
          '/dev/null',
        ],
        env,
      );

    it('the end of the terminal and of the session that started it', async () => {
      session(...line('new', '--confirm=15'));
      await until('it is applied', async () => (await rules()) !== old && (await waits()));
      // It counts down there, and would say so.
      expect(await shell('cat /run/lab/ended || true')).toBe('');
      await loseTerminal();
      expect(await watchers()).not.toBe('');
      expect(await rules()).not.toBe(old);
      await wentBack();
      await until('the watcher ends', async () => (await watchers()) === '');
      expect(await apply('new')).toMatchObject({
        code: exit.ok,
        stderr: expect.stringMatching(holds),
      });
    });

    it('the same in the middle of the apply', async () => {
      await apply('old', '-b', 'iptables');
      old = await rules();
      const halt = await Halt.before(lab.origin, '/usr/sbin/ip6tables-restore');
      session(...line('new', '-b', 'iptables', '--confirm=15'));
      await halt.reached();
      expect(await rules()).not.toBe(old);
      await loseTerminal();
      await halt.goOn();
      await wentBack();
      await until('the watcher ends', async () => (await watchers()) === '');
      expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
    });
  });

  it('under systemd has a watcher that does not belong to the session', async () => {
    await shell(`mkdir -p /run/systemd/system
      cat >${haltDir}/systemd-run <<'END'
#!/bin/sh
printf "%s\\n" "$@" >/run/lab/systemd-run
until [ "$1" = -- ]; do shift; done
shift
exec setsid --fork "$@" </dev/null >/dev/null 2>&1
END
      chmod 755 ${haltDir}/systemd-run`);
    expect((await apply('new', '--confirm=8')).code).toBe(exit.ok);
    expect((await watchers()).trim().split('\n')).toHaveLength(1);
    await wentBack();
    // There is no systemd here, which the real program says when it has understood the rest.
    const words = (await shell('cat /run/lab/systemd-run')).split('\n').slice(0, -1);
    const { stderr } = await lab.origin.run(['/usr/bin/systemd-run', ...words]);
    expect(stderr).toMatch(/^System has not been booted with systemd|^Failed to .* bus/);
  });

  it('at a terminal tells when nobody takes it back', async () => {
    const running = lab.origin.spawn(
      ['script', '-qec', command(...line('new', '--confirm=10')), '/dev/null'],
      env,
    );
    let said = '';
    running.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
    await until('it counts down', () => said.includes('goes back in'));
    await shell('kill -s KILL $(pgrep -f [/]watcher.js)');
    await until('it tells', () => said.includes('it has not gone back yet'));
    expect(await rules()).not.toBe(old);
    expect((await lab.cfsync(['rollback'])).code).toBe(exit.ok);
    await until('it ends', () => running.exitCode !== null);
    expect(said).toContain('the apply has gone back');
    expect(running.exitCode).toBe(exit.rolledBack);
  });

  describe('without its watcher goes back in the next run', () => {
    beforeEach(async () => {
      await apply('new', '--confirm=10');
      await shell('kill -s KILL $(pgrep -f [/]watcher.js)');
    });

    it('after the time', async () => {
      expect((await apply('new')).code).toBe(exit.busy);
      await sleep(10_000);
      expect(await rules()).not.toBe(old);
      const { code, stderr } = await apply('new');
      expect(stderr).toMatch(
        /^cfsync: warning: no confirm came for the apply of \S+: it goes back\ncfsync: timer runs .*\ncfsync: nftables is back to what it was before\ncfsync: held since /,
      );
      expect(code).toBe(exit.ok);
      expect(await rules()).toBe(old);
    });

    it('after a boot, whatever time is left', async () => {
      await boot(lab.origin);
      await lab.origin.nft('flush ruleset');
      expect((await apply('new')).code).toBe(exit.ok);
      expect(await rules()).toBe(old);
    });

    it('or stays, when it is confirmed before that', async () => {
      const applied = await rules();
      await sleep(10_000);
      expect(await lab.cfsync(['confirm'])).toMatchObject({
        code: exit.ok,
        stdout: 'confirmed, just before it went back; it stays\n',
      });
      expect((await apply('new')).stderr).toBe('');
      expect(await rules()).toBe(applied);
    });
  });

  describe('a probe', () => {
    const agent =
      'require("node:http").createServer((q, a) => { if (q.url !== "/silent") a.writeHead(Number(q.url.slice(1))).end("said"); }).listen(8080, "127.0.0.1", () => console.log("ready"))';
    const probing = async (probe: string): Promise<string> => {
      await lab.origin.must(['tee', '/run/lab/config.yaml'], { stdin: `probe: ${probe}\n` });
      return '--config=/run/lab/config.yaml';
    };

    it.for([
      ['a program that succeeds', '[sh, -c, "exit 0"]'],
      ['a URL that answers', 'http://127.0.0.1:8080/200'],
    ] as const)('that is %s changes nothing', async ([, probe]) => {
      const server = lab.origin.spawn([process.execPath, '-e', agent]);
      await new Promise((ready) => server.stdout.once('data', ready));
      const config = await probing(probe);
      expect(await apply('new', config)).toMatchObject({ code: exit.ok, stderr: '' });
      expect(await rules()).not.toBe(old);
    });

    it.for([
      [
        'a program that fails',
        '[sh, -c, "echo down >&2; exit 7"]',
        /sh -c echo down >&2; exit 7 ended with code 7 \(down\)/,
      ],
      ['a program that is not there', '[no-such-program]', /no-such-program is not installed/],
      [
        'a URL that answers with an error',
        'http://127.0.0.1:8080/500',
        /http:\/\/127\.0\.0\.1:8080\/500 answered 500/,
      ],
      ['a URL that nobody answers', 'http://127.0.0.1:8081/', /ECONNREFUSED 127\.0\.0\.1:8081/],
    ] as const)('that is %s takes it back', async ([, probe, why]) => {
      const server = lab.origin.spawn([process.execPath, '-e', agent]);
      await new Promise((ready) => server.stdout.once('data', ready));
      const { code, stderr } = await apply('new', await probing(probe), '--confirm=60');
      expect(stderr).toMatch(why);
      expect(stderr).toMatch(
        /^cfsync: the probe failed: .*; what was applied goes back\ncfsync: nftables is back to what it was before\n$/,
      );
      expect(code).toBe(exit.rolledBack);
      expect(await rules()).toBe(old);
      // Nothing waits any more, and nothing holds: the next run tries again.
      expect((await apply('new')).code).toBe(exit.ok);
    });

    it.for([
      ['a program', '[sleep, "1000"]', 'sleep 1000 did not end within 30 s'],
      [
        'a URL',
        'http://127.0.0.1:8080/silent',
        'http://127.0.0.1:8080/silent did not answer within 30 s',
      ],
    ] as const)('that is %s without an end takes it back', async ([, probe, why]) => {
      const server = lab.origin.spawn([process.execPath, '-e', agent]);
      await new Promise((ready) => server.stdout.once('data', ready));
      const { code, stderr } = await lab.cfsync(
        line('new', await probing(probe)),
        // Waits pass faster; no program is made to hang.
        { env: { NODE_OPTIONS: `--import=${preload}`, CFSYNC_TEST_ACT: 'hang-before run 9999' } },
      );
      expect(stderr).toContain(`the probe failed: ${why};`);
      expect(code).toBe(exit.rolledBack);
      expect(await rules()).toBe(old);
    });

    it('is not asked when nothing was changed', async () => {
      expect((await apply('old', await probing('["false"]'))).code).toBe(exit.ok);
    });
  });
});
