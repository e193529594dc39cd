import { describe, expect, it } from 'vitest';
import nftables, { type NftAround } from '../../renderers/nftables.ts';
import { parseListing, type Rule } from '../../src/nft/listing.ts';
import type { Desired, RunStep } from '../../src/renderer.ts';
import { desired } from '../helpers/desired.ts';
import { golden } from '../helpers/golden.ts';
import { recorded } from '../helpers/host.ts';
import {
  flushedSet,
  listings,
  ourSets,
  ownerText,
  sharedSets,
  wrongSet,
} from '../fixtures/nftables/listings.ts';

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
