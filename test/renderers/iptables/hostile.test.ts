import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import iptables from '../../../renderers/iptables/index.ts';
import { BackendError, exit } from '../../../src/errors.ts';
import { siteOf } from '../../../renderers/iptables/sites.ts';
import { judge as judged, mayPass, type Site } from '../../../src/filters/place.ts';
import { linesOf, parseSave, targetOf, wordsOf } from '../../../src/filters/iptables/save.ts';
import type { Step } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded, type Recorded } from '../../helpers/host.ts';
import { damagedHost, runThrough, type Reach } from '../../helpers/hostile-host.ts';
import { cases, damaged, expectLinear, pumps, readOrRefused } from '../../helpers/hostile.ts';

function printed(name: string): string {
  return readFileSync(new URL(`../../fixtures/iptables/${name}`, import.meta.url), 'utf8');
}
function listing(name: string): string {
  return readFileSync(new URL(`../../fixtures/nftables/${name}.json`, import.meta.url), 'utf8');
}

function hostWith(v4: string, v6 = '', more: Readonly<Record<string, string>> = {}): Recorded {
  const version = (program: string) => [`${program} --version`, `${program} v1.8.9 (nf_tables)\n`];
  const programs = ['iptables', 'ip6tables'].flatMap((name) => [`${name}-save`, `${name}-restore`]);
  return {
    answers: {
      ...Object.fromEntries(programs.map(version)),
      'iptables-save': v4,
      'ip6tables-save': v6,
      'iptables-legacy-save': printed('empty-legacy.save'),
      'ip6tables-legacy-save': '',
      'nft -j -t list chains': listing('docker'),
      'nft -j -t list table inet filter': listing('policy-drop'),
      'ipset list -n': 'other\ncfsync6\ncfsync4\n',
      'ipset save cfsync4': printed('cfsync4.ipset'),
      'ipset save cfsync6': printed('cfsync6.ipset'),
      ...more,
    },
    files: {
      '/proc/net/route': readFileSync(
        new URL('../../fixtures/proc/route', import.meta.url),
        'utf8',
      ),
      '/proc/net/ipv6_route': readFileSync(
        new URL('../../fixtures/proc/ipv6_route', import.meta.url),
        'utf8',
      ),
      '/proc/net/ip_tables_names': 'filter\n',
    },
    folders: { '/proc/sys/net/ipv6': ['conf'], '/sys/module/ip_set': [] },
  };
}

const hosts: readonly Recorded[] = [
  hostWith(printed('ours.save'), printed('ours6.save')),
  hostWith(printed('ours-set.save'), printed('ours-set6.save')),
  hostWith(printed('ufw.save'), printed('ufw6.save')),
  hostWith(printed('docker.save')),
  hostWith(printed('drop-through-jump.save')),
  hostWith(printed('interface.save')),
  hostWith(printed('shared-set.save'), '', { 'ipset save cfsync4': printed('foreign.ipset') }),
  hostWith(printed('misplaced.save')),
  hostWith(printed('unclear.save')),
  hostWith(printed('incompatible.save')),
  hostWith(printed('raw.save')),
  hostWith(printed('leftovers.save'), '', {
    'ipset save cloudflare': printed('cloudflare.ipset'),
    'ipset save mixed': printed('mixed.ipset'),
    'ipset save exceptions': printed('exceptions.ipset'),
  }),
];

const pieces = [
  '\nCOMMIT\n*raw\n',
  ' -j CFSYNC',
  ' -j CFSYNC-ALLOW',
  '-A CFSYNC-ALLOW -s 1.1.1.0/24 -j ACCEPT\n',
  '-m comment --comment "a\nb" ',
  '-p tcp ',
  '-i eth+ ',
  '--dport ',
  ':CFSYNC - [0:0]\n',
  'add cfsync4 1.1.1.0/24\n',
];

/** What may stand in the input of iptables-restore and ipset restore. */
const line =
  /^(?:\*(?:filter|raw)|:CFSYNC(?:-ALLOW|-GUARD)? - \[0:0\]|COMMIT|-[FX] CFSYNC(?:-ALLOW|-GUARD)?|-[ADC] \S+ [^]+|-I \S+ \d+ [^]+|(?:create|add|swap|destroy) cfsync[46](?:-new)?(?: [\w:./ -]+)?)$/u;

function checkScript(step: Step): void {
  const lines = step.kind === 'run' ? step.command.stdin!.trimEnd().split('\n') : [];
  expect(lines.filter((text) => !line.test(text))).toEqual([]);
}

