/** `adopt` with nftables 1.0.6: what scripts left behind, with real packets. */

import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Lab, type PerFamily } from './lab.ts';
import { describeLive } from './privileges.ts';

const closed = { edge: 'closed', stranger: 'closed' } as const;
const edgeOnly = { edge: 'open', stranger: 'closed' } as const;

/** Rounds of leftovers taken over under load. */
const rounds = Number(process.env.CFSYNC_TEST_ADOPTS ?? 10);

/** Somebody behind Cloudflare's VPN, which had been in 104.16.0.0/12. */
const vpn = '104.28.0.10';

const all = <T>({ v4, v6 }: PerFamily<T>): readonly T[] => [v4, v6!];

/** An admin's rule set with the leftovers of several scripts: rules, sets of each kind, a chain of its own. */
const admin = (input: string, more = ''): string => `
table inet filter {
	${more}
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		ct state established,related accept
		meta l4proto { icmp, ipv6-icmp } accept
		${input}
	}
}
`;

const bare = admin(`
		ip saddr 173.245.48.0/20 accept
		ip saddr 104.16.0.0/12 tcp dport 443 accept
		ip saddr 104.16.0.0/12 tcp dport 443 accept
		ip6 saddr 2400:cb00::/32 tcp dport { 80, 443 } ct state new counter accept comment "Cloudflare IPv6"
`);

const sets = admin(
  `
		ip saddr @cf4 tcp dport { 80, 443 } accept
		ip6 saddr @cf6 tcp dport { 80, 443 } accept
`,
  `
	set cf4 { type ipv4_addr; flags interval; auto-merge
		elements = { 173.245.48.0/20, 104.16.0.0/13, 104.24.0.0/14, 104.28.0.0/14, 192.0.2.0/24 }
	}
	set cf6 { type ipv6_addr; flags interval
		elements = { 2400:cb00::/32 comment "edge", 2405:b500::/32 }
	}
`,
);

const everything = admin(
  `
		ip saddr 173.245.48.0/20 tcp dport 443 accept
		ip saddr 192.0.2.0/24 drop
		ip saddr { 104.16.0.0/13, 104.24.0.0/14, 141.101.64.0/18 } tcp dport 80-443 accept
		ip saddr 173.245.48.0/20 tcp dport 443 accept
		tcp dport { 80, 443 } jump web
		tcp dport 443 limit rate over 10000/second drop
		ip saddr @cf4 tcp dport { 80, 443 } accept
		ip saddr 173.245.48.0/20 tcp dport 443 accept
		tcp dport 22 accept
`,
  `
	set cf4 { type ipv4_addr; flags interval; elements = { 173.245.48.0/20 comment "one", 104.16.0.0/12, 192.0.2.0/24 }
	}
	chain web {
		ip saddr 103.31.4.0/22 accept
		ip saddr 198.51.100.99 accept
		ip6 saddr 2400:cb00::/32 counter accept comment "web"
		ip saddr 103.31.4.0/22 accept
	}
`,
);

