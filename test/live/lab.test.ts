/** Proves the lab itself, with rules written by hand. */

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const open = { edge: 'open', stranger: 'open' } as const;
const closed = { edge: 'closed', stranger: 'closed' } as const;
const loopback = { v4: '127.0.0.1', v6: '::1' } as const;
const edgeOnly = { edge: 'open', stranger: 'closed' } as const;

/** A firewall that lets neighbour discovery through, and `rules`. */
const firewall = (...rules: string[]): string => `
table inet filter {
  set edge4 { type ipv4_addr; elements = { 173.245.48.10 }
  }
  set edge6 { type ipv6_addr; elements = { 2400:cb00::10 }
  }
  chain input {
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    ${rules.join('\n    ')}
  }
}
`;

/** What a lab could spoil of the machine around it. */
function machine(): string {
  const commands = [
    ['nft', '-s', 'list', 'ruleset'],
    ['ip', '-brief', 'address'],
    ['ip', 'route', 'show', 'table', 'all'],
    ['findmnt', '--target', '/etc'],
    ['findmnt', '--target', '/run'],
    ['findmnt', '--target', '/sys'],
  ] as const;
  return commands
    .map(([program, ...args]) => spawnSync(program, args, { encoding: 'utf8' }))
    .map(({ status, stdout, stderr }) => `exit ${status}\n${stdout}${stderr}`)
    .join('\n');
}

/** The processes in a namespace, named as in `net:[4026531840]`. */
function processesIn(namespace: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return readlinkSync(`/proc/${pid}/ns/net`) === namespace;
    } catch {
      return false; // not a process, or gone meanwhile
    }
  });
}

