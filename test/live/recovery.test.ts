/** What the next run finds after one that was killed: open journals, a boot since then, programs still at work, its lock. */

import { readdir, readFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { boot, Halt, haltDir, until } from './halt.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';
import { ruleset } from './ruleset.ts';

const programs = ['nft', 'iptables', 'ipset', 'setpriv', 'flock'];
const killed = 128 + 9;
const cut = (name: string, since = ''): string =>
  `cfsync: warning: ${name}: the apply of \\S+ was cut off${since}; `;
const anew = ', and the machine was started anew since';

describeLive('after a run that was killed', { programs }, () => {
  let lab: Lab;
  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);
  const rules = () => ruleset(lab.origin);
  const both = ['-b', 'nftables', '-b', 'iptables', '--mode=lockdown'];
  const apply = (list: 'old' | 'new', ...more: string[]) =>
    lab.cfsync(['apply', `--source=/run/lab/${list}`, '--accept-large-change', ...both, ...more]);
  const rollback = () => lab.cfsync(['rollback', '--lock-timeout=0']);
  const open = () => readdir(lab.origin.path('/run/lab/state/journal'));
  const holder = async (): Promise<string> =>
    (await readFile(lab.origin.path('/run/lab/state/lock'), 'utf8')).trim();
  const kill = async (): Promise<void> => {
    await shell(`kill -9 ${/process (\d+)/.exec(await holder())![1]}`);
  };

  beforeEach(async () => {
    lab = await Lab.create({ privateDirs: [haltDir] });
    await shell(`cd /run/lab; mkdir old new
      echo 173.245.48.0/20 > old/ips-v4; echo 2400:cb00::/32 > old/ips-v6
      { cat old/ips-v4; echo 104.16.0.0/13; } > new/ips-v4
      { cat old/ips-v6; echo 2606:4700::/32; } > new/ips-v6`);
  });

  afterEach(() => lab.close());

  /** The old list was applied; the new one is, but for the second family of iptables. */
  async function cutOff(): Promise<{ before: string; halt: Halt }> {
    expect(await apply('old')).toMatchObject({ code: exit.ok });
    const before = await rules();
    const halt = await Halt.before(lab.origin, '/usr/sbin/ip6tables-restore');
    const running = apply('new');
    await halt.reached();
    await kill();
    expect(await running).toMatchObject({ code: killed });
    expect(await open()).toEqual(['iptables.json']);
    expect(await rules()).not.toBe(before);
    await shell(`rm ${haltDir}/ip6tables-restore`);
    return { before, halt };
  }

  async function isWhole(after: string): Promise<void> {
    expect(await rules()).toBe(after);
    expect(await open()).toEqual([]);
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
  }

  it('a program that it left is ended, before it changes what was recovered', async () => {
    const { before, halt } = await cutOff();
    const pids = (await shell('pgrep -f [i]p6tables-restore')).trim().split('\n');
    expect(pids).toHaveLength(1);
    expect(await rollback()).toMatchObject({ code: exit.ok });
    expect((await lab.origin.run(['ps', ...pids])).code).toBe(1);
    await halt.goOn();
    await isWhole(before);
  });

  it('one that does its work at once does no harm either', async () => {
    const { before, halt } = await cutOff();
    await halt.goOn();
    await until('the program ended', async () => {
      return (await lab.origin.run(['pgrep', '-f', 'ip6tables-restore'])).code !== 0;
    });
    expect(await rollback()).toMatchObject({ code: exit.ok });
    await isWhole(before);
  });

  it('its lock is free at once, and its name is not told any more', async () => {
    await cutOff();
    expect(await holder()).toMatch(/^cfsync apply, process \d+, since \S+$/);
    const { code, stderr } = await apply('new', '--lock-timeout=0');
    expect(stderr).toMatch(
      new RegExp(`^${cut('iptables')}the backend is brought to the state wanted now\n`, 'm'),
    );
    expect(code).toBe(exit.ok);
    expect(await holder()).toBe('');
    await rollback();
    expect((await apply('old', '--lock-timeout=0')).stderr).toContain('held since');
  });

  describe('and a boot', () => {
    async function cutOffAndBoot(): Promise<string> {
      const { before } = await cutOff();
      await boot(lab.origin);
      await shell('nft flush ruleset');
      await lab.origin.nft(
        'table inet admin { chain input { type filter hook input priority 0; }; }',
      );
      return before;
    }

    /** The admin's table is still there, and goes. */
    async function withoutAdmin(): Promise<string> {
      await shell('nft delete table inet admin');
      return rules();
    }

    it('apply says so, assumes nothing, and leads to what is wanted', async () => {
      const before = await cutOffAndBoot();
      const { code, stderr } = await apply('new');
      const said = `^${cut('iptables', anew)}the backend is brought to the state wanted now\n`;
      expect(stderr).toMatch(new RegExp(said, 'm'));
      expect(code).toBe(exit.ok);
      const after = await withoutAdmin();
      expect(after).not.toBe(before);
      await isWhole(after);
      expect((await apply('new')).stdout).toBe('');
      expect(await rollback()).toMatchObject({ code: exit.ok });
    });

    it('rollback leads to what was before', async () => {
      const before = await cutOffAndBoot();
      expect(await rollback()).toMatchObject({ code: exit.ok });
      expect(await withoutAdmin()).toBe(before);
      await isWhole(before);
    });
  });

  describe('a rollback', () => {
    /** The new list was applied, and one backend is back. */
    async function cutOffBack(): Promise<string> {
      expect(await apply('old')).toMatchObject({ code: exit.ok });
      const before = await rules();
      expect(await apply('new')).toMatchObject({ code: exit.ok });
      const halt = await Halt.before(lab.origin, '/usr/sbin/ip6tables-restore');
      const running = rollback();
      await halt.reached();
      await kill();
      expect(await running).toMatchObject({ code: killed });
      expect(await open()).toEqual(['iptables.json']);
      await shell(`rm ${haltDir}/ip6tables-restore`);
      return before;
    }

    it('holds, and what it began is brought to its end by a timer', async () => {
      await cutOffBack();
      const { code, stderr } = await apply('new');
      expect(stderr).toMatch(/^cfsync: held since \S+ \(rollback of the apply of /);
      expect(stderr).toMatch(new RegExp(`^${cut('iptables')}it goes back\n`, 'm'));
      expect(code).toBe(exit.ok);
      expect(await open()).toEqual([]);
      const verified = await lab.cfsync(['verify']);
      // What nftables still has of the new list, iptables does not let in.
      expect(verified.code, verified.stderr).toBe(exit.pending);
      expect(verified.stderr).toContain('Cloudflare is kept out of 80, 443 (104.16.0.0/13');
      expect((await apply('new')).stderr).not.toContain('cut off');
    });

    it('goes on with rollback', async () => {
      const before = await cutOffBack();
      expect((await rollback()).stderr).toMatch(/^cfsync: iptables: .*, which was cut off$/m);
      await isWhole(before);
    });

    it('and a boot, the same, and what is held is brought back once', async () => {
      const before = await cutOffBack();
      await boot(lab.origin);
      await shell('nft flush ruleset');
      const { code, stderr } = await apply('new');
      expect(stderr).toMatch(new RegExp(`^${cut('iptables', anew)}it goes back\n`, 'm'));
      expect(code).toBe(exit.ok);
      const held = await rules();
      expect(iptablesOf(held)).toBe(iptablesOf(before));
      // The other backend had not gone back yet.
      expect(held).toContain('104.16.0.0/13');
      await shell('nft flush ruleset');
      expect((await apply('new')).code).toBe(exit.ok);
      expect(await rules()).toBe('');
    });
  });

  it('another user can neither hold its lock nor read who does', async () => {
    await cutOff();
    const user = 'setpriv --reuid=65534 --clear-groups';
    for (const words of ['flock -n /run/lab/state/lock true', 'cat /run/lab/state/lock']) {
      const { code, stderr } = await lab.origin.run(['sh', '-c', `${user} ${words}`]);
      expect(stderr, words).toContain('Permission denied');
      expect(code, words).not.toBe(0);
    }
    // A lock of the same name in a folder of his own is another one.
    await shell(`mkdir -m 777 /run/lab/his; ${user} sh -c '>/run/lab/his/lock'`);
    const his = lab.origin.spawn(['sh', '-c', `${user} flock /run/lab/his/lock cat`]);
    expect((await apply('new', '--lock-timeout=0')).code).toBe(exit.ok);
    his.kill();
  });
});

function iptablesOf(text: string): string {
  return text.slice(text.indexOf('*'));
}
