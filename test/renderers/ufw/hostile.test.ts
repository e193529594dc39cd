import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import ufw from '../../../renderers/ufw/index.ts';
import { exit } from '../../../src/errors.ts';
import type { Step } from '../../../src/renderer.ts';
import { parseListing, parseRule } from '../../../renderers/ufw/chains.ts';
import { block, edit, ownBlocks, parseRules } from '../../../renderers/ufw/rules.ts';
import { recordedUfw, sections, type Case } from '../../fixtures/ufw/hosts.ts';
import { recorded } from '../../helpers/host.ts';
import { damagedHost, runThrough, type Reach } from '../../helpers/hostile-host.ts';
import { cases, damaged, expectLinear, pumps, readOrRefused } from '../../helpers/hostile.ts';

const names: readonly Case[] = [
  'inactive',
  'admin',
  'ours',
  'ours-not-loaded',
  'open',
  'denied',
  'clash',
  'no-ipv6',
];
const rules = sections('ours')['/etc/ufw/user.rules']!;
const listing = sections('ours')['iptables -w 10 -S']!;

const pieces = [
  '### tuple ### allow tcp 80,443 0.0.0.0/0 any 1.1.1.0/24 in comment=636673796e63\n',
  ' comment=636673796e63',
  '### tuple ###',
  '### RULES ###\n',
  '-A ufw-user-input -p tcp --dport 443 -s 1.1.1.0/24 -j ACCEPT\n',
  '-m comment --comment "a\nb" ',
  ' in_eth0!out_lo',
  'route:',
  '\u2028',
];

const ours = ['104.16.0.0/13', '173.245.48.0/20'].map((prefix) =>
  block('v4', 'tcp', '80,443', prefix),
);

function checkRestore(step: Step): void {
  // What is loaded is what is written, and a program that reads it whole gets it whole.
  expect(step.check?.stdin).toBe(step.kind === 'file' ? step.content : undefined);
}

describe("ufw's rules file", () => {
  test('is read whole, and edited without a change to anything but ours', () => {
    let taken = 0;
    fc.assert(
      fc.property(damaged(rules, pieces), (text) => {
        const file = readOrRefused(() => parseRules(text, 'user.rules'), exit.failed);
        if (file === undefined) return;
        taken++;
        const { head, segments } = file;
        expect(head + segments.map((s) => s.lead + s.body).join('')).toBe(text);
        const own = ownBlocks(file).blocks;
        const rest = segments.filter((s) => !own.includes(s.body));
        expect(edit(file, [])).toBe(head + rest.map((s) => s.lead + s.body).join(''));
        const then = parseRules(edit(file, ours), 'user.rules');
        expect(ownBlocks(then).blocks).toEqual([...ours].sort());
        const others = then.segments.filter((s) => !ours.includes(s.body));
        expect(others.map((s) => s.body)).toEqual(rest.map((s) => s.body));
      }),
      cases(4000),
    );
    expect(taken).toBeGreaterThan(1000);
    expect(taken).toBeLessThan(3800);
  });

  test.each(['\r', '\u2028', '\u2029', '\u0085', '\0'])('keeps a line with %j in it', (odd) => {
    const text = rules.replace('\n### END RULES ###', `# mine${odd}and more\n### END RULES ###`);
    expect(text).not.toBe(rules);
    expect(edit(parseRules(text, 'user.rules'), ownBlocks(parseRules(rules, '')).blocks)).toBe(
      text,
    );
  });

  test.each(['nowhere', '1.2.3.4/33', '10.0.0.1/8', '2400:cb00::/32', '0.0.0.0/0', '1.2.3'])(
    'with our comment on a rule from %j is left as it is',
    async (from) => {
      const odd = rules.replaceAll('173.245.48.0/20', from);
      const host = recorded(recordedUfw('ours', { '/etc/ufw/user.rules': odd }));
      const { owned } = await ufw.observe(host, null);
      expect(owned.ranges.v4).toEqual(['198.41.128.0/17']);
    },
  );

  test.each(pumps)('is read in time that grows with its length: %j', async (piece) => {
    for (const start of [
      '',
      rules.replace('COMMIT', '# COMMIT\nCOMMIT\n'),
      `${rules}### tuple ### `,
    ])
      await expectLinear(
        (size) => readOrRefused(() => parseRules(start + piece.repeat(size), 'x'), exit.failed),
        piece,
      );
  });
});

describe('what iptables -S prints', () => {
  test('is read or refused', () => {
    let taken = 0;
    fc.assert(
      fc.property(damaged(listing, pieces), (text) => {
        if (readOrRefused(() => parseListing(text, 'iptables -S'), exit.failed)) taken++;
      }),
      cases(3000),
    );
    expect(taken).toBeGreaterThan(500);
    expect(taken).toBeLessThan(2700);
  });

  test('is refused when it is cut off, or something else', () => {
    for (const text of [
      listing.slice(0, -1),
      `${listing}x\n`,
      '-P INPUT\n',
      '-N\n',
      'iptables: no\n',
    ])
      expect(() => parseListing(text, 'iptables -S')).toThrow(
        'what iptables -S printed cannot be read',
      );
  });

  test('says nothing else for words that every object knows', () => {
    for (const word of ['constructor', '__proto__', 'toString', 'valueOf']) {
      const rule = parseRule(`-A ufw-user-input -m string --algo bm ${word} -j DROP`)!;
      expect(rule.target).toBe('DROP');
      expect(rule.conditions).toContain(word);
    }
  });

  test.each(pumps)('is read in time that grows with its length: %j', async (piece) => {
    for (const start of ['', '-A INPUT -m comment --comment "', "-A INPUT -m comment --comment '"])
      await expectLinear(
        (size) =>
          readOrRefused(() => parseListing(`${start}${piece.repeat(size)}\n`, 'x'), exit.failed),
        piece,
      );
    await expectLinear((size) => parseRule(`-A INPUT ${piece.repeat(size)}`), piece);
  });
});

test('a host with UFW leads to a plan or a refusal', async () => {
  const reach: Reach = { observed: 0, planned: 0 };
  const hosts = names.map((name) => recordedUfw(name));
  await fc.assert(
    fc.asyncProperty(damagedHost(hosts, pieces), (host) =>
      runThrough(ufw, {}, host, reach, checkRestore),
    ),
    cases(1500),
  );
  expect(reach.observed).toBeGreaterThan(300);
  expect(reach.planned).toBeGreaterThan(600);
}, 60_000);
