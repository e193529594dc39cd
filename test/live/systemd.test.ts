/**
 * examples/systemd and examples/cron. No systemd runs here, so its own checks are asked, and then an apply runs
 * under the restrictions that the unit names, made with setpriv(1) and mounts: capabilities, no new privileges,
 * and what is writable. Not made: the filters of system calls and of address families.
 */
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { exit } from '../../src/errors.ts';
import { emptied, Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const examples = join(import.meta.dirname, '..', '..', 'examples');
const program = join(import.meta.dirname, '..', '..', 'dist', 'src', 'bin.js');
const unit = readFileSync(join(examples, 'systemd', 'cfsync.service'), 'utf8');

function setting(name: string): readonly string[] {
  return new RegExp(`^${name}=(.*)$`, 'm').exec(unit)![1]!.split(' ');
}

const programs = ['systemd-analyze', 'setpriv', 'nft', 'iptables', 'ufw', 'fail2ban-client'];

describeLive('examples/systemd', { programs }, () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.create();
  });
  afterAll(() => lab.close());

  test('systemd-analyze finds no mistake in the units', () => {
    const root = mkdtempSync(join(tmpdir(), 'cfsync-units-'));
    try {
      const units = join(root, 'etc', 'systemd', 'system');
      mkdirSync(units, { recursive: true });
      cpSync(join(examples, 'systemd'), units, { recursive: true });
      mkdirSync(join(root, 'usr', 'bin'), { recursive: true });
      writeFileSync(join(root, 'usr', 'bin', 'cfsync'), '#!/bin/sh\n', { mode: 0o755 });
      // Units that every system has, which the folder alone has not.
      for (const name of [
        'sysinit',
        'basic',
        'shutdown',
        'network-online',
        'timers',
        'time-set',
        'time-sync',
      ])
        writeFileSync(join(units, `${name}.target`), '[Unit]\nDescription=stand-in\n');
      writeFileSync(join(units, 'system.slice'), '[Unit]\nDescription=stand-in\n');
      writeFileSync(
        join(units, '-.mount'),
        '[Unit]\nDescription=stand-in\n[Mount]\nWhat=x\nWhere=/\n',
      );
      for (const name of readdirSync(units).filter((file) => file.startsWith('cfsync'))) {
        const argv = ['verify', '--man=no', `--root=${root}`, join(units, name)];
        const said = execFileSync('systemd-analyze', argv, { encoding: 'utf8', stdio: 'pipe' });
        expect(said).toBe('');
      }
    } finally {
      rmSync(root, { recursive: true });
    }
  });

  test('systemd-analyze finds little exposure', () => {
    const file = join(examples, 'systemd', 'cfsync.service');
    // It fails above the threshold, here 4.0 of 10.
    const argv = ['security', '--offline=true', '--no-pager', '--threshold=40', file];
    expect(execFileSync('systemd-analyze', argv, { encoding: 'utf8' })).toContain(
      'Overall exposure',
    );
    expect(unit).not.toMatch(/^MemoryDenyWriteExecute/m);
  });

  test.for(['nftables', 'iptables', 'fail2ban', 'ufw'])(
    'an apply under its restrictions: %s',
    async (backend) => {
      const capabilities = setting('CapabilityBoundingSet').map((name) =>
        name.toLowerCase().replace('cap_', '+'),
      );
      const writable = setting('ReadWritePaths').map((path) => path.replace('-', ''));
      const script = [
        'set -e',
        emptied('/tmp'),
        ...['/var/lib', ...writable].map(
          (path) => `[ ! -e ${path} ] || mount --rbind ${path} ${path}`,
        ),
        'mount -o remount,bind,ro /etc',
        'mount -o remount,bind,ro /',
        'for d in /etc /usr /; do if touch $d/cfsync-test 2>/dev/null; then exit 99; fi; done',
        `exec setpriv --bounding-set=-all,${capabilities.join(',')} --no-new-privs "$@"`,
      ].join('\n');
      await lab.origin.must(['mkdir', '-p', '/run/lab/service']);
      if (backend === 'ufw') await lab.origin.must(['ufw', '--force', 'enable']);
      const apply = ['apply', '-b', backend, '--source', 'bundled'];
      const { code, stdout, stderr } = await lab.origin.run(
        ['unshare', '--mount', 'sh', '-c', script, 'sh', process.execPath, program, ...apply],
        { env: { CFSYNC_STATE_DIR: '/run/lab/service' } },
      );
      expect(code, stdout + stderr).toBe(exit.ok);
      expect(stdout).toContain(`${backend}: applied and read back`);
      const remove = ['remove', '-b', backend, '--state-dir', '/run/lab/service'];
      expect(await lab.cfsync(remove)).toMatchObject({ code: exit.ok });
    },
  );

  test('the line for cron is one that cron takes', () => {
    const lines = readFileSync(join(examples, 'cron', 'cfsync'), 'utf8').split('\n');
    const jobs = lines.filter((line) => line !== '' && !/^#|^\w+=/.test(line));
    expect(jobs).toHaveLength(1);
    // crontab(5): minute, hour, day, month, day of the week, user, command; a % would be a newline.
    expect(jobs[0]).toMatch(/^(?:[\d*]+ ){5} root {2}cfsync apply$/);
  });
});
