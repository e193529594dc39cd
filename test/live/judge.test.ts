/** What apply, adopt and verify say of the rules of the whole host, against the packets themselves. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

/** A table of somebody else, before any place of ours. */
const other = (rule: string): string => `
table inet geoblock {
	chain input {
		type filter hook prerouting priority -400; policy accept;
		${rule}
	}
}
`;

/** A packet filter whose rules are one table, which drops everything. */
const wall = `
const owned = (on) => ({ ranges: { v4: [], v6: [] }, on });
export default {
  api: 1, name: 'wall', kind: 'filter', nothing: owned(false), options: () => null,
  want: () => ({ owned: owned(true), notices: [] }),
  async observe(host) {
    const { stdout } = await host.query({ argv: ['nft', 'list', 'tables'] });
    return { owned: owned(stdout.includes('inet wall')), around: null };
  },
  plan(wanted, { owned: { on } }) {
    if (wanted.on === on) return [];
    const chain = 'type filter hook input priority -10; policy drop;';
    const command = wanted.on
      ? { argv: ['nft', '-f', '-'], stdin: \`table inet wall { chain input { \${chain} }\\n}\\n\` }
      : { argv: ['nft', 'delete', 'table', 'inet', 'wall'] };
    return [{ kind: 'run', summary: 'wall', command }];
  },
  print: () => [],
};
`;

