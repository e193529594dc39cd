/**
 * What apply, verify and the doctor say of Cloudflare and of strangers is what their packets meet, on hosts with rule
 * sets made at random.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { familyOf } from '../../src/prefix.ts';
import { Origin } from './iptables-origin.ts';
import { Lab, type Protocol } from './lab.ts';
import { describeLive } from './privileges.ts';
import { ipsets, nftRuleset, sources, tables, ufwCommands, type Made } from './random-rules.ts';
import { claimed, readSaid, type Claim, type Way } from './said.ts';

/** Rule sets for each backend and mode; 20 for all that is in test/bench/README.md. */
const runs = Number(process.env['CFSYNC_TEST_SETS'] ?? 2);
const seed = Number(process.env['CFSYNC_TEST_SEED'] ?? 20261201);

/** None of Cloudflare's, one of each half of the addresses: most of all strangers are more than a half. */
const strangers = { v4: ['9.9.9.9', '193.0.0.1'], v6: ['2a00::1', '2003::1'] } as const;
const families = ['v4', 'v6'] as const;
const doors: readonly { readonly protocol: Protocol; readonly port: number }[] = [
  { protocol: 'tcp', port: 80 },
  { protocol: 'tcp', port: 443 },
  { protocol: 'udp', port: 443 },
];
const modes = ['allow', 'lockdown'] as const;

interface Met extends Way {
  readonly who: 'edge' | 'stranger';
  readonly isOpen: boolean;
}

