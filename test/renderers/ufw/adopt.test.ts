import { describe, expect, it } from 'vitest';
import ufw from '../../../renderers/ufw/index.ts';
import { merge } from '../../../src/prefix.ts';
import type { Desired, Step } from '../../../src/renderer.ts';
import { sections, type Case } from '../../fixtures/ufw/hosts.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { four, observe, refusal, rules, rules6, settings } from './given.ts';

describe('adopt', () => {
  /** As if they had been published before: the first was replaced, the others are what `four` lacks. */
  const known = merge(bundled, { v4: ['104.16.0.0/12', '199.27.128.0/21'], v6: [] });

  async function adopted(
    name: Case,
    changes: Partial<Desired> = {},
    files: Record<string, string> = {},
  ) {
    const goal = desired({ ranges: four, ...changes });
    const seen = await observe(name, files);
    const observed = ufw.adopt!(seen, goal, known);
    const { owned, notices } = ufw.want(goal, null, observed.around);
    const steps = ufw.plan(owned, observed);
    return { seen, observed, before: observed.owned, owned, notices, steps };
  }
  const texts = (steps: readonly Step[]): Record<string, string> =>
    Object.fromEntries(steps.flatMap((s) => (s.kind === 'file' ? [[s.path, s.content!]] : [])));
  const rulesOf = (text: string): string => /### RULES ###\n[^]*?### END RULES ###/.exec(text)![0];
  const tuples = (text: string): string[] => text.match(/^### tuple ###.*$/gm) ?? [];

  it.each([
    ['adopted', {}],
    ['adopted-udp', { udpPorts: [443] }],
    ['adopted-one-port', { tcpPorts: [443] }],
    ['adopted-more-ports', { tcpPorts: [80, 443, 8443] }],
  ] as const)('what scripts left (%s)', async (golden_, changes) => {
    const { before, notices, steps } = await adopted('leftovers', changes);
    const lines = [
      ...before.strays!.map(
        ({ text, prefixes, beyond }) =>
          `${text} (${prefixes.join()})${beyond === undefined ? '' : `: ends ${beyond}`}`,
      ),
      ...notices.map((n) => `${n.level}: ${n.text}`),
      ...steps.map((s) => `step: ${s.summary}`),
      ...Object.values(texts(steps)).map(rulesOf),
    ];
    golden(`ufw/${golden_}.txt`, `${lines.join('\n')}\n`);
  });

  it('leaves all other rules as they are, in their order', async () => {
    const { steps, before } = await adopted('leftovers');
    for (const [path, text] of Object.entries(texts(steps))) {
      const gone = before.strays!.map(({ part }) => part.trimStart().split('\n')[0]);
      expect(gone.length).toBeGreaterThan(0);
      expect(tuples(text).filter((line) => !line.endsWith('comment=636673796e63'))).toEqual(
        tuples(sections('leftovers')[path]!).filter((line) => !gone.includes(line)),
      );
    }
  });

  it('keeps ours where theirs stood: a ban that held goes on to hold, one that did not does not begin', async () => {
    const ranges = { v4: ['104.16.0.0/13', '104.24.0.0/14', '173.245.48.0/20'], v6: [] };
    const order = (text: string): string[] =>
      tuples(text)
        .map((line) => line.split(' '))
        .filter((words) => /^(104|173)/.test(words[8]!))
        .map((words) => `${words[3]} ${words[8]}`);
    const { steps } = await adopted('leftovers', { ranges });
    expect(order(texts(steps)[rules]!)).toEqual([
      'allow 173.245.48.0/20',
      'allow 104.16.0.0/13',
      'allow 104.24.0.0/14',
      'deny 104.16.0.7',
    ]);
    const ban =
      '\n### tuple ### deny any any 0.0.0.0/0 any 104.24.0.9 in\n-A ufw-user-input -s 104.24.0.9 -j DROP\n';
    const banned = sections('leftovers')[rules]!.replace(
      /(?=\n### tuple ### allow tcp 80,443 \S+ any 104)/,
      ban,
    );
    const later = await adopted('leftovers', { ranges }, { [rules]: banned });
    expect(order(texts(later.steps)[rules]!)).toEqual([
      'allow 173.245.48.0/20',
      'deny 104.24.0.9',
      'allow 104.16.0.0/13',
      'allow 104.24.0.0/14',
      'deny 104.16.0.7',
    ]);
  });

  it('has nothing left to do on what it wrote', async () => {
    const { steps, owned } = await adopted('leftovers');
    const then = await adopted('leftovers', {}, texts(steps));
    expect(then.before.strays).toBeUndefined();
    expect(then.owned).toEqual(owned);
    expect(then.steps.map((s) => s.summary)).toEqual([
      // The captured kernel has the old rules.
      'ufw: load /etc/ufw/user.rules',
      'ufw: load /etc/ufw/user6.rules',
    ]);
  });

  it('goes back to the same bytes, from every step', async () => {
    const { steps, before } = await adopted('leftovers');
    const written = texts(steps);
    for (const paths of [[rules, rules6], [rules], []]) {
      const files = Object.fromEntries(paths.map((path) => [path, written[path]!]));
      for (const observed of [
        (await adopted('leftovers', {}, files)).observed,
        await observe('leftovers', files),
      ]) {
        const back = ufw.plan(before, observed);
        const old = sections('leftovers');
        expect(texts(back)).toEqual(Object.fromEntries(paths.map((path) => [path, old[path]])));
        expect(back.filter((s) => s.kind === 'run')).toHaveLength(paths.length);
      }
    }
  });

  it('leaves every state alone that can be recorded', async () => {
    const cases: readonly Case[] = [
      ...(['inactive', 'enabled', 'admin', 'ours', 'ours-not-loaded', 'open'] as const),
      ...(['denied', 'clash', 'leftovers', 'no-ipv6', 'no-chains'] as const),
    ];
    for (const name of cases) {
      const seen = await observe(name);
      for (const look of [seen, ufw.adopt!(seen, desired({ ranges: four }), known)])
        expect(ufw.plan(look.owned, look), name).toEqual([]);
    }
  });

  it('goes back to ours and theirs, where both stood', async () => {
    const [, theirs] = /### RULES ###\n([^]*?)\n### END RULES ###/.exec(
      sections('leftovers')[rules]!,
    )!;
    const mixed = sections('ours')[rules]!.replace(
      /(?=\n### tuple ### allow tcp 80,443 \S+ any 198)/,
      theirs!,
    );
    const files = { [rules]: mixed };
    const { steps, before } = await adopted('ours', { tcpPorts: [443] }, files);
    const back = ufw.plan(before, await observe('ours', texts(steps)));
    // Ours come back together; theirs find their places among them.
    const together = await adopted('ours', { tcpPorts: [443] }, texts(back));
    expect(together.before.strays).toHaveLength(before.strays!.length);
    expect(together.before.v4.blocks).toEqual(before.v4.blocks);
    expect(ufw.plan(before, together.observed).filter((s) => s.kind === 'file')).toEqual([]);
    const same = await adopted('ours', {}, files);
    const again = ufw.plan(same.before, await observe('ours', texts(same.steps)));
    expect(texts(again)[rules]).toBe(mixed);
  });

  it('finds the place of ours again, which theirs stood before, like ours', async () => {
    const plain = sections('ours')[rules]!;
    const theirs = plain
      .match(/\n### tuple ### .* comment=636673796e63\n.*\n/g)!
      .map((part) => part.replace(' comment=636673796e63', ''));
    const text = plain.replace('### RULES ###\n', `### RULES ###\n${theirs.join('')}`);
    const { steps, before } = await adopted(
      'ours',
      { tcpPorts: [443, 80, 8443] },
      { [rules]: text },
    );
    expect(before.strays).toHaveLength(2);
    const back = ufw.plan(before, await observe('ours', texts(steps)));
    expect(texts(back)[rules]).toBe(text);
    const nothing = ufw.plan(before, await observe('ours', { [rules]: text }));
    expect(nothing.filter((s) => s.kind === 'file')).toEqual([]);
  });

  it('keeps what the admin did meanwhile, also to a rule of theirs', async () => {
    const { steps, before } = await adopted('leftovers');
    const tuple = (words: string, rule: string): string =>
      `\n### tuple ### ${words}\n-A ufw-user-input ${rule}\n`;
    const first = tuple('deny any any 0.0.0.0/0 any 203.0.113.9 in', '-s 203.0.113.9 -j DROP');
    const deny = tuple(
      'deny any any 0.0.0.0/0 any 198.41.128.0/17 in',
      '-s 198.41.128.0/17 -j DROP',
    );
    const text = texts(steps)[rules]!;
    const later = text
      .replace('### RULES ###\n', `### RULES ###\n${first}`)
      .replace(/\n### tuple ### allow tcp 25 .*\n.*\n/, '')
      .replace('\n### END RULES', `${deny}\n### END RULES`);
    const back = ufw.plan(before, await observe('leftovers', { [rules]: later }));
    const old = sections('leftovers')[rules]!;
    expect(texts(back)[rules]).toBe(
      old
        .replace('### RULES ###\n', `### RULES ###\n${first}`)
        .replace(/\n### tuple ### allow tcp 25 .*\n.*\n/, '')
        .replace(/\n### tuple ### allow any any \S+ any 198.*\n.*\n/, '')
        .replace('\n### END RULES', `${deny}\n### END RULES`),
    );
  });

  it('leaves rules for Cloudflare that came later, when it goes back', async () => {
    const { steps, before } = await adopted('leftovers');
    const later =
      '\n### tuple ### allow tcp 443 0.0.0.0/0 any 103.21.244.0/22 in\n-A ufw-user-input -p tcp --dport 443 -s 103.21.244.0/22 -j ACCEPT\n';
    const text = texts(steps)[rules]!.replace('\n### END RULES', `${later}\n### END RULES`);
    const { observed } = await adopted('leftovers', {}, { [rules]: text });
    expect(observed.owned.strays).toHaveLength(
      1 + before.strays!.filter(({ family }) => family === 'v6').length,
    );
    expect(texts(ufw.plan(before, observed))[rules]).toBe(
      sections('leftovers')[rules]!.replace('\n### END RULES', `${later}\n### END RULES`),
    );
  });

  it('takes the identity of ours over, and refuses a deny with it all the same', async () => {
    const { before } = await adopted('clash', { ranges: { v4: four.v4, v6: [] } });
    expect(before.strays!.map((s) => s.text)).toEqual([
      'ufw allow from 173.245.48.0/20 to any port 80,443 proto tcp',
    ]);
    await expect(adopted('clash')).rejects.toThrow('1 rule without the comment cfsync has');
  });

  it('goes on to lockdown, where stale ranges would have been openings', async () => {
    const strangers = /\n### tuple ### \S+ \S+ \S+ \S+ \S+ (131|198\.51).*\n(-A .*\n)+/g;
    const files = {
      [rules]: sections('leftovers')[rules]!.replaceAll(strangers, ''),
      'iptables -w 10 -S': sections('leftovers')['iptables -w 10 -S']!.replaceAll(
        /^-A ufw-user-input -s (131|198\.51).*\n/gm,
        '',
      ),
    };
    const lockdown = { mode: 'lockdown', ranges: bundled } as const;
    // Without ports: a rule that is not of the form of ours, in the file and in the kernel.
    files[rules] = files[rules].replace(
      '\n### END RULES',
      '\n### tuple ### allow any any 0.0.0.0/0 any 104.16.0.0/12 in\n-A ufw-user-input -s 104.16.0.0/12 -j ACCEPT\n\n### END RULES',
    );
    files['iptables -w 10 -S'] += '-A ufw-user-input -s 104.16.0.0/12 -j ACCEPT\n';
    const { steps } = await adopted('leftovers', lockdown, files);
    expect(steps).toHaveLength(4);
    expect(
      (
        await refusal(
          'leftovers',
          { mode: 'lockdown', ranges: { v4: ['198.41.128.0/17'], v6: [] } },
          files,
        )
      ).join('\n'),
    ).toContain('delete it with: ufw delete allow from 104.16.0.0/12 to any port 80,443 proto tcp');
    // A rule of the same form in another chain is somebody else's.
    const kernel = `${files['iptables -w 10 -S']}-A ufw-before-input -s 104.16.0.0/12 -j ACCEPT\n`;
    await expect(
      adopted('leftovers', lockdown, { ...files, 'iptables -w 10 -S': kernel }),
    ).rejects.toThrow('IPv4 rules in the kernel that are not in');
  });

  it('leaves user6.rules alone while UFW does', async () => {
    const off = sections('leftovers')[settings]!.replace('IPV6=yes', 'IPV6=no');
    const { before, steps } = await adopted('leftovers', {}, { [settings]: off });
    expect(before.strays!.filter(({ family }) => family === 'v6')).toEqual([]);
    expect(Object.keys(texts(steps))).toEqual([rules]);
  });

  it('says nothing and counts nothing where there is nothing', async () => {
    const { seen, observed, notices } = await adopted('admin');
    expect(observed.owned).toEqual(seen.owned);
    expect(notices).toEqual([]);
  });
});