describe('what iptables-save and ipset save print', () => {
  test('is read or refused', () => {
    let taken = 0;
    const names = ['ours', 'ufw', 'docker', 'drop-through-jump', 'unclear', 'empty-legacy'];
    const texts = names.map((name) => printed(`${name}.save`));
    fc.assert(
      fc.property(damaged(fc.constantFrom(...texts), pieces), (text) => {
        const tables = readOrRefused(() => parseSave(text, 'iptables-save'), exit.failed);
        for (const { rules } of tables ?? [])
          for (const rule of rules) targetOf(wordsOf(rule.text));
        if (tables !== undefined) taken++;
      }),
      cases(5000),
    );
    expect(taken).toBeGreaterThan(1000);
    expect(taken).toBeLessThan(4500);
  });

  test.each([{}, { set: true, trusted: ['wg0'] }])(
    'leads to a plan or a refusal: %o',
    async (raw) => {
      const reach: Reach = { observed: 0, planned: 0 };
      await fc.assert(
        fc.asyncProperty(damagedHost(hosts, pieces), (host) =>
          runThrough(iptables, raw, host, reach, checkScript),
        ),
        cases(1500),
      );
      expect(reach.observed).toBeGreaterThan(500);
      expect(reach.planned).toBeGreaterThan(1000);
    },
    60_000,
  );

  test.each(pumps)('is read in time that grows with its length: %j', async (piece) => {
    for (const start of [
      '',
      '*filter\n:INPUT ACCEPT [0:0]\n-A INPUT ',
      '*filter\n-A INPUT --comment "',
    ])
      await expectLinear(
        (size) => readOrRefused(() => parseSave(start + piece.repeat(size), 'x'), exit.failed),
        piece,
      );
    await expectLinear((size) => wordsOf(piece.repeat(size)), piece);
  });
});

// What somebody may really have, or make.

const table = (chains: string, ...rules: readonly string[]): string =>
  [
    '*filter',
    ':INPUT ACCEPT [0:0]',
    ...chains.split(' ').map((c) => `:${c} - [0:0]`),
    ...rules,
    'COMMIT',
    '',
  ].join('\n');
/** INPUT of the host with these rules, behind eth0. */
async function site(text: string): Promise<Site> {
  const { around } = await iptables.observe(recorded(hostWith('')), iptables.options({}));
  return siteOf('v4', parseSave(text, 'iptables-save')[0]!, 'INPUT', around);
}
const judge = async (text: string) => judged(await site(text), desired());
const isDropped = async (text: string) => (await judge(text)).drops.length > 0;

