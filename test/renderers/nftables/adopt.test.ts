import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { NftAround } from '../../../renderers/nftables/around.ts';
import nftables from '../../../renderers/nftables/index.ts';
import type { NftOwned } from '../../../renderers/nftables/owned.ts';
import {
  parseListing,
  type Chain,
  type Expr,
  type Rule,
} from '../../../src/filters/nft/listing.ts';
import { parseRanges } from '../../../src/prefix.ts';
import type { Desired, Observed, RunStep, Step } from '../../../src/renderer.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { leftoverSets, listings, ownerText } from '../../fixtures/nftables/listings.ts';
import { hostWith, nothingAround } from './host.ts';

describe('adopt', () => {
  const known = parseRanges([...bundled.v4, ...bundled.v6, '104.16.0.0/12']);
  type Seen = Observed<NftOwned, NftAround>;

  function adoptOn(now: Seen, changes: Partial<Desired> = {}, raw: Record<string, unknown> = {}) {
    const observed = nftables.adopt!(now, desired(changes), known);
    const { owned, notices } = nftables.want(
      desired(changes),
      nftables.options(raw),
      observed.around,
    );
    const steps = nftables.plan(owned, observed);
    return { observed, owned, steps, notices: notices.map((n) => n.text).join('\n') };
  }

  const leftovers = (): Promise<Seen> =>
    nftables.observe(hostWith('leftovers', leftoverSets), nftables.options({}));

  const input = 'add rule inet filter input';

  it('finds what lets Cloudflare in on the ports, or on all of them', async () => {
    const { observed } = adoptOn(await leftovers());
    const every = 'they reach every other port as well';
    const found = observed.owned.strays!.map((s) => [s.text, ...(s.beyond ? [s.beyond] : [])]);
    expect(found).toEqual([
      ['add rule inet filter web ip saddr 103.31.4.0/22 accept'],
      ['add rule inet filter web ip6 saddr 2606:4700::/32 counter accept comment "web 6"'],
      ['add rule inet filter control ip saddr 103.31.4.0/22 tcp dport 443 accept'],
      [`${input} ip saddr 173.245.48.0/20 accept`, every],
      [`${input} ip saddr 173.245.48.0/20 tcp dport 443 accept`],
      [
        `${input} tcp dport { 80, 443 } ip saddr 104.16.0.0/12 ct state new counter accept comment "Cloudflare"`,
      ],
      [
        `${input} tcp dport { 80, 443 } ip saddr { 104.16.0.0-104.27.255.255, 141.101.64.0/18 } ct state { established, new } accept`,
      ],
      [
        `${input} ip saddr 104.16.0.0/13 ip protocol tcp accept`,
        'they reach every other TCP port as well',
      ],
      [
        `${input} meta l4proto tcp ip saddr 104.16.0.0/13 accept`,
        'they reach every other TCP port as well',
      ],
      [`${input} ip saddr 104.16.0.0/13 tcp dport 443 accept`],
      [`${input} ip saddr 104.16.0.0-104.31.255.255 tcp dport { 80, 443 } accept`],
      [`${input} ip6 saddr 2400:cb00::/32 tcp dport 443 accept`],
      // Every connection comes by eth0.
      [`${input} iifname "eth0" ip saddr 103.21.244.0/22 tcp dport 443 accept`],
      ['add element inet filter cf4 { 104.16.0.0/12 }'],
      ['add element inet filter cf4 { 173.245.48.0/20 }'],
      ['add element inet filter merged { 104.16.0.0-104.27.255.255 }'],
      ['add element inet filter cf6 { 2400:cb00::/32 }', every],
    ]);
    expect(observed.owned.strays![6]!.prefixes).toEqual([
      '104.16.0.0/13',
      '104.24.0.0/14',
      '141.101.64.0/18',
    ]);
  });

  it('says what stays as it is, and why', async () => {
    const { notices, observed } = adoptOn(await leftovers());
    expect(notices).toContain('add rule inet filter control ip saddr 103.31.4.0/22 accept');
    expect(notices).toContain(
      '; and 4 more); to take them over, name those ports as well with --ports or --udp-ports',
    );
    expect(notices).toMatch(
      /^left alone, because they ask for more than the ranges and the ports, .*: rule inet filter input handle \d+; /m,
    );
    expect(notices).toMatch(
      /serves something else as well stays as it is \(add rule [^;]*192\.0\.2\.0\/24[^;]*; element inet filter merged \{ 172\.64\.0\.0-172\.72\.255\.255 \}; set inet filter used\)/,
    );
    expect(notices).toContain('brings them back');
    const gone = parseListing(listings.leftovers).rules.length - observed.around.rules.length;
    expect(gone).toBe(observed.owned.strays!.filter((s) => 'rule' in s).length);
  });

  it('names an inverted list, which lockdown keeps better', async () => {
    const now = await nftables.observe(hostWith('inverted'), nftables.options({}));
    const { notices, owned } = adoptOn(now);
    expect(notices).toMatch(
      /^left alone, because they keep out whoever an old list does not have: rule inet filter input handle \d+; --mode lockdown/,
    );
    expect(owned.strays).toBeUndefined();
  });

  it('takes over what stands behind the way in, and not what stands behind another', async () => {
    const now = await nftables.observe(hostWith('behind-interface'), nftables.options({}));
    const { observed } = adoptOn(now);
    expect(observed.owned.strays!.map(({ text }) => text)).toEqual([
      `${input} iifname "eth0" tcp dport { 80, 443 } ip saddr { 104.16.0.0/12, 173.245.48.0/20 } accept`,
    ]);
    const around = { ...now.around, defaultRoutes: ['eth0', 'eth1'] };
    const other = adoptOn({ ...now, around });
    expect(other.observed.owned.strays).toEqual([]);
    expect(other.notices).toContain('left alone, because they ask for more than the ranges');
  });

  it('takes over other ports when they are named', async () => {
    const { observed } = adoptOn(await leftovers(), { tcpPorts: [443, 8443], udpPorts: [443] });
    const texts = observed.owned.strays!.map((s) => s.text);
    expect(texts).toContain(`${input} ip saddr 103.21.244.0/22 tcp dport { 443, 8443 } accept`);
    expect(texts).toContain(`${input} ip saddr 103.21.244.0/22 th dport 443 accept`);
    expect(texts).toContain(`${input} ip saddr 103.21.244.0/22 udp dport 443 accept`);
    expect(texts).toContain('add element inet filter panel { 173.245.48.0/20 }');
  });

  it('counts none of it where nobody asks', async () => {
    const options = nftables.options({});
    const observed = await leftovers();
    const { owned } = nftables.want(desired(), options, observed.around);
    expect([owned.strays, observed.owned.strays]).toEqual([undefined, undefined]);
    expect(lines(nftables.plan(owned, observed)).filter((l) => l.startsWith('delete'))).toEqual([]);
  });

  it("leaves tables alone that are iptables', firewalld's or a program's own", async () => {
    for (const ruleset of ['iptables-nft', 'firewalld', 'owner'] as const) {
      const host = hostWith(ruleset, { 'nft -t list table inet own': ownerText });
      const now = await nftables.observe(host, nftables.options({}));
      const bases = now.around.chains.filter((chain) => chain.base?.hook === 'input');
      expect(bases, ruleset).not.toEqual([]);
      const stray = (chain: Chain): Rule => ({ ...ruleOf('A', 9000), ...chain });
      const around = { ...now.around, rules: [...now.around.rules, ...bases.map(stray)] };
      const { strays } = nftables.adopt!({ ...now, around }, desired(), known).owned;
      expect(strays, ruleset).toEqual([]);
    }
  });

  it('brings ours in first, then takes theirs away', async () => {
    const { steps } = adoptOn(await leftovers());
    golden(
      'nftables/adopt.txt',
      steps.map((step) => `== ${step.summary}\n${stdinOf(step)}`).join(''),
    );
  });

  it('does not take away what ours would not stand in for', async () => {
    const now = await leftovers();
    const lockdown = { mode: 'lockdown' } as const;
    expect(() => adoptOn(now, lockdown, { chain: 'none' })).toThrow(
      /inet\/filter\/input has rules .* would not attach there; nothing was changed/,
    );
    // A drop on conditions is enough: theirs may have let Cloudflare past it.
    const limited = state('ACCEPT', ['A', 'limit'], []);
    expect(() => adoptOn(seen(limited))).toThrow('--nft-chain inet/filter/input');
    expect(() => adoptOn(seen(limited), {}, { chain: 'inet/filter/input' })).not.toThrow();
    expect(() => adoptOn(seen(state('ACCEPT', ['A'], [])))).not.toThrow();
  });

  // ---- a table that is changed by what a plan says ----

  const saddr = (addr: string, len: number): Expr => ({
    match: {
      op: '==',
      left: { payload: { protocol: 'ip', field: 'saddr' } },
      right: { prefix: { addr, len } },
    },
  });
  const dport: Expr = {
    match: { op: '==', left: { payload: { protocol: 'tcp', field: 'dport' } }, right: 443 },
  };
  const kinds: Readonly<Record<string, readonly [text: string, expr: readonly Expr[]]>> = {
    A: ['ip saddr 173.245.48.0/20 accept', [saddr('173.245.48.0', 20), { accept: null }]],
    B: [
      'ip saddr 104.16.0.0/12 tcp dport 443 accept',
      [saddr('104.16.0.0', 12), dport, { accept: null }],
    ],
    own: ['ip saddr 192.0.2.0/24 accept', [saddr('192.0.2.0', 24), { accept: null }]],
    ban: ['ip saddr 192.0.2.0/24 drop', [saddr('192.0.2.0', 24), { drop: null }]],
    drop: ['tcp dport 443 drop', [dport, { drop: null }]],
    limit: [
      'limit rate over 5/second drop',
      [{ limit: { rate: 5, per: 'second', inv: true } }, { drop: null }],
    ],
    script: ['tcp dport 443 jump script', [dport, { jump: { target: 'script' } }]],
    ours: ['jump cfsync comment "cfsync"', [{ jump: { target: 'cfsync' } }]],
  };

  interface Line {
    readonly chain: string;
    readonly handle: number;
    readonly kind: string;
  }
  interface State {
    readonly policy: string;
    readonly rules: readonly Line[];
  }

  function ruleOf(kind: string, handle: number, chain = 'input'): Rule {
    const [text, expr] = kinds[kind]!;
    const comment = /comment "(.*)"/.exec(text)?.[1];
    return {
      family: 'inet',
      table: 'filter',
      chain,
      handle,
      expr,
      ...(comment === undefined ? {} : { comment }),
    };
  }

  function state(policy: string, inputs: readonly string[], script: readonly string[]): State {
    const all = [...inputs.map((k) => ['input', k]), ...script.map((k) => ['script', k])];
    return {
      policy,
      rules: all.map(([chain, kind], i) => ({ chain: chain!, kind: kind!, handle: 10 + i })),
    };
  }

  /** What observe would find; of ours, the jumps alone. */
  function seen({ policy, rules }: State): Seen {
    const name = { family: 'inet', table: 'filter' } as const;
    const base = { hook: 'input', type: 'filter', prio: 0, policy: policy.toLowerCase() };
    const inputs = rules.filter((r) => r.chain === 'input');
    const jumps = inputs.flatMap((rule, i) =>
      rule.kind === 'ours'
        ? [
            {
              chain: 'input',
              before: inputs.slice(i + 1).find((r) => r.kind !== 'ours')?.handle ?? null,
            },
          ]
        : [],
    );
    const table = {
      family: 'inet' as const,
      name: 'filter',
      sets: {},
      jumps,
      chains: [{ name: 'cfsync', rules: [] }],
    };
    return {
      owned: {
        ...nftables.nothing,
        tables: jumps.length === 0 ? [] : [table],
      },
      around: {
        ...nothingAround,
        rules: rules.map(({ kind, handle, chain }) => ruleOf(kind, handle, chain)),
        chains: [
          { ...name, chain: 'input', base },
          ...['script', 'cfsync'].map((chain) => ({ ...name, chain })),
        ],
      },
    };
  }

  function stdinOf(step: Step): string {
    return (step as RunStep).command.stdin!;
  }

  function lines(steps: readonly Step[]): string[] {
    return steps.flatMap((step) => stdinOf(step).split('\n'));
  }

  /** The lines on rules of the admin's chains, as nft would carry them out. */
  function loaded({ policy, rules }: State, steps: readonly Step[]): State {
    const list = [...rules];
    let handle = Math.max(9, ...list.map((r) => r.handle));
    for (const line of lines(steps)) {
      const [, verb, chain = '', at, text] =
        /^(add|insert|delete) rule inet filter (input|script)(?: handle (\d+))? ?(.*)/.exec(line) ??
        [];
      if (verb === undefined) continue;
      const index = list.findIndex((r) => r.handle === Number(at) && r.chain === chain);
      if (at !== undefined && index < 0) throw new Error(`nft would refuse ${line}`);
      if (verb === 'delete') list.splice(index, 1);
      else {
        const [kind] = Object.entries(kinds).find(([, [known]]) => known === text)!;
        const top = list.findIndex((r) => r.chain === chain);
        const place = verb === 'add' ? list.length : at === undefined ? Math.max(top, 0) : index;
        list.splice(place, 0, { chain, kind, handle: ++handle });
      }
    }
    return { policy, rules: list };
  }

  const said = ({ rules }: State): string[] =>
    ['input', 'script'].flatMap((chain) =>
      rules.filter((r) => r.chain === chain).map((r) => `${chain} ${r.kind}`),
    );

  const layout = fc
    .tuple(
      fc.constantFrom('ACCEPT', 'DROP'),
      fc.array(fc.constantFrom('A', 'B', 'own', 'ban', 'drop', 'script', 'ours'), { maxLength: 9 }),
      fc.array(fc.constantFrom('A', 'B', 'own', 'drop'), { maxLength: 4 }),
    )
    .map(([policy, inputs, script]) => {
      const once = inputs.filter((k, i) => k !== 'ours' || inputs.indexOf(k) === i);
      return state(policy, once, script);
    });
  const kind = fc.constantFrom('A', 'B', 'own', 'drop');
  const named = { chain: 'inet/filter/input' };

  it('settles at once, and its way back leads to every rule of theirs in its place', () => {
    fc.assert(
      fc.property(layout, (before) => {
        const first = adoptOn(seen(before), {}, named);
        const after = loaded(before, first.steps);
        const second = adoptOn(seen(after), {}, named);
        expect(nftables.plan(first.observed.owned, first.observed)).toEqual([]);
        expect(second.observed.owned.strays).toEqual([]);
        expect(said(loaded(after, second.steps))).toEqual(said(after));
        const back = nftables.plan(first.observed.owned, second.observed);
        const [now, then] = [said(loaded(after, back)), said(before)].map((all) => ({
          others: all.filter((line) => line !== 'input ours'),
          // Among those that are not accepts, which alone it must not be moved below.
          jump: all.filter((line) => !/ [AB]$/.test(line)).indexOf('input ours'),
        }));
        expect(now!.others).toEqual(then!.others);
        expect(now!.jump).toBeLessThanOrEqual(then!.jump);
        expect(now!.jump < 0).toBe(then!.jump < 0);
      }),
      { numRuns: 500 },
    );
  });

  it('goes back on a host that has changed since, and leaves the change alone', () => {
    fc.assert(
      fc.property(layout, fc.nat(), kind, fc.boolean(), (before, at, another, adds) => {
        const first = adoptOn(seen(before), {}, named);
        const adopted = loaded(before, first.steps);
        const others = adopted.rules.filter((r) => r.kind !== 'ours');
        const one = others[at % Math.max(others.length, 1)];
        if (one === undefined) return;
        const index = adopted.rules.indexOf(one);
        const rules = adopted.rules.toSpliced(
          index,
          adds ? 0 : 1,
          ...(adds ? [{ ...one, kind: another, handle: 999 }] : []),
        );
        const changed = { ...adopted, rules };
        const second = adoptOn(seen(changed), {}, named);
        const after = loaded(changed, nftables.plan(first.observed.owned, second.observed));
        const third = adoptOn(seen(after), {}, named);
        expect(said(loaded(after, nftables.plan(first.observed.owned, third.observed)))).toEqual(
          said(after),
        );
        const strays = first.observed.owned.strays!.map(
          (s) => said(before)[before.rules.findIndex((r) => 'rule' in s && r.handle === s.handle)]!,
        );
        const rest = (list: State): string[] =>
          said(list).filter((line) => !line.endsWith(' ours') && !strays.includes(line));
        expect(rest(after)).toEqual(rest(changed));
        const back = said(after).filter((line) => strays.includes(line));
        expect(back.toSorted()).toEqual(strays.toSorted());
      }),
      { numRuns: 500 },
    );
  });

  it('goes back to one jump where there were two', () => {
    const before = state('DROP', ['ours', 'own', 'ours'], []);
    const there = seen(before);
    const after = loaded(before, nftables.plan(there.owned, there));
    expect(said(after)).toEqual(['input ours', 'input own']);
    expect(nftables.plan(there.owned, seen(after))).toEqual([]);
  });

  it('puts nothing back that is there, whether it is looked for or not', async () => {
    const now = await leftovers();
    const { observed } = adoptOn(now);
    expect(nftables.plan(observed.owned, observed)).toEqual([]);
    expect(nftables.plan(observed.owned, now)).toEqual([]);
  });

  it('puts elements back with their comments, and only into a set that is still asked', async () => {
    const { observed } = adoptOn(await leftovers());
    const gone = { ...observed.owned, strays: [] };
    const without = observed.around.accepted.map((set) => ({ ...set, elem: [] }));
    const around = { ...observed.around, accepted: without };
    const back = lines(nftables.plan(observed.owned, { owned: gone, around }));
    expect(back).toContain('add element inet filter cf4 { 104.16.0.0/12 comment "old" }');
    expect(back).toContain('add element inet filter merged { 104.16.0.0-104.27.255.255 }');
    const none = { ...around, accepted: [], chains: [] };
    expect(nftables.plan(observed.owned, { owned: gone, around: none })).toEqual([]);
  });
});
