import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import ufw from '../../../renderers/ufw/index.ts';
import { block, edit, parseRules } from '../../../renderers/ufw/rules.ts';
import type { FileStep, RunStep } from '../../../src/renderer.ts';
import { sections } from '../../fixtures/ufw/hosts.ts';
import { bundled } from '../../helpers/desired.ts';
import { four, observe, rules, rules6, wantOn } from './given.ts';

const inChain = (text: string): string[] => text.match(/^-A ufw-user-input .*$/gm) ?? [];

/** The rules of a chain after what `iptables-restore -n` is given. */
function carriedOut(script: string, rules: readonly string[]): readonly string[] {
  const list = [...rules];
  for (const [, kind, chain, number, words] of script.matchAll(/^-([ID]) (\S+) (\d* ?)(.*)$/gm)) {
    const line = `-A ${chain} ${words}`;
    if (kind === 'I') {
      list.splice(Number(number) - 1, 0, line);
      continue;
    }
    const at = list.indexOf(line);
    if (at < 0) throw new Error(`there is no ${line}`);
    list.splice(at, 1);
  }
  return list;
}

describe('the plan', () => {
  it('writes both files and then loads both, each checked with what it writes', async () => {
    const { steps } = await wantOn('admin');
    expect(steps.map((s) => s.summary)).toEqual([
      "ufw: write /etc/ufw/user.rules: 2 rules of cfsync's",
      "ufw: write /etc/ufw/user6.rules: 2 rules of cfsync's",
      'ufw: load the change of /etc/ufw/user.rules',
      'ufw: load the change of /etc/ufw/user6.rules',
    ]);
    const [file, , load] = steps as [FileStep, FileStep, RunStep];
    expect(file.check!.argv).toEqual(['iptables-restore', '-w', '10', '-n', '--test']);
    expect(load.command.argv).toEqual(['iptables-restore', '-w', '10', '-n']);
    expect(file.check!.stdin).toBe(file.content);
    expect(load.command.stdin).toBe(`*filter
-I ufw-user-input 1 -p tcp -m multiport --dports 80,443 -s 173.245.48.0/20 -j ACCEPT
-I ufw-user-input 2 -p tcp -m multiport --dports 80,443 -s 198.41.128.0/17 -j ACCEPT
COMMIT
`);
  });

  it('takes the kernel where the file goes, and touches no rule of the admin', async () => {
    const admin = parseRules(sections('admin')[rules]!, rules);
    const kernel = sections('admin')['iptables -w 10 -S']!;
    const theirs = inChain(kernel);
    const prefixes = bundled.v4.slice(0, 8);
    const blocks = fc
      .record({ some: fc.subarray(prefixes), ports: fc.constantFrom('80,443', '443') })
      .map(({ some, ports }) => some.map((prefix) => block('v4', 'tcp', ports, prefix)));
    let moved = 0;
    await fc.assert(
      fc.asyncProperty(blocks, blocks, fc.nat(8), async (now, then, at) => {
        const text = edit(admin, now, at);
        const left = [...theirs];
        // As the kernel prints them: ours as they are, each of the admin's in its turn.
        const live = inChain(text).map((line) =>
          now.join('').includes(line) ? line : left.shift()!,
        );
        const listing = kernel.split('\n').filter((line) => !theirs.includes(line));
        listing.splice(listing.length - 1, 0, ...live);
        const observed = await observe('admin', {
          [rules]: text,
          'iptables -w 10 -S': listing.join('\n'),
        });
        const wanted = { ...observed.owned, v4: { at, blocks: then, loaded: true } };
        const steps = ufw.plan(wanted, observed);
        if (steps.length === 0) return;
        const [file, load] = steps as readonly [FileStep, RunStep];
        expect(carriedOut(load.command.stdin!, inChain(text))).toEqual(inChain(file.content!));
        const words = load.command.stdin!.match(/-[ID] .*$/gm)!;
        expect(words.every((line) => / -s [\d./]+ -j ACCEPT$/.test(line))).toBe(true);
        moved++;
      }),
      { numRuns: 300 },
    );
    expect(moved).toBeGreaterThan(200);
  });

  it.each<[what: string, kernel: (text: string) => string, file?: (text: string) => string]>([
    [
      'lacks a rule of the file',
      (kernel) => kernel.replace(/-A ufw-user-input -p tcp -m tcp --dport 22 .*\n/, ''),
    ],
    [
      'has a rule more',
      (kernel) =>
        kernel.replace(/(?=-A ufw-user-input )/, '-A ufw-user-input -s 192.0.2.8/32 -j DROP\n'),
    ],
    [
      'bans somebody else',
      (kernel) => kernel.replace('-s 192.0.2.7/32 -j DROP', '-s 192.0.2.8/32 -j DROP'),
    ],
    [
      'accepts for another address',
      (kernel) => kernel.replace('-d 192.0.2.1/32', '-d 192.0.2.2/32'),
    ],
    ['has another limit', (kernel) => kernel.replace('--name DEFAULT', '--name mine')],
    [
      'has rules of ours that log',
      (kernel) => kernel,
      (file) =>
        file.replace(
          '### RULES ###\n',
          '### RULES ###\n\n### tuple ### allow_log tcp 80 0.0.0.0/0 any 173.245.48.0/20 in comment=636673796e63\n-A ufw-user-logging-input -p tcp --dport 80 -s 173.245.48.0/20 -j LOG\n',
        ),
    ],
  ])('loads the whole file where the kernel %s', async (_, kernel, file = (text) => text) => {
    const [text, listing] = [sections('admin')[rules]!, sections('admin')['iptables -w 10 -S']!];
    expect([kernel(listing), file(text)]).not.toEqual([listing, text]);
    const { steps } = await wantOn(
      'admin',
      {},
      { [rules]: file(text), 'iptables -w 10 -S': kernel(listing) },
    );
    const [write, , load] = steps as [FileStep, FileStep, RunStep];
    expect(load.command.stdin).toBe(write.content);
  });

  it('loads the whole file where no rule of it differs', async () => {
    const file = sections('ours')[rules]!.replace('173.245.48.0/20 in', '173.245.48.0/20 - - in');
    const { steps } = await wantOn('ours', {}, { [rules]: file });
    const [write, load] = steps as [FileStep, RunStep];
    expect(write.content).toBe(sections('ours')[rules]);
    expect(load.command.stdin).toBe(write.content);
  });

  it('loads the whole file where rules of ours have to come before others', async () => {
    const wall = '-A ufw-user-input -p tcp --dport 443 -j DROP\n';
    const text = sections('ours')[rules]!.replace(
      '### RULES ###\n',
      `### RULES ###\n\n### tuple ### deny tcp 443 0.0.0.0/0 any 0.0.0.0/0 in\n${wall}`,
    );
    const kernel = sections('ours')['iptables -w 10 -S']!.replace(/(?=-A ufw-user-input )/, wall);
    const more = { ranges: { ...four, v4: ['1.1.1.0/24', ...four.v4] } };
    const { steps } = await wantOn('ours', more, { [rules]: text, 'iptables -w 10 -S': kernel });
    const [write, load] = steps as [FileStep, RunStep];
    expect(write.content!.indexOf(wall)).toBeGreaterThan(write.content!.indexOf('198.41.128.0/17'));
    expect(load.command.stdin).toBe(write.content);
  });

  it('loads the whole file where more than 1000 rules come and go', async () => {
    const many = (count: number) => ({
      ranges: {
        v4: Array.from({ length: count }, (_, i) => `100.${64 + (i >> 7)}.${(i % 128) * 2}.0/24`),
        v6: [],
      },
    });
    for (const [count, whole] of [
      [1000, false],
      [1001, true],
    ] as const) {
      const [write, load] = (await wantOn('admin', many(count))).steps as [FileStep, RunStep];
      expect(load.command.stdin === write.content).toBe(whole);
    }
  });

  it('comes to the bytes that ufw prepend wrote', async () => {
    const { steps } = await wantOn('admin');
    const texts = (steps as FileStep[]).slice(0, 2).map((s) => s.content);
    const theirs = sections('ours');
    expect(texts).toEqual([theirs[rules], theirs[rules6]]);
  });

  it('has nothing to do on what ufw wrote, and takes exactly that away again', async () => {
    const { steps, observed } = await wantOn('ours');
    expect(steps).toEqual([]);
    const removal = ufw.plan(ufw.nothing, observed) as FileStep[];
    const theirs = sections('admin');
    expect(removal.slice(0, 2).map((s) => s.content)).toEqual([theirs[rules], theirs[rules6]]);
  });

  it('loads where the kernel lacks what the files have, and writes nothing', async () => {
    const { steps, observed } = await wantOn('ours-not-loaded');
    expect(steps.map((s) => s.summary)).toEqual([
      'ufw: load /etc/ufw/user.rules',
      'ufw: load /etc/ufw/user6.rules',
    ]);
    expect(ufw.print(observed.owned)[0]!.content).toContain(
      "# The kernel's chain ufw-user-input differs from these rules.",
    );
  });

  it('loads nothing where UFW is inactive or its chains are missing, and says so', async () => {
    for (const [name, said] of [
      ['inactive', 'note: UFW is inactive'],
      ['no-chains', 'warning: UFW is enabled, but its IPv4 rules are not in force'],
    ] as const) {
      const { steps, notices } = await wantOn(name);
      expect(steps.map((s) => s.kind)).toEqual(['file', 'file']);
      expect(notices[0]).toContain(said);
    }
  });

  it.each([
    ['a rule is missing', (s: string) => s.replace(/-A ufw-user-input -s 173.*\n/, '')],
    [
      'a range is left over',
      (s: string) =>
        s.replace(
          /(?=-A ufw-user-input -s 173)/,
          '-A ufw-user-input -s 203.0.113.0/24 -p tcp -m multiport --dports 80,443 -j ACCEPT\n',
        ),
    ],
    [
      'a drop stands first',
      (s: string) => s.replace(/(?=-A ufw-user-input -s 173)/, '-A ufw-user-input -j DROP\n'),
    ],
    ['a rule drops', (s: string) => s.replace(/(-s 198.*) -j ACCEPT/, '$1 -j DROP')],
    ['a rule has another condition', (s: string) => s.replace(/(-s 198\S+)/, '$1 -i eth1')],
    ['a rule is for one address', (s: string) => s.replace(/(-s 198\S+)/, '$1 -d 192.0.2.1/32')],
    [
      'a rule is for some source ports',
      (s: string) => s.replace(/(-s 198.*) -j/, '$1 -m multiport --sports 1:1023 -j'),
    ],
  ])('sees in the kernel that %s', async (_, change) => {
    const kernel = sections('ours')['iptables -w 10 -S']!;
    const { observed } = await wantOn('ours', {}, { 'iptables -w 10 -S': change(kernel) });
    expect(change(kernel)).not.toBe(kernel);
    expect([observed.owned.v4.loaded, observed.owned.v6.loaded]).toEqual([false, true]);
  });

  it('takes rules of the admin for what they are, in the file and in the kernel', async () => {
    const { owned } = await observe('admin');
    expect(owned).toMatchObject({ v4: { blocks: [], loaded: true }, v6: { loaded: true } });
  });

  it('goes back to the recorded state on the file as it is then', async () => {
    const before = (await observe('ours')).owned;
    const { steps } = await wantOn('ours', { tcpPorts: [443] });
    const changed = (steps[0] as FileStep).content!;
    const later = changed.replace(
      '\n### END RULES',
      '\n### tuple ### allow tcp 8080 0.0.0.0/0 any 0.0.0.0/0 in\n-A ufw-user-input -p tcp --dport 8080 -j ACCEPT\n\n### END RULES',
    );
    const back = ufw.plan(before, await observe('ours', { [rules]: later }));
    const text = (back[0] as FileStep).content!;
    expect(text).toContain('--dport 8080');
    expect(text.replace(/\n### tuple ### allow tcp 8080.*\n.*\n/, '')).toBe(
      sections('ours')[rules],
    );
  });

  it('leaves rules where they stand, whatever the admin put before them or deleted', async () => {
    const before = (await observe('ours')).owned;
    for (const at of [before.v4.at + 1, Math.max(before.v4.at - 1, 0)]) {
      const then = { ...before, v4: { ...before.v4, at } };
      expect(ufw.plan(then, await observe('ours'))).toEqual([]);
    }
    // Ours went, and the admin closed the port in the meantime: not below that.
    const wall =
      '\n### tuple ### deny tcp 443 0.0.0.0/0 any 0.0.0.0/0 in\n-A ufw-user-input -p tcp --dport 443 -j DROP\n';
    const closed = sections('admin')[rules]!.replace('### RULES ###\n', `### RULES ###\n${wall}`);
    const [step] = ufw.plan(
      { ...before, v4: { ...before.v4, at: 2 } },
      await observe('admin', { [rules]: closed }),
    ) as readonly FileStep[];
    const text = step!.content!;
    expect(text.indexOf('comment=636673796e63')).toBeLessThan(text.indexOf('deny tcp 443'));
  });
});