describe('rules', () => {
  test('with a comment of several lines are read to their end', async () => {
    // As iptables 1.8.9 prints them, in both variants and with -S.
    const text = table(
      'x',
      '-A INPUT -m comment --comment "a\nb \\"q\\" \\\\ \\\' end" -j x',
      '-A x -m comment --comment "x\nCOMMIT\n*raw\n:FOO - [0:0]" -j DROP',
    );
    const [filter, ...others] = parseSave(text, 'iptables-save');
    expect(others).toEqual([]);
    expect(filter!.rules).toHaveLength(2);
    expect(wordsOf(filter!.rules[0]!.text)).toContain('a\nb "q" \\ \' end');
    expect(await isDropped(text)).toBe(true);
  });

  test('of ours with a comment of several lines are refused', async () => {
    const chains = ':CFSYNC - [0:0]\n:CFSYNC-ALLOW - [0:0]';
    for (const rule of ['-A INPUT', '-A CFSYNC']) {
      const text = `*filter\n:INPUT ACCEPT [0:0]\n${chains}\n${rule} -m comment --comment "a\nCOMMIT" -j CFSYNC-ALLOW\nCOMMIT\n`;
      await expect(
        iptables.observe(recorded(hostWith(text)), iptables.options({})),
      ).rejects.toThrow('has a comment of several lines, which iptables-restore does not read');
    }
  });

  test('with a comment that looks like a target lead where they lead', async () => {
    const lead = '-A INPUT -m comment --comment';
    expect(await isDropped(table('x', `${lead} -j -j DROP`))).toBe(true);
    expect(await isDropped(table('x', `${lead} -g -j x`))).toBe(false);
    expect(await isDropped(table('x', `${lead} -g -j x`, '-A INPUT -j DROP'))).toBe(true);
  });

  test('that are cut off, or something else, are refused', () => {
    const whole = printed('ufw.save');
    for (const text of [
      whole.slice(0, whole.indexOf('COMMIT')),
      whole.slice(0, -60),
      whole.replace('\nCOMMIT\n', '\n'),
      `${whole}x`,
      `${whole}-A INPUT -j DROP\n`,
      whole.replace(':INPUT DROP', '*INPUT DROP'),
      whole.replace('-A INPUT', '[0:0] -A INPUT'),
      'iptables-save: not a real program\n',
    ])
      expect(() => parseSave(text, 'iptables-save')).toThrow(BackendError);
    expect(() => parseSave(whole.slice(0, 100), 'ip6tables-save')).toThrow(
      'what ip6tables-save printed cannot be read: it is cut off; nothing was changed',
    );
    expect(parseSave(whole, 'iptables-save').map((t) => t.name)).toContain('filter');
    expect(parseSave('', 'iptables-save')).toEqual([]);
  });

  test('that lead to the same chains many times over are walked once', async () => {
    const names = Array.from({ length: 60 }, (_, i) => `c${i}`);
    const text = table(
      [...names, 'c60'].join(' '),
      '-A INPUT -j c0',
      ...names.flatMap((name, i) => [
        ...Array<string>(5).fill(`-A ${name} -j c${i + 1}`),
        `-A ${name} -m u32 --u32 0 -j DROP`,
      ]),
    );
    expect((await judge(text)).limit).toBe(0);
    const input = await site(text);
    expect(mayPass(input, input.chains.get(input.chain)![0]!, desired())).toBe(false);
  });

  test('that lead in a circle, or on and on, are walked', async () => {
    expect(await isDropped(table('a b', '-A INPUT -j a', '-A a -j b', '-A b -j a'))).toBe(false);
    const names = Array.from({ length: 20_000 }, (_, i) => `c${i}`);
    const rules = names.map((name, i) => `-A ${name} -j c${i + 1}`);
    expect(await isDropped(table(names.join(' '), '-A INPUT -j c0', ...rules))).toBe(false);
  });

  test('of any number are judged in time that grows with it', async () => {
    const shapes: ((i: number) => string)[] = [
      (i) => `-A INPUT -s 10.0.${i >> 8}.${i & 255}/32 -j DROP`,
      (i) => `-A INPUT -m limit --limit ${i}/sec -j DROP`,
      (i) => `-A INPUT -j c${i}`,
      (i) => `-A c${i} -j c${i * 7}`,
    ];
    for (const shape of shapes)
      await expectLinear(
        (size) => {
          const all = Array.from({ length: size }, (_, i) => i);
          const chains = all.map((i) => `c${i}`).join(' ');
          return judge(table(chains, ...all.map(shape), '-A INPUT -j c0'));
        },
        shape(1),
        2000,
      );
  });
});

describe('a set', () => {
  const observe = (text: string) =>
    iptables.observe(
      recorded(hostWith('', '', { 'ipset list -n': 'cfsync4\n', 'ipset save cfsync4': text })),
      iptables.options({ set: true }),
    );
  const create =
    'create cfsync4 hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1\n';

  test('with comments of several lines is read', async () => {
    // ipset 7.17.
    const { owned } = await observe(
      `${create}add cfsync4 1.2.5.0/24 comment "a\nadd cfsync4 9.9.9.0/24"\nadd cfsync4 1.2.3.4\n`,
    );
    expect(owned.ranges.v4).toEqual(['1.2.3.4/32', '1.2.5.0/24']);
  });

  test.each([
    ['', 'nothing'],
    ['add cfsync4 1.1.1.0/24\n', 'no head'],
    [create.replace('cfsync4', 'other'), 'another one'],
    [`${create}add cfsync4`, 'cut off'],
    [`${create}add cfsync4 \n`, 'no member'],
    [`${create}add other 1.1.1.0/24\n`, "another one's member"],
    [`${create}del cfsync4 1.1.1.0/24\n`, 'another command'],
  ])('%j is refused: %s', async (text) => {
    await expect(observe(text)).rejects.toThrow('what ipset save printed cannot be read');
  });
});

test('a text that ends within quotes is cut off', () => {
  expect(() => linesOf('a "b\n', 'x')).toThrow('it is cut off');
  expect(() => linesOf('a', 'x')).toThrow('it is cut off');
  expect(linesOf('a"b\n"c d"\n', 'x')).toEqual(['a"b', '"c d"']);
});
