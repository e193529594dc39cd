import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Lab, type Expected } from './lab.ts';
import { describeLive } from './privileges.ts';

/** The admin's rule sets, and who gets in on 80 and 443 without cfsync. */
const filter = (policy: string, rules: string): string => `
table inet filter {
	set banned { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }
	}
	chain input {
		type filter hook input priority filter; policy ${policy};
		iifname "lo" accept
		ct state established,related accept
		meta l4proto { icmp, ipv6-icmp } accept
		ip saddr @banned drop
		tcp dport 22 accept
		${rules}
	}
}
`;

const dnat = `
table ip nat {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local iifname != "docker0" tcp dport 443 dnat to 172.17.0.2:8443
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
	}
}
table ip6 nat {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local iifname != "docker0" tcp dport 443 dnat to [fd00:17::2]:8443
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip6 saddr fd00:17::/64 oifname != "docker0" masquerade
	}
}
`;

const cases: readonly {
  readonly name: string;
  readonly rules: string;
  readonly before: { readonly edge: Expected; readonly stranger: Expected };
  readonly allow: { readonly edge: Expected; readonly stranger: Expected };
}[] = [
  {
    name: 'no rules',
    rules: '',
    before: { edge: 'open', stranger: 'open' },
    allow: { edge: 'open', stranger: 'open' },
  },
  {
    name: 'input policy drop',
    rules: filter('drop', ''),
    before: { edge: 'closed', stranger: 'closed' },
    allow: { edge: 'open', stranger: 'closed' },
  },
  {
    name: 'terminal reject',
    rules: filter('accept', 'reject with icmpx type admin-prohibited'),
    before: { edge: 'closed', stranger: 'closed' },
    allow: { edge: 'open', stranger: 'closed' },
  },
  {
    name: 'Docker-like DNAT of 443',
    rules: dnat,
    before: { edge: 'open', stranger: 'open' },
    allow: { edge: 'open', stranger: 'open' },
  },
  {
    name: 'ports opened to all',
    rules: filter('drop', 'tcp dport { 80, 443 } accept'),
    before: { edge: 'open', stranger: 'open' },
    allow: { edge: 'open', stranger: 'open' },
  },
];

