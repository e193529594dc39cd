import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import nftables, { type NftAround, type NftOwned } from '../../../renderers/nftables/index.ts';
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
import { recorded } from '../../helpers/host.ts';
import { withSingleFlags } from '../../helpers/nft.ts';
import {
  flushedSet,
  leftoverSets,
  listings,
  ourSets,
  ownerText,
  sharedSets,
  wrongSet,
} from '../../fixtures/nftables/listings.ts';

/** The rule set that a host has, as nft printed it (see fixtures), and nothing else of note. */
function hostWith(ruleset: keyof typeof listings, more: Record<string, string> = {}) {
  return recorded({ answers: { 'nft -j -t list ruleset': listings[ruleset], ...more } });
}

async function wantOn(
  ruleset: keyof typeof listings,
  changes: Partial<Desired> = {},
  raw: Record<string, unknown> = {},
) {
  const options = nftables.options(raw);
  const observed = await nftables.observe(hostWith(ruleset), options);
  const { owned, notices } = nftables.want(desired(changes), options, observed.around);
  return { owned, notices, observed, steps: nftables.plan(owned, observed) };
}

describe('render', () => {
  const cases: [string, Partial<Desired>, Record<string, unknown>][] = [
    ['allow', {}, {}],
    ['lockdown', { mode: 'lockdown' }, {}],
    ['one-port-udp', { tcpPorts: [443], udpPorts: [443], mode: 'lockdown' }, {}],
    ['extra', { extra: { v4: ['10.1.0.0/16'], v6: ['fd00::/16'] } }, {}],
    ['chain', { udpPorts: [443] }, { chain: 'inet/filter/input' }],
    ['chain-ip', {}, { chain: 'ip/fw/in' }],
    ['chain-none', { mode: 'lockdown' }, { chain: 'none', trusted: ['wg0', 'cni0'] }],
    ['sets', {}, { file: 'sets' }],
    ['define', {}, { file: 'define' }],
  ];
  it.each(cases)('%s', (name, changes, raw) => {
    for (const _ of ['once', 'again']) {
      const options = nftables.options(raw);
      const [artifact, ...rest] = nftables.print(nftables.want(desired(changes), options).owned);
      expect(rest).toEqual([]);
      golden(`nftables/${name}.txt`, `== ${artifact!.path}\n${artifact!.content}`);
    }
  });

  it('prints nothing for a host that cfsync never touched', () => {
    expect(nftables.print(nftables.nothing)).toEqual([]);
  });
});

describe('options', () => {
  it.each([
    [{ chian: 'auto' }, 'unknown key chian (did you mean chain?)'],
    [{ chain: 'filter/input' }, 'not FAMILY/TABLE/CHAIN'],
    [{ chain: 'inet/filter/in put' }, 'not FAMILY/TABLE/CHAIN'],
    [{ chain: 'inet/f;flush ruleset/x' }, 'not FAMILY/TABLE/CHAIN'],
    [{ trusted: ['wg0"; accept'] }, 'not an interface name'],
    [{ trusted: 'averyveryverylongname' }, 'not an interface name'],
    [{ file: 'set' }, 'not one of ruleset, sets, define'],
  ])('refuses %j', (raw, message) => {
    expect(() => nftables.options(raw)).toThrow(message);
  });

  it('refuses chain none in mode allow, which would do nothing', () => {
    expect(() => nftables.want(desired(), nftables.options({ chain: 'none' }))).toThrow(
      'leaves nothing to do',
    );
  });

  it('refuses to apply a file that is for render', async () => {
    await expect(wantOn('empty', {}, { file: 'sets' })).rejects.toThrow('for render');
  });
});

