/**
 * CSF is not in Debian, so `csf` and `lfd` here are a stand-in (test/helpers/csf/csf): a script written after
 * what CSF 15.10 was seen to do. What these tests show is that cfsync does the right thing with a CSF that
 * behaves so; iptables, the rules in the kernel, the packets, the locks and the files are real.
 */
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { exit, type ExitCode } from '../../src/errors.ts';
import { bundled } from '../helpers/desired.ts';
import { allowed, configure, csfLab, put, type Conf } from '../helpers/csf/lab.ts';
import { Lab, type Host } from './lab.ts';
import { describeLive } from './privileges.ts';

const own = '/etc/csf/cfsync.allow';

describeLive('csf', { programs: ['iptables', 'perl', 'flock'] }, () => {
  let lab: Lab;

  afterEach(async () => {
    await lab.close();
  });

  const start = async (conf: Conf = {}): Promise<void> => {
    lab = await csfLab(conf);
    await lab.origin.listen({ tcp: [22, 80, 443, 8080], udp: [443] });
  };
  const apply = (...args: string[]) =>
    lab.cfsync(['apply', '-b', 'csf', '--source', 'bundled', ...args]);
  const applied = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await apply(...args);
    expect(code, stderr).toBe(exit.ok);
    return stdout;
  };
  const removed = async (): Promise<void> => {
    const { code, stderr } = await lab.cfsync(['remove', '-b', 'csf']);
    expect(code, stderr).toBe(exit.ok);
  };
  const verify = async (): Promise<number> => (await lab.cfsync(['verify', '-b', 'csf'])).code;
  const sh = (script: string): Promise<string> => lab.origin.must(['sh', '-c', script]);
  const read = (path: string): Promise<string> => lab.origin.must(['cat', path]);
  /** Every rule of both families, without counters and comments. */
  const rules = () =>
    sh("for f in '' 6; do ip${f}tables-save | grep -v '^#' | sed 's/ \\[.*//'; done");
  /** Bytes, modes and owners. */
  const files = () =>
    sh(
      'cd /etc/csf && find . -printf "%p %m %u %g\\n" | sort && find . -type f | sort | xargs sha256sum',
    );
  const closedToAll = async (): Promise<void> => {
    for (const port of [80, 443])
      await lab.expectVerdict(port, { edge: 'closed', stranger: 'closed' });
  };
  const onlyEdge = async (): Promise<void> => {
    for (const port of [80, 443])
      await lab.expectVerdict(port, { edge: 'open', stranger: 'closed' });
  };
  /** The published lists without some ranges. */
  const shorter = async (...prefixes: string[]): Promise<string> => {
    const lists = '/run/lab/lists';
    await lab.origin.must(['rm', '-rf', lists]);
    await lab.origin.must([
      'cp',
      '-r',
      fileURLToPath(new URL('../../data', import.meta.url)),
      lists,
    ]);
    for (const prefix of prefixes)
      await sh(`sed -i '\\|^${prefix}|d' ${lists}/ips-v4 ${lists}/ips-v6`);
    return lists;
  };
  /** Puts a script in the place of a program, which it finds as "$real". */
  const wrap = async (program: string, script: string): Promise<void> => {
    const path = (await lab.origin.must(['sh', '-c', `command -v ${program}`])).trim();
    await put(
      lab,
      `/usr/local/sbin/${program}`,
      `#!/bin/sh\nreal=${path}\n${script}\nexec "$real" "$@"\n`,
      '755',
    );
  };

  it('lets Cloudflare in and nobody else, in the rules that CSF itself would make', async () => {
    await start();
    const before = { rules: await rules(), files: await files() };
    await closedToAll();
    await applied();
    await onlyEdge();
    await lab.expectVerdict(22, { edge: 'open', stranger: 'open' });
    await lab.expectVerdict(8080, { edge: 'closed', stranger: 'closed' });
    expect(await sh(`stat -c '%a %U' ${own} /etc/csf/cfsync.ignore`)).toBe('600 root\n600 root\n');

    const now = await rules();
    await lab.origin.must(['csf', '-r']);
    expect(await rules()).toBe(now);
    await sh('touch /run/lab/mark');
    expect(await applied()).toBe('');
    expect(await sh('find /etc -newer /run/lab/mark -type f')).toBe('');
    expect(await rules()).toBe(now);
    expect(await verify()).toBe(exit.ok);

    await removed();
    expect(await rules()).toBe(before.rules);
    expect(await files()).toBe(before.files);
    await closedToAll();
  });

  it('opens UDP where it is named, and one port as one', async () => {
    await start();
    await applied('--ports', '443', '--udp-ports', '443');
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' }, 'udp');
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
    await lab.expectVerdict(80, { edge: 'closed', stranger: 'closed' });
    const now = await rules();
    await lab.origin.must(['csf', '-r']);
    expect(await rules()).toBe(now);
    expect(await applied('--ports', '443', '--udp-ports', '443')).toBe('');
  });

  it('answers get through although the edge is banned', async () => {
    await start();
    // A ban also stops neighbour discovery, which a real edge behind a router does not need.
    const mac = async (host: Host): Promise<string> =>
      (await host.must(['ip', '-br', 'link', 'show', 'eth0'])).split(/\s+/)[2]!;
    for (const [host, other] of [
      [lab.edge, lab.origin],
      [lab.origin, lab.edge],
    ] as const)
      await host.ip([`neigh replace ${other.v6} lladdr ${await mac(other)} dev eth0`]);
    for (const address of [lab.edge.v4, lab.edge.v6!])
      await lab.origin.must(['csf', '-d', address]);
    await applied();
    await onlyEdge();
    await lab.expectVerdict(22, { edge: 'closed', stranger: 'open' });
    // The lines for the way out do this.
    await sh('for f in "" 6; do ip${f}tables -F ALLOWOUT; done');
    await closedToAll();
    expect(await verify()).toBe(exit.pending);
  });

  it('finds drift and repairs it', async () => {
    await start();
    await applied();
    const [good, lists] = [await rules(), await files()];
    const rule = '! -i lo -s 173.245.48.0/20 -p tcp -m multiport --dports 80,443 -j ACCEPT';
    const drifts = [
      `iptables -D ALLOWIN ${rule}`,
      `iptables -I ALLOWIN ${rule}`,
      'ip6tables -F ALLOWOUT',
      `sed -i /173.245/d ${own}`,
      `echo 'tcp|in|d=22|s=198.51.100.0/24' >> ${own}`,
      `rm ${own}`,
      'echo 198.51.100.0/24 >> /etc/csf/cfsync.ignore',
      "sed -i 's/^Include/ Include/' /etc/csf/csf.allow",
      "sed -i '/END cfsync/d' /etc/csf/csf.ignore",
      `echo 'Include ${own}' >> /etc/csf/csf.allow`,
    ];
    for (const drift of drifts) {
      await sh(drift);
      const { code, stdout } = await lab.cfsync(['verify']);
      expect(code, drift).toBe(exit.pending);
      expect(stdout, drift).toContain('drift');
      await applied();
      const sorted = (text: string): string[] => text.split('\n').sort();
      expect(sorted(await rules()), drift).toEqual(sorted(good));
      expect(await files(), drift).toBe(lists);
      expect(await verify(), drift).toBe(exit.ok);
    }
    await onlyEdge();
  });

  it("leaves the admin's entries alone, also those like its own", async () => {
    await start();
    const same = 'tcp|in|d=80,443|s=173.245.48.0/20';
    await lab.origin.must(['csf', '-a', same]);
    await lab.origin.must(['csf', '-a', '198.51.100.77']);
    await sh('iptables -N f2b-sshd; iptables -I INPUT -j f2b-sshd; iptables -t nat -N DOCKER');
    await sh('iptables -I ALLOWIN -s 192.0.2.99 -j ACCEPT');
    const before = { rules: await rules(), files: await files() };
    await applied();
    expect(await verify()).toBe(exit.ok);
    // CSF loads the line once for the admin and once for cfsync.
    await sh('csf -r; iptables -I ALLOWIN -s 192.0.2.99 -j ACCEPT');
    expect(await verify()).toBe(exit.ok);
    expect(await applied()).toBe('');
    await sh('iptables -N f2b-sshd; iptables -I INPUT -j f2b-sshd; iptables -t nat -N DOCKER');
    await removed();
    const sorted = (text: string): string[] => text.split('\n').sort();
    expect(sorted(await rules())).toEqual(sorted(before.rules));
    expect(await files()).toBe(before.files);
  });

  it('keeps the end of csf.allow such that csf -a does not destroy it', async () => {
    await start();
    const open = `${allowed}192.0.2.200 # no line end`;
    await put(lab, '/etc/csf/csf.allow', open, '640');
    const before = await files();
    await applied();
    expect((await read('/etc/csf/csf.allow')).endsWith('\n')).toBe(true);
    await removed();
    expect(await files()).toBe(before);

    await applied();
    await lab.origin.must(['csf', '-a', '192.0.2.201']);
    expect(await verify()).toBe(exit.ok);
    await lab.origin.must(['csf', '-r']);
    expect(await verify()).toBe(exit.ok);
    await onlyEdge();
    await removed();
    expect(await read('/etc/csf/csf.allow')).toBe(`${open}\n192.0.2.201 # Manually allowed\n`);
  });

  it('loses no connection and lets no stranger in while ranges change', async () => {
    await start();
    const lists = await shorter('131.0.72', '2c0f:f248');
    await applied();
    const edge = await lab.edge.hammer(lab.origin, 443, { workers: 3 });
    const stranger = await lab.stranger.hammer(lab.origin, 443, { workers: 1 });
    for (let i = 0; i < 12; i++) {
      const { code, stderr } = await lab.cfsync(['apply', '-b', 'csf', '--source', lists]);
      expect(code, stderr).toBe(exit.ok);
      expect(await applied()).toContain('applied and read back');
    }
    const [lost, got] = [await edge.stop(), await stranger.stop()];
    for (const family of ['v4', 'v6'] as const) {
      expect(lost[family]!.open).toBeGreaterThan(100);
      expect(lost[family]!.first).toMatchObject({ refused: [], timeout: [], reset: [] });
      expect(got[family]!.first.open).toEqual([]);
      expect(got[family]!.timeout).toBeGreaterThan(5);
    }
  });

  it('goes back when a later step fails, and leaves no stale rule after a crash', async () => {
    await start();
    const lists = await shorter('173.245', '2400:cb00');
    await applied();
    const before = { rules: await rules(), files: await files() };
    await wrap(
      'ip6tables-restore',
      'case "$*" in *--test*);; *) rm "$0"; echo injected >&2; exit 1;; esac',
    );
    const failed = await lab.cfsync(['apply', '-b', 'csf', '--source', lists, '--ports', '443']);
    expect(failed.stderr).toContain('injected');
    expect(failed.stderr).toContain('back to what it was before');
    expect(failed.code).toBe(exit.rolledBack);
    const sorted = (text: string): string[] => text.split('\n').sort();
    expect(sorted(await rules())).toEqual(sorted(before.rules));
    expect(await files()).toBe(before.files);

    // The process dies between the families, and the next run wants something else again.
    await wrap(
      'ip6tables-restore',
      'case "$*" in *--test*);; *) rm "$0"; kill -9 $PPID; exit 1;; esac',
    );
    expect((await lab.cfsync(['apply', '-b', 'csf', '--source', lists])).code).toBe(137);
    expect(await rules()).not.toContain('-s 173.245.48.0/20');
    expect(await rules()).toContain('-s 2400:cb00::/32');
    const other = await shorter('173.245', '2400:cb00', '131.0.72');
    const { code, stderr } = await lab.cfsync(['apply', '-b', 'csf', '--source', other]);
    expect(code, stderr).toBe(exit.ok);
    for (const gone of ['173.245.48.0/20', '2400:cb00::/32', '131.0.72.0/22']) {
      expect(await rules()).not.toContain(gone);
      expect(await read(own)).not.toContain(gone);
    }
    await removed();
    expect(await rules()).not.toContain('80,443');
  });

  describe('--csf-reload', () => {
    it('runs csf -r, under no lock that csf -r waits for', async () => {
      await start();
      await sh('cp /usr/local/sbin/csf /run/lab/csf; echo >/run/lab/calls');
      await wrap('csf', 'echo "$*" >> /run/lab/calls; real=/run/lab/csf');
      await applied('--csf-reload');
      expect(await read('/run/lab/calls')).toBe('\n-r\n');
      await onlyEdge();
      expect(await applied('--csf-reload')).toBe('');
      expect(await read('/run/lab/calls')).toBe('\n-r\n');
      const lists = await shorter('173.245');
      expect(
        (await lab.cfsync(['apply', '-b', 'csf', '--csf-reload', '--source', lists])).code,
      ).toBe(exit.ok);
      expect(await rules()).not.toContain('173.245');
      expect(await verify()).toBe(exit.ok);
    });

    it('is refused while rules of other programs would die', async () => {
      await start();
      for (const [make, unmake, name] of [
        ['iptables -N f2b-sshd', 'iptables -X f2b-sshd', 'f2b-sshd'],
        ['ip6tables -t nat -N DOCKER', 'ip6tables -t nat -X DOCKER', 'DOCKER'],
        ['iptables -t nat -A POSTROUTING -j MASQUERADE', 'iptables -t nat -F', 'MASQUERADE'],
      ] as const) {
        await sh(make);
        const before = { rules: await rules(), files: await files() };
        const { code, stderr } = await apply('--csf-reload');
        expect(code).toBe(exit.failed);
        expect(stderr).toContain(name);
        expect(stderr).toContain('nothing was changed');
        expect(await rules()).toBe(before.rules);
        expect(await files()).toBe(before.files);
        await sh(unmake);
      }
      await applied('--csf-reload');
    });

    it('puts everything back when CSF fails open', async () => {
      await start();
      await applied();
      const before = { rules: await rules(), files: await files() };
      // Something that cfsync does not see breaks CSF's next start, and only that.
      await sh('cp /usr/local/sbin/csf /run/lab/csf');
      await wrap(
        'csf',
        'real=/run/lab/csf; if [ "$1" = -r ] && ! [ -e /run/lab/done ]; then touch /run/lab/done; for f in /etc/csf/cfsync.allow; do cp -p $f /run/lab/keep; echo "tcp|in|d=99999|s=192.0.2.0/24" >> $f; /run/lab/csf -r; rc=$?; cp -p /run/lab/keep $f; exit $rc; done; fi',
      );
      const { code, stderr } = await apply('--csf-reload', '--ports', '443');
      expect(stderr).toContain('FASTSTART');
      expect(stderr).toContain('back to what it was before');
      expect(code).toBe(exit.rolledBack);
      expect(await rules()).toBe(before.rules);
      expect(await files()).toBe(before.files);
      await onlyEdge();
    });

    it('sees csf.error also when csf -r says that all is well', async () => {
      await start();
      await sh('cp /usr/local/sbin/csf /run/lab/csf');
      await wrap(
        'csf',
        'real=/run/lab/csf; [ "$1" = -r ] && ! [ -e /run/lab/done ] && { touch /run/lab/done; /run/lab/csf -r; echo "Error: odd" > /etc/csf/csf.error; exit 0; }',
      );
      const { code, stderr } = await apply('--csf-reload');
      expect(code).toBe(exit.rolledBack);
      expect(stderr).toContain('Error: odd');
      expect(await sh('ls /etc/csf')).not.toMatch(/cfsync|error/);
    });

    it('is refused where csf -r would only ask lfd', async () => {
      await start();
      await configure(lab, { LFDSTART: '1' });
      const { code, stderr } = await apply('--csf-reload');
      expect(code).toBe(exit.failed);
      expect(stderr).toContain('LFDSTART');
      await applied();
    });
  });

  it('refuses lockdown until CSF opens the ports to nobody, and watches that', async () => {
    await start({ TCP_IN: '22,80,443', TCP6_IN: '22,400:500', UDP_IN: '53,443' });
    const refused = async (...parts: string[]): Promise<void> => {
      const { code, stderr } = await apply('--mode', 'lockdown');
      expect(code).toBe(exit.failed);
      for (const part of parts) expect(stderr).toContain(part);
      expect(await sh('ls /etc/csf')).not.toContain('cfsync');
    };
    await refused(
      'TCP_IN in csf.conf opens 80, 443',
      'TCP6_IN in csf.conf opens 443',
      'UDP_IN in csf.conf opens 443',
    );
    // Allow mode says it, and does its part.
    const { stderr } = await apply('--dry-run', '--verbose');
    expect(stderr).toContain('TCP_IN in csf.conf opens 80, 443 to everybody');
    await configure(lab);
    await refused('the running firewall still opens', '-A INPUT');
    await lab.origin.must(['csf', '-r']);
    await applied('--mode', 'lockdown');
    await onlyEdge();
    await lab.expectVerdict(443, { edge: 'closed', stranger: 'closed' }, 'udp');
    expect(await verify()).toBe(exit.ok);
    await configure(lab, { TCP_IN: '22,443' });
    expect(await verify()).not.toBe(exit.ok);
    await configure(lab, { IPV6: '0' });
    await removed();
    await refused('IPV6 = "0"');
  });

  it('says what keeps the rules from being in force', async () => {
    await start();
    const says = async (text: string, expected: ExitCode = exit.ok): Promise<string> => {
      const { code, stderr } = await apply('--verbose');
      expect(code, stderr).toBe(expected);
      expect(stderr).toContain(text);
      return stderr;
    };
    await configure(lab, { IPV6: '0' });
    await lab.origin.must(['csf', '-r']);
    // The old rules of IPv6 stay, and their policy.
    await says('IPV6 = "0"', exit.pending);
    expect(await lab.origin.must(['iptables-save'])).toContain('173.245');
    expect(await read(own)).toContain('2400:cb00');
    await configure(lab, { TESTING: '1' });
    await says('TESTING = "1"');
    await configure(lab);
    await lab.origin.must(['csf', '-f']);
    await says('CSF is not running');
    await sh('touch /etc/csf/csf.disable');
    await says('CSF is disabled');
    expect(await verify()).toBe(exit.ok);
    await sh('rm /etc/csf/csf.disable; csf -r');
    expect(await verify()).toBe(exit.ok);
    await onlyEdge();
    await sh('echo "Error: FASTSTART: bad" > /etc/csf/csf.error');
    const failed = await apply();
    expect(failed.code).toBe(exit.failed);
    expect(failed.stderr).toContain('Error: FASTSTART: bad');
  });

  it('restarts lfd, and nothing else, when what it reads has changed', async () => {
    await start();
    const pid = () => read('/run/lfd.pid');
    const ignored = () => read('/run/lfd.ignored');
    await applied();
    expect(await sh('ls /run')).not.toContain('lfd'); // it did not run, so it does not start
    await lab.origin.must(['csf', '--lfd', 'restart']);
    await expect.poll(ignored).toContain('173.245.48.0/20');
    let last = await pid();
    await applied();
    await applied('--ports', '443');
    expect(await pid()).toBe(last);
    const lists = await shorter('173.245');
    expect((await lab.cfsync(['apply', '-b', 'csf', '--source', lists])).code).toBe(exit.ok);
    expect(await pid()).not.toBe(last);
    await expect.poll(ignored).not.toContain('173.245.48.0/20');
    // A run that was cut off before the restart is made good for by the next.
    last = await pid();
    await sh('sleep 0.05; touch /etc/csf/cfsync.ignore');
    expect(await verify()).toBe(exit.pending);
    expect((await lab.cfsync(['apply', '-b', 'csf', '--source', lists])).code).toBe(exit.ok);
    expect(await pid()).not.toBe(last);
    await removed();
    await expect.poll(ignored).toBe('127.0.0.1\n');
  });

  it('waits for CSF, and refuses a symbolic link', async () => {
    await start();
    for (const path of ['/etc/csf/csf.allow', '/var/lib/csf/csf.lock']) {
      const holder = lab.origin.spawn(['flock', path, 'cat']);
      await expect
        .poll(async () => (await lab.origin.run(['flock', '-n', path, 'true'])).code)
        .not.toBe(0);
      const { code, stderr } = await apply('--lock-timeout', '1');
      expect(code, stderr).toBe(exit.busy);
      expect(stderr).toContain(path);
      expect(stderr).toContain('nothing was changed');
      holder.stdin.end();
      holder.kill();
    }
    await sh('mv /etc/csf/csf.allow /etc/csf/real; ln -s real /etc/csf/csf.allow');
    const before = await rules();
    const { code, stderr } = await apply();
    expect(code).not.toBe(exit.ok);
    expect(stderr).toContain('symbolic link');
    expect(await rules()).toBe(before);
    expect(await read('/etc/csf/real')).toBe(allowed);
  });

  it('lets a restart of CSF go on while it waits or works', async () => {
    await start();
    // It holds csf.allow while lfd restarts, and csf -r must neither give up nor end with half of the rules.
    await lab.origin.must(['csf', '--lfd', 'restart']);
    await sh('cp /usr/local/sbin/csf /run/lab/csf');
    await wrap('csf', 'real=/run/lab/csf; [ "$1" = --lfd ] && { touch /run/lab/at; sleep 1; }');
    const run = apply();
    await expect
      .poll(async () => (await lab.origin.run(['test', '-e', '/run/lab/at'])).code)
      .toBe(0);
    const restart = await lab.origin.run(['/run/lab/csf', '-r']);
    expect(restart.code, restart.stdout + restart.stderr).toBe(0);
    const { code, stderr } = await run;
    expect(code, stderr).toBe(exit.ok);
    expect(await verify()).toBe(exit.ok);
    await onlyEdge();
  });

  describe('adopt', () => {
    const old = [
      ...bundled.v4.filter((prefix) => !prefix.startsWith('104.')),
      '104.16.0.0/12',
      ...bundled.v6,
    ];
    /** What a script left, with plain addresses for some, and what the admin put in between. */
    const left = [
      allowed.trimEnd(),
      ...old.map((prefix) => `tcp|in|d=80,443|s=${prefix} # Cloudflare`),
      'tcp|in|d=8080|s=192.0.2.0/24',
      ...old.slice(-3).map((prefix) => `${prefix} # Cloudflare`),
      'tcp|out|s=80,443|d=104.16.0.0/12',
      '173.245.48.0/20',
      '198.51.100.99 # partner',
      '',
    ].join('\n');
    const ignored = ['# csf.ignore', '127.0.0.1', ...old, '198.51.100.99', ''].join('\n');
    const adopt = (...args: string[]) =>
      lab.cfsync(['adopt', '-b', 'csf', '--source', 'bundled', ...args]);
    const begin = async (): Promise<{ rules: string; files: string }> => {
      await start();
      await put(lab, '/etc/csf/csf.allow', left);
      await put(lab, '/etc/csf/csf.ignore', ignored);
      await sh('csf -r; csf --lfd restart');
      await onlyEdge();
      await lab.expectVerdict(8080, {
        edge: { v4: 'open', v6: 'closed' },
        stranger: 'closed',
      });
      return { rules: await rules(), files: await files() };
    };
    const sorted = (text: string): string[] => text.split('\n').sort();

    it('ours in, theirs out, no connection lost and no stranger in', async () => {
      await begin();
      const edge = await lab.edge.hammer(lab.origin, 443, { workers: 3 });
      const stranger = await lab.stranger.hammer(lab.origin, 443, { workers: 1 });
      const { code, stdout, stderr } = await adopt();
      expect(code, stderr).toBe(exit.ok);
      expect(stdout).toContain("stale: 104.28.0.0/14 (not Cloudflare's any more)");
      expect(stdout).toContain('ends with it: every other port, and what this host sends there');
      const [lost, got] = [await edge.stop(), await stranger.stop()];
      for (const family of ['v4', 'v6'] as const) {
        expect(lost[family]!.open).toBeGreaterThan(50);
        expect(lost[family]).toMatchObject({ refused: 0, timeout: 0, reset: 0 });
        expect(got[family]!.open).toBe(0);
      }
      await onlyEdge();
      await lab.expectVerdict(8080, { edge: 'closed', stranger: 'closed' });
      const ends = (name: string): string =>
        `# BEGIN cfsync managed block - do not edit\nInclude /etc/csf/cfsync.${name}\n# END cfsync managed block\n`;
      expect(await read('/etc/csf/csf.allow')).toBe(
        `${allowed}tcp|in|d=8080|s=192.0.2.0/24\n198.51.100.99 # partner\n${ends('allow')}`,
      );
      expect(await read('/etc/csf/csf.ignore')).toBe(
        `# csf.ignore\n127.0.0.1\n198.51.100.99\n${ends('ignore')}`,
      );
      await expect.poll(() => read('/run/lfd.ignored')).not.toContain('104.16.0.0/12');
      expect(await rules()).not.toContain('104.16.0.0/12');
      expect(await verify()).toBe(exit.ok);
      // CSF itself comes to the same.
      const now = await rules();
      await sh('csf -r');
      expect(sorted(await rules())).toEqual(sorted(now));
      expect((await adopt()).stdout).toContain('csf: nothing to take over');
    });

    it('puts every line and rule back when a later step fails', async () => {
      const before = await begin();
      for (const [program, script] of [
        [
          'ip6tables-restore',
          'case "$*" in *--test*);; *) rm "$0"; echo injected >&2; exit 1;; esac',
        ],
        [
          'csf',
          '[ "$1" = --lfd ] && { rm "$0"; mv /run/lab/csf /usr/local/sbin/csf; echo injected >&2; exit 1; }',
        ],
      ] as const) {
        if (program === 'csf') await sh('cp /usr/local/sbin/csf /run/lab/csf');
        await wrap(
          program,
          program === 'csf' ? script.replace(/^/, 'real=/run/lab/csf; ') : script,
        );
        const { code, stderr } = await adopt();
        expect(stderr).toContain('injected');
        expect(stderr).toContain('back to what it was before');
        expect(code).toBe(exit.rolledBack);
        expect(await files()).toBe(before.files);
        expect(sorted(await rules())).toEqual(sorted(before.rules));
        await onlyEdge();
      }
      expect((await adopt()).code).toBe(exit.ok);
    });

    it('goes on after it was cut off between rules and lines, and leaves no stale rule', async () => {
      await begin();
      await wrap(
        'ip6tables-restore',
        'case "$*" in *--test*);; *) rm "$0"; kill -9 $PPID; exit 1;; esac',
      );
      expect((await adopt()).code).toBe(137);
      expect(await rules()).toContain('-s 2400:cb00::/32');
      const { code, stderr } = await adopt();
      expect(code, stderr).toBe(exit.ok);
      expect(await rules()).not.toContain('104.16.0.0/12');
      const now = await rules();
      await sh('csf -r');
      expect(sorted(await rules())).toEqual(sorted(now));
    });

    it('does it in one csf -r where that is asked for', async () => {
      await begin();
      const { code, stderr } = await adopt('--csf-reload');
      expect(code, stderr).toBe(exit.ok);
      await onlyEdge();
      expect(await read('/etc/csf/csf.allow')).not.toContain('Cloudflare');
      expect(await rules()).not.toContain('104.16.0.0/12');
      expect(await verify()).toBe(exit.ok);
    });
  });

  it('uses the variant of iptables that CSF uses', async () => {
    await start();
    await lab.origin.must(['csf', '-f']);
    await lab.origin.nft('flush ruleset');
    const legacy = ['', '6'].flatMap((family) =>
      ['', '_SAVE', '_RESTORE'].map((kind): [string, string] => [
        `IP${family}TABLES${kind}`,
        `/usr/sbin/ip${family}tables-legacy${kind.toLowerCase().replace('_', '-')}`,
      ]),
    );
    await configure(lab, Object.fromEntries(legacy));
    await lab.origin.must(['csf', '-r']);
    await closedToAll();
    await applied();
    await onlyEdge();
    expect(await applied()).toBe('');
    expect(await sh('nft list ruleset')).toBe('');
    await removed();
    await closedToAll();
  });

  it('says that CSF is not installed', async () => {
    lab = await Lab.create();
    const { code, stderr } = await apply();
    expect(code).toBe(exit.failed);
    expect(stderr).toContain('there is no /etc/csf');
    expect((await lab.cfsync(['backends'])).stdout).toMatch(/^csf +not installed/m);
  });
});
