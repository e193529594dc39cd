/** iptables and ip6tables 1.8.9, both variants, and ipset 7.17, with real packets. */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { basics, Origin, tools, withoutEmpty } from './iptables-origin.ts';
import { Lab, type PerFamily } from './lab.ts';
import { describeLive } from './privileges.ts';

const open = { edge: 'open', stranger: 'open' } as const;
const closed = { edge: 'closed', stranger: 'closed' } as const;
const edgeOnly = { edge: 'open', stranger: 'closed' } as const;

const fixtures = join(import.meta.dirname, '..', 'fixtures', 'iptables');

const programs = [
  'iptables',
  'ip6tables',
  'iptables-legacy',
  'iptables-nft',
  'ipset',
  'nft',
  'ufw',
];

/** The admin's rules, and who gets in on 80 and 443 without cfsync. */
const cases = [
  ['nothing', 'ACCEPT', [], open],
  ['policy drop', 'DROP', basics, closed],
  [
    'a terminal reject',
    'ACCEPT',
    [...basics, '-A INPUT -p tcp --dport 80:9999 -j REJECT', '-A INPUT -j REJECT'],
    closed,
  ],
  [
    'a drop in a chain of the admin',
    'ACCEPT',
    [
      ':WEB - [0:0]',
      ...basics,
      '-A INPUT -p tcp -m tcp --dport 443 -j WEB',
      '-A WEB -j DROP',
      '-A INPUT -p tcp -m multiport --dports 80,9999 -j DROP',
    ],
    closed,
  ],
  [
    'ports open to everybody',
    'DROP',
    [...basics, '-A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT'],
    open,
  ],
] as const;

/** In each of four hammerings, so 200 in all; CFSYNC_TEST_APPLIES=20 for a quick look. */
const applies = Number(process.env.CFSYNC_TEST_APPLIES ?? 50);

const all = <T>({ v4, v6 }: PerFamily<T>): readonly T[] => [v4, v6!];

