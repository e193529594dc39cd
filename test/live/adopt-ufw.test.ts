/** What scripts left in a real UFW is taken over while the edge is at work, and put back when that fails. */
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { bundled } from '../helpers/desired.ts';
import { quoted } from '../helpers/program.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const rules = '/etc/ufw/user.rules';
const rules6 = '/etc/ufw/user6.rules';
const mark = 'comment=636673796e63';
const edgeOnly = { edge: 'open', stranger: 'closed' } as const;
const nobody = { edge: 'closed', stranger: 'closed' } as const;

/** What Cloudflare published when the script ran: IPv4 with the /12 of before 2021. */
const old = {
  v4: [...bundled.v4.filter((prefix) => !prefix.startsWith('104.')), '104.16.0.0/12'],
  v6: bundled.v6,
};
const data = fileURLToPath(new URL('../../data', import.meta.url));
/** It is on the old list, and not on the one that is applied here. */
const gone = '2c0f:f248::/32';

describeLive('adopt: ufw', { programs: ['ufw', 'iptables', 'python3'] }, () => {
  let lab: Lab;
  let lists: string;

  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);
  const ufw = (...args: string[]) => lab.origin.must(['ufw', ...args]);
  const adopt = (...args: string[]) =>
    lab.cfsync(['adopt', '-b', 'ufw', '--source', lists, ...args]);
  const adopted = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await adopt(...args);
    expect(code, stderr + stdout).toBe(exit.ok);
    return stdout + stderr;
  };
  const verify = async () => (await lab.cfsync(['verify'])).code;
  const files = () => shell(`cat ${rules} ${rules6}`);
  const kernel = () => shell('iptables -S; ip6tables -S');
  const state = async () => ({
    files: await files(),
    kernel: await kernel(),
    attributes: await shell(`stat -c '%n %a %u %g' ${rules} ${rules6}; ls -A /etc/ufw`),
  });
  const tuples = (text: string): string[] => text.match(/^### tuple ###.*$/gm) ?? [];

  /** The rules of the admin's, which nothing may touch. */
  const admin = [
    'allow 22/tcp',
    "allow 8080/tcp comment 'not for Cloudflare'",
    'deny from 192.0.2.7',
    'allow from 198.51.100.0/24 to any port 3306 proto tcp',
    'limit 2222/tcp',
    'allow from 203.0.113.0/24 to any port 443 proto tcp',
    'deny from 104.16.0.7',
    'deny from 2606:4700::7',
    'route allow in on lo out on lo',
  ];

  /** A script that ran twice, the second time with the ports in another spelling, and the admin in between. */
  const leave = async (): Promise<void> => {
    const turns = [
      (prefix: string) => `allow from ${prefix} to any port 80,443 proto tcp`,
      (prefix: string) => `allow proto tcp from ${prefix} to any port https comment 'CF https'`,
      (prefix: string) => `allow from ${prefix} to any port 443`,
    ];
    const own = [...admin];
    const commands: string[] = [];
    // Not all prefixes each time: a loop of ufw takes seconds.
    for (const [i, turn] of turns.entries()) {
      commands.push(...own.splice(0, 3));
      const some = (all: readonly string[]) => (i === 0 ? all : all.slice(-3));
      commands.push(...[...some(old.v4), ...some(old.v6)].map(turn));
    }
    commands.push('allow from 173.245.48.0/20', "allow from 2400:cb00::/32 to any app 'WWW Full'");
    await shell(commands.map((words) => `ufw ${words} >/dev/null`).join('\n'));
  };

  beforeAll(async () => {
    lab = await Lab.create({ privateDirs: ['/usr/local/sbin'] });
    await lab.origin.listen({ tcp: [22, 80, 443, 8443], udp: [443] });
    lists = '/run/lab/lists';
    await lab.origin.must(['cp', '-r', data, lists]);
    await shell('ufw --force enable');
    await lab.expectVerdict(443, nobody);
    await leave();
    await shell('cp -a /etc/ufw /run/lab/ufw; rm -rf /run/lab/state');
  });
  afterAll(() => lab.close());

  beforeEach(async () => {
    await shell(`rm -rf /usr/local/sbin/* /run/lab/state /run/lab/failed
      cp -a /run/lab/ufw/. /etc/ufw; ufw reload; cp ${quoted(data)}/* ${lists}`);
    // The snapshot knows what was on the list before.
    expect((await lab.cfsync(['fetch', '--source', lists])).code).toBe(exit.ok);
    await shell(`sed -i '/^2c0f:f248/d' ${lists}/ips-v6`);
    await lab.expectVerdict(443, edgeOnly);
    // A rule without ports lets Cloudflare in everywhere.
    await lab.expectVerdict(8443, { edge: { v4: 'open', v6: 'closed' }, stranger: 'closed' });
  });

  it('ours in, theirs out, no connection lost and no stranger in', async () => {
    const before = await files();
    const dry = await state();
    const shown = await adopted('--dry-run');
    expect(await state()).toEqual(dry);
    expect(shown).toContain('ufw allow from 104.16.0.0/12 to any port 80,443 proto tcp');
    expect(shown).toContain("stale: 104.28.0.0/14 (not Cloudflare's any more)");
    expect(shown).toContain(`stale: ${gone} (not Cloudflare's any more)`);
    expect(shown).toContain('ends with it: every other port');
    expect(shown).toContain('ends with it: UDP port 443');

    const edge = await lab.edge.hammer(lab.origin, 443, { workers: 3 });
    // Each waits 0.9 s for its answer, so some are needed to see a short hole.
    const stranger = await lab.stranger.hammer(lab.origin, 443, { workers: 16 });
    expect(await adopted()).toContain('ufw: applied and read back');
    const [lost, got] = [await edge.stop(), await stranger.stop()];
    for (const family of ['v4', 'v6'] as const) {
      expect(lost[family]!.open).toBeGreaterThan(100);
      expect(lost[family]).toMatchObject({ refused: 0, timeout: 0, reset: 0 });
      expect(got[family]!.open).toBe(0);
      expect(got[family]!.timeout).toBeGreaterThan(3);
    }

    const after = await files();
    const theirs = tuples(before).filter((line) => /( |:)(104\.16\.0\.0|\S+::)\S* |CF/.test(line));
    expect(theirs.length).toBeGreaterThan(10);
    const ours = tuples(after).filter((line) => line.endsWith(mark));
    expect(ours).toHaveLength(bundled.v4.length + bundled.v6.length - 1);
    // The admin's, each in both families where ufw writes both, in their order.
    const rest = tuples(after).filter((line) => !line.endsWith(mark));
    expect(rest).toEqual(
      tuples(before).filter((line) =>
        / (22|8080|3306|2222) |192\.0\.2\.7|203\.0\.113|104\.16\.0\.7|4700::7|route:/.test(line),
      ),
    );
    for (const text of [after, await kernel(), await ufw('status')]) {
      expect(text).not.toContain('104.16.0.0/12');
      expect(text).not.toContain(gone);
    }
    const status = await ufw('status');
    expect(status.match(/# cfsync$/gm)).toHaveLength(ours.length);
    expect(status).not.toMatch(/CF https|Anywhere +ALLOW +173|WWW Full/);
    // The kernel is what ufw itself would load.
    const live = await kernel();
    await shell(
      'iptables-restore -n < /etc/ufw/user.rules; ip6tables-restore -n < /etc/ufw/user6.rules',
    );
    expect(await kernel()).toBe(live);

    await lab.expectVerdict(443, edgeOnly);
    await lab.expectVerdict(80, edgeOnly);
    await lab.expectVerdict(8443, nobody);
    await lab.expectVerdict(443, nobody, 'udp');
    expect(await verify()).toBe(exit.ok);
    expect(await adopted()).toContain('ufw: nothing to take over');
    expect(await files()).toBe(after);

    for (const command of ['allow 9000/tcp', 'prepend deny from 192.0.2.8', 'reload'])
      await shell(`ufw ${command}`);
    for (const command of ['delete allow 9000/tcp', 'delete deny from 192.0.2.8'])
      await shell(`ufw ${command}`);
    expect(await files()).toBe(after);
    expect(await verify()).toBe(exit.ok);
    await lab.expectVerdict(443, edgeOnly);
  });

  it.for(['iptables-restore', 'ip6tables-restore'])(
    'a load that fails (%s) puts every rule back, byte for byte',
    async (program) => {
      const before = await state();
      await lab.origin.must(['tee', `/usr/local/sbin/${program}`], {
        stdin: `#!/bin/sh
case "$*" in *--test*) ;; *) test -e /run/lab/failed || { touch /run/lab/failed; echo injected >&2; exit 1; };; esac
exec /usr/sbin/${program} "$@"
`,
      });
      await shell(`chmod 755 /usr/local/sbin/${program}`);
      const edge = await lab.edge.hammer(lab.origin, 443, { workers: 2 });
      const { code, stderr } = await adopt();
      const lost = await edge.stop();
      expect(stderr).toContain('injected');
      expect(stderr).toContain('back to what it was before');
      expect(code).toBe(exit.rolledBack);
      expect(await state()).toEqual(before);
      for (const family of ['v4', 'v6'] as const)
        expect(lost[family]).toMatchObject({ refused: 0, timeout: 0, reset: 0 });
      // And what the admin did while it failed survives.
      await shell(`rm /run/lab/failed
        sed -i 's|exit 1;|sed -i "s/^### RULES ###/\\&\\\\n\\\\n### tuple ### deny any any 0.0.0.0\\\\/0 any 203.0.113.99 in\\\\n-A ufw-user-input -s 203.0.113.99 -j DROP/" ${rules}; exit 1;|' /usr/local/sbin/${program}`);
      expect((await adopt()).code).toBe(exit.rolledBack);
      const deny =
        '\n### tuple ### deny any any 0.0.0.0/0 any 203.0.113.99 in\n-A ufw-user-input -s 203.0.113.99 -j DROP\n';
      expect(await files()).toBe(before.files.replace('### RULES ###\n', `### RULES ###\n${deny}`));
      await adopted();
      await lab.expectVerdict(443, edgeOnly);
      expect(await verify()).toBe(exit.ok);
    },
  );

  it('rollback brings every rule back, beside what the admin did since then', async () => {
    const before = await state();
    await adopted();
    await shell(
      'ufw prepend deny from 203.0.113.99; ufw allow from 188.114.96.0/20 to any port 25',
    );
    const { code, stderr } = await lab.cfsync(['rollback']);
    expect(code, stderr).toBe(exit.ok);
    const deny =
      '\n### tuple ### deny any any 0.0.0.0/0 any 203.0.113.99 in\n-A ufw-user-input -s 203.0.113.99 -j DROP\n';
    const mail =
      '\n### tuple ### allow any 25 0.0.0.0/0 any 188.114.96.0/20 in\n-A ufw-user-input -p tcp --dport 25 -s 188.114.96.0/20 -j ACCEPT\n-A ufw-user-input -p udp --dport 25 -s 188.114.96.0/20 -j ACCEPT\n';
    const [v4] = before.files.split('### END RULES');
    expect(await files()).toBe(
      before.files
        .replace(v4!, `${v4!.trimEnd()}\n${mail}\n`)
        .replace('### RULES ###\n', `### RULES ###\n${deny}`),
    );
    await shell(
      'ufw delete deny from 203.0.113.99; ufw delete allow from 188.114.96.0/20 to any port 25',
    );
    expect(await state()).toEqual(before);
    await lab.expectVerdict(443, edgeOnly);
  });

  it.for(['adopt', 'rollback'])(
    '%s settles what a kill between the families left',
    async (command) => {
      const before = await state();
      await lab.origin.must(['tee', '/usr/local/sbin/ip6tables-restore'], {
        stdin: `#!/bin/sh
case "$*" in *--test*) ;; *) rm "$0"; kill -9 $PPID; exit 1;; esac
exec /usr/sbin/ip6tables-restore "$@"
`,
      });
      await shell('chmod 755 /usr/local/sbin/ip6tables-restore');
      expect((await adopt()).code).toBe(137);
      await lab.expectVerdict(443, edgeOnly);
      const { code, stderr } = command === 'adopt' ? await adopt() : await lab.cfsync([command]);
      expect(code, stderr).toBe(exit.ok);
      await lab.expectVerdict(443, edgeOnly);
      const after = await state();
      const isBack = command === 'rollback';
      expect(after.files === before.files).toBe(isBack);
      expect(after.kernel === before.kernel).toBe(isBack);
      expect(after.files.includes('104.16.0.0/12')).toBe(isBack);
      expect(after.kernel.includes('104.16.0.0/12')).toBe(isBack);
    },
  );

  it('leaves strays alone without adopt, and says how to take over those like ours', async () => {
    const before = await state();
    const { code, stderr } = await lab.cfsync(['apply', '-b', 'ufw', '--source', lists]);
    expect(code).toBe(exit.failed);
    expect(stderr).toContain('cfsync adopt');
    expect(await state()).toEqual(before);
  });

  it('inactive: changes the files alone', async () => {
    await shell('ufw disable');
    const before = await kernel();
    expect(await adopted()).toContain('applied and read back');
    expect(await kernel()).toBe(before);
    expect(await files()).not.toContain('104.16.0.0/12');
    await ufw('--force', 'enable');
    await lab.expectVerdict(443, edgeOnly);
    expect(await verify()).toBe(exit.ok);
  });
});