describe('where allow attaches', () => {
  const places = async (
    ruleset: keyof typeof listings,
    changes: Partial<Desired> = {},
    raw: Record<string, unknown> = {},
  ) => {
    const { owned, notices } = await wantOn(ruleset, changes, raw);
    return {
      at: owned.tables.map((t) => [`${t.family} ${t.name}`, t.jumps]),
      notes: notices.map((n) => n.text),
    };
  };

  it('takes its own base chain where nothing drops, and says that it changes nothing', async () => {
    const { at, notes } = await places('empty');
    expect(at).toEqual([['inet cfsync', []]]);
    expect(notes).toEqual([expect.stringContaining('changes nothing today; --mode lockdown')]);
  });

  it('stands at the end where only the policy drops', async () => {
    const { at } = await places('policy-drop');
    expect(at).toEqual([['inet filter', [{ chain: 'input', before: null }]]]);
  });

  it('stands before a terminal reject, behind the bans', async () => {
    const { at } = await places('terminal-reject');
    const around = (await wantOn('terminal-reject')).observed.around;
    const reject = around.rules.find((r) => r.expr.some((e) => 'reject' in e))!;
    expect(at).toEqual([['inet filter', [{ chain: 'input', before: reject.handle }]]]);
    expect(around.rules.findIndex((r) => r.handle === reject.handle)).toBeGreaterThan(1);
  });

  it('sees a drop through a jump, and stands before the jump', async () => {
    const { observed, owned } = await wantOn('drop-through-jump');
    const jump = observed.around.rules.find((r) => r.expr.some((e) => 'jump' in e))!;
    expect(owned.tables[0]!.jumps).toEqual([{ chain: 'input', before: jump.handle }]);
  });

  it('says that a port is open to everybody, and attaches all the same', async () => {
    const { at, notes } = await places('open-port');
    expect(at).toEqual([['inet filter', [{ chain: 'input', before: null }]]]);
    expect(notes.join()).toContain('accepts a port from everywhere');
    expect((await places('open-port', { mode: 'lockdown' })).notes.join()).not.toContain(
      'everywhere',
    );
  });

  it('leaves a chain alone that accepts everything before its drop', async () => {
    expect((await places('accept-all')).at).toEqual([['inet cfsync', []]]);
  });

  it('attaches to the tables of both families, and to nothing else then', async () => {
    const { at } = await places('two-families');
    expect(at.map(([name]) => name)).toEqual(['ip fw', 'ip6 fw']);
  });

  it('keeps the own base chain for a family that no table covers', async () => {
    const { at } = await places('ip-only');
    expect(at.map(([name]) => name)).toEqual(['inet cfsync', 'ip fw']);
  });

  it('says what it cannot judge', async () => {
    const { notes } = await places('unclear');
    expect(notes.join()).toContain('may drop the ports on conditions that cfsync cannot judge');
  });

  it('says nothing of bans, other ports and other states', async () => {
    const { notes } = await places('policy-drop');
    expect(notes).toEqual([]);
  });

  it.each([
    ['iptables-nft', 'belongs to iptables', '--backend iptables'],
    ['ufw', 'belongs to iptables', '--backend ufw'],
    ['firewalld', 'belongs to firewalld', 'firewall-cmd'],
  ] as const)('refuses a table of %s, with what to use instead', async (ruleset, why, instead) => {
    await expect(wantOn(ruleset)).rejects.toThrow(why);
    await expect(wantOn(ruleset)).rejects.toThrow(instead);
  });

  it('refuses a table with an owner', async () => {
    const host = hostWith('owner', { 'nft -t list table inet own': ownerText });
    const observed = await nftables.observe(host, nftables.options({}));
    expect(observed.around.owner).toEqual(['inet own']);
    expect(() => nftables.want(desired(), nftables.options({}), observed.around)).toThrow(
      'flags owner',
    );
  });

  it('does not mind an iptables table that drops nothing', async () => {
    expect((await places('docker')).at).toEqual([['inet cfsync', []]]);
  });

  it('takes the chain that is named, and refuses one that is not there', async () => {
    const named = await places('policy-drop', {}, { chain: 'inet/filter/input' });
    expect(named.at).toEqual([['inet filter', [{ chain: 'input', before: null }]]]);
    await expect(places('policy-drop', {}, { chain: 'inet/filter/inputs' })).rejects.toThrow(
      'there is no chain inet filter inputs',
    );
  });
});

