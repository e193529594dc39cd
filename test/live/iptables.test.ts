/** iptables and ip6tables 1.8.9, both variants, and ipset 7.17, with real packets. */

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Lab, type Counts, type PerFamily } from './lab.ts';
import { describeLive } from './privileges.ts';

const open = { edge: 'open', stranger: 'open' } as const;
const closed = { edge: 'closed', stranger: 'closed' } as const;
const edgeOnly = { edge: 'open', stranger: 'closed' } as const;

const tools = ['iptables', 'ip6tables'] as const;
const alternatives = tools.flatMap((tool) => [tool, `${tool}-save`, `${tool}-restore`]);
const programs = ['iptables', 'ip6tables', 'iptables-legacy', 'iptables-nft', 'ipset', 'nft'];

/** Neighbour discovery must work whatever the policy. */
const basics = [
  '-A INPUT -i lo -j ACCEPT',
  '-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
  '-A INPUT -m conntrack --ctstate INVALID -j DROP',
  '-A INPUT -p ipv6-icmp -j ACCEPT',
];

class Origin {
  readonly lab: Lab;
  constructor(lab: Lab) {
    this.lab = lab;
  }

  /** As update-alternatives would, in the private /etc. */
  async choose(variant: 'nft' | 'legacy'): Promise<void> {
    for (const name of alternatives) {
      const chosen = name.replace('tables', `tables-${variant}`);
      await this.run('ln', '-sfn', `/usr/sbin/${chosen}`, `/etc/alternatives/${name}`);
    }
  }

  run(...argv: [string, ...string[]]): Promise<string> {
    return this.lab.origin.must(argv);
  }

  /** Loads the same rules of an admin into both families. */
  async load(table: string, policy: 'ACCEPT' | 'DROP', ...rules: string[]): Promise<void> {
    const chains = table === 'filter' ? [`:INPUT ${policy} [0:0]`] : [];
    for (const tool of tools) {
      const fit = rules.filter((rule) => tool === 'ip6tables' || !rule.includes('icmp'));
      const stdin = [`*${table}`, ...chains, ...fit, 'COMMIT', ''].join('\n');
      await this.lab.origin.must([`${tool}-restore`], { stdin });
    }
  }

  /** What is loaded, without what iptables-save says of itself and of time, and without counters. */
  async saved(): Promise<string> {
    const texts = await Promise.all(tools.map((tool) => this.run(`${tool}-save`)));
    return texts
      .join('')
      .replaceAll(/^#.*\n/gm, '')
      .replaceAll(/\[\d+:\d+\]/g, '[0:0]');
  }

  /** Empties the tables that are loaded, and forgets what was applied. */
  async reset(): Promise<void> {
    for (const variant of ['nft', 'legacy'])
      for (const tool of tools) {
        const saved = await this.run(`${tool}-${variant}-save`);
        const tables = [...saved.matchAll(/^\*(\S+)((?:\n:.*)*)/gm)].map(
          ([, name, chains]) =>
            `*${name}${chains!.replaceAll(/\n:(\S+) (\S+) .*/g, (_, chain: string, policy: string) => (policy === '-' ? '' : `\n:${chain} ACCEPT [0:0]`))}\nCOMMIT\n`,
        );
        if (tables.length > 0)
          await this.lab.origin.must([`${tool}-${variant}-restore`], { stdin: tables.join('') });
      }
    await this.run('nft', 'flush', 'ruleset');
    await this.run('ipset', 'destroy');
    await this.run('sh', '-c', 'rm -rf /run/lab/state/* /run/lab/list');
  }

  async cfsync(expected: number, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.lab.cfsync(args);
    expect(code, `${args.join(' ')}\n${stdout}${stderr}`).toBe(expected);
    return stdout + stderr;
  }

  apply(...args: string[]): Promise<string> {
    return this.cfsync(0, 'apply', '-b', 'iptables', '--source', 'bundled', ...args);
  }
}

const all = (counts: PerFamily<Counts>): Counts[] => [counts.v4, counts.v6!];

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
      test.for([
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
      ] as const)('%s', async ([, policy, rules, before]) => {
        await origin.load('filter', policy, ...rules);
        const admin = await origin.saved();
        for (const port of [80, 443]) await lab.expectVerdict(port, before);
        const other =
          admin.includes('DROP\n') || policy === 'DROP' || rules.length > 0 ? closed : open;

        await origin.apply(...form);
        for (const port of [80, 443]) await lab.expectVerdict(port, { ...before, edge: 'open' });
        await lab.expectVerdict(9999, other);

        await origin.apply('--mode', 'lockdown', ...form);
        for (const port of [80, 443]) await lab.expectVerdict(port, edgeOnly);
        await lab.expectVerdict(9999, other);
        await lab.expectVerdict(443, closed, 'udp');
        expect(await lab.origin.connect('127.0.0.1', 443)).toBe('open');
        expect(await lab.origin.connect(lab.origin.v6!, 443)).toBe('open');

        const applied = await origin.saved();
        expect(await origin.apply('--mode', 'lockdown', '--verbose', ...form)).toContain(
          'no changes',
        );
        expect(await origin.saved()).toBe(applied);
        await origin.cfsync(0, 'verify');

        await origin.apply(...form);
        for (const port of [80, 443]) await lab.expectVerdict(port, { ...before, edge: 'open' });
        await origin.cfsync(0, 'remove', '-b', 'iptables');
        for (const port of [80, 443]) await lab.expectVerdict(port, before);
        expect(withoutEmpty(await origin.saved())).toBe(withoutEmpty(admin));
        expect(await origin.run('ipset', 'list', '-n')).toBe('');
      });
    });
  });
});

/** iptables has no command to delete a table; an empty one filters nothing. */
function withoutEmpty(saved: string): string {
  return saved.replaceAll(/^\*.*\n(:\S+ ACCEPT \[0:0\]\n)*COMMIT\n/gm, '');
}