describeLive('iptables', { programs }, () => {
  describe.each(['nft', 'legacy'] as const)('%s', (variant) => {
    let lab: Lab;
    let origin: Origin;

    beforeAll(async () => {
      lab = await Lab.create();
      origin = new Origin(lab);
      await origin.choose(variant);
      await lab.origin.listen({ tcp: [80, 443, 9999], udp: [443] });
    });
    afterEach(() => origin.reset());
    afterAll(() => lab.close());

    describe.each([
      ['rules', []],
      ['ipsets', ['--ipset']],
    ])('with %s', (_, form) => {
      test.for(form.length === 0 ? cases : [cases[1], cases[4]])(
        '%s',
        async ([, policy, rules, before]) => {
          const other = rules.length > 0 ? closed : open;
          const attached = { ...before, edge: 'open' } as const;
          await origin.load('filter', policy, ...rules);
          const admin = await origin.saved();
          await origin.expect(before, other);
          if (rules.length === 0) await lab.expectVerdict(443, open, 'udp');

          await origin.apply(...form);
          await origin.expect(attached, other);

          await origin.apply('--mode', 'lockdown', ...form);
          await origin.expect(edgeOnly, other);
          await lab.expectVerdict(443, closed, 'udp');
          expect(await lab.origin.connect('127.0.0.1', 443)).toBe('open');
          expect(await lab.origin.connect(lab.origin.v6!, 443)).toBe('open');

          const applied = await origin.saved();
          const again = await origin.apply('--mode', 'lockdown', '--verbose', ...form);
          expect(again).toContain('no changes');
          expect(await origin.saved()).toBe(applied);
          await origin.cfsync(0, 'verify');

          await origin.apply(...form);
          await origin.expect(attached);
          await origin.cfsync(0, 'remove -b iptables');
          await origin.expect(before);
          expect(withoutEmpty(await origin.saved())).toBe(withoutEmpty(admin));
          expect(await origin.run('ipset', 'list', '-n')).toBe('');
        },
      );

      test(
        'no connection is lost and no stranger gets in while lists and modes change',
        { timeout: 600_000 },
        async () => {
          await origin.load('filter', 'DROP', ...basics);
          await origin.lists();
          const change = (i: number): Promise<string> =>
            origin.cfsync(
              0,
              `apply -b iptables --allow-weaker --accept-large-change --source /run/lab/list/${i % 2}`,
              ...form,
              `--mode=${i % 10 < 5 ? 'allow' : 'lockdown'}`,
            );
          await change(0);
          const [edge, stranger] = await Promise.all([
            lab.edge.hammer(lab.origin, 443, { workers: 1 }),
            // Each waits 0.9 s for its answer, so many are needed to see a short hole.
            lab.stranger.hammer(lab.origin, 443, { workers: 64 }),
          ]);
          for (let i = 1; i <= applies; i++) expect(await change(i)).toContain('read back');
          for (const counts of all(await edge.stop())) {
            expect(counts.first).toMatchObject({ refused: [], timeout: [], reset: [] });
            expect(counts.open).toBeGreaterThan(applies);
          }
          for (const counts of all(await stranger.stop())) {
            expect(counts.first.open).toEqual([]);
            expect(counts.timeout).toBeGreaterThan(5);
          }
        },
      );

      test('drift by hand is found and repaired', async () => {
        await origin.load('filter', 'DROP', ...basics);
        await origin.apply('--mode', 'lockdown', ...form);
        const applied = await origin.saved();
        const drifts: (readonly [string, ...string[]])[] = [
          ['iptables', '-D', 'INPUT', '-m', 'comment', '--comment', 'cfsync', '-j', 'CFSYNC'],
          ['ip6tables', '-t', 'raw', '-F', 'CFSYNC'],
          ['iptables', '-t', 'raw', '-I', 'PREROUTING', '-j', 'CFSYNC'],
          ['ip6tables', '-A', 'CFSYNC-ALLOW', '-s', '2001:db8::/32', '-j', 'ACCEPT'],
          form.length > 0
            ? ['ipset', 'add', 'cfsync4', '198.51.100.0/24']
            : ['iptables', '-D', 'CFSYNC-ALLOW', '1'],
        ];
        for (const drift of drifts) {
          await origin.run(...drift);
          expect(await origin.cfsync(2, 'verify')).toContain('drift');
          await origin.apply('--mode', 'lockdown', '--accept-large-change', ...form);
          await origin.cfsync(0, 'verify');
          expect(await origin.saved()).toBe(applied);
        }
      });

      test('when the second family fails, the first is put back', async () => {
        await origin.load('filter', 'DROP', ...basics);
        const admin = await origin.saved();
        await origin.fail('ip6tables-restore', 'run');
        for (const mode of ['allow', 'lockdown']) {
          const said = await origin.cfsync(
            4,
            `apply -b iptables --source bundled --mode ${mode}`,
            ...form,
          );
          expect(said).toContain('iptables is back to what it was before');
          expect(said).toContain('injected');
          expect(withoutEmpty(await origin.saved())).toBe(withoutEmpty(admin));
          expect(await origin.run('ipset', 'list', '-n')).toBe('');
        }
        await origin.choose(variant);

        // And from one list to another, where the sets change as well.
        await origin.lists();
        await origin.cfsync(0, 'apply -b iptables --source /run/lab/list/0', ...form);
        const before = [await origin.saved(), await origin.sets()];
        await origin.fail('ip6tables-restore', 'run');
        await origin.cfsync(
          4,
          'apply -b iptables --source /run/lab/list/1 --mode lockdown --accept-large-change',
          ...form,
        );
        const after = [withoutEmpty(await origin.saved()), await origin.sets()];
        expect(after).toEqual([withoutEmpty(before[0]!), before[1]]);
        await origin.choose(variant);
        await origin.cfsync(0, 'verify');
      });
    });

    test('the variant is the one that was chosen', async () => {
      const version = await origin.run('ip6tables', '--version');
      expect(version).toContain(variant === 'nft' ? '(nf_tables)' : '(legacy)');
    });

    test('a ban of the admin keeps the upper hand, and the jump stands before the drop', async () => {
      const drop = '-A INPUT -p tcp -m multiport --dports 80,443 -j DROP';
      await origin.load('filter', 'ACCEPT', ':f2b-web - [0:0]', '-A INPUT -j f2b-web', drop);
      await origin.apply();
      await origin.expect(edgeOnly);
      await origin.run('iptables', '-A', 'f2b-web', '-s', lab.edge.v4, '-j', 'DROP');
      await origin.run('ip6tables', '-A', 'f2b-web', '-s', lab.edge.v6!, '-j', 'DROP');
      await origin.expect(closed);
      await origin.cfsync(0, 'verify');
      for (const tool of tools) await origin.run(tool, '-F', 'f2b-web');

      // A drop that somebody puts above the jump is drift of its position.
      await origin.run('iptables', '-I', 'INPUT', '-p', 'tcp', '--dport', '443', '-j', 'REJECT');
      await lab.expectVerdict(443, { edge: { v4: 'closed', v6: 'open' }, stranger: 'closed' });
      expect(await origin.cfsync(2, 'verify')).toContain('in front of');
      await origin.apply();
      await origin.expect(edgeOnly);
      // And what the admin did in between stays after remove.
      await origin.cfsync(0, 'remove -b iptables');
      expect(await origin.saved()).toContain('-A INPUT -p tcp -m tcp --dport 443 -j REJECT');
    });

    test('an accept that somebody puts above the jump in raw is drift', async () => {
      await origin.apply('--mode', 'lockdown');
      await origin.run('iptables', '-t', 'raw', '-I', 'PREROUTING', '-i', 'lo', '-j', 'ACCEPT');
      await origin.cfsync(0, 'verify');
      await origin.run('iptables', '-t', 'raw', '-I', 'PREROUTING', '-i', 'eth0', '-j', 'ACCEPT');
      await lab.expectVerdict(443, { edge: 'open', stranger: { v4: 'open', v6: 'closed' } });
      await origin.cfsync(2, 'verify');
      await origin.apply('--mode', 'lockdown');
      await origin.expect(edgeOnly);
    });

    test('what a cut-off swap left is cleared away, and a set that the admin uses stays', async () => {
      await origin.apply('--ipset');
      await origin.run('ipset', 'create', 'cfsync4-new', 'hash:net', 'timeout', '5');
      await origin.cfsync(2, 'verify');
      await origin.apply('--ipset');
      expect(await origin.run('ipset', 'list', '-n')).toBe('cfsync4\ncfsync6\n');
      const rule = ['-m', 'set', '--match-set', 'cfsync4', 'src', '-p', 'tcp', '--dport', '8080'];
      await origin.run('iptables', '-A', 'INPUT', ...rule, '-j', 'ACCEPT');
      const said = await origin.apply();
      expect(said).toContain('cfsync4: rules that cfsync did not write use this set');
      await origin.cfsync(0, 'remove -b iptables');
      expect(await origin.run('ipset', 'list', '-n')).toBe('cfsync4\n');
      await origin.run('iptables', '-F');
    });

    test('a set of another type is refused, and remove clears it', async () => {
      await origin.run('ipset', 'create', 'cfsync4', 'hash:ip');
      const line = 'apply -b iptables --source bundled --ipset';
      expect(await origin.cfsync(1, line)).toContain('ipset cfsync4 is of type hash:ip');
      await origin.cfsync(0, 'remove -b iptables');
      await origin.apply('--ipset');
    });

    test('rules and sets change places without a trace', async () => {
      await origin.load('filter', 'DROP', ...basics);
      await origin.apply('--mode', 'lockdown');
      const rules = await origin.saved();
      await origin.apply('--mode', 'lockdown', '--ipset');
      await origin.expect(edgeOnly);
      await origin.apply('--mode', 'lockdown');
      await origin.expect(edgeOnly);
      expect(await origin.saved()).toBe(rules);
      expect(await origin.run('ipset', 'list', '-n')).toBe('');
    });

    test('UDP ports are opened by name', async () => {
      await origin.load('filter', 'DROP', ...basics);
      await origin.apply('--udp-ports', '443', '--mode', 'lockdown');
      await lab.expectVerdict(443, edgeOnly, 'udp');
    });
  });

  test('the captured output is what iptables prints', async () => {
    const lab = await Lab.create();
    const origin = new Origin(lab);
    const told = (text: string): string =>
      text.replaceAll(/^#.*\n/gm, '').replaceAll(/\[\d+:\d+\]/g, '[0:0]');
    try {
      for (const name of readdirSync(fixtures).filter((file) => file.endsWith('.rules'))) {
        const stdin = readFileSync(join(fixtures, name), 'utf8');
        const sets = [...stdin.matchAll(/--match-set (\S+)/g)].map(([, set]) => set!);
        for (const set of new Set(sets)) await origin.run('ipset', 'create', set, 'hash:net');
        await lab.origin.must(['iptables-restore'], { stdin });
        const saved = readFileSync(join(fixtures, name.replace('.rules', '.save')), 'utf8');
        expect(told(await origin.run('iptables-save')), name).toBe(told(saved));
        await origin.reset();
      }
    } finally {
      await lab.close();
    }
  });

  test('rules of both variants: refused where the other one drops the ports, else said', async () => {
    const lab = await Lab.create();
    const origin = new Origin(lab);
    try {
      await lab.origin.listen({ tcp: [443] });
      await origin.run('iptables-legacy', '-A', 'INPUT', '-s', '192.0.2.1', '-j', 'DROP');
      expect(await origin.apply('--verbose')).toContain('there are also rules of iptables-legacy');
      await lab.expectVerdict(443, open);
      await origin.run(
        'iptables-legacy',
        '-A',
        'INPUT',
        '-p',
        'tcp',
        '--dport',
        '443',
        '-j',
        'DROP',
      );
      const line = 'apply -b iptables --source bundled';
      expect(await origin.cfsync(1, line)).toContain('iptables-legacy drop the ports');
      await origin.run('iptables-legacy', '-F');

      await origin.choose('legacy');
      expect(await origin.cfsync(1, line)).toContain('is also in the tables of iptables-nft');
      await origin.choose('nft');
      await origin.cfsync(0, 'remove -b iptables');
      await origin.run('iptables-nft', '-P', 'INPUT', 'DROP');
      await origin.choose('legacy');
      expect(await origin.cfsync(1, line)).toContain('iptables-nft drop the ports (policy');
    } finally {
      await lab.close();
    }
  });

  test('nothing that reads loads legacy tables', async () => {
    const lab = await Lab.create();
    const origin = new Origin(lab);
    try {
      for (const variant of ['nft', 'legacy'] as const) {
        await origin.choose(variant);
        await origin.cfsync(0, 'diff -b iptables --source bundled --ipset');
        await origin.cfsync(0, 'backends');
        for (const names of ['ip_tables_names', 'ip6_tables_names'])
          expect(await origin.run('cat', `/proc/net/${names}`)).toBe('');
      }
    } finally {
      await lab.close();
    }
  });

  test("a chain of nftables' own that drops the ports is named", async () => {
    const lab = await Lab.create();
    const origin = new Origin(lab);
    try {
      await lab.origin.nft(
        'table inet fw { chain in { type filter hook input priority 0; policy drop; iif lo accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }; }',
      );
      await lab.origin.listen({ tcp: [443] });
      const said = await origin.cfsync(2, 'apply --source bundled -b iptables');
      expect(said).toContain('warning: iptables: chain inet fw in of nftables drops the ports');
      expect(said).toContain('Cloudflare is kept out of 80, 443 (15 of 15 IPv4 ranges');
      await lab.expectVerdict(443, closed);
      // As the warning says, both together.
      await origin.cfsync(
        0,
        'apply --source bundled -b nftables -b iptables --mode lockdown --nft-chain inet/fw/in',
      );
      await lab.expectVerdict(443, edgeOnly);
    } finally {
      await lab.close();
    }
  });

  describe.each(['nft', 'legacy'] as const)('with Docker (%s)', (variant) => {
    test('lockdown covers the published port and leaves containers alone', async () => {
      const lab = await Lab.create({ container: true });
      const origin = new Origin(lab);
      try {
        await origin.choose(variant);
        await lab.container.listen({ tcp: [443, 8443] });
        await lab.origin.listen({ tcp: [80] });
        await Promise.all([lab.edge, lab.stranger].map((host) => host.listen({ tcp: [443] })));
        // As Docker writes them (rule shapes of dockerd 24).
        for (const [tool, to, net] of [
          ['iptables', `${lab.container.v4}:8443`, '172.17.0.0/16'],
          ['ip6tables', `[${lab.container.v6}]:8443`, 'fd00:17::/64'],
        ] as const)
          await lab.origin.must([`${tool}-restore`], {
            stdin: `*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING ! -o docker0 -s ${net} -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j DNAT --to-destination ${to}
COMMIT
`,
          });
        await lab.expectVerdict(443, open);
        expect(await origin.apply('--verbose')).toContain('port 443 is sent on by DNAT');
        await lab.expectVerdict(443, open);

        await origin.apply('--mode', 'lockdown');
        await Promise.all([lab.expectVerdict(443, edgeOnly), lab.expectVerdict(80, edgeOnly)]);
        // A container reaches the world, and the host by its public address.
        const both = { v4: 'open', v6: 'open' };
        expect(await lab.container.reach(lab.stranger, 443)).toEqual(both);
        expect(await lab.container.reach(lab.origin, 80)).toEqual(both);
        expect(await lab.origin.reach(lab.stranger, 443)).toEqual(both);
        expect(await lab.origin.reach(lab.container, 8443)).toEqual(both);
        // What is only routed through here is not this host's, whatever its port.
        await lab.stranger.ip([
          `route add ${lab.container.v4} via ${lab.origin.v4} dev eth0 onlink`,
          `route add ${lab.container.v6} via ${lab.origin.v6} dev eth0 onlink`,
        ]);
        expect(await lab.stranger.reach(lab.container, 443)).toEqual(both);

        await origin.cfsync(0, 'remove -b iptables');
        await lab.expectVerdict(443, open);
      } finally {
        await lab.close();
      }
    });
  });

  test('UFW keeps its rules, and its commands leave the jump alone', async () => {
    const lab = await Lab.create();
    const origin = new Origin(lab);
    try {
      await lab.origin.listen({ tcp: [80, 443] });
      // Only from the second time on does it load the same for IPv6 (0.36.2).
      for (const command of ['--force enable', 'disable', '--force enable'])
        await origin.run('ufw', ...command.split(' '));
      const admin = await origin.saved();
      await origin.expect(closed);
      expect(await origin.apply('--verbose')).toContain('--backend ufw');
      await origin.expect(edgeOnly);
      for (const command of ['reload', 'disable', '--force enable']) {
        await origin.run('ufw', ...command.split(' '));
        await origin.cfsync(0, 'verify');
      }
      await origin.expect(edgeOnly);
      await origin.cfsync(0, 'remove -b iptables');
      expect(await origin.saved()).toBe(admin);
    } finally {
      await lab.close();
    }
  });

  test('a kernel without IPv6 is served without it', async () => {
    const lab = await Lab.create({ ipv6: false });
    const origin = new Origin(lab);
    try {
      // What a kernel with ipv6.disable=1 shows; ip6tables-save must then not even be asked.
      await origin.run('mount', '-t', 'tmpfs', 'tmpfs', '/proc/sys/net');
      await lab.origin.listen({ tcp: [443] });
      const said = await origin.apply('--mode', 'lockdown', '--ipset', '--verbose');
      expect(said).toContain('this kernel has no IPv6');
      await lab.expectVerdict(443, edgeOnly);
      expect(await origin.run('ip6tables-save')).toBe('');
      const again = await origin.apply('--mode', 'lockdown', '--ipset', '--verbose');
      expect(again).toContain('no changes');
      await origin.cfsync(0, 'verify');
      await origin.cfsync(0, 'remove -b iptables');
    } finally {
      await lab.close();
    }
  });

  test('IPv6 that is there and does not work fails before anything is changed', async () => {
    const lab = await Lab.create();
    const origin = new Origin(lab);
    try {
      const line = 'apply -b iptables --source bundled --mode lockdown';
      const clean = await origin.run('iptables-save');
      for (const [program, when] of [
        ['ip6tables-save', 'always'],
        ['ip6tables-restore', 'test'],
      ] as const) {
        await origin.fail(program, when);
        expect(await origin.cfsync(1, line)).toContain(program);
        expect(await origin.run('iptables-save')).toBe(clean);
        await origin.choose('nft');
      }
      await origin.run('rm', '/etc/alternatives/ip6tables-restore');
      expect(await origin.cfsync(1, line)).toContain('ip6tables-restore is not installed');
      expect(await origin.run('iptables-save')).toBe(clean);
    } finally {
      await lab.close();
    }
  });

  test('10,000 ranges', async () => {
    const lab = await Lab.create();
    const origin = new Origin(lab);
    try {
      await lab.origin.listen({ tcp: [443] });
      const many = Array.from({ length: 10_000 }, (_, i) => `1.${i >> 7}.${(i & 127) * 2}.0/24`);
      await origin.list('many', [...many, '173.245.48.0/20'], ['2400:cb00::/32']);
      const line = 'apply -b iptables --mode lockdown --source /run/lab/list/many';
      for (const form of [[], ['--ipset']]) {
        await origin.cfsync(0, line, ...form);
        await lab.expectVerdict(443, edgeOnly);
        expect(await origin.cfsync(0, line, '--verbose', ...form)).toContain('no changes');
      }
      expect((await origin.sets()).split('\n').length).toBeGreaterThan(10_000);
    } finally {
      await lab.close();
    }
  });
});
