import { describe, expect, it } from 'vitest';
import type { NftAround } from '../../../renderers/nftables/around.ts';
import nftables from '../../../renderers/nftables/index.ts';
import type { Rule } from '../../../src/filters/nft/listing.ts';
import type { RunStep } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded } from '../../helpers/host.ts';
import { withSingleFlags } from '../../helpers/nft.ts';
import {
  flushedSet,
  leftoverSets,
  listings,
  ourSets,
  sharedSets,
} from '../../fixtures/nftables/listings.ts';
import { files, hostWith, wantOn } from './host.ts';

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
      const observed = await nftables.observe(
        recorded({ answers: single(answers), files }),
        options,
      );
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
