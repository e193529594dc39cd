/**
 * What apply, verify and doctor say of the whole host is what packets meet: on rule sets made at random, for each
 * backend and mode. CFSYNC_TEST_JUDGED=200 takes so many for each.
 */
import fc from 'fast-check';
import { afterAll, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { cases } from '../helpers/hostile.ts';
import { Lab, type Protocol, type Reach } from './lab.ts';
import { describeLive } from './privileges.ts';
import { ipsets, nftRuleset, sources, tables, ufwCommands, type Family } from './rulesets.ts';

const runs = Number(process.env.CFSYNC_TEST_JUDGED ?? 4);

/** Of ranges that no rule set names, next to those that some do. */
const edges: Readonly<Record<Family, readonly string[]>> = {
  v4: [...sources.v4, '198.41.128.9'],
  v6: [...sources.v6, '2c0f:f248::1'],
};
/** Public, and none of Cloudflare's: in the half that some rule sets accept, and in the other. */
const strangers: Readonly<Record<Family, readonly string[]>> = {
  v4: ['8.8.8.8', '198.60.1.1'],
  v6: ['2a00:1450::1'],
};
/** Where rule sets name no more than a /24 or a /48: that they are kept out is a note. */
const small = ['173.245.48.10', '2400:cb00::10'];

const doors: readonly (readonly [Protocol, number])[] = [
  ['tcp', 80],
  ['tcp', 443],
  ['udp', 443],
];
/** In lockdown strangers reach none of these. */
const locked: typeof doors = [...doors, ['udp', 80]];

interface Backend {
  readonly flags: readonly string[];
  readonly made: fc.Arbitrary<string>;
  readonly load: (lab: Lab, text: string) => Promise<unknown>;
}

const iptables = (variant: 'nft' | 'legacy', ...more: string[]): Backend => ({
  flags: ['-b', 'iptables', ...more],
  made: fc.tuple(tables('v4'), tables('v6')).map(([v4, v6]) => `${v4.text}# ip6tables\n${v6.text}`),
  load: (lab, text) => {
    const [v4, v6] = text.split('# ip6tables\n');
    const way = '/usr/local/sbin';
    const links = ['iptables', 'ip6tables'].flatMap((name) =>
      ['', '-save', '-restore'].map(
        (end) => `ln -sf /usr/sbin/${name}-${variant}${end} ${way}/${name}${end}`,
      ),
    );
    return lab.origin.must([
      'sh',
      '-ec',
      `${links.join('\n')}
iptables-restore <<'END'\n${v4}END
ip6tables-restore <<'END'\n${v6}END`,
    ]);
  },
});

const backends: Readonly<Record<string, Backend>> = {
  nftables: {
    flags: ['-b', 'nftables'],
    made: nftRuleset.map(({ text }) => text),
    load: (lab, text) => lab.origin.nft(text),
  },
  'iptables-nft': iptables('nft'),
  'iptables-legacy': iptables('legacy'),
  'iptables --ipset': iptables('nft', '--ipset'),
  ufw: {
    flags: ['-b', 'ufw'],
    made: ufwCommands,
    load: (lab, text) => lab.origin.must(['sh', '-ec', text]),
  },
};

const reset = `nft flush ruleset
for i in iptables ip6tables; do for t in filter nat mangle; do $i-legacy -t $t -F; $i-legacy -t $t -X; done
  for c in INPUT FORWARD OUTPUT; do $i-legacy -P $c ACCEPT; done; done
for s in $(ipset list -n | grep cfsync); do ipset destroy $s; done
cp -a /run/lab/etc/ufw /etc/; cp -a /run/lab/etc/default/ufw /etc/default/ufw; rm -rf /run/lab/state/*`;

const programs = ['nft', 'iptables', 'ipset', 'ufw'];

describeLive('what is said and what packets meet', { programs }, () => {
  const labs: Lab[] = [];
  afterAll(() => Promise.all(labs.map((lab) => lab.close())));

  async function prepared(): Promise<Lab> {
    const lab = await Lab.create({ privateDirs: ['/usr/local/sbin'] });
    labs.push(lab);
    const add = (list: Readonly<Record<Family, readonly string[]>>) => [
      ...list.v4.map((address) => `address replace ${address}/32 dev eth0`),
      ...list.v6.map((address) => `address replace ${address}/128 dev eth0 nodad`),
    ];
    await lab.edge.ip(add(edges));
    await lab.stranger.ip(add(strangers));
    for (const limit of ['ipv4/icmp_ratelimit', 'ipv6/icmp/ratelimit'])
      await lab.origin.must(['tee', `/proc/sys/net/${limit}`], { stdin: '0' });
    await lab.origin.listen({ tcp: [80, 443, 8443], udp: [80, 443] });
    await lab.origin.must(['ipset', 'restore'], { stdin: ipsets });
    await lab.origin.must([
      'sh',
      '-ec',
      'mkdir -p /run/lab/etc/default; cp -a /etc/ufw /run/lab/etc/; cp -a /etc/default/ufw /run/lab/etc/default/',
    ]);
    return lab;
  }

  /** Which of the sources get in where. */
  async function met(
    lab: Lab,
    who: 'edge' | 'stranger',
    where: typeof doors,
  ): Promise<readonly { readonly name: string; readonly source: string; readonly reach: Reach }[]> {
    const list = who === 'edge' ? edges : strangers;
    return Promise.all(
      (['v4', 'v6'] as const).flatMap((family) =>
        list[family].flatMap((source) =>
          where.map(async ([proto, port]) => {
            const name = `${source} to ${proto} ${port}`;
            const connect = (timeout: number) =>
              lab[who].connect(lab.origin[family]!, port, { proto, source, timeout });
            const first = await connect(600);
            // What is lost on a busy machine comes at the second try.
            const reach = first === 'timeout' ? await connect(1200) : first;
            return { name, source, reach };
          }),
        ),
      ),
    );
  }

  const told: Record<string, Record<string, number>> = {};
  const combinations = Object.keys(backends).flatMap((name) =>
    (['allow', 'lockdown'] as const).map((mode) => [name, mode] as const),
  );

  it.concurrent.each(combinations)('%s, %s', { timeout: 7_200_000 }, async (name, mode) => {
    const { flags, made, load } = backends[name]!;
    const lab = await prepared();
    const counts: Record<string, number> = (told[`${name} ${mode}`] = {});
    const judge = async (): Promise<string> => {
      const { code, stdout } = await lab.origin.run(['cat', '/run/lab/state/judged.json']);
      if (code !== 0) return 'nothing';
      return (JSON.parse(stdout) as { content: { verdict: string } }).content.verdict;
    };
    await fc.assert(
      fc.asyncProperty(made, async (text) => {
        await lab.origin.run(['sh', '-c', reset]);
        await load(lab, text);
        const args = [...flags, '--mode', mode, '--udp-ports=443', '--source=bundled'];
        const applied = await lab.cfsync(['apply', ...args, '--allow-lockout']);
        if (applied.code === exit.failed) {
          expect(applied.stderr).toContain('nothing was changed');
          counts['refused'] = (counts['refused'] ?? 0) + 1;
          return;
        }
        const verdict = await judge();
        counts[verdict] = (counts[verdict] ?? 0) + 1;
        const said = `${verdict}: ${applied.stdout.split('\n').slice(-3).join(' ')} ${applied.stderr}`;
        const isBad = verdict === 'out' || verdict === 'others';
        expect(applied.code, said).toBe(isBad ? exit.pending : exit.ok);
        const verified = await lab.cfsync(['verify']);
        expect([verified.code, await judge()], said).toEqual([applied.code, verdict]);
        if (verdict === 'unclear' || verdict === 'not judged') return;
        const edge = await met(lab, 'edge', doors);
        const out = edge.filter(({ source, reach }) => !small.includes(source) && reach !== 'open');
        expect(out.length > 0, `${said} ${JSON.stringify(out)}`).toBe(verdict === 'out');
        const doctor = await lab.cfsync(['doctor', '--format=json', '--only=packet-filter,ipv6']);
        const { findings } = JSON.parse(doctor.stdout) as { findings: { level: string }[] };
        const problems = findings.filter(({ level }) => level === 'problem');
        expect(problems.length > 0, `${said} ${doctor.stdout}`).toBe(verdict === 'out');
        if (mode === 'allow' || verdict === 'out') return;
        const others = (await met(lab, 'stranger', locked)).filter(({ reach }) => reach === 'open');
        expect(others.length > 0, `${said} ${JSON.stringify(others)}`).toBe(verdict === 'others');
      }),
      { ...cases(runs), endOnFailure: true },
    );
    expect(counts['in'] ?? 0).toBeGreaterThan(0);
  });

  afterAll(() => {
    console.log(`judged, seed ${cases(runs).seed}: ${JSON.stringify(told)}`);
  });
});