describeLive('nftables', { programs: ['nft'] }, () => {
  let lab: Lab;

  const apply = (...args: string[]) =>
    lab.cfsync(['apply', '-b', 'nftables', '--source', 'bundled', '--allow-weaker', ...args]);
  const applied = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await apply(...args);
    expect(code, stderr).toBe(exit.ok);
    return stdout;
  };
  const ruleset = () => lab.origin.must(['nft', '-a', '-s', 'list', 'ruleset']);

  beforeEach(async () => {
    lab = await Lab.create({ container: true });
    await lab.origin.listen({ tcp: [22, 80, 443, 8080], udp: [443] });
    await lab.container.listen({ tcp: [8443] });
  });

  afterEach(async () => {
    await lab.close();
  });

  describe.each(cases)('$name', ({ rules, before, allow }) => {
    beforeEach(async () => {
      if (rules !== '') await lab.origin.nft(rules);
      for (const port of [80, 443]) await lab.expectVerdict(port, before);
    });

    it('allow lets Cloudflare in and changes nothing for others', async () => {
      const other = await lab.verdict(8080);
      await applied();
      for (const port of [80, 443]) await lab.expectVerdict(port, allow);
      expect(await lab.verdict(8080)).toEqual(other);
      expect(await lab.origin.reach({ v4: '127.0.0.1', v6: '::1' }, 80)).toEqual({
        v4: 'open',
        v6: 'open',
      });
    });

    it('lockdown lets Cloudflare in and nobody else', async () => {
      const other = await lab.verdict(22);
      await applied('--mode', 'lockdown');
      for (const port of [80, 443])
        await lab.expectVerdict(port, { edge: 'open', stranger: 'closed' });
      await lab.expectVerdict(443, { edge: 'closed', stranger: 'closed' }, 'udp');
      expect(await lab.verdict(22)).toEqual(other);
      expect(await lab.origin.reach({ v4: '127.0.0.1', v6: '::1' }, 80)).toEqual({
        v4: 'open',
        v6: 'open',
      });
    });

    it('has nothing to do twice, and leaves no trace after remove', async () => {
      const was = await ruleset();
      for (const mode of ['allow', 'lockdown', 'allow']) {
        await applied('--mode', mode);
        const once = await ruleset();
        expect(once).not.toBe(was);
        expect(await applied('--mode', mode)).toBe('');
        expect(await ruleset()).toBe(once);
        expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
      }
      expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
      expect(await ruleset()).toBe(was);
      for (const port of [80, 443]) await lab.expectVerdict(port, before);
    });
  });

  it("lockdown leaves a container's own traffic alone", async () => {
    await lab.origin.nft(dnat);
    await lab.stranger.listen({ tcp: [443] });
    const out = async () => ({
      internet: await lab.container.reach(lab.stranger, 443),
      host: await lab.container.reach(lab.origin, 80),
    });
    const before = await out();
    expect(before.internet).toEqual({ v4: 'open', v6: 'open' });
    expect(before.host).toEqual({ v4: 'open', v6: 'open' });
    await applied('--mode', 'lockdown');
    expect(await out()).toEqual(before);
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
  });

  it('keeps bans of the admin, which come first', async () => {
    await lab.origin.nft(filter('drop', 'ip saddr 173.245.48.10 drop'));
    await applied();
    await lab.expectVerdict(443, {
      edge: { v4: 'closed', v6: 'open' },
      stranger: 'closed',
    });
  });

  it('sends no change to the kernel and writes no file the second time', async () => {
    await lab.origin.nft(filter('drop', ''));
    await applied('--mode', 'lockdown');
    const monitor = lab.origin.spawn(['nft', 'monitor']);
    let seen = '';
    monitor.stdout.on('data', (chunk: Buffer) => (seen += chunk.toString()));
    const records = () =>
      lab.origin.must(['find', '/run/lab/state', '/etc', '-newer', '/run/lab/mark', '-type', 'f']);
    await lab.origin.must(['touch', '/run/lab/mark']);
    await applied('--mode', 'lockdown');
    // The time of the last check, and who holds the lock.
    expect((await records()).replaceAll(/.*(?:check\.json|lock)\n/g, '')).toBe('');
    // The monitor does see changes: this one proves it.
    await lab.origin.nft('add table inet canary');
    await expect.poll(() => seen).toContain('canary');
    expect(seen).not.toContain('cfsync');
    monitor.kill();
  });

  it('finds drift and repairs it', async () => {
    await lab.origin.nft(filter('drop', ''));
    await applied('--mode', 'lockdown');
    const good = await ruleset();
    const drifts = [
      'flush set inet filter cfsync4',
      'flush set inet cfsync cfsync6',
      'flush chain inet filter cfsync',
      'flush chain inet cfsync guard',
      'flush chain inet cfsync prerouting',
      'delete table inet cfsync',
      'add element inet filter cfsync4 { 198.51.100.0/24 }',
      'add rule inet filter cfsync accept',
      'insert rule inet cfsync guard return',
      'add table inet cfsync { flags dormant; }',
      'add chain inet cfsync prerouting { policy drop; }',
      'add rule inet filter input jump cfsync comment "cfsync"',
    ];
    const plain = (text: string): string => text.replaceAll(/ # handle \d+/g, '');
    for (const drift of drifts) {
      await lab.origin.nft(drift);
      const { code, stdout } = await lab.cfsync(['verify']);
      expect(code, drift).toBe(exit.pending);
      expect(stdout, drift).toContain('drift');
      await applied('--mode', 'lockdown');
      expect(plain(await ruleset()), drift).toBe(plain(good));
      expect((await lab.cfsync(['verify'])).code, drift).toBe(exit.ok);
    }
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
  });

  it("takes over sets that an admin's script made with our names, whatever they hold", async () => {
    await lab.origin.nft(filter('drop', ''));
    await lab.origin
      .nft(`add set inet filter cfsync4 { type ipv4_addr; flags interval; elements = { 198.51.100.0/24, 173.245.48.0/24 }; }
add set inet filter cfsync6 { type ipv6_addr; flags interval; }`);
    await applied();
    expect(await ruleset()).not.toContain('198.51.100');
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
  });

  it('moves its jump above a drop that the admin put before it', async () => {
    await lab.origin.nft(filter('drop', ''));
    await applied();
    const list = await lab.origin.must(['nft', '-a', 'list', 'chain', 'inet', 'filter', 'input']);
    const handle = /jump cfsync .*handle (\d+)/.exec(list)![1];
    await lab.origin.nft(`insert rule inet filter input handle ${handle} counter drop`);
    await lab.expectVerdict(443, { edge: 'closed', stranger: 'closed' });
    expect((await lab.cfsync(['verify'])).code).toBe(exit.pending);
    await applied();
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
  });

  it('loses no connection and lets no stranger in through 200 changes', async () => {
    await lab.origin.nft(filter('drop', 'tcp dport { 80, 443 } accept'));
    const lists = '/run/lab/lists';
    await lab.origin.must([
      'cp',
      '-r',
      fileURLToPath(new URL('../../data', import.meta.url)),
      lists,
    ]);
    await lab.origin.must(['sed', '-i', '/^131\\.0\\.72/d', `${lists}/ips-v4`]);
    await lab.origin.must(['sed', '-i', '/^2c0f:f248/d', `${lists}/ips-v6`]);
    await applied('--mode', 'lockdown');
    const edge = await lab.edge.hammer(lab.origin, 443, { workers: 3 });
    const stranger = await lab.stranger.hammer(lab.origin, 443, { workers: 1 });
    for (let i = 0; i < 100; i++) {
      const { code, stderr } = await lab.cfsync([
        'apply',
        '--backend=nftables',
        '--mode=lockdown',
        `--source=${lists}`,
        ...(i % 10 === 9 ? ['--ports', '80,443,8443'] : []),
      ]);
      expect(code, stderr).toBe(exit.ok);
      expect(await applied('--mode', 'lockdown')).toContain('applied and read back');
    }
    const [lost, got] = [await edge.stop(), await stranger.stop()];
    for (const family of ['v4', 'v6'] as const) {
      expect(lost[family]!.open).toBeGreaterThan(1000);
      expect(lost[family]!.first).toMatchObject({ refused: [], timeout: [], reset: [] });
      expect(got[family]!.first.open).toEqual([]);
      expect(got[family]!.timeout).toBeGreaterThan(10);
    }
  });

  it('switches between the modes without a gap for Cloudflare', async () => {
    await lab.origin.nft(filter('drop', ''));
    await applied();
    const edge = await lab.edge.hammer(lab.origin, 443, { workers: 3 });
    const stranger = await lab.stranger.hammer(lab.origin, 443, { workers: 1 });
    for (let i = 0; i < 15; i++) {
      await applied('--mode', 'lockdown');
      await applied('--mode', 'allow');
    }
    const [lost, got] = [await edge.stop(), await stranger.stop()];
    for (const family of ['v4', 'v6'] as const) {
      expect(lost[family]!.open).toBeGreaterThan(500);
      expect(lost[family]!.first).toMatchObject({ refused: [], timeout: [], reset: [] });
      expect(got[family]!.first.open).toEqual([]);
    }
  });

  it('goes back when a later step fails, and says so', async () => {
    await lab.origin.nft(filter('drop', ''));
    await applied();
    const was = await ruleset();
    // A second transaction that the kernel refuses: the name of the chain to hook is a set's by then.
    const nft = '/run/lab/bin/nft';
    await lab.origin.must(['mkdir', '-p', '/run/lab/bin']);
    await lab.origin.must(['cp', '/usr/sbin/nft', nft]);
    const script =
      '#!/bin/sh\ncase "$*" in "-f -") cat > /run/lab/in; grep -q "hook prerouting" /run/lab/in && ! test -e /run/lab/done && { touch /run/lab/done; echo injected >&2; exit 1; }; exec /run/lab/bin/nft -f /run/lab/in;; esac\nexec /run/lab/bin/nft "$@"\n';
    await lab.origin.must(['tee', '/run/lab/wrapper'], { stdin: script });
    await lab.origin.must(['chmod', '755', '/run/lab/wrapper']);
    await lab.origin.must(['mount', '--bind', '/run/lab/wrapper', '/usr/sbin/nft']);
    const { code, stderr } = await apply('--mode', 'lockdown');
    await lab.origin.must(['umount', '/usr/sbin/nft']);
    expect(stderr).toContain('injected');
    expect(stderr).toContain('back to what it was before');
    expect(code).toBe(exit.rolledBack);
    expect(await ruleset()).toBe(was);
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
  });
});
