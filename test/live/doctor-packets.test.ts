/**
 * What the doctor says of a source and a port is what a connection from there meets: on rule sets made at random, over
 * all that it claims to understand. What it does not understand is named, never guessed.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { fromPrefixes, common } from '../../src/filters/intervals.ts';
import { filtersOf } from '../../src/filters/ask.ts';
import { observeFilters } from '../../src/filters/observe.ts';
import type { DoctorHost } from '../../src/doctor/check.ts';
import { BackendError } from '../../src/errors.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';
import { ipsets, nftRuleset, ports, sources, tables, type Made } from './random-rules.ts';

const everything = process.env['CFSYNC_TEST_ALL'] === '1';
const runs = everything ? 120 : 25;

describeLive('the doctor and real packets', { programs: ['nft', 'iptables', 'ipset'] }, () => {
  let lab: Lab;

  /** Looks at origin, as the doctor does there. */
  const seen = () => {
    const host: DoctorHost = {
      query: async ({ argv, stdin }) => {
        const outcome = await lab.origin.run(argv, stdin === undefined ? {} : { stdin });
        if (outcome.code === 127) throw new BackendError('not installed', `no ${argv[0]}`);
        return outcome;
      },
      read: async (path) => {
        const { code, stdout } = await lab.origin.run(['cat', path]);
        return code === 0 ? stdout : undefined;
      },
      list: async () => undefined,
      link: async () => undefined,
    };
    return observeFilters(host);
  };

  interface Told {
    readonly source: string;
    readonly port: number;
    readonly verdict: string;
    readonly doubts: number;
  }

  const asked = async (): Promise<readonly Told[]> => {
    const filters = filtersOf(await seen());
    return (['v4', 'v6'] as const).flatMap((family) =>
      sources[family].flatMap((source) =>
        ports.map((port): Told => {
          const address = fromPrefixes([`${source}/${family === 'v4' ? 32 : 128}`]);
          const all = fromPrefixes(
            sources[family].map((s) => `${s}/${family === 'v4' ? 32 : 128}`),
          );
          const mine = filters
            .ask({ family, protocol: 'tcp', port, sources: all })
            .filter((result) => common(result.sources, address).length > 0);
          expect(mine, `${source} to ${port} has one answer`).toHaveLength(1);
          return { source, port, verdict: mine[0]!.verdict, doubts: mine[0]!.doubts.length };
        }),
      ),
    );
  };

  /** What a connection may meet that is judged so. */
  const possible = ({ source, verdict }: Pick<Told, 'source' | 'verdict'>): readonly string[] =>
    source.includes(':') && verdict === 'reject' ? ['reject', 'drop'] : [verdict];

  /** What each connection met: ICMPv6 errors come too late on some kernels, see the agent. */
  const met = async ({ source, port, verdict }: Told): Promise<string> => {
    const target = source.includes(':') ? lab.origin.v6! : lab.origin.v4;
    const connect = (timeout: number) => lab.edge.connect(target, port, { source, timeout });
    let reach = await connect(500);
    // What is not dropped answers in the end, on a busy machine too.
    if (reach === 'timeout' && !possible({ source, verdict }).includes('drop'))
      reach = await connect(10_000);
    return { open: 'accept', refused: 'reject', timeout: 'drop', reset: 'reset' }[reach];
  };

  let unclear = 0;
  let clear = 0;

  const compare = async (isUnknown: boolean): Promise<void> => {
    const answers = await asked();
    const found = await Promise.all(answers.map(met));
    for (const [i, { source, port, verdict, doubts }] of answers.entries()) {
      const what = `${source} to port ${port}`;
      if (verdict === 'unclear') {
        unclear++;
        // Only what is not understood is left open, and then it is named.
        expect(isUnknown, `${what} is unclear`).toBe(true);
        expect(doubts, what).toBeGreaterThan(0);
        continue;
      }
      clear++;
      expect(possible({ source, verdict }), `${what} meets ${found[i]}`).toContain(found[i]);
    }
  };

  beforeAll(async () => {
    lab = await Lab.create();
    await lab.edge.ip([
      ...sources.v4.slice(1).map((address) => `address add ${address}/32 dev eth0`),
      ...sources.v6.slice(1).map((address) => `address add ${address}/128 dev eth0 nodad`),
    ]);
    // By default one source gets six ICMP errors at once, then one a second, and a reject looks like a drop.
    for (const limit of ['ipv4/icmp_ratelimit', 'ipv6/icmp/ratelimit'])
      await lab.origin.must(['tee', `/proc/sys/net/${limit}`], { stdin: '0' });
    await lab.origin.listen({ tcp: [...ports, 8443] });
    // One neighbour entry must not cost the first connection its time.
    for (const source of [...sources.v4, ...sources.v6]) {
      const target = source.includes(':') ? lab.origin.v6! : lab.origin.v4;
      expect(await lab.edge.connect(target, 80, { source, timeout: 20_000 }), source).toBe('open');
    }
    await lab.origin.must(['ipset', 'restore'], { stdin: ipsets });
  });
  afterAll(() => lab.close());

  const check = async <T extends Made>(
    made: fc.Arbitrary<T>,
    numRuns: number,
    load: (value: T) => Promise<void>,
  ): Promise<{ readonly clear: number; readonly unclear: number }> => {
    [unclear, clear] = [0, 0];
    await fc.assert(
      fc.asyncProperty(made, async (value) => {
        await load(value);
        await compare(value.isUnknown);
      }),
      // Each step of shrinking takes a second; the rule set itself is short enough to read.
      { numRuns, endOnFailure: true },
    );
    return { clear, unclear };
  };

  it('nft', { timeout: 600_000 }, async () => {
    try {
      const told = await check(nftRuleset(), runs, async ({ text }) => {
        await lab.origin.nft(`flush ruleset\n${text}`);
      });
      // Mostly it knows.
      expect(told.clear).toBeGreaterThan(told.unclear * 2);
    } finally {
      await lab.origin.nft('flush ruleset');
    }
  });

  it.each(['nft', 'legacy'] as const)('iptables-%s', { timeout: 600_000 }, async (variant) => {
    const both = fc.record({ v4: tables('v4'), v6: tables('v6') }).map(({ v4, v6 }) => ({
      text: `${v4.text}# ip6tables\n${v6.text}`,
      isUnknown: v4.isUnknown || v6.isUnknown,
    }));
    const restore = async (text: string): Promise<void> => {
      const [v4, v6] = text.split('# ip6tables\n');
      await lab.origin.must([`iptables-${variant}-restore`], { stdin: v4! });
      await lab.origin.must([`ip6tables-${variant}-restore`], { stdin: v6! });
    };
    try {
      const told = await check(both, runs, ({ text }) => restore(text));
      expect(told.clear).toBeGreaterThan(told.unclear * 2);
    } finally {
      const open =
        '*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n*nat\nCOMMIT\n*mangle\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n';
      await restore(`${open}# ip6tables\n${open}`);
    }
  });
});