describeLive('the judge', { programs: ['nft'] }, () => {
  let lab: Lab;

  beforeEach(async () => {
    lab = await Lab.create({ privateDirs: ['/usr/local/sbin'] });
    await lab.origin.listen({ tcp: [22, 80, 443] });
    await shell('mkdir -p /etc/cfsync');
  });
  afterEach(() => lab.close());

  const shell = (script: string): Promise<string> => lab.origin.must(['sh', '-c', script]);
  const configure = (text: string): Promise<string> =>
    shell(`cat > /etc/cfsync/config.yaml <<'END'\n${text}\nEND`);
  const apply = (...args: string[]) =>
    lab.cfsync(['apply', '-b', 'nftables', '--source', 'bundled', '--allow-weaker', ...args]);
  const verify = () => lab.cfsync(['verify']);
  const outOf443 =
    'cfsync: warning: Cloudflare is kept out of 443 (15 of 15 IPv4 ranges, 7 of 7 IPv6 ranges) by inet geoblock input: tcp dport 443 drop; cfsync doctor says what to do; judge-ignore: [inet geoblock input] in the configuration accepts it\n';
  const edge443 = async () => (await lab.verdict(443)).edge;

  it('says what is in force, once it is, and that nobody else gets in', async () => {
    const first = await apply();
    expect(first).toMatchObject({ code: exit.ok, stderr: '' });
    expect(first.stdout).toMatch(/\nin force: Cloudflare reaches 80, 443\n$/);
    await lab.expectVerdict(443, { edge: 'open', stranger: 'open' });
    expect(await apply()).toMatchObject({ code: exit.ok, stdout: '', stderr: '' });
    expect(await verify()).toMatchObject({ code: exit.ok, stdout: '', stderr: '' });
    // Nothing has changed since: then it has.
    await lab.origin.nft(other('tcp dport 443 drop'));
    expect((await verify()).stderr).toContain(outOf443);
    await lab.origin.nft('delete table inet geoblock');
    const locked = await apply('--mode', 'lockdown', '--udp-ports', '443');
    expect(locked.stdout).toMatch(
      /\nin force: Cloudflare reaches TCP 80, 443, UDP 443, and nobody else does\n$/,
    );
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
  });

  it('names the rule of others that keeps Cloudflare out, and ends with 2', async () => {
    await lab.origin.nft(other('tcp dport 443 drop'));
    const done = await apply();
    expect(await edge443()).toEqual({ v4: 'timeout', v6: 'timeout' });
    expect(done.code).toBe(exit.pending);
    expect(done.stderr).toContain(outOf443);
    expect(done.stdout).not.toContain('in force');
    const still = await verify();
    expect(still.code).toBe(exit.pending);
    expect(still.stderr).toContain(outOf443);
    await shell('nft flush chain inet geoblock input');
    expect(await verify()).toMatchObject({ code: exit.ok, stderr: '' });
  });

  it('names it before a change as well, and no exit code follows', async () => {
    await lab.origin.nft(other('tcp dport 443 drop'));
    const words = 'as the rules are now, Cloudflare is kept out of 443 (15 of 15 IPv4 ranges';
    const dry = await apply('--dry-run');
    expect(dry.code).toBe(exit.ok);
    expect(dry.stderr).toContain(words);
    const diff = await lab.cfsync(['diff', '-b', 'nftables', '--source', 'bundled']);
    expect(diff.code).toBe(exit.ok);
    expect(diff.stderr).toContain(words);
  });

  it('goes by the configuration', async () => {
    await lab.origin.nft(other('tcp dport 443 drop'));
    await apply();
    for (const [line, isSaid] of [
      ['judge-ignore: inet geoblock input', false],
      ['judge: say', true],
      ['judge: off', false],
    ] as const) {
      await configure(line);
      const { code, stderr } = await verify();
      expect(code, line).toBe(exit.ok);
      expect(stderr.includes(outOf443), line).toBe(isSaid);
    }
  });

  it.each([
    ['a banned address', 'ip saddr 104.16.0.1 drop', exit.ok],
    ['a banned /24', 'ip saddr 104.16.0.0/24 drop', exit.ok],
    ['more of a range', 'ip saddr 104.16.0.0/23 drop', exit.pending],
    ['a /48', 'ip6 saddr 2606:4700::/48 drop', exit.ok],
    ['a /47', 'ip6 saddr 2606:4700::/47 drop', exit.pending],
  ])('weighs %s', async (_, rule, code) => {
    await lab.origin.nft(other(rule));
    expect((await apply()).code).toBe(code);
    const quiet = await verify();
    expect(quiet.code).toBe(code);
    expect(quiet.stderr === '').toBe(code === exit.ok);
  });

  it('says once what it does not understand, and gives no verdict', async () => {
    await configure('metrics: /etc/cfsync/x.prom');
    await lab.origin.nft(other('tcp dport 443 numgen random mod 2 == 1 drop'));
    const done = await apply();
    expect(done.code).toBe(exit.ok);
    expect(done.stdout).not.toContain('in force');
    expect(done.stderr).toMatch(
      /^cfsync: read back; not judged: whether Cloudflare gets in on 443 \(15 of 15 IPv4 ranges, 7 of 7 IPv6 ranges\) depends on numgen in inet geoblock input: tcp dport 443 numgen random mod 2 1 drop$/m,
    );
    expect(await verify()).toMatchObject({ code: exit.ok, stderr: '' });
    expect((await apply('--verbose')).stderr).toContain('read back; not judged');
    expect(await shell('cat /etc/cfsync/x.prom')).not.toContain('cfsync_judged_in{');
  });

  it('says once that nobody can come in at all', async () => {
    await shell('ip route del default; ip -6 route del default');
    const done = await apply();
    expect(done.code).toBe(exit.ok);
    expect(done.stderr).toMatch(
      /^cfsync: read back; not judged: no interface with a default route/m,
    );
    expect(await verify()).toMatchObject({ code: exit.ok, stderr: '' });
  });

  it('says it where the rules cannot be listed', async () => {
    await apply();
    await shell(
      `printf '#!/bin/sh\\ncase "$*" in *"-a -t list ruleset"*) echo no >&2; exit 1;; esac\\nexec /usr/sbin/nft "$@"\\n' >/usr/local/sbin/nft; chmod +x /usr/local/sbin/nft`,
    );
    const done = await verify();
    expect(done.stderr).toMatch(/not judged: nft .*list ruleset ended with code 1: no/);
  });

  it('says it where nft may not be run, and the backend needs none', async () => {
    await shell('mount --bind /dev/null /usr/sbin/nft');
    const done = await lab.cfsync(['apply', '-b', 'iptables', '--source', 'bundled']);
    expect(done.code, done.stderr).toBe(exit.ok);
    expect(done.stderr).toMatch(/^cfsync: read back; not judged: .*nft/m);
    expect(done.stdout).not.toContain('in force');
  });

  /** As if these were not installed. */
  const without = (pattern: string): Promise<string> =>
    shell(`mkdir -p /run/lab/sbin; mount --bind /usr/sbin /run/lab/sbin; mount -t tmpfs none /usr/sbin
for f in /run/lab/sbin/*; do case $f in ${pattern}) ;; *) ln -s $f /usr/sbin/ ;; esac; done`);

  it('says it where there is no nft', async () => {
    await without('*/nft');
    const done = await lab.cfsync(['apply', '-b', 'iptables', '--source', 'bundled']);
    expect(done.code, done.stderr).toBe(exit.ok);
    expect(done.stderr).toMatch(/^cfsync: read back; not judged: nft is not installed, /m);
    expect(done.stdout).not.toContain('in force');
  });

  it('says it where tables of iptables cannot be read', async () => {
    await shell('iptables -A INPUT -m conntrack --ctstate INVALID -m length --length 0:20 -j DROP');
    await without('*/*tables-save|*/*tables-nft-save|*/*tables-legacy-save');
    const done = await apply('--nft-chain', 'none', '--mode', 'lockdown');
    expect(done.code, done.stderr).toBe(exit.ok);
    expect(done.stderr).toMatch(
      /^cfsync: read back; not judged: .* depends on a match of iptables in ip filter INPUT/m,
    );
    expect(done.stdout).not.toContain('in force');
  });

  it('judges what adopt leaves', async () => {
    await lab.origin.nft(`table inet filter { chain input {
type filter hook input priority 0; policy drop
iifname lo accept
ct state established,related accept
meta l4proto { icmp, icmpv6 } accept
ip saddr 173.245.48.0/20 tcp dport { 80, 443 } accept
}\n}`);
    const adopt = ['adopt', '-b', 'nftables', '--source', 'bundled'];
    await lab.origin.nft(other('tcp dport 443 drop'));
    const done = await lab.cfsync(adopt);
    expect(done.code, done.stderr).toBe(exit.pending);
    expect(done.stderr).toContain(outOf443);
    await lab.origin.nft('delete table inet geoblock');
    expect((await lab.cfsync(['rollback'])).code).toBe(exit.ok);
    await shell('rm /run/lab/state/hold.json');
    const well = await lab.cfsync(adopt);
    expect(well.code, well.stderr).toBe(exit.ok);
    expect(well.stdout).toMatch(/\nin force: Cloudflare reaches 80, 443\n$/);
  });

  it('is left to the commands that bring or look', async () => {
    await lab.origin.nft(other('tcp dport 443 drop'));
    expect((await apply()).code).toBe(exit.pending);
    expect((await apply('--mode', 'lockdown')).code).toBe(exit.pending);
    const folder = '/run/lab/rendered';
    for (const words of [
      `render -b nftables --source bundled --out ${folder}`,
      `diff -b nftables --source bundled --dir ${folder}`,
      'rollback',
      'remove -b nftables',
    ]) {
      const { code, stdout, stderr } = await lab.cfsync(words.split(' '));
      expect(code, stderr).toBe(exit.ok);
      expect(stdout + stderr, words).not.toMatch(/kept out|judged|in force: /);
    }
  });

  it('is asked after the probe, and a probe that fails is what counts', async () => {
    await lab.origin.nft(other('tcp dport 443 drop'));
    await configure('probe: [/bin/false]');
    const back = await apply();
    expect(back.code).toBe(exit.rolledBack);
    expect(back.stderr).not.toContain('kept out');
    await configure('probe: [/bin/true]');
    const done = await apply();
    expect(done.code).toBe(exit.pending);
    expect(done.stderr).toContain(outOf443);
  });

  it('looks again before it says that something is wrong', async () => {
    await apply();
    await lab.origin.nft(other('tcp dport 443 drop'));
    // As long as the first look takes, somebody else has a rule there.
    await shell(
      `cat >/usr/local/sbin/nft <<'END'\n#!/bin/sh\n/usr/sbin/nft "$@"; code=$?\ncase "$*" in *"-a -t list ruleset"*) /usr/sbin/nft delete table inet geoblock 2>/dev/null;; esac\nexit $code\nEND\nchmod +x /usr/local/sbin/nft`,
    );
    const done = await verify();
    expect(done.code).toBe(exit.ok);
    expect(done.stderr).not.toContain('kept out');
    expect(await shell('nft list tables')).not.toContain('geoblock');
  });

  describe('with a backend whose own rules shut Cloudflare out', () => {
    beforeEach(async () => {
      await shell(`cat > /etc/cfsync/wall.mjs <<'END'\n${wall}\nEND`);
      await configure('backends:\n  wall: {renderer: ./wall.mjs}\n  nftables: {}');
    });
    const run = (...args: string[]) => lab.cfsync(['apply', '--source', 'bundled', ...args]);

    it('the run goes back, the other backend as well', async () => {
      const done = await run();
      expect(done.code).toBe(exit.rolledBack);
      expect(done.stderr).toContain(
        'by inet wall input: policy drop, and got in before; what this run changed goes back',
      );
      expect((await shell('nft list tables')).trim()).toBe('');
      await lab.expectVerdict(443, { edge: 'open', stranger: 'open' });
    });

    it('nothing waits to be confirmed any more', async () => {
      expect((await run('--confirm', '600')).code).toBe(exit.rolledBack);
      expect((await lab.cfsync(['confirm'])).stderr).toContain('no apply waits');
      expect((await shell('nft list tables')).trim()).toBe('');
    });

    it('where Cloudflare did not get in before, it stays, with 2', async () => {
      await lab.origin.nft(other('drop'));
      const done = await run('-b', 'wall');
      expect(done.code, done.stderr).toBe(exit.pending);
      expect(await shell('nft list tables')).toContain('table inet wall');
    });
  });

  it('a verdict is no failure for --all-or-nothing, waits for a confirm, and is told to programs', async () => {
    await lab.origin.nft(other('tcp dport 443 drop'));
    await configure(
      'backends: {nftables: {}}\non-failure: [cp, /dev/stdin, /etc/cfsync/report]\nmetrics: /etc/cfsync/x.prom',
    );
    const args = ['--source', 'bundled', '--all-or-nothing', '--confirm', '600'];
    expect((await lab.cfsync(['apply', ...args])).code).toBe(exit.pending);
    expect((await lab.cfsync(['confirm'])).code).toBe(exit.ok);
    expect(await shell('nft list tables')).toContain('table inet cfsync');
    const report = JSON.parse(await shell('cat /etc/cfsync/report')) as object;
    expect(report).toMatchObject({
      code: exit.pending,
      judged: {
        verdict: 'out',
        reason: '',
        backends: ['nftables'],
        findings: [expect.any(String)],
      },
    });
    expect(await shell('cat /etc/cfsync/x.prom')).toContain(
      'cfsync_judged_in{backend="nftables"} 0\n',
    );
    await shell('nft delete table inet geoblock');
    await verify();
    expect(await shell('cat /etc/cfsync/x.prom')).toContain(
      'cfsync_judged_in{backend="nftables"} 1\n',
    );
  });
});