describe('lockdown', () => {
  const around = (changes: Partial<NftAround>): NftAround => ({
    rules: [],
    chains: [],
    owner: [],
    dormant: [],
    sets: [],
    shared: [],
    bridges: [],
    defaultRoutes: [],
    legacy: false,
    mismatches: [],
    accepted: [],
    ...changes,
  });
  const exempt = (more: Partial<NftAround>, trusted: string[] = []): string[] =>
    nftables
      .want(desired({ mode: 'lockdown' }), nftables.options({ trusted }), around(more))
      .owned.tables[0]!.chains.find((c) => c.name === 'prerouting')!
      .rules.filter((r) => r.endsWith('return'));

  it('leaves alone lo, Docker bridges as observed, and trusted interfaces', () => {
    expect(exempt({ bridges: ['docker0'] }, ['wg0'])).toEqual([
      'iifname "lo" return',
      'iifname "docker0" return',
      'iifname "wg0" return',
    ]);
  });

  it('refuses to trust an interface with a default route', () => {
    expect(() => exempt({ defaultRoutes: ['eth0'] }, ['eth0'])).toThrow('has a default route');
  });

  it('closes UDP on the ports unless it is named', () => {
    const rules = (udpPorts: number[]): string =>
      nftables
        .want(desired({ mode: 'lockdown', udpPorts }), nftables.options({}))
        .owned.tables[0]!.chains.find((c) => c.name === 'prerouting')!
        .rules.filter((r) => r.startsWith('udp'))
        .join('\n');
    expect(rules([])).toBe(
      'udp dport { 80, 443 } fib daddr type local counter drop comment "cfsync"',
    );
    expect(rules([443])).toBe(
      'udp dport 443 fib daddr type local jump guard\nudp dport 80 fib daddr type local counter drop comment "cfsync"',
    );
  });
});

