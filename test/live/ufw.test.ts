import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Origin } from './iptables-origin.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const rules = '/etc/ufw/user.rules';
const rules6 = '/etc/ufw/user6.rules';
const edgeOnly = { edge: 'open', stranger: 'closed' } as const;
const nobody = { edge: 'closed', stranger: 'closed' } as const;
const everybody = { edge: 'open', stranger: 'open' } as const;
const opened = { v4: 'open', v6: 'open' };

describeLive('ufw', { programs: ['ufw', 'iptables', 'iptables-legacy', 'python3'] }, () => {
  let lab: Lab;

  const apply = (...args: string[]) =>
    lab.cfsync(['apply', '-b', 'ufw', '--source', 'bundled', ...args]);
  const applied = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await apply(...args);
    expect(code, stderr + stdout).toBe(exit.ok);
    return stdout;
  };
  const verify = async () => {
    const { code, stdout, stderr } = await lab.cfsync(['verify', '--verbose']);
    return { code, said: stdout + stderr };
  };
  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);
  const ufw = (...args: string[]) => lab.origin.must(['ufw', ...args]);
  const files = () => shell(`cat ${rules} ${rules6}`);
  const attributes = () => shell(`stat -c '%n %a %u %g' ${rules} ${rules6}; ls -A /etc/ufw`);
  const kernel = () => shell('iptables -S; ip6tables -S');
  const counted = () => shell('iptables -v -S ufw-user-input; ip6tables -v -S ufw6-user-input');
  /** With which rules have seen a packet since they were loaded. */
  const counters = async () => (await counted()).replaceAll(/-c [1-9]\d* \d+/g, '-c used');
  const state = async () => ({ files: await files(), kernel: await kernel() });
  const expectVerdict = async (who: Parameters<Lab['expectVerdict']>[1], ...ports: number[]) => {
    for (const port of ports) await lab.expectVerdict(port, who);
  };
  /** The lists as published, without one prefix of each family. */
  const shorterLists = async (): Promise<string> => {
    const lists = '/run/lab/lists';
    await lab.origin.must([
      'cp',
      '-r',
      fileURLToPath(new URL('../../data', import.meta.url)),
      lists,
    ]);
    await lab.origin.must(['sed', '-i', '/^131\\.0\\.72/d', `${lists}/ips-v4`]);
    await lab.origin.must(['sed', '-i', '/^2c0f:f248/d', `${lists}/ips-v6`]);
    return lists;
  };

  const start = async (options: Parameters<typeof Lab.create>[0] = {}) => {
    lab = await Lab.create({ privateDirs: ['/usr/local/sbin'], ...options });
    await lab.origin.listen({ tcp: [22, 80, 443, 8080], udp: [443] });
  };

  afterEach(() => lab.close());

  describe('active', () => {
    beforeEach(async () => {
      await start();
      await shell('ufw allow 22/tcp; ufw deny from 192.0.2.7; ufw --force enable');
      await expectVerdict(nobody, 80, 443, 8080);
      await expectVerdict(everybody, 22);
    });

    it.for(['allow', 'lockdown'])(
      '%s lets Cloudflare in and nobody else, and leaves other ports alone',
      async (mode) => {
        await applied('--mode', mode);
        await expectVerdict(edgeOnly, 80, 443);
        await expectVerdict(nobody, 8080);
        await expectVerdict(everybody, 22);
        await lab.expectVerdict(443, nobody, 'udp');
        expect(await lab.origin.reach({ v4: '127.0.0.1', v6: '::1' }, 8080)).toEqual(opened);
        const status = await ufw('status');
        expect(status).toMatch(/^80,443\/tcp +ALLOW +173\.245\.48\.0\/20 +# cfsync$/m);
        expect(status).toMatch(/^80,443\/tcp +ALLOW +2400:cb00::\/32 +# cfsync$/m);
        expect(await verify()).toMatchObject({ code: exit.ok });
      },
    );

    it('opens UDP only where it is named', async () => {
      await applied('--mode', 'lockdown', '--udp-ports', '443');
      await lab.expectVerdict(443, edgeOnly, 'udp');
      await expectVerdict(edgeOnly, 443);
    });

    it('writes nothing and loads nothing the second time', async () => {
      await applied();
      await expectVerdict(edgeOnly, 443);
      await shell('touch /run/lab/mark');
      const before = { counters: await counters(), stat: await shell(`stat ${rules} ${rules6}`) };
      expect(before.counters).toMatch(/-s 173\.245\.48\.0\/20 .* -c used/);
      expect(await applied()).toBe('');
      expect(await counters()).toBe(before.counters);
      expect(await shell(`stat ${rules} ${rules6}`)).toBe(before.stat);
      expect(
        await shell(
          'find /run/lab/state /etc -newer /run/lab/mark -type f ! -name check.json ! -name lock',
        ),
      ).toBe('');
    });

    it('counts on for every rule that stays, through additions and removals', async () => {
      await expectVerdict(everybody, 22);
      await shell('ufw limit 2222/tcp');
      const theirs = async () => (await counted()).replaceAll(/^.* -s \S+ .*--dports .*\n/gm, '');
      const before = await theirs();
      expect(before).toMatch(/--dport 22 -c [1-9]/);
      const lists = await shorterLists();
      await applied();
      expect(await kernel()).toContain('-s 131.0.72.0/22');
      expect(await theirs()).toBe(before);
      const { code } = await lab.cfsync(['apply', '-b', 'ufw', '--source', lists]);
      expect(code).toBe(exit.ok);
      expect(await kernel()).not.toContain('-s 131.0.72.0/22');
      expect(await theirs()).toBe(before);
      expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
      expect(await theirs()).toBe(before);
    });

    it('leaves no trace after remove', async () => {
      await shell(`chown 0:4 ${rules}; chmod 600 ${rules6}`);
      const before = { ...(await state()), attributes: await attributes() };
      await applied('--udp-ports', '443');
      expect(await state()).not.toEqual(before);
      expect(await attributes()).toBe(before.attributes);
      expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
      expect({ ...(await state()), attributes: await attributes() }).toEqual(before);
    });

    it.for([
      { ports: '80,443', extra: [] },
      { ports: '443', extra: ['--udp-ports', '443,8443'] },
    ])('writes what ufw itself would have written ($ports)', async ({ ports, extra }) => {
      await shell(
        `mkdir /etc/cfsync; printf 'extra: [10.1.2.3/32, "fd00:0:0:1::5/128", 9.9.0.0/16]\\n' > /etc/cfsync/config.yaml`,
      );
      await applied('--ports', ports, ...extra);
      const ours = await state();
      expect(ours.files).toContain(' 10.1.2.3 in comment=');
      expect(ours.files).toContain(' fd00:0:0:1::5 in comment=');
      const commands = [...(await ufw('show', 'added')).matchAll(/^ufw (.* comment 'cfsync')$/gm)];
      expect(commands.length).toBeGreaterThan(20);
      expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
      for (const [, command] of commands.reverse()) await shell(`ufw prepend ${command}`);
      // A rule added to a running firewall and a load of the files come to the same.
      expect(await state()).toEqual(ours);
    });

    it('survives every later command of ufw', async () => {
      await applied();
      const ours = await files();
      const commands = [
        'allow 8080/tcp',
        'insert 1 deny from 192.0.2.8',
        'prepend deny from 2001:db8:7::/64',
        'limit 2222/tcp',
        'allow log 8081/tcp',
        'route allow in on eth0',
        'logging medium',
        'default reject incoming',
        'app update all',
        'reload',
        'delete allow 8080/tcp',
        'delete deny from 192.0.2.8',
        'delete deny from 2001:db8:7::/64',
        'delete limit 2222/tcp',
        'delete allow log 8081/tcp',
        'route delete allow in on eth0',
        'logging low',
        'disable',
        '--force enable',
        'default deny incoming',
      ];
      for (const command of commands) {
        await shell(`ufw ${command}`);
        expect(await verify(), command).toMatchObject({ code: exit.ok });
        expect((await files()).match(/comment=636673796e63/g), command).toHaveLength(22);
      }
      expect(await files()).toBe(ours);
      await expectVerdict(edgeOnly, 80, 443);
    });

    it('finds drift and repairs it', async () => {
      await applied('--mode', 'lockdown');
      const good = await state();
      const drifts = [
        'iptables -F ufw-user-input',
        'ip6tables -F ufw6-user-input',
        'iptables -D ufw-user-input -s 173.245.48.0/20 -p tcp -m multiport --dports 80,443 -j ACCEPT',
        'iptables -I ufw-user-input -s 198.51.100.0/24 -p tcp -m multiport --dports 80,443 -j ACCEPT',
        'iptables -I ufw-user-input -j DROP',
        'iptables -I ufw-user-input -p tcp --dport 443 -j REJECT',
        'iptables -F ufw-user-input; iptables -F ufw-user-output; ip6tables -F ufw6-user-input',
        `ufw delete allow from 173.245.48.0/20 to any port 80,443 proto tcp`,
        `ufw allow from 198.51.100.0/24 to any port 80,443 proto tcp comment cfsync`,
        `ufw allow from 198.51.100.0/24 to any port 8080 proto tcp comment cfsync`,
        `ufw deny from 173.245.48.0/20 to any port 80,443 proto tcp comment cfsync`,
        `ufw allow log from 173.245.48.0/20 to any port 80,443 proto tcp comment cfsync`,
        `sed -i '/comment=636673796e63/,+1d' ${rules}`,
        `sed -i 's/173.245.48.0.20 -j ACCEPT/173.245.48.0\\/20 -j DROP/' ${rules}`,
      ];
      for (const drift of drifts) {
        await shell(drift);
        const { code, said } = await verify();
        expect(code, drift).toBe(exit.pending);
        expect(said, drift).toContain('drift');
        await applied('--mode', 'lockdown');
        // Blank lines of deleted blocks stay; ufw would not write them.
        expect((await files()).replaceAll(/\n+/g, '\n'), drift).toBe(
          good.files.replaceAll(/\n+/g, '\n'),
        );
        expect(await kernel(), drift).toBe(good.kernel);
        expect(await verify(), drift).toMatchObject({ code: exit.ok });
      }
      await expectVerdict(edgeOnly, 80, 443);
    });

    it('moves above a rule of the admin that would make it worthless, not above bans', async () => {
      await applied();
      await shell('ufw prepend deny 443; ufw prepend deny from 173.245.48.10');
      await lab.expectVerdict(443, nobody);
      expect(await verify()).toMatchObject({ code: exit.pending });
      await applied();
      await lab.expectVerdict(443, { edge: { v4: 'closed', v6: 'open' }, stranger: 'closed' });
      const once = await state();
      expect(await applied()).toBe('');
      expect(await state()).toEqual(once);
      await shell('ufw delete deny from 173.245.48.10; ufw delete deny 443');
      await expectVerdict(edgeOnly, 443);
    });

    it('refuses rules of the admin with the same identity, and says how to hand them over', async () => {
      await shell(`
        ufw allow from 173.245.48.0/20 to any port 80,443 proto tcp
        ufw deny from 2400:cb00::/32 to any port 80,443 proto tcp comment office
      `);
      const before = await state();
      const { code, stderr } = await apply();
      expect(code).toBe(exit.failed);
      expect(stderr).toContain('2 rules without the comment cfsync');
      expect(await state()).toEqual(before);
      const ways = [...stderr.matchAll(/ with: (ufw .*)$/gm)].map((match) => match[1]!);
      expect(ways).toHaveLength(2);
      for (const way of ways) await shell(way);
      await applied('--accept-large-change');
      await expectVerdict(edgeOnly, 443);
      expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
      expect(await files()).not.toContain('443');
    });

    it('lockdown refuses whatever lets others in, and names the command that deletes it', async () => {
      const openings = [
        'allow 443',
        'allow 443/tcp comment hello',
        'allow 443/udp',
        'limit 80/tcp',
        'allow log 443/tcp',
        'allow 400:500/tcp',
        "allow 'WWW Full'",
        'allow WWW',
        'allow from 198.51.100.0/24',
        'allow from 198.51.100.10 to any port 443 proto tcp',
        'allow in on eth0 to any port 443',
        'allow in on eth0',
        'allow to 203.0.113.5 port 443',
        'allow from any port 1024 to any port 443 proto tcp',
        'allow from 2001:db8::/32 to any app WWW',
      ];
      await applied('--mode', 'lockdown');
      const good = await files();
      for (const opening of openings) {
        await shell(`ufw ${opening}`);
        const before = await state();
        const refused = await apply('--mode', 'lockdown');
        expect(refused.code, opening).toBe(exit.failed);
        expect(refused.stderr, opening).toContain('mode lockdown does not hold');
        const drift = await lab.cfsync(['verify']);
        expect(drift.code, opening).toBe(exit.pending);
        expect(drift.stdout, opening).toContain('ufw: drift: mode lockdown does not hold');
        expect(await state(), opening).toEqual(before);
        const { stderr } = await apply('--mode', 'lockdown');
        const ways = [...stderr.matchAll(/ with: (ufw .*)$/gm)].map((match) => match[1]!);
        expect(ways, opening).toHaveLength(1);
        await shell(ways[0]!);
        expect(await files(), opening).toBe(good);
      }
      for (const harmless of ['allow in on lo', 'allow from 173.245.48.0/24', 'allow out 443']) {
        await shell(`ufw ${harmless}`);
        expect(await verify(), harmless).toMatchObject({ code: exit.ok });
      }
    });

    it('lockdown refuses an open policy, and rules that only the kernel has', async () => {
      const wrong = [
        [
          'ufw default allow incoming',
          'ufw default deny incoming',
          'run ufw default deny incoming',
        ],
        [
          'iptables -P INPUT ACCEPT',
          'iptables -P INPUT DROP',
          'policy for incoming IPv4 is ACCEPT',
        ],
        ['ip6tables -P INPUT ACCEPT', 'ip6tables -P INPUT DROP', 'incoming IPv6 is ACCEPT'],
        [
          'iptables -I INPUT -p tcp --dport 443 -j ACCEPT',
          'iptables -D INPUT 1',
          'iptables -A INPUT -p tcp -m tcp --dport 443 -j ACCEPT',
        ],
        [
          'ip6tables -A ufw6-before-input -s 2001:db8::/32 -j ACCEPT',
          'ip6tables -D ufw6-before-input -s 2001:db8::/32 -j ACCEPT',
          'ip6tables -A ufw6-before-input',
        ],
      ] as const;
      await applied('--mode', 'lockdown');
      for (const [open, close, said] of wrong) {
        await shell(open);
        const answer = await verify();
        expect(answer.code, open).toBe(exit.pending);
        expect(answer.said, open).toContain(said);
        await shell(close);
        expect(await verify(), close).toMatchObject({ code: exit.ok });
      }
    });

    it('allow says when a wider rule makes it pointless', async () => {
      await shell("ufw allow 'WWW Full'; ufw allow 443/tcp");
      const { code, stderr } = await apply('--verbose');
      expect(code).toBe(exit.ok);
      expect(stderr).toContain("open to everybody (ufw allow 'WWW Full', ufw allow 443/tcp)");
      await expectVerdict(everybody, 443);
    });

    it('goes back when a load fails, and says so', async () => {
      await applied();
      const before = await state();
      const wrapper = '/usr/local/sbin/ip6tables-restore';
      await lab.origin.must(['tee', wrapper], {
        stdin: `#!/bin/sh
case "$*" in *--test*) ;; *) test -e /run/lab/failed || { touch /run/lab/failed; echo injected >&2; exit 1; };; esac
exec /usr/sbin/ip6tables-restore "$@"
`,
      });
      await shell(`chmod 755 ${wrapper}`);
      const { code, stderr } = await apply('--ports', '443,8443');
      expect(stderr).toContain('injected');
      expect(stderr).toContain('back to what it was before');
      expect(code).toBe(exit.rolledBack);
      expect(await state()).toEqual(before);
      await expectVerdict(edgeOnly, 80, 443);
      expect(await verify()).toMatchObject({ code: exit.ok });
    });

    it('changes nothing when the check fails', async () => {
      const before = await state();
      await shell(
        `printf '#!/bin/sh\\ncase "$*" in *--test*) echo injected >&2; exit 2; esac\\nexec /usr/sbin/ip6tables-restore "$@"\\n' > /usr/local/sbin/ip6tables-restore
        chmod 755 /usr/local/sbin/ip6tables-restore`,
      );
      expect((await apply()).code).toBe(exit.failed);
      expect(await state()).toEqual(before);
    });

    it('settles what a crash left between the files and the kernel', async () => {
      await applied();
      await shell(`cp ${rules} /run/lab/new; sed -i s/80,443/443,8443/ ${rules}`);
      await applied('--ports', '443,8443');
      expect(await kernel()).not.toContain('80,443');
      expect(await verify()).toMatchObject({ code: exit.ok });
    });

    it('does not follow a symbolic link', async () => {
      await shell(`mv ${rules6} /etc/ufw/elsewhere; ln -s elsewhere ${rules6}`);
      const before = await state();
      const { code, stderr } = await apply();
      expect(code).toBe(exit.failed);
      expect(stderr).toContain('is a symbolic link, which cfsync does not follow');
      expect(await state()).toEqual(before);
      expect(await shell(`readlink ${rules6}`)).toBe('elsewhere\n');
    });

    it('says that the rules are not in force where the chains are missing, and loads nothing', async () => {
      await shell('/lib/ufw/ufw-init force-stop');
      const before = await kernel();
      const { code, stderr } = await apply();
      expect(code).toBe(exit.ok);
      expect(stderr).toContain('not in force (the kernel has no chain ufw-user-input)');
      expect(await kernel()).toBe(before);
      expect(await files()).toContain('comment=636673796e63');
      expect((await apply('--mode', 'lockdown')).code).toBe(exit.failed);
      await shell('ufw disable; ufw --force enable');
      await expectVerdict(edgeOnly, 443);
      await shell('iptables -F INPUT');
      expect((await verify()).said).toContain('no rule leads from INPUT to ufw-before-input');
    });

    it('waits for ufw, and ufw waits for it', async () => {
      const hold =
        'import fcntl, sys; f = open("/run/ufw.lock", "w"); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()';
      const holder = lab.origin.spawn(['python3', '-I', '-c', hold]);
      await new Promise((resolve) => holder.stdout.once('data', resolve));
      const before = await files();
      const busy = await apply('--lock-timeout', '1');
      expect(busy.code).toBe(exit.busy);
      expect(busy.stderr).toContain('/run/ufw.lock');
      expect(await files()).toBe(before);
      holder.stdin.end();

      // A load that takes a second, and an admin who does not wait for it. What ufw wrote over, having read it
      // before, is loaded once more.
      await shell(
        `printf '#!/bin/sh\\ntouch /run/lab/loading; sleep 1\\n/usr/sbin/iptables-restore "$@"; code=$?; test -e /run/lab/loaded || date +%%s%%N > /run/lab/loaded; exit $code\\n' > /usr/local/sbin/iptables-restore
        chmod 755 /usr/local/sbin/iptables-restore`,
      );
      const run = applied();
      await shell('until test -e /run/lab/loading; do sleep 0.01; done');
      await shell('ufw allow 8443/tcp; date +%s%N > /run/lab/allowed');
      await run;
      const [loaded, allowed] = (await shell('cat /run/lab/loaded /run/lab/allowed'))
        .trim()
        .split('\n')
        .map(BigInt);
      expect(allowed! > loaded!).toBe(true);
      expect(await files()).toContain(' tcp 8443 ');
    });

    it('loses no rule of an admin who is at work at the same time', async () => {
      const lists = await shorterLists();
      const ports = [...Array(8).keys()].map((i) => 9000 + i);
      // ufw loses rules of its own when two of its commands run at once, so the admin's come in turn.
      const admin = ports.map((port) =>
        shell(`flock /run/lab/turn ufw allow ${port}/tcp comment 'admin ${port}'`),
      );
      for (let i = 0; i < 10; i++) {
        const source = i % 2 === 0 ? lists : 'bundled';
        const { code, stderr } = await lab.cfsync(['apply', '-b', 'ufw', '--source', source]);
        expect(code, stderr).toBe(exit.ok);
      }
      await Promise.all(admin);
      await applied();
      const text = await files();
      const live = await kernel();
      for (const port of ports) {
        expect(text.match(new RegExp(` tcp ${port} `, 'g'))).toHaveLength(2);
        expect(live.match(new RegExp(`--dport ${port} `, 'g'))).toHaveLength(2);
      }
      expect(await verify()).toMatchObject({ code: exit.ok });
    });

    it('loses no connection and lets no stranger in through 200 changes', async () => {
      const lists = await shorterLists();
      await applied();
      const edge = await lab.edge.hammer(lab.origin, 443, { workers: 3 });
      const stranger = await lab.stranger.hammer(lab.origin, 443, { workers: 1 });
      for (let i = 0; i < 100; i++) {
        const more = i % 5 === 4 ? ['--ports', '80,443,8443'] : [];
        // What the file does not have: it is loaded whole.
        if (i % 2 === 1) await shell('iptables -A ufw-user-input -s 192.0.2.99 -j DROP');
        const { code, stderr } = await lab.cfsync([
          'apply',
          '--backend=ufw',
          `--source=${lists}`,
          ...more,
        ]);
        expect(code, stderr).toBe(exit.ok);
        expect(await kernel()).not.toContain('192.0.2.99');
        expect(await applied()).toContain('applied and read back');
      }
      const [lost, got] = [await edge.stop(), await stranger.stop()];
      for (const family of ['v4', 'v6'] as const) {
        expect(lost[family]!.open).toBeGreaterThan(500);
        expect(lost[family]!.first).toMatchObject({ refused: [], timeout: [], reset: [] });
        expect(got[family]!.first.open).toEqual([]);
        expect(got[family]!.timeout).toBeGreaterThan(10);
      }
    });
  });

  it('inactive: changes the files alone, and the rules come with ufw enable', async () => {
    await start();
    const before = await state();
    const { code, stderr } = await apply('--verbose');
    expect(code).toBe(exit.ok);
    expect(stderr).toContain('UFW is inactive');
    expect(await kernel()).toBe(before.kernel);
    expect(await ufw('show', 'added')).toContain(
      "ufw allow from 173.245.48.0/20 to any port 80,443 proto tcp comment 'cfsync'",
    );
    expect(await verify()).toMatchObject({ code: exit.ok });
    const lockdown = await apply('--mode', 'lockdown');
    expect(lockdown.code).toBe(exit.failed);
    expect(lockdown.stderr).toContain('UFW is inactive');
    expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
    expect(await state()).toEqual(before);
    await applied();
    await ufw('--force', 'enable');
    await expectVerdict(edgeOnly, 80, 443);
    expect(await verify()).toMatchObject({ code: exit.ok });
  });

  it('iptables-legacy: changes the kernel in the same way', async () => {
    await start();
    await new Origin(lab).choose('legacy');
    await shell('ufw allow 22/tcp; ufw limit 2222/tcp; ufw --force enable');
    const before = await state();
    const plan = await apply('--dry-run');
    expect(plan.stdout).toContain('ufw: load the change of /etc/ufw/user.rules');
    expect(plan.stdout).toContain('ufw: load the change of /etc/ufw/user6.rules');
    await applied();
    await expectVerdict(edgeOnly, 443);
    const { code } = await lab.cfsync(['apply', '-b', 'ufw', '--source', await shorterLists()]);
    expect(code).toBe(exit.ok);
    expect(await kernel()).not.toMatch(/131\.0\.72|2c0f:f248/);
    await applied();
    expect(await verify()).toMatchObject({ code: exit.ok });
    expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
    expect(await state()).toEqual(before);
  });

  it('IPV6=no: leaves IPv6 alone', async () => {
    await start();
    await shell(`sed -i s/IPV6=yes/IPV6=no/ /etc/default/ufw; ufw --force enable`);
    const before = await shell(`cat ${rules6}; stat ${rules6}; ip6tables -S`);
    const { code, stderr } = await apply('--verbose', '--mode', 'lockdown');
    // Cloudflare is kept out over IPv6, as it was.
    expect(code, stderr).toBe(exit.pending);
    expect(stderr).toContain('Cloudflare is kept out of 80, 443 (7 of 7 IPv6 ranges) by iptables');
    expect(stderr).toContain('UFW leaves IPv6 alone');
    expect(await shell(`cat ${rules6}; stat ${rules6}; ip6tables -S`)).toBe(before);
    await lab.expectVerdict(443, { edge: { v4: 'open', v6: 'closed' }, stranger: 'closed' });
    expect(await verify()).toMatchObject({ code: exit.pending });
    expect(await apply('--mode', 'lockdown')).toMatchObject({ code: exit.pending, stdout: '' });
  });

  it('a kernel without IPv6: leaves IPv6 alone', async () => {
    await start({ ipv6: false });
    // ufw takes a missing /proc/sys/net/ipv6 for a kernel without IPv6.
    await shell('mount -t tmpfs tmpfs /proc/sys/net; ufw --force enable');
    const before = await shell(`cat ${rules6}; stat ${rules6}; ip6tables -S`);
    const { code, stderr } = await apply('--verbose');
    expect(code, stderr).toBe(exit.ok);
    expect(stderr).toContain('the kernel has no IPv6');
    expect(await shell(`cat ${rules6}; stat ${rules6}; ip6tables -S`)).toBe(before);
    await lab.expectVerdict(443, edgeOnly);
    expect(await verify()).toMatchObject({ code: exit.ok });
  });

  it('says that ports which Docker publishes bypass UFW', async () => {
    await start({ container: true });
    await ufw('--force', 'enable');
    const note = 'ports that Docker publishes (docker0) bypass UFW';
    expect((await apply()).stderr).not.toContain(note);
    expect((await apply('--verbose')).stderr).toContain(note);
    expect((await apply('--mode', 'lockdown')).stderr).toContain(note);
  });
});
