/** `adopt` with iptables 1.8.9, both variants, and ipset 7.17: what scripts left behind, with real packets. */

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { basics, Origin, tools, withoutEmpty } from './iptables-origin.ts';
import { Lab, type PerFamily } from './lab.ts';
import { describeLive } from './privileges.ts';

const closed = { edge: 'closed', stranger: 'closed' } as const;
const edgeOnly = { edge: 'open', stranger: 'closed' } as const;

/** Rounds of leftovers taken over under load. */
const rounds = Number(process.env.CFSYNC_TEST_ADOPTS ?? 10);

/** The lists of 2020: 104.16.0.0/12 had 104.28.0.0/14, which is Cloudflare's VPN by now. */
const old = {
  iptables: ['173.245.48.0/20', '103.21.244.0/22', '104.16.0.0/12', '199.27.128.0/21'],
  ip6tables: ['2400:cb00::/32', '2405:b500::/32'],
} as const;

/** Somebody behind the VPN. */
const vpn = '104.28.0.10';

const jump = '-A INPUT -m comment --comment cfsync -j CFSYNC\n';

const all = <T>({ v4, v6 }: PerFamily<T>): readonly T[] => [v4, v6!];

/** A script as they are found in public: a loop over the lists, run by hand whenever they changed. */
async function script(origin: Origin, condition: string, times = 1): Promise<void> {
  for (const tool of tools) {
    const rules = old[tool].map((range) => `-A INPUT -s ${range} ${condition} -j ACCEPT`);
    const stdin = ['*filter', ...Array.from({ length: times }, () => rules).flat(), 'COMMIT', ''];
    await origin.lab.origin.must([`${tool}-restore`, '--noflush'], { stdin: stdin.join('\n') });
  }
}