describeLive('the lab', { programs: ['nft', 'findmnt'] }, () => {
  let outside: string;
  let lab: Lab;

  beforeAll(async () => {
    outside = machine();
    lab = await Lab.create();
    await lab.origin.listen({ tcp: [80, 443, 9999], udp: [443] });
  });
  afterAll(() => lab.close());
  beforeEach(() => lab.origin.nft('flush ruleset'));

  describe('hosts', () => {
    test('reach each other when there are no rules', async () => {
      await lab.expectVerdict(80, open);
      await lab.expectVerdict(443, open);
      await lab.expectVerdict(443, open, 'udp');
      expect(await lab.stranger.reach(lab.edge, 1)).toEqual({ v4: 'refused', v6: 'refused' });
    });

    test('refuse where nobody listens', async () => {
      const refused = { v4: 'refused', v6: 'refused' };
      expect(await lab.verdict(81)).toEqual({ edge: refused, stranger: refused });
      expect(await lab.verdict(81, 'udp')).toEqual({ edge: refused, stranger: refused });
    });

    test('lead nowhere else', async () => {
      expect(await lab.origin.connect('192.0.2.1', 80)).toBe('timeout');
      expect(await lab.origin.connect('2001:db8:ffff::1', 80)).toBe('timeout');
    });

    test('see their own interfaces in /sys and /proc', async () => {
      expect(await lab.origin.must(['ls', '/sys/class/net'])).toBe('eth0\nlo\n');
      const { stdout } = await lab.origin.run(['cat', '/proc/net/dev']);
      expect([...stdout.matchAll(/^ *(\w+):/gm)].map(([, name]) => name)).toEqual(['lo', 'eth0']);
    });

    test('have configuration and state of their own', async () => {
      await lab.origin.must(['tee', '/etc/cfsync-lab', '/run/cfsync-lab'], { stdin: 'private' });
      expect(existsSync('/etc/cfsync-lab')).toBe(false);
      expect(existsSync('/run/cfsync-lab')).toBe(false);
      expect(await readFile(lab.origin.path('/etc/cfsync-lab'), 'utf8')).toBe('private');
      await writeFile(lab.origin.path('/etc/cfsync-lab'), 'changed');
      expect(await lab.origin.must(['cat', '/etc/cfsync-lab'])).toBe('changed');
    });
  });

  describe('programs', () => {
    test('get input and environment, and tell code and output', async () => {
      const script = 'cat; echo $GREETING >&2; exit 7';
      const options = { stdin: 'in', env: { GREETING: 'hello' } };
      expect(await lab.origin.run(['sh', '-c', script], options)).toEqual({
        code: 7,
        stdout: 'in',
        stderr: 'hello\n',
      });
    });

    test('are ended with their children when they take too long', async () => {
      const run = lab.origin.run(['sh', '-c', 'sleep 60; true'], { timeout: 100 });
      await expect(run).rejects.toThrow('sleep 60; true: still running after 100 ms');
    });

    test('that are missing give 127, and wrong rules an error', async () => {
      expect((await lab.origin.run(['no-such-program'])).code).toBe(127);
      await expect(lab.origin.nft('nonsense')).rejects.toThrow('syntax error');
    });
  });

  describe('verdicts', () => {
    test('policy drop closes everything but loopback', async () => {
      await lab.origin.nft(firewall());
      await lab.expectVerdict(80, closed);
      await lab.expectVerdict(443, closed, 'udp');
      expect(await lab.origin.reach(loopback, 80)).toEqual({ v4: 'open', v6: 'open' });
    });

    test('a rule for the edge opens its port to the edge alone', async () => {
      await lab.origin.nft(
        firewall('tcp dport 443 ip saddr @edge4 accept', 'tcp dport 443 ip6 saddr @edge6 accept'),
      );
      await lab.expectVerdict(443, edgeOnly);
      await lab.expectVerdict(80, closed);
      await lab.expectVerdict(443, closed, 'udp');
      expect(await lab.origin.reach(loopback, 80)).toEqual({ v4: 'open', v6: 'open' });
    });

    test('families are told apart', async () => {
      await lab.origin.nft(firewall('tcp dport 443 ip6 saddr @edge6 accept'));
      await lab.expectVerdict(443, { edge: { v4: 'closed', v6: 'open' }, stranger: 'closed' });
      expect((await lab.verdict(443)).edge).toEqual({ v4: 'timeout', v6: 'open' });
    });

    test('a rejection is no timeout', async () => {
      await lab.origin.nft(
        firewall(
          'tcp dport 80 reject with icmpx admin-prohibited',
          'tcp dport 443 reject with tcp reset',
        ),
      );
      await lab.expectVerdict(80, closed);
      expect((await lab.verdict(80)).edge.v4).toBe('refused');
      expect((await lab.verdict(443)).edge).toEqual({ v4: 'refused', v6: 'refused' });
    });

    test('a wrong expectation fails and says what was seen', async () => {
      await lab.origin.nft(firewall('tcp dport 443 accept'));
      await expect(lab.expectVerdict(443, edgeOnly)).rejects.toThrow(
        'tcp port 443: unexpected verdict',
      );
      await expect(lab.expectVerdict(80, edgeOnly)).rejects.toThrow(
        'tcp port 80: unexpected verdict',
      );
    });
  });

  describe('the hammer', () => {
    const rules = firewall(
      'meta l4proto { tcp, udp } th dport 443 ip saddr @edge4 accept',
      'meta l4proto { tcp, udp } th dport 443 ip6 saddr @edge6 accept',
    );
    const elements =
      'add element inet filter edge4 { 173.245.48.10 }; add element inet filter edge6 { 2400:cb00::10 }';
    const flush = 'flush set inet filter edge4; flush set inet filter edge6';

    test.for(['tcp', 'udp'] as const)('finds no gap where there is none (%s)', async (proto) => {
      await lab.origin.nft(rules);
      const hammer = await lab.edge.hammer(lab.origin, 443, { proto });
      for (let i = 0; i < 10; i++) await lab.origin.nft(`${flush}; ${elements}`);
      for (const counts of Object.values(await hammer.stop())) {
        expect(counts).toMatchObject({ refused: 0, timeout: 0, reset: 0 });
        expect(counts.first).toMatchObject({ refused: [], timeout: [], reset: [] });
        expect(counts.open).toBeGreaterThan(20);
      }
    });

    test.for(['tcp', 'udp'] as const)('finds a gap between two loads (%s)', async (proto) => {
      await lab.origin.nft(rules);
      const hammer = await lab.edge.hammer(lab.origin, 443, { proto, workers: 16 });
      // A gap lasts some milliseconds; on a busy machine the workers may sleep through one.
      for (let i = 0; i < 5; i++) {
        await lab.origin.nft(flush);
        await lab.origin.nft(elements);
      }
      const { v4, v6 } = await hammer.stop();
      expect(v4.timeout).toBeGreaterThan(0);
      expect(v6?.timeout).toBeGreaterThan(0);
      for (const { first } of [v4, v6!])
        for (const told of [first.open[0], first.timeout[0]])
          expect(told).toMatch(/^begun after \d+ ms from port \d+$/);
    });

    test('of a stranger never gets in', async () => {
      await lab.origin.nft(rules);
      const hammer = await lab.stranger.hammer(lab.origin, 443);
      const { v4, v6 } = await hammer.stop();
      expect(v4).toMatchObject({ open: 0, timeout: expect.any(Number) });
      expect(v6).toMatchObject({ open: 0, timeout: expect.any(Number) });
    });

    test('knocks no more once an attempt is given up', async () => {
      await lab.origin.nft(firewall());
      await lab.expectVerdict(443, closed);
      await (await lab.stranger.hammer(lab.origin, 443)).stop();
      for (const host of [lab.edge, lab.stranger]) {
        const sockets = await host.must(['cat', '/proc/net/tcp', '/proc/net/tcp6']);
        // 02 is SYN_SENT.
        expect(sockets).not.toMatch(/^ *\d+: \S+ \S+ 02 /m);
      }
    });
  });

  test('a published port reaches the container', async () => {
    const docker = await Lab.create({ container: true });
    try {
      await docker.container.listen({ tcp: [8443] });
      expect(await docker.verdict(443)).toMatchObject({ edge: { v4: 'refused', v6: 'refused' } });
      await docker.origin.nft(`
        table inet nat {
          chain prerouting {
            type nat hook prerouting priority dstnat;
            iifname "eth0" meta nfproto ipv4 tcp dport 443 dnat ip to 172.17.0.2:8443
            iifname "eth0" meta nfproto ipv6 tcp dport 443 dnat ip6 to [fd00:17::2]:8443
          }
        }
      `);
      await docker.expectVerdict(443, open);
      expect(await docker.origin.reach(docker.container, 8443)).toEqual({ v4: 'open', v6: 'open' });
    } finally {
      await docker.close();
    }
  });

  test('without IPv6 there are only IPv4 verdicts', async () => {
    const v4 = await Lab.create({ ipv6: false });
    try {
      await v4.origin.listen({ tcp: [443] });
      expect(await v4.verdict(443)).toEqual({ edge: { v4: 'open' }, stranger: { v4: 'open' } });
      await v4.expectVerdict(443, open);
    } finally {
      await v4.close();
    }
  });

  test('named folders are private', async () => {
    const secluded = await Lab.create({ privateDirs: ['/var/spool'] });
    await secluded.origin.must(['touch', '/var/spool/cfsync-lab']);
    await secluded.close();
    expect(existsSync('/var/spool/cfsync-lab')).toBe(false);
  });

  test('nothing is left after close, not even a daemon', async () => {
    const brief = await Lab.create({ container: true });
    const namespaces = [brief.origin, brief.edge, brief.stranger, brief.container].map((host) =>
      readlinkSync(`/proc/${host.pid}/ns/net`),
    );
    await brief.origin.must(['setsid', '--fork', 'sleep', '600']);
    expect(namespaces.map((namespace) => processesIn(namespace).length > 0)).not.toContain(false);
    await brief.close();
    expect(namespaces.flatMap(processesIn)).toEqual([]);
    await expect(brief.origin.run(['true'])).rejects.toThrow('origin is gone');
    await expect(brief.edge.reach(brief.origin, 80)).rejects.toThrow('edge is gone');
  });

  test('the machine is as it was before', async () => {
    expect(machine()).toBe(outside);
  });
});
