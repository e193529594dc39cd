/**
 * What a run starts and writes does not depend on how many ranges or jails there are; test/bench/README.md lists the
 * numbers.
 */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from 'vitest';
import { exit } from '../../src/errors.ts';
import { prefixes } from '../bench/lists.ts';
import { published } from '../helpers/feeds.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const preload = new URL('preload.mjs', import.meta.url).href;
const table = fileURLToPath(new URL('../bench/README.md', import.meta.url));
const log = '/run/lab/log';

interface Counts {
  readonly programs: readonly string[];
  /**
   * Outside of the state directory; a temporary folder is gone afterwards and does not count, and a lock is opened
   * and not written to.
   */
  readonly written: readonly string[];
}

const filter = 'for t in iptables ip6tables; do $t -A INPUT -p tcp --dport 22 -j ACCEPT; done';
const setups: Readonly<
  Record<string, { readonly args: readonly string[]; readonly setup: string }>
> = {
  nftables: { args: ['-b', 'nftables'], setup: 'true' },
  iptables: { args: ['-b', 'iptables'], setup: filter },
  'iptables --ipset': { args: ['-b', 'iptables', '--ipset'], setup: filter },
  ufw: { args: ['-b', 'ufw'], setup: 'ufw allow 22/tcp; ufw --force enable' },
  fail2ban: {
    args: ['-b', 'fail2ban'],
    setup: `rm -f /etc/fail2ban/jail.d/*; mkdir -p /run/fail2ban; echo 'nameserver 127.0.0.1' > /etc/resolv.conf
: > /run/lab.log
printf '[DEFAULT]\\nbackend = polling\\nusedns = no\\n[lab]\\nenabled = true\\nfilter = sshd\\nlogpath = /run/lab.log\\n' > /etc/fail2ban/jail.local
fail2ban-server start`,
  },
};

describeLive('counts', { programs: ['nft', 'iptables', 'ipset', 'ufw', 'fail2ban-server'] }, () => {
  let lab: Lab;
  afterEach(() => lab.close());

  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);

  async function apply(...args: string[]): Promise<Counts> {
    await rm(lab.origin.path(log), { force: true });
    const env = { NODE_OPTIONS: `--import=${preload}`, CFSYNC_TEST_LOG: log };
    const { code, stderr } = await lab.cfsync(['apply', ...args], { env });
    expect(code, stderr).toBe(exit.ok);
    const lines = (await readFile(lab.origin.path(log), 'utf8')).trim().split('\n');
    const operations = lines.map(
      (line) => JSON.parse(line) as Record<'kind' | 'what', string> & { readonly changes: boolean },
    );
    return {
      programs: operations.filter(({ kind }) => kind === 'run').map(({ what }) => what),
      written: operations
        .filter(({ kind, changes }) => kind === 'file' && changes)
        .map(({ what }) => what.split(' ').at(-1)!)
        .filter((what) => !/^(\/run\/lab\/state|\/tmp\/cfsync-|\/run\/ufw\.lock$)/.test(what)),
    };
  }

  test.for(Object.entries(setups))('%s', async ([name, { args, setup }]) => {
    lab = await Lab.create({ privateDirs: ['/var/lib/fail2ban', '/var/log'] });
    await shell(setup);
    // fail2ban itself takes 40 s to read 10,000.
    const many = prefixes(name === 'fail2ban' ? 1000 : 10_000);
    const lists = {
      few: published,
      many: { v4: many.v4.join('\n'), v6: many.v6.join('\n') },
    };
    const counts: (readonly [number, number])[] = [];
    for (const [size, { v4, v6 }] of Object.entries(lists)) {
      const folder = `/run/lab/${size}`;
      await mkdir(lab.origin.path(folder));
      await writeFile(lab.origin.path(`${folder}/ips-v4`), v4);
      await writeFile(lab.origin.path(`${folder}/ips-v6`), v6);
      const first = await apply(...args, '--source', folder);
      const again = await apply(...args, '--source', folder);
      expect(again.written).toEqual([]);
      counts.push([first.programs.length, again.programs.length]);
      expect((await lab.cfsync(['remove', ...args.slice(0, 2)])).code).toBe(exit.ok);
      await rm(lab.origin.path('/run/lab/state'), { recursive: true });
    }
    expect(counts[1]).toEqual(counts[0]);
    expect(counts[0]).toEqual(await documented(name));
  });

  test('fail2ban with 20 jails', async () => {
    const { args, setup } = setups.fail2ban!;
    lab = await Lab.create({ privateDirs: ['/var/lib/fail2ban', '/var/log'] });
    await shell(setup);
    await shell(`for i in $(seq 19); do
printf '[lab%d]\nenabled = true\nfilter = sshd\nlogpath = /run/lab.log\n' $i >> /etc/fail2ban/jail.local
done; fail2ban-client reload`);
    const first = await apply(...args, '--source', 'bundled');
    const again = await apply(...args, '--source', 'bundled');
    expect([first.programs.length, again.programs.length]).toEqual(await documented('fail2ban'));
    const { stdout } = await lab.origin.run(['fail2ban-client', 'get', 'lab19', 'ignoreip']);
    expect(stdout).toContain('104.16.0.0/13');
  });

  async function documented(name: string): Promise<readonly number[] | undefined> {
    const rows = (await readFile(table, 'utf8')).split('\n').map((line) => line.split(/ *\| */));
    const row = rows.find(([, backend]) => backend === name);
    return row?.slice(2, 4).map(Number);
  }
});
