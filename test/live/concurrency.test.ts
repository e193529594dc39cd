/** Several at once: runs of cfsync with different lists, and commands of an admin beside them. */

import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Halt, haltDir } from './halt.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';
import { quoted } from '../helpers/program.ts';

const data = fileURLToPath(new URL('../../data', import.meta.url));
/** Under load the last of eight waits for seven others. */
const patience = ['--lock-timeout', '240'];

describeLive('at the same time', { programs: ['nft', 'ufw', 'iptables', 'python3'] }, () => {
  let lab: Lab;
  const shell = (script: string, timeout?: number) =>
    lab.origin.must(['sh', '-ec', script], timeout === undefined ? {} : { timeout });
  const apply = (...args: readonly string[]) =>
    lab.cfsync(['apply', ...args], { timeout: 300_000 });
  const state = (folder: string) => readdir(lab.origin.path(`/run/lab/state/${folder}`));

  beforeEach(async () => {
    lab = await Lab.create({ privateDirs: [haltDir] });
  });

  afterEach(() => lab.close());

  describe('eight applies', () => {
    const each = [...Array(8).keys()];
    /** Each list lacks two prefixes of its own, and each has its port: what is mixed shows. */
    const list = (i: number): readonly string[] => [
      '-b',
      'nftables',
      '--accept-large-change',
      '--allow-weaker',
      '--mode',
      'lockdown',
      '--source',
      `/run/lab/lists/${i}`,
      '--ports',
      String(8000 + i),
    ];
    const rules = () =>
      shell('nft --stateless list table inet cfsync').then((text) => text.replaceAll(/\s+/g, ' '));

    beforeEach(async () => {
      for (const i of each)
        await shell(`mkdir -p /run/lab/lists; cd /run/lab/lists; cp -r ${quoted(data)} ${i}
          sed -i '${i + 1}d' ${i}/ips-v4; sed -i '${(i % 7) + 1}d' ${i}/ips-v6`);
    });

    it('with different lists are one after the other, and one of them is there in the end', async () => {
      const alone: string[] = [];
      for (const i of each) {
        expect(await apply(...list(i))).toMatchObject({ code: exit.ok });
        alone.push(await rules());
      }
      expect(new Set(alone).size).toBe(8);
      const outcomes = await Promise.all(each.map((i) => apply(...list(i), ...patience)));
      for (const [i, { code, stderr }] of outcomes.entries())
        expect(code, `${i}: ${stderr}`).toBe(0);
      expect(alone).toContain(await rules());
      expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
      expect(await state('journal')).toEqual([]);
      const runs = (await state('history')).map((name) => Number(name.split('-')[0]));
      const [last] = runs.slice(-1);
      expect(runs).toEqual([4, 3, 2, 1, 0].map((back) => last! - back));
    }, 600_000);

    it('that do not wait say who is at work', async () => {
      const halt = await Halt.before(lab.origin, '/usr/sbin/nft');
      const first = apply(...list(0));
      await halt.reached();
      const said = await readFile(lab.origin.path('/run/lab/state/lock'), 'utf8');
      expect(said).toMatch(/^cfsync apply, process \d+, since \S+\n$/);
      const others = each.slice(1).map((i) => apply(...list(i), '--lock-timeout', '0'));
      for (const outcome of await Promise.all(others))
        expect(outcome).toEqual({
          code: exit.busy,
          stdout: '',
          stderr: `cfsync: another cfsync is at work on /run/lab/state (${said.trim()}); nothing was changed; try again later, or wait longer with --lock-timeout\n`,
        });
      for (const command of [['rollback'], ['remove'], ['confirm']])
        expect((await lab.cfsync([...command, '--lock-timeout', '0'])).code).toBe(exit.busy);
      await halt.goOn();
      expect(await first).toMatchObject({ code: exit.ok });
      expect(await rules()).toContain('8000');
    });
  });

  describe('an admin who runs ufw', () => {
    const ports = (first: number, count: number): number[] =>
      [...Array(count).keys()].map((i) => first + i);
    const files = () => shell('cat /etc/ufw/user.rules /etc/ufw/user6.rules');
    const kernel = () => shell('iptables -S ufw-user-input; ip6tables -S ufw6-user-input');
    const source = (i: number): readonly string[] => ['--source', `/run/lab/lists/${i % 2}`];
    const verify = () => lab.cfsync(['verify', '--verbose']);

    beforeEach(async () => {
      await shell(`mkdir /run/lab/lists; cd /run/lab/lists; cp -r ${quoted(data)} 0; cp -r ${quoted(data)} 1
        sed -i /^131.0.72/d 1/ips-v4; sed -i /^2c0f:f248/d 1/ips-v6
        ufw allow 22/tcp; ufw --force enable`);
    });

    async function hasAll(list: readonly number[]): Promise<void> {
      const [text, live] = [await files(), await kernel()];
      for (const port of list) {
        expect(text.match(new RegExp(` tcp ${port} `, 'g')), `${port}`).toHaveLength(2);
        expect(live.match(new RegExp(`--dport ${port} `, 'g')), `${port}`).toHaveLength(2);
      }
      expect(await verify()).toMatchObject({ code: exit.ok });
    }

    it('all the time loses no rule, and takes none of ours', async () => {
      const list = ports(9000, 40);
      const loop = shell(
        list.map((port) => `ufw allow ${port}/tcp comment 'admin ${port}'`).join('\n'),
      );
      let repaired = 0;
      for (let i = 0; i < 10; i++) {
        const { code, stderr } = await apply('-b', 'ufw', ...source(i), ...patience);
        expect(code, stderr).toBe(exit.ok);
        if (stderr.includes('put right')) repaired++;
        expect(await state('journal')).toEqual([]);
      }
      await loop;
      // As the last apply left it, without another one.
      await hasAll(list);
      expect(repaired).toBeGreaterThan(0);
    }, 600_000);

    describe('and had read the rules before', () => {
      const range = ' 131.0.72.0/22 ';

      /** List 0 was applied, then list 1; now a command of ufw waits while cfsync is about to change the files. */
      async function overlap(...args: readonly string[]): Promise<void> {
        for (const i of [0, 1]) await apply('-b', 'ufw', ...source(i));
        const halt = await Halt.before(lab.origin, '/usr/sbin/iptables-restore', 'check');
        const running = lab.cfsync(args, { timeout: 300_000 });
        await halt.reached();
        const admin = shell('ufw allow 9999/tcp');
        await shell("until grep -q -- '-> POSIX' /proc/locks; do sleep 0.05; done");
        await halt.goOn();
        await admin;
        const { code, stderr } = await running;
        expect(stderr).toContain(
          'ufw: ufw wrote over it what it had read before; it is put right\n',
        );
        expect(code).toBe(exit.ok);
        expect(await state('journal')).toEqual([]);
        expect(await files()).toContain(' tcp 9999 ');
      }

      it('an apply, does so in vain, and rollback still leads to what was before', async () => {
        await overlap('apply', '-b', 'ufw', ...source(0));
        await hasAll([9999]);
        expect(await files()).toContain(range);
        expect((await lab.cfsync(['rollback'])).code).toBe(exit.ok);
        await hasAll([9999]);
        expect(await files()).not.toContain(range);
      });

      it('a rollback, does so in vain, and it is the last one', async () => {
        await overlap('rollback');
        await hasAll([9999]);
        expect(await files()).toContain(range);
        const runs = (await state('history')).map((name) => Number(name.split('-')[0]));
        expect(runs).toEqual([1]);
      });

      it('remove, does so in vain', async () => {
        await overlap('remove');
        expect(await files()).not.toContain('comment=636673796e63');
        expect(await kernel()).not.toContain('173.245.48.0');
        expect((await lab.cfsync(['rollback'])).code).toBe(exit.ok);
        await hasAll([9999]);
      });
    });
  });
});