describe('plan', () => {
  it('loads sets before hooks, and checks all of it first', async () => {
    const { steps } = await wantOn('policy-drop', { mode: 'lockdown' });
    expect(steps.map((s) => s.summary)).toEqual(['nftables: sets and chains', 'nftables: hooks']);
    const [sets, hooks] = steps.map((s) => (s.kind === 'run' ? s.command.stdin! : ''));
    expect(sets).not.toMatch(/hook|jump cfsync/);
    expect(hooks).toContain('hook prerouting');
    expect(steps[0]!.check!.argv).toEqual(['nft', '-c', '-f', '-']);
    expect(steps[0]!.check!.stdin).toBe(`${sets}${hooks}`);
  });

  it('never deletes to make anew, and never flushes the rule set', async () => {
    for (const name of ['empty', 'policy-drop', 'terminal-reject', 'ours'] as const) {
      const options = nftables.options({});
      const observed = await nftables.observe(hostWith(name, ourSets), options);
      const { owned } = nftables.want(desired({ mode: 'lockdown' }), options, observed.around);
      for (const step of nftables.plan(owned, observed))
        expect(step.kind === 'run' && step.command.stdin).not.toMatch(/flush ruleset|delete/);
    }
  });

  it('sees the same where nft prints a single flag without brackets (1.1.4)', async () => {
    const single = (all: Record<string, string>) =>
      Object.fromEntries(
        Object.entries(all).map(([words, text]) => [words, withSingleFlags(text)]),
      );
    const [options, ruleset] = [nftables.options({}), 'nft -j -t list ruleset'];
    for (const [name, sets] of [
      ['ours', ourSets],
      ['docker', {}],
      ['leftovers', leftoverSets],
    ] as const) {
      const answers = { [ruleset]: listings[name], ...sets };
      const observed = await nftables.observe(recorded({ answers: single(answers) }), options);
      expect(observed, name).toEqual(await nftables.observe(hostWith(name, sets), options));
    }
  });

  it('has no step when the host is as wanted, and only the set when a prefix is missing', async () => {
    const options = nftables.options({});
    const observed = await nftables.observe(hostWith('ours', ourSets), options);
    const { owned } = nftables.want(desired(), options, observed.around);
    expect(nftables.plan(owned, observed)).toEqual([]);

    const lost = { ...ourSets, ...flushedSet };
    const drifted = await nftables.observe(hostWith('ours', lost), options);
    const steps = nftables.plan(owned, drifted);
    expect(steps).toHaveLength(1);
    const text = steps[0]!.kind === 'run' ? steps[0]!.command.stdin! : '';
    expect(text).toMatch(/^flush set inet filter cfsync4\nadd element inet filter cfsync4 \{\n/);
    expect(text).not.toMatch(/cfsync6|rule|chain/);
  });

  it('fills a set as it makes it, and empties one that is there, whoever made it', async () => {
    const options = nftables.options({});
    const observed = await nftables.observe(hostWith('shared', sharedSets), options);
    const { owned } = nftables.want(desired(), options, observed.around);
    const textOf = (around: NftAround): string => {
      const [first] = nftables.plan(owned, { owned: nftables.nothing, around });
      return first!.kind === 'run' ? first!.command.stdin! : '';
    };
    expect(observed.around.sets).toEqual(['inet filter cfsync4', 'inet filter cfsync6']);
    const there = textOf(observed.around);
    expect(there).toMatch(/^flush set inet filter cfsync4\nadd element inet filter cfsync4 \{\n/m);
    expect(there).not.toContain('elements = {');
    const absent = textOf({ ...observed.around, sets: [] });
    expect(absent).toMatch(/^add set inet filter cfsync4 \{ .* elements = \{\n\t[\d./]+,\n/m);
    expect(absent).not.toMatch(/flush set|add element/);
  });

  it('takes away all of it and nothing else', async () => {
    const observed = await nftables.observe(hostWith('ours', ourSets), nftables.options({}));
    const text = nftables
      .plan(nftables.nothing, observed)
      .map((s) => (s.kind === 'run' ? s.command.stdin : ''))
      .join('');
    const jump = observed.around.rules.find((r) => r.comment === 'cfsync' && r.chain === 'input')!;
    expect(text).toBe(
      [
        `delete rule inet filter input handle ${jump.handle}`,
        'flush chain inet filter cfsync',
        'delete chain inet filter cfsync',
        'delete set inet filter cfsync4',
        'delete set inet filter cfsync6',
        '',
      ].join('\n'),
    );
  });

  it("leaves a set that a rule of the admin's uses", async () => {
    const observed = await nftables.observe(hostWith('shared', sharedSets), nftables.options({}));
    const [unhook, sweep] = nftables
      .plan(nftables.nothing, observed)
      .map((s) => (s.kind === 'run' ? s.command.stdin : ''));
    expect(unhook).toMatch(/^delete rule inet filter input handle \d+\n$/);
    expect(sweep).toContain('delete set inet filter cfsync6');
    expect(sweep).not.toContain('delete set inet filter cfsync4');
  });

  it('leaves a jump on the way back where it stands, whatever the admin added below it or deleted', async () => {
    const observed = await nftables.observe(hostWith('ours', ourSets), nftables.options({}));
    const then = (before: number | null) => ({
      ...observed.owned,
      tables: observed.owned.tables.map((t) => ({
        ...t,
        jumps: t.jumps.map((jump) => ({ ...jump, before })),
      })),
    });
    const rules = observed.around.rules.filter((r) => r.chain === 'input');
    const jump = rules.findIndex((r) => r.comment === 'cfsync');
    const add: Rule = { ...rules[0]!, handle: 999, expr: [{ drop: null }] };
    const around = { ...observed.around, rules: [...observed.around.rules, add] };
    for (const before of [null, 999, 12_345])
      expect(nftables.plan(then(before), { ...observed, around })).toEqual([]);
    // Not where it would stand below what it stood before.
    expect(jump).toBeGreaterThan(0);
    expect(nftables.plan(then(rules[jump - 1]!.handle), observed)).toHaveLength(1);
    // And at the top, where it is gone together with what it stood before.
    const gone = observed.around.rules.filter((r) => r.comment !== 'cfsync' || r.chain !== 'input');
    const [step] = nftables.plan(then(12_345), {
      owned: then(null),
      around: { ...observed.around, rules: gone },
    }) as readonly RunStep[];
    expect(step!.command.stdin).toBe(
      'insert rule inet filter input jump cfsync comment "cfsync"\n',
    );
  });

  it('puts a jump right that stands below a drop', async () => {
    const sets = ourSets;
    const options = nftables.options({});
    const observed = await nftables.observe(hostWith('misplaced', sets), options);
    const { owned } = nftables.want(desired(), options, observed.around);
    const [step] = nftables.plan(owned, observed);
    const drop = observed.around.rules.find((r) => r.expr.some((e) => 'drop' in e))!;
    expect(step!.kind === 'run' && step!.command.stdin).toMatch(
      new RegExp(
        `^insert rule inet filter input handle ${drop.handle} jump cfsync comment "cfsync"\\ndelete rule inet filter input handle \\d+\\n$`,
      ),
    );
  });
});

describe('observe', () => {
  it('has nothing on a host without rules', async () => {
    const { owned } = await nftables.observe(hostWith('empty'), nftables.options({}));
    expect(owned).toEqual(nftables.nothing);
  });

  it.each([
    [
      'Operation not permitted (you must be root)\nnetlink: Error: cache initialization failed: Operation not permitted\n',
      'no permission',
    ],
    [
      'src/mnl.c:60: Unable to initialize Netlink socket: Protocol not supported\n',
      'not supported',
    ],
    ['something else\n', 'broken'],
  ])('names the reason of %j', async (stderr, reason) => {
    const host = recorded({
      answers: { 'nft -j -t list ruleset': { code: 1, stdout: '', stderr } },
    });
    await expect(nftables.observe(host, nftables.options({}))).rejects.toMatchObject({ reason });
  });

  it('refuses output that is not a rule set', () => {
    expect(() => parseListing('')).toThrow('not JSON');
    expect(() => parseListing('{}')).toThrow('no rule set');
  });

  it('names sets that it did not make, and refuses to plan over them', async () => {
    const observed = await nftables.observe(hostWith('wrong-set', wrongSet), nftables.options({}));
    expect(observed.around.mismatches).toEqual([
      expect.stringContaining('set inet cfsync cfsync4'),
    ]);
    expect(() => nftables.want(desired(), nftables.options({}), observed.around)).toThrow(
      'cfsync remove --backend nftables',
    );
  });
});

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
    expect(notices).toContain('; and 4 more); to take them over, name those ports as well');
    expect(notices).toMatch(
      /serves something else as well stays as it is \(add rule [^;]*192\.0\.2\.0\/24[^;]*; element inet filter merged \{ 172\.64\.0\.0-172\.72\.255\.255 \}; set inet filter used\)/,
    );
    expect(notices).toContain('brings them back');
    const gone = parseListing(listings.leftovers).rules.length - observed.around.rules.length;
    expect(gone).toBe(observed.owned.strays!.filter((s) => 'rule' in s).length);
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
        rules: rules.map(({ kind, handle, chain }) => ruleOf(kind, handle, chain)),
        chains: [
          { ...name, chain: 'input', base },
          ...['script', 'cfsync'].map((chain) => ({ ...name, chain })),
        ],
        owner: [],
        dormant: [],
        sets: [],
        shared: [],
        bridges: [],
        defaultRoutes: [],
        legacy: false,
        mismatches: [],
        accepted: [],
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