describeLive(
  'the judge and real packets',
  { programs: ['nft', 'iptables', 'iptables-legacy', 'ipset', 'ufw'] },
  () => {
    let lab: Lab;
    let origin: Origin;
    /** What came of the rule sets, for the last line. */
    const counts: Record<string, number> = {};
    let judgedSets = 0;
    const counted = (what: string): void => {
      counts[what] = (counts[what] ?? 0) + 1;
    };

    beforeAll(async () => {
      lab = await Lab.create({ privateDirs: ['/usr/local/sbin'] });
      origin = new Origin(lab);
      for (const [host, all] of [
        [lab.edge, { v4: sources.v4.slice(1), v6: sources.v6.slice(1) }],
        [lab.stranger, strangers],
      ] as const)
        await host.ip([
          ...all.v4.map((address) => `address add ${address}/32 dev eth0`),
          ...all.v6.map((address) => `address add ${address}/128 dev eth0 nodad`),
        ]);
      await lab.origin.listen({ tcp: [80, 443, 8443], udp: [443] });
      await lab.origin.must(['cp', '-a', '/etc/ufw', '/run/lab/ufw']);
      // A neighbour entry must not cost the first connection its time.
      for (const family of families)
        for (const source of [...sources[family], ...strangers[family]])
          expect(await reach(source, doors[0]!, 20_000), source).toBe(true);
    });
    afterAll(async () => {
      console.info(`judged packets, seed ${seed}: ${JSON.stringify(counts)}`);
      await lab.close();
    });

    /** Whether a source gets an answer. */
    const reach = async (
      source: string,
      { protocol, port }: (typeof doors)[number],
      timeout: number,
    ): Promise<boolean> => {
      const family = familyOf(source);
      const isEdge = (sources[family] as readonly string[]).includes(source);
      const host = isEdge ? lab.edge : lab.stranger;
      const target = lab.origin[family]!;
      return (await host.connect(target, port, { proto: protocol, source, timeout })) === 'open';
    };

    /** What all of them meet. What is claimed to be open is waited for on a busy machine too. */
    const meet = (claims: readonly Claim[]): Promise<readonly Met[]> =>
      Promise.all(
        (['edge', 'stranger'] as const).flatMap((who) =>
          families.flatMap((family) =>
            (who === 'edge' ? sources : strangers)[family].flatMap((source) =>
              doors.map(async (door): Promise<Met> => {
                const one = { source, ...door };
                const first = await reach(source, door, 500);
                const claim = claims.find((its) => isSame(its, one))?.is;
                const isOpen =
                  claim === undefined || claim === (first ? 'open' : 'closed')
                    ? first
                    : await reach(source, door, claim === 'open' ? 10_000 : 500);
                return { who, ...one, isOpen };
              }),
            ),
          ),
        ),
      );

    /** Loads a rule set, applies, and compares. */
    const compare = async (
      backend: string,
      mode: (typeof modes)[number],
      { isUnknown }: Pick<Made, 'isUnknown'>,
      more: readonly string[],
    ): Promise<void> => {
      const words = `apply -b ${backend} --source bundled --allow-weaker --mode ${mode} --udp-ports 443`;
      const applied = await lab.cfsync([...words.split(' '), '--verbose', ...more]);
      const said = `${applied.stdout}${applied.stderr}`;
      if (applied.code !== exit.ok && applied.code !== exit.pending) {
        counted(`${backend} ${mode} refused`);
        // A backend may say that there is no place for it; it may not try and fail.
        expect([exit.failed, exit.refused], said).toContain(applied.code);
        return;
      }
      const judged = readSaid(said);
      counted(`${backend} ${mode} ${judged.verdict}`);
      judgedSets++;
      const isWrong = ['out', 'others'].includes(judged.verdict);
      expect(applied.code, said).toBe(isWrong ? exit.pending : exit.ok);
      expect(said.includes('in force: Cloudflare reaches'), said).toBe(judged.verdict === 'in');
      if (!isUnknown) expect(['unclear', 'not judged'], said).not.toContain(judged.verdict);

      const again = await lab.cfsync(['verify', '--verbose']);
      expect(again.code, again.stderr).toBe(applied.code);
      expect(readSaid(again.stdout + again.stderr)).toEqual(judged);

      const ways = families.flatMap((family) =>
        sources[family].flatMap((source) => doors.map((door): Way => ({ source, ...door }))),
      );
      const claims = claimed(judged, ways, isUnknown);
      const met = await meet(claims);
      for (const claim of claims)
        expect(
          met.find((one) => isSame(one, claim))?.isOpen ? 'open' : 'closed',
          `${claim.source} to ${claim.protocol} ${claim.port}\n${said}`,
        ).toBe(claim.is);
      const entered = met.filter(({ who, isOpen }) => who === 'stranger' && isOpen);
      if (mode === 'lockdown' && judged.verdict !== 'others' && !judged.isCut)
        expect(entered, said).toEqual([]);
      if (judged.verdict === 'others') expect(entered, said).not.toEqual([]);

      const doctor = await lab.cfsync(['doctor', '--only', 'packet-filter', '--format', 'json']);
      const { findings } = JSON.parse(doctor.stdout) as {
        findings: { level: string; title: string }[];
      };
      const told = `${said}\n${doctor.stdout}`;
      const isOut = met.some(
        ({ who, protocol, isOpen }) => who === 'edge' && protocol === 'tcp' && !isOpen,
      );
      const has = (level: string): boolean => findings.some((finding) => finding.level === level);
      const isClear = !findings.some(({ title }) => title.startsWith('Whether'));
      // A few addresses are a warning.
      if (isOut && isClear) expect(has('problem') || has('warning'), told).toBe(true);
      if (judged.verdict === 'in' && judged.findings.length === 0)
        expect(has('problem'), told).toBe(false);
    };

    const check = async <T extends Made>(
      made: fc.Arbitrary<T>,
      load: (value: T) => Promise<void>,
      judge: (value: T) => Promise<void>,
    ): Promise<number> => {
      judgedSets = 0;
      await fc.assert(
        fc.asyncProperty(made, async (value) => {
          await origin.reset();
          await load(value);
          await judge(value);
        }),
        { numRuns: runs, seed, endOnFailure: true },
      );
      return judgedSets;
    };

    describe.each(modes)('%s', (mode) => {
      it('nftables', { timeout: 1_800_000 }, async () => {
        await origin.choose('nft');
        const judged = await check(
          plainly(nftRuleset),
          ({ text }) => lab.origin.nft(text),
          (made) => compare('nftables', mode, made, []),
        );
        expect(judged).toBeGreaterThan(runs / 4);
      });

      it.each([
        ['nft', []],
        ['legacy', []],
        ['nft', ['--ipset']],
      ] as const)('iptables-%s %j', { timeout: 1_800_000 }, async (variant, more) => {
        await origin.choose(variant);
        const judged = await check(
          plainly((isPlain) =>
            fc
              .record({ v4: tables('v4', isPlain), v6: tables('v6', isPlain) })
              .map(({ v4, v6 }) => ({
                text: `${v4.text}# ip6tables\n${v6.text}`,
                isUnknown: v4.isUnknown || v6.isUnknown,
              })),
          ),
          async ({ text }) => {
            await lab.origin.must(['ipset', 'restore'], { stdin: ipsets });
            const [v4, v6] = text.split('# ip6tables\n');
            await lab.origin.must(['iptables-restore'], { stdin: v4! });
            await lab.origin.must(['ip6tables-restore'], { stdin: v6! });
          },
          (made) => compare('iptables', mode, made, more),
        );
        expect(judged).toBeGreaterThan(runs / 4);
      });

      it('ufw', { timeout: 1_800_000 }, async () => {
        await origin.choose('nft');
        const judged = await check(
          ufwCommands(mode === 'lockdown'),
          async ({ text }) => {
            await origin.run('sh', '-ec', `cp -a /run/lab/ufw/. /etc/ufw/\n${text}`);
          },
          (made) => compare('ufw', mode, made, []),
        );
        expect(judged).toBeGreaterThan(runs / 4);
      });
    });
  },
);

/** Two of three rule sets are of those in which a backend finds a place that works. */
function plainly(made: (isPlain: boolean) => fc.Arbitrary<Made>): fc.Arbitrary<Made> {
  return fc.oneof({ weight: 2, arbitrary: made(true) }, { weight: 1, arbitrary: made(false) });
}

function isSame(a: Way, b: Way): boolean {
  return a.source === b.source && a.protocol === b.protocol && a.port === b.port;
}