describeLive('adopt of iptables', { programs: [...tools, 'ipset', 'nft'] }, () => {
  describe('the command', () => {
    let origin: Origin;
    const adopt = (code: number, ...args: string[]): Promise<string> =>
      origin.cfsync(code, 'adopt -b iptables', ...args);

    beforeEach(async () => {
      origin = new Origin(await Lab.create());
      await origin.choose('nft');
      await origin.load('filter', 'DROP', ...basics);
    });
    afterEach(() => origin.lab.close());

    test('where nothing is found, nothing is changed', async () => {
      const before = await origin.saved();
      expect(await adopt(0, '--source', 'bundled')).toContain('iptables: nothing to take over\n');
      expect(await origin.saved()).toBe(before);
      expect(await origin.cfsync(1, 'verify')).toContain('nothing was applied yet');
    });

    test('a list that lacks much of what they let in is refused', async () => {
      await script(origin, '');
      const before = await origin.saved();
      await origin.list('short', ['173.245.48.0/20', '103.21.244.0/22'], ['2400:cb00::/32']);
      const short = ['--source', '/run/lab/list/short'];
      expect(await adopt(3, ...short)).toMatch(
        /refused: 786,432 IPv4 addresses \(74 % .*nothing was changed/,
      );
      expect(await origin.saved()).toBe(before);
      expect(await adopt(0, ...short, '--accept-large-change')).toContain('read back');
      expect(await origin.saved()).not.toMatch(/-A INPUT -s/);
    });

    test('what was cut off is carried on, and can still be taken back', async () => {
      await script(origin, '');
      const before = await origin.saved();
      // The second family never comes to its turn.
      const stdin = `#!/bin/sh
case "$*" in *--test* | *--version*) exec /usr/sbin/ip6tables-nft-restore "$@" ;; esac
kill -9 $PPID
`;
      const file = '/etc/alternatives/ip6tables-restore';
      await origin.run('rm', file);
      await origin.lab.origin.must(['tee', file], { stdin });
      await origin.run('chmod', '0755', file);
      await adopt(137, '--source', 'bundled');
      await origin.run('rm', file);
      await origin.choose('nft');
      const half = await origin.saved();
      expect(half.match(/^-A INPUT -s .*/gm)).toHaveLength(old.ip6tables.length);

      expect(await adopt(0, '--source', 'bundled')).toContain('was cut off');
      expect(await origin.saved()).not.toMatch(/-A INPUT -s/);
      await origin.cfsync(0, 'verify');
      await origin.cfsync(0, 'rollback');
      expect(withoutEmpty(await origin.saved())).toBe(withoutEmpty(before));
      expect(await adopt(3, '--source', 'bundled')).toContain('held since');
    });

    test('a session that came in by a rule for all ports is not cut', async () => {
      const { lab } = origin;
      await lab.origin.listen({ tcp: [22] });
      await script(origin, '');
      const session = { SSH_CONNECTION: `${vpn} 50000 ${lab.origin.v4} 22` };
      const before = await origin.saved();
      const line = ['adopt', '-b', 'iptables', '--source', 'bundled'];
      const refused = await lab.cfsync(line, { env: session });
      expect(refused.stderr).toContain(`${vpn} to TCP port 22 would no longer be let in`);
      expect(refused.code).toBe(3);
      expect(await origin.saved()).toBe(before);
      const { code } = await lab.cfsync([...line, '--allow-lockout'], { env: session });
      expect(code).toBe(0);
    });
  });

  describe.each(['nft', 'legacy'] as const)('%s', (variant) => {
    let lab: Lab;
    let origin: Origin;

    const adopt = (code = 0, ...args: string[]): Promise<string> =>
      origin.cfsync(code, 'adopt -b iptables --source bundled', ...args);
    /** How somebody behind the VPN fares, who is no customer of ours. */
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

    beforeAll(async () => {
      lab = await Lab.create();
      origin = new Origin(lab);
      await origin.choose(variant);
      await lab.origin.listen({ tcp: [22, 80, 443, 9999] });
    });
    afterEach(() => origin.reset());
    afterAll(() => lab.close());

    test('what a script left three times is shown, and then ours alone is there', async () => {
      await origin.load('filter', 'DROP', ...basics, '-A INPUT -p tcp --dport 22 -j ACCEPT');
      const admin = await origin.saved();
      await origin.expect(closed, closed);
      await script(origin, '-p tcp -m multiport --dports 80,443', 3);
      await origin.expect(edgeOnly, closed);
      expect(await vpnReach()).toBe('open');
      const before = await origin.saved();

      const shown = await adopt(0, '--dry-run');
      expect(shown).toContain(
        'iptables -A INPUT -s 104.16.0.0/12 -p tcp -m multiport --dports 80,443 -j ACCEPT (3 times)\n    stale: 104.28.0.0/14',
      );
      expect(shown).not.toContain('ends with it');
      expect(await origin.saved()).toBe(before);

      expect(await adopt()).toContain('applied and read back');
      expect(await origin.saved()).not.toMatch(/-A INPUT -s/);
      await origin.expect(edgeOnly, closed);
      await lab.expectVerdict(22, { edge: 'open', stranger: 'open' });
      expect(await vpnReach()).toBe('timeout');
      await origin.cfsync(0, 'verify');

      const adopted = await origin.saved();
      expect(await adopt()).toContain('iptables: nothing to take over\n');
      expect(await origin.apply('--verbose')).toContain('no changes');
      expect(await origin.saved()).toBe(adopted);
      await origin.cfsync(0, 'remove -b iptables');
      expect(withoutEmpty(await origin.saved())).toBe(withoutEmpty(admin));
    });

    test('no connection is lost and no stranger gets in meanwhile', async () => {
      await origin.load('filter', 'DROP', ...basics);
      await script(origin, '-p tcp --dport 443');
      const [edge, stranger] = await Promise.all([
        lab.edge.hammer(lab.origin, 443, { workers: 3 }),
        lab.stranger.hammer(lab.origin, 443, { workers: 64 }),
      ]);
      for (let i = 0; i < rounds; i++) {
        expect(await adopt(0, i % 2 === 0 ? '--mode=allow' : '--ipset')).toContain('read back');
        expect(await origin.saved()).not.toMatch(/-A INPUT -s/);
        await script(origin, i % 2 === 0 ? '' : '-p tcp --dport 443', 2);
        await origin.cfsync(0, 'remove -b iptables');
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

    /** Duplicates, rules of the admin's between them, a chain of the script's own, and a hand-made set. */
    const layout = [
      ':CLOUDFLARE - [0:0]',
      '-A INPUT -s 173.245.48.0/20 -p tcp -m tcp --dport 443 -j ACCEPT',
      ...basics,
      '-A INPUT -s 192.0.2.0/24 -j DROP',
      '-A INPUT -s 173.245.48.0/20 -p tcp -m tcp --dport 443 -j ACCEPT',
      '-A INPUT -s 104.16.0.0/12 -m comment --comment "\\"Cloudflare\\" -j DROP" -j ACCEPT',
      '-A INPUT -s 192.0.2.0/24 -j DROP',
      '-A INPUT -s 173.245.48.0/20 -p tcp -m tcp --dport 443 -j ACCEPT',
      '-A INPUT -m set --match-set cloudflare src -p tcp -m state --state NEW -m tcp --dport 443 -j ACCEPT',
      '-A INPUT -s 192.0.2.0/24 -j DROP',
      '-A INPUT -p tcp -m multiport --dports 80,443 -j CLOUDFLARE',
      '-A CLOUDFLARE -s 103.21.244.0/22 -j ACCEPT',
      '-A CLOUDFLARE -s 173.245.48.0/20 -j ACCEPT',
      '-A CLOUDFLARE -j DROP',
      '-A INPUT -s 173.245.48.0/20 -p tcp -m tcp --dport 443 -j ACCEPT',
    ];

    const rulesOf4 = layout.filter((line) => line.startsWith('-A') && !line.includes('icmp'));

    const lay = async (): Promise<void> => {
      await origin.run('ipset', 'create', 'cloudflare', 'hash:net');
      await origin.run('ipset', 'add', 'cloudflare', '173.245.48.0/20');
      await origin.load('filter', 'DROP', ...basics);
      const stdin = [
        '*filter',
        ':INPUT DROP [0:0]',
        ...layout.filter((l) => !l.includes('icmp')),
        'COMMIT',
        '',
      ];
      await lab.origin.must(['iptables-restore'], { stdin: stdin.join('\n') });
      await script(origin, '');
    };

    test('all of it is taken over, wherever it stands', async () => {
      await lay();
      expect(await adopt()).toContain(
        'ipset cloudflare stays, and no rule of iptables uses it then: ipset destroy cloudflare',
      );
      const rules = (await origin.saved()).match(/^-A (INPUT|CLOUDFLARE) .*/gm) ?? [];
      expect(rules).toEqual([
        // Where the first of them stood.
        jump.trim(),
        ...rulesOf4.filter((rule) => !/--match-set|-s (?!192)/.test(rule)),
        ...basics,
        jump.trim(),
      ]);
    });

    test('rollback puts everything back where it stood, and keeps what the admin did since', async () => {
      await lay();
      const before = await origin.saved();
      await adopt();
      await origin.run('iptables', '-I', 'INPUT', '3', '-s', '198.51.100.99/32', '-j', 'DROP');
      await origin.cfsync(0, 'rollback');
      const back = await origin.saved();
      const added = '-A INPUT -s 198.51.100.99/32 -j DROP\n';
      expect(back).toContain(added);
      expect(withoutEmpty(back.replace(added, ''))).toBe(withoutEmpty(before));
    });

    test.for([
      ['a host without cfsync', false],
      ['a host with it', true],
    ] as const)(
      'when the second family fails, everything is put back where it stood: %s',
      async ([, applied]) => {
        await lay();
        if (applied) await origin.apply();
        const before = await origin.saved();
        await origin.fail('ip6tables-restore', 'run');
        expect(await adopt(4)).toContain('iptables is back to what it was before');
        await origin.choose(variant);
        const after = await origin.saved();
        // The way back never moves a jump of ours down, past what may be a drop of the admin's.
        const theirs = (saved: string): string => withoutEmpty(saved).replaceAll(jump, '');
        expect(theirs(after)).toBe(theirs(before));
        expect(after.split(jump)).toHaveLength(before.split(jump).length);
        if (applied) await origin.cfsync(0, 'verify');
      },
    );
  });
});
