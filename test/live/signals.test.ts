/** Signals and terminals that go away, in the middle of an apply of nftables and iptables. */

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { boot, Halt, haltDir, until } from './halt.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';
import { ruleset } from './ruleset.ts';
import { quoted } from '../helpers/program.ts';

const programs = ['nft', 'iptables', 'ipset', 'ufw', 'fail2ban-client', 'python3', 'script'];
const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const lists = {
  old: { v4: '173.245.48.0/20', v6: '2400:cb00::/32' },
  new: { v4: '173.245.48.0/20\n104.16.0.0/13', v6: '2400:cb00::/32\n2606:4700::/32' },
} as const;
const bin = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));

describeLive('signals', { programs }, () => {
  let lab: Lab;
  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);
  const line = (list: keyof typeof lists, ...more: string[]): string[] => [
    'apply',
    `--source=/run/lab/${list}`,
    '--accept-large-change',
    ...more,
  ];
  const both = ['-b', 'nftables', '-b', 'iptables', '--mode=lockdown'];
  const apply = (list: keyof typeof lists, ...more: string[]) => lab.cfsync(line(list, ...more));
  const rules = () => ruleset(lab.origin);
  /** The cfsync that holds the lock says who it is; the number counts in origin. */
  const pid = async (): Promise<string> => {
    const said = await readFile(lab.origin.path('/run/lab/state/lock'), 'utf8');
    return /process (\d+)/.exec(said)![1]!;
  };
  const send = async (signal: string): Promise<void> => {
    await shell(`kill -s ${signal.slice(3)} ${await pid()}`);
  };

  beforeEach(async () => {
    lab = await Lab.create({ privateDirs: [haltDir] });
    for (const [name, { v4, v6 }] of Object.entries(lists))
      await shell(
        `mkdir /run/lab/${name}; echo '${v4}' >/run/lab/${name}/ips-v4; echo '${v6}' >/run/lab/${name}/ips-v6`,
      );
  });

  afterEach(() => lab.close());

  /** The old list is applied; the new one is, as far as the second backend's first step. */
  async function inTheMiddle() {
    expect(await apply('old', ...both)).toMatchObject({ code: exit.ok });
    const before = await rules();
    const halt = await Halt.before(lab.origin, '/usr/sbin/iptables-restore');
    return { before, halt };
  }

  async function isWhole(before: string): Promise<void> {
    expect(await rules()).toBe(before);
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
    expect(await apply('new', ...both, '--lock-timeout=0')).toMatchObject({ code: exit.ok });
    expect(await rules()).not.toBe(before);
  }

  describe.each(signals)('%s', (signal) => {
    it('in the middle undoes the apply, and the backends that were done', async () => {
      const { before, halt } = await inTheMiddle();
      const running = apply('new', ...both);
      await halt.reached();
      expect(await rules()).not.toBe(before);
      await send(signal);
      await halt.goOn();
      const { code, stderr } = await running;
      expect(stderr).toMatch(
        new RegExp(
          `^cfsync: ${signal}: what was begun is undone\ncfsync: iptables: ended by ${signal}; `,
        ),
      );
      expect(stderr).toContain('iptables is back to what it was before');
      expect(stderr).toContain('nftables is back to what it was before');
      expect(code).toBe(exit.rolledBack);
      await isWhole(before);
    });

    it('before the first change ends it', async () => {
      await apply('old', ...both);
      const before = await rules();
      const halt = await Halt.before(lab.origin, '/usr/sbin/iptables-restore', 'check');
      const running = apply('new', ...both);
      await halt.reached();
      await send(signal);
      expect(await running).toEqual({
        code: exit.failed,
        stdout: '',
        stderr: `cfsync: ended by ${signal}; nothing was changed\n`,
      });
      await halt.goOn();
      await isWhole(before);
    });
  });

  it('just before the first change ends it', async () => {
    await apply('old', ...both);
    const before = await rules();
    // The watcher is started when all is planned; without systemd's bus it is not by systemd-run.
    await shell('mkdir -p /run/systemd/system');
    const halt = await Halt.before(lab.origin, '/usr/bin/systemd-run');
    const running = apply('new', ...both, '--confirm=60');
    await halt.reached();
    await send('SIGINT');
    await halt.goOn();
    const { code, stdout, stderr } = await running;
    expect(stderr).toMatch(/^cfsync: ended by SIGINT; nothing was changed$/m);
    expect({ code, stdout }).toEqual({ code: exit.failed, stdout: '' });
    await isWhole(before);
  });

  it('while the probe runs undoes what was applied', async () => {
    await apply('old', ...both);
    const before = await rules();
    const halt = await Halt.before(lab.origin, '/usr/bin/true');
    await shell('echo \'probe: ["true"]\' >/run/lab/config.yaml');
    const running = apply('new', ...both, '--config=/run/lab/config.yaml');
    await halt.reached();
    await send('SIGTERM');
    await halt.goOn();
    expect(await running).toMatchObject({
      code: exit.rolledBack,
      stderr: expect.stringMatching(/iptables is back .*\n.*nftables is back /),
    });
    await isWhole(before);
  });

  it('does not interrupt a rollback', async () => {
    await apply('old', ...both);
    const before = await rules();
    await apply('new', ...both);
    const halt = await Halt.before(lab.origin, '/usr/sbin/iptables-restore');
    const running = lab.cfsync(['rollback']);
    await halt.reached();
    await send('SIGINT');
    await halt.goOn();
    expect(await running).toMatchObject({
      code: exit.ok,
      stderr: expect.stringContaining('cfsync: SIGINT: this is brought to its end\n'),
    });
    expect(await rules()).toBe(before);
  });

  it('in the middle of a removal undoes the backend at work, and leaves those to come', async () => {
    await apply('old', ...both);
    const halt = await Halt.before(lab.origin, '/usr/sbin/iptables-restore');
    const before = await rules();
    const running = lab.cfsync(['remove']);
    await halt.reached();
    await send('SIGINT');
    await halt.goOn();
    const { code, stderr } = await running;
    expect(stderr).toContain('iptables is back to what it was before');
    expect(stderr).toContain('nftables: ended by SIGINT; nothing was changed');
    expect(code).toBe(exit.rolledBack);
    await isWhole(before);
  });

  it('in the middle of what is brought back after a boot undoes it', async () => {
    await apply('old', '-b', 'iptables', '--mode=lockdown');
    await apply('new', '-b', 'iptables', '--mode=lockdown');
    expect((await lab.cfsync(['rollback'])).code).toBe(exit.ok);
    const held = await rules();
    await boot(lab.origin);
    await shell('iptables -t raw -F; iptables -t raw -X');
    const lost = await rules();
    const halt = await Halt.before(lab.origin, '/usr/sbin/iptables-restore');
    const running = apply('new', '-b', 'iptables');
    await halt.reached();
    await send('SIGTERM');
    await halt.goOn();
    expect((await running).code).toBe(exit.rolledBack);
    expect(await rules()).toBe(lost);
    expect((await apply('new', '-b', 'iptables')).code).toBe(exit.ok);
    expect(await rules()).toBe(held);
  });

  it('a second signal does not interrupt the undo', async () => {
    const { before, halt } = await inTheMiddle();
    const running = apply('new', ...both);
    await halt.reached(1);
    await send('SIGINT');
    await halt.goOn(1);
    await halt.reached(2);
    for (const signal of signals) await send(signal);
    await halt.goOn();
    expect((await running).code).toBe(exit.rolledBack);
    await isWhole(before);
  });

  it('leaves no folder and no lock behind when it ends before the first change', async () => {
    await shell(
      'mkdir /run/lab/tmp; touch /var/log/auth.log; printf "[sshd]\\nbackend = polling\\n" > /etc/fail2ban/jail.d/defaults.local',
    );
    const halt = await Halt.before(lab.origin, '/usr/bin/fail2ban-client');
    const backends = ['-b', 'ufw', '-b', 'fail2ban'];
    const running = lab.cfsync(line('old', ...backends), {
      env: { TMPDIR: '/run/lab/tmp' },
    });
    // The server is asked, and the configuration is read in copies.
    await halt.reached(2);
    expect(await shell('ls /run/lab/tmp')).toMatch(/^cfsync-/);
    await send('SIGTERM');
    expect((await running).code).toBe(exit.failed);
    expect(await shell('ls -A /run/lab/tmp')).toBe('');
    await halt.goOn();
    expect(await apply('old', '--lock-timeout=0', ...backends)).toMatchObject({
      code: exit.ok,
    });
  });

  describe('a terminal', () => {
    /** Runs cfsync at a terminal of its own; how it ended is in a file, because nobody waits for it. */
    function atTerminal(...args: string[]) {
      const words = [process.execPath, bin, ...args].map(quoted).join(' ');
      return lab.origin.spawn(
        [
          'script',
          '-qec',
          `sh -c ${quoted(`trap : HUP INT; ${words}; echo $? >/run/lab/ended`)}`,
          '/dev/null',
        ],
        { CFSYNC_STATE_DIR: '/run/lab/state' },
      );
    }
    const ended = async (): Promise<number> => {
      let text = '';
      await until('cfsync ends', async () => {
        text = await shell('cat /run/lab/ended || true');
        return text !== '';
      });
      return Number(text);
    };

    it('sends ^C to cfsync alone, not to the programs it runs', async () => {
      const { before, halt } = await inTheMiddle();
      const terminal = atTerminal(...line('new', ...both));
      await halt.reached();
      terminal.stdin.write('\x03');
      let said = '';
      terminal.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
      await until('the signal is answered', () => said.includes('what was begun is undone'));
      expect(await halt.signals()).toEqual([]);
      await halt.goOn();
      expect(await ended()).toBe(exit.rolledBack);
      await isWhole(before);
    });

    it('does not take the lock of UFW from the undo with ^C', async () => {
      // When it is first enabled, ufw 0.36.2 loads only a part of user6.rules.
      await shell('ufw --force enable; ufw reload');
      expect(await apply('old', '-b', 'ufw')).toMatchObject({ code: exit.ok });
      const before = await rules();
      const halt = await Halt.before(lab.origin, '/usr/sbin/iptables-restore');
      const terminal = atTerminal(...line('new', '-b', 'ufw'));
      await halt.reached();
      const lock = 'fcntl.lockf(open("/run/ufw.lock", "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)';
      const take = () => lab.origin.run(['python3', '-c', `import fcntl; ${lock}`]);
      terminal.stdin.write('\x03');
      let said = '';
      terminal.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
      await until('the signal is answered', () => said.includes('what was begun is undone'));
      expect((await take()).stderr).toContain('BlockingIOError');
      await halt.goOn();
      expect(await ended()).toBe(exit.rolledBack);
      expect(await rules()).toBe(before);
      expect((await take()).code).toBe(0);
    });

    it('that goes away ends the apply like a signal, and the undo is not hindered', async () => {
      const { before, halt } = await inTheMiddle();
      const terminal = atTerminal(...line('new', ...both, '--verbose'));
      await halt.reached();
      await shell('kill -s KILL $(pgrep -x script)');
      await until('the terminal is gone', () => terminal.signalCode !== null);
      await halt.goOn();
      expect(await ended()).toBe(exit.rolledBack);
      expect(await halt.signals()).toEqual([]);
      await isWhole(before);
    });
  });

  it('a reader of its output that goes away does not stop it half-way', async () => {
    const { before, halt } = await inTheMiddle();
    const running = lab.origin.must(
      [
        'sh',
        '-c',
        `{ "$@"; echo $? >/run/lab/ended; } 2>&1 | true; cat /run/lab/ended`,
        'sh',
      ].concat(process.execPath, bin, line('new', ...both)) as [string, ...string[]],
      { env: { CFSYNC_STATE_DIR: '/run/lab/state' } },
    );
    await halt.reached();
    await halt.goOn();
    expect(await running).toBe(`${exit.ok}\n`);
    expect(await rules()).not.toBe(before);
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
  });
});