describeLive('adopt of nftables', { programs: ['nft'] }, () => {
  let lab: Lab;

  const cfsync = async (code: number, line: string, ...more: string[]): Promise<string> => {
    const ended = await lab.cfsync([...line.split(' '), ...more]);
    expect(ended.code, `${line}\n${ended.stdout}${ended.stderr}`).toBe(code);
    return ended.stdout + ended.stderr;
  };
  const adopt = (code = 0, ...args: string[]): Promise<string> =>
    cfsync(code, 'adopt -b nftables --source bundled', ...args);
  /** Without counters, and without handles, which a rule that is put back has anew. */
  const ruleset = () => lab.origin.must(['nft', '-s', 'list', 'ruleset']);
  const vpnReach = async (): Promise<string> => {
    await lab.stranger.ip([
      `addr add ${vpn}/32 dev eth0`,
      `route replace default dev eth0 src ${vpn}`,
    ]);
    const reach = await lab.stranger.connect(lab.origin.v4, 443);
    await lab.stranger.ip([
      `route replace default dev eth0 src ${lab.stranger.v4}`,
      `addr del ${vpn}/32 dev eth0`,
    ]);
    return reach;
  };
  const expectWeb = async (expected: typeof edgeOnly | typeof closed): Promise<void> => {
    for (const port of [80, 443]) await lab.expectVerdict(port, expected);
  };

  beforeEach(async () => {
    lab = await Lab.create({ privateDirs: ['/usr/local/sbin'] });
    await lab.origin.listen({ tcp: [80, 443, 9999] });
  });
  afterEach(() => lab.close());

  test('bare rules are shown, and then ours alone are there', async () => {
    await lab.origin.nft(admin(''));
    const without = await ruleset();
    await lab.origin.nft(`flush ruleset\n${bare}`);
    await lab.expectVerdict(443, edgeOnly);
    await lab.expectVerdict(9999, { ...closed, edge: { v4: 'open', v6: 'closed' } });
    expect(await vpnReach()).toBe('open');
    const before = await ruleset();

    const shown = await adopt(0, '--dry-run');
    expect(shown).toContain(
      [
        'nftables: to be taken over:',
        '  add rule inet filter input ip saddr 173.245.48.0/20 accept',
        '    ends with it: they reach every other port as well',
        '  add rule inet filter input ip saddr 104.16.0.0/12 tcp dport 443 accept (2 times)',
        "    stale: 104.28.0.0/14 (not Cloudflare's any more)",
        '  add rule inet filter input ip6 saddr 2400:cb00::/32 tcp dport { 80, 443 } ct state new counter accept comment "Cloudflare IPv6"',
      ].join('\n'),
    );
    expect(await ruleset()).toBe(before);

    expect(await adopt()).toContain('applied and read back');
    await expectWeb(edgeOnly);
    await lab.expectVerdict(9999, closed);
    expect(await vpnReach()).toBe('timeout');
    await cfsync(0, 'verify');
    const adopted = await ruleset();
    expect(await adopt()).toContain('nftables: nothing to take over\n');
    expect(await cfsync(0, 'apply -b nftables --source bundled -v')).toContain('no changes');
    expect(await ruleset()).toBe(adopted);
    await cfsync(0, 'remove -b nftables');
    expect(await ruleset()).toBe(without);
  });

  test("elements of hand-made sets go, and the admin's own prefixes stay in them", async () => {
    await lab.origin.nft(sets);
    await expectWeb(edgeOnly);
    expect(await vpnReach()).toBe('open');
    expect(await adopt()).toContain(
      "  add element inet filter cf4 { 104.16.0.0/12 }\n    stale: 104.28.0.0/14 (not Cloudflare's any more)\n",
    );
    await expectWeb(edgeOnly);
    expect(await vpnReach()).toBe('timeout');
    const listed = await ruleset();
    expect(listed).toMatch(
      /set cf4 \{\n.*\n.*\n\t\tauto-merge\n\t\telements = \{ 192\.0\.2\.0\/24 \}\n/,
    );
    expect(listed).toMatch(/set cf6 \{\n.*\n\t\tflags interval\n\t\}/);
    expect(listed).toContain('ip saddr @cf4 tcp dport { 80, 443 } accept');
    expect(await adopt()).toContain('nothing to take over');
  });

  test.each([
    ['bare rules', bare],
    ['sets', sets],
  ])('no connection is lost and no stranger gets in meanwhile: %s', async (_, leftovers) => {
    await lab.origin.nft(leftovers);
    const [edge, stranger] = await Promise.all([
      lab.edge.hammer(lab.origin, 443, { workers: 3 }),
      lab.stranger.hammer(lab.origin, 443, { workers: 64 }),
    ]);
    // What the script would do if it were run again.
    const again = leftovers
      .split('\n')
      .flatMap((line) => {
        const [, rule] = /^\t\t(ip6? saddr .* accept.*)/.exec(line) ?? [];
        return rule === undefined || rule.includes('@')
          ? []
          : [`add rule inet filter input ${rule}`];
      })
      .concat(
        leftovers === sets
          ? [
              'add element inet filter cf4 { 173.245.48.0/20, 104.16.0.0/12 }',
              'add element inet filter cf6 { 2400:cb00::/32 comment "edge" }',
            ]
          : [],
      );
    for (let i = 0; i < rounds; i++) {
      expect(await adopt(0, `--mode=${i % 2 === 0 ? 'allow' : 'lockdown'}`)).toContain('read back');
      await lab.origin.nft(`${again.join('\n')}\n`);
      await cfsync(0, 'remove -b nftables');
    }
    for (const counts of all(await edge.stop())) {
      expect(counts).toMatchObject({ refused: 0, timeout: 0, reset: 0 });
      expect(counts.open).toBeGreaterThan(rounds * 10);
    }
    for (const counts of all(await stranger.stop())) {
      expect(counts).toMatchObject({ open: 0 });
      expect(counts.timeout).toBeGreaterThan(5);
    }
  });

  describe('everything is put back where it stood', () => {
    /** The nth load of rules from now on fails and changes nothing. */
    const failLoad = async (nth: number): Promise<void> => {
      const file = '/usr/local/sbin/nft';
      const stdin = `#!/bin/sh
if [ "$*" = '-f -' ]; then
	echo >>/run/lab/loads
	[ "$(wc -l </run/lab/loads)" != ${nth} ] || { echo injected >&2; exit 1; }
fi
exec /usr/sbin/nft "$@"
`;
      await lab.origin.must(['tee', file], { stdin });
      await lab.origin.must(['chmod', '0755', file]);
    };

    test.each([1, 2, 3])('when load %i fails', async (nth) => {
      await lab.origin.nft(everything);
      const before = await ruleset();
      await failLoad(nth);
      const said = await adopt(4);
      expect(said).toContain('injected');
      expect(said).toContain('nftables is back to what it was before');
      expect(await ruleset()).toBe(before);
    });

    test.each([false, true])('by rollback, after an apply: %s', async (applied) => {
      await lab.origin.nft(everything);
      if (applied) await cfsync(0, 'apply -b nftables --source bundled');
      const before = await ruleset();
      await adopt();
      expect(await ruleset()).not.toMatch(/saddr (173|104|103)/);
      await lab.origin.nft('insert rule inet filter input index 2 ip saddr 198.51.100.99 drop\n');
      await cfsync(0, 'rollback');
      const back = await ruleset();
      const added = '\t\tip saddr 198.51.100.99 drop\n';
      expect(back).toContain(added);
      // A jump of ours that stood before does not go back below what may drop.
      const jump = /\n\t*jump cfsync .*/;
      expect(back.replace(added, '').replace(jump, '')).toBe(before.replace(jump, ''));
      expect(jump.test(back)).toBe(applied);
    });
  });
});
