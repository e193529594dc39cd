import { describe, expect, it } from 'vitest';
import nftables from '../../../renderers/nftables/index.ts';
import type { Desired } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { listings, ownerText } from '../../fixtures/nftables/listings.ts';
import { recorded } from '../../helpers/host.ts';
import { hostWith, wantOn } from './host.ts';

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

  it('stands before what it cannot judge', async () => {
    // Nothing is known of the interfaces of this host.
    const host = recorded({ answers: { 'nft -j -t list ruleset': listings.unclear } });
    const { around } = await nftables.observe(host, nftables.options({}));
    const { owned, notices } = nftables.want(desired(), nftables.options({}), around);
    const [drop] = around.rules;
    expect(owned.tables.map((t) => t.jumps)).toEqual([[{ chain: 'input', before: drop!.handle }]]);
    expect(notices).toEqual([]);
  });

  it('does not mind what drops on another interface, and leaves bans before it', async () => {
    const { at, notes } = await places('unclear');
    expect(at).toEqual([['inet cfsync', []]]);
    expect(notes).toEqual([expect.stringContaining('changes nothing today')]);
  });

  it.each([
    ['vmap', 'inet filter', 'vmap'],
    ['iifname', 'inet fw', 'jump'],
    ['namedmap', 'inet fw', 'vmap'],
    ['inverted', 'inet filter', 'drop'],
  ] as const)('stands before what leads to the drop: %s', async (ruleset, table, statement) => {
    const { owned, observed } = await wantOn(ruleset);
    const before = observed.around.rules.find(
      ({ chain, expr }) => chain === 'input' && expr.some((e) => statement in e),
    )!;
    expect(owned.tables.map((t) => [`${t.family} ${t.name}`, t.jumps])).toEqual([
      [table, [{ chain: 'input', before: before.handle }]],
    ]);
  });

  it('names the rule where no place helps, and what to do', async () => {
    const { at, notes } = await places('raw-drop');
    expect(at).toEqual([['inet cfsync', []]]);
    expect(notes).toEqual([
      expect.stringMatching(/^chain inet raw prerouting .*handle \d+.*by hand/),
    ]);
  });

  it('calls a rule for all of the ranges no open port', async () => {
    expect((await places('full-list')).notes).toEqual([]);
  });

  it("takes lower-case chains of ip filter for nft's own", async () => {
    expect((await places('lowercase')).at.map(([name]) => name)).toEqual([
      'ip filter',
      'ip6 filter',
    ]);
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
