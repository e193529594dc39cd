import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import fail2ban from '../../../renderers/fail2ban/index.ts';
import { BackendError, exit } from '../../../src/errors.ts';
import { settingsOf, withEntries, withoutEntries } from '../../../renderers/fail2ban/ignoreip.ts';
import { parseRanges } from '../../../src/prefix.ts';
import type { Outcome, Step } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import {
  apart,
  banned,
  configuration,
  fixtures,
  ignored,
  joined,
  script,
} from '../../helpers/fail2ban.ts';
import { recorded, type Recorded } from '../../helpers/host.ts';
import { damagedHost, runThrough, type Reach } from '../../helpers/hostile-host.ts';
import {
  askedOrRefused,
  cases,
  damaged,
  expectLinear,
  pumps,
  words,
} from '../../helpers/hostile.ts';

const labt = ignored('labt');
/** Question by question. */
const hosts: Readonly<Record<string, Recorded>> = Object.fromEntries(
  fixtures.map((name) => [name, apart(name)]),
);

const observe = (one: Recorded) => fail2ban.observe(recorded(joined(one)), {});
const answering = (name: string, answers: Readonly<Record<string, string>>): Recorded => ({
  ...hosts[name],
  answers: { ...hosts[name]!.answers, ...answers },
});
const printed = (name: string, command: string): string => {
  const said = hosts[name]!.answers![command]!;
  return typeof said === 'string' ? said : said.stdout;
};

const pieces = [
  "'labt': ['1.1.1.1', ",
  '"cfsync.invalid"',
  '"cfsync-probe"',
  '"127.0.0.1/8"',
  '\\x1b',
  '\\U00110000',
  '|- 1.1.1.1\n',
  '\n    104.16.0.0/13',
  '\nignoreip = ',
  '[labt]\n',
];

/** What may stand in our files: values of the admin's on the first line alone. */
const line = /^(?:|#[^]*|\[[^]+\]|ignoreip =[^]*| {4}[0-9a-f.:]+\/\d+)$/;

function checkStep(step: Step): void {
  if (step.kind !== 'file' || !step.path.includes('cfsync')) return;
  expect((step.content ?? '').split('\n').filter((text) => !line.test(text))).toEqual([]);
}

describe('what fail2ban answers', () => {
  test('leads to a plan or a refusal', async () => {
    const reach: Reach = { observed: 0, planned: 0 };
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          { weight: 5, arbitrary: damagedHost(Object.values(hosts), pieces).map(joined) },
          damagedHost(Object.values(hosts).map(joined), pieces),
        ),
        (one) => runThrough(fail2ban, {}, one, reach, checkStep),
      ),
      cases(600),
    );
    expect(reach.observed).toBeGreaterThan(150);
    expect(reach.planned).toBeGreaterThan(300);
  }, 60_000);

  test.each([
    ['bans', banned],
    ['bans', labt],
    ['plain', labt],
    ['sections', banned],
    ['sections', labt],
    ['sections', configuration],
  ])('of the host %s to %s is refused wherever it is cut off', async (name, command) => {
    const whole = printed(name, command);
    const same = await observe(hosts[name]!);
    const known: number[] = [];
    for (let length = 0; length < whole.length; length++) {
      const cut = answering(name, { [command]: whole.slice(0, length) });
      const found = await askedOrRefused(() => observe(cut), exit.failed);
      if (found === undefined) continue;
      known.push(length);
      expect(found).toEqual(same);
    }
    // A line feed that is missing at the end hides nothing where the text has an end of its own.
    expect(known).toEqual(command === banned ? [whole.length - 1] : []);
  });

  test.each([
    ['', 'nothing'],
    ['Lorem ipsum', 'something else'],
    ["[{'labt", 'cut off in a name'],
    ["{'labt': []}", 'no list'],
    ['[None]', 'a name of Python'],
    ["[{'labt': None}]", 'no list of bans'],
    ["[{'labt': [1]}]", 'a number for an address'],
    ["[{'labt': ['\\U00ffffff']}]", 'a character that there is none of'],
    ["[{'a\\nb': []}]", 'a name of two lines'],
    ["[{'a\\x1b[2Jb': []}]", 'a name that does things to a terminal'],
    ["[{'': []}]", 'no name'],
    ["[{'labt': []}] and more", 'more than a list'],
    ["[{'labt': []}]'", 'a quote too many'],
    ['["labt"]', 'names alone'],
  ])('%j for the bans is refused: %s', async (answer) => {
    await expect(observe(answering('plain', { [banned]: answer }))).rejects.toThrow(
      'fail2ban: what fail2ban-client banned printed cannot be read',
    );
  });

  test.each([
    ['', 'nothing'],
    ['\n', 'an empty line'],
    ['nothing\nelse\n', 'something else'],
    ['ignored:\n', 'a heading alone'],
    ['ignored:\n|- 1.1.1.1\n`- \n', 'an entry that is empty'],
    ['ignored:\n|- 1.1.1.1\n', 'the first one alone'],
    ['ignored:\n`- 1.1.1.1\n|- 1.1.1.2\n', 'two that changed places'],
    ['ignored:\n`- 1.1.1.1 1.1.1.2\n', 'two in a line'],
    ['ignored\n`- 1.1.1.1\n', 'no heading'],
  ])('%j for the ignored addresses is refused: %s', async (answer) => {
    await expect(observe(answering('plain', { [labt]: answer }))).rejects.toThrow(
      'fail2ban: what fail2ban-client get labt ignoreip printed cannot be read',
    );
  });

  interface Found {
    loads: unknown;
    links: unknown;
    writable: unknown;
  }
  type Loads = { jails: unknown; skipped: unknown }[];
  const found = (change: (all: Found) => void): string => {
    const all = JSON.parse(printed('sections', configuration)) as Found;
    change(all);
    return JSON.stringify(all);
  };
  const load = (change: (loaded: Loads) => unknown): string =>
    found((all) => (all.loads = change(all.loads as Loads) ?? all.loads));
  test.each([
    ['one answer less', load((all) => all.slice(1))],
    ['one answer more', load((all) => [...all, all[0]])],
    ['no list', load((all) => Object.fromEntries(all.entries()))],
    ['null for an answer', load((all) => [null, ...all.slice(1)])],
    ['no jails', load((all) => void delete all[1]!.jails)],
    ['a list of jails', load((all) => void (all[1]!.jails = [['127.0.0.1']]))],
    ['a text for a list', load((all) => void (all[1]!.jails = { labt: '127.0.0.1' }))],
    ['a number for an address', load((all) => void (all[1]!.jails = { labt: [1] }))],
    ['two words for an address', load((all) => void (all[1]!.jails = { labt: ['a b'] }))],
    ['a line feed in an address', load((all) => void (all[1]!.jails = { labt: ['a\n[b]'] }))],
    ['a name of two lines', load((all) => void (all[1]!.jails = { 'a]\n[b': [] }))],
    ['null for what was skipped', load((all) => void (all[1]!.skipped = null))],
  ])('for the configuration is refused with %s', async (_, answer) => {
    await expect(observe(answering('sections', { [configuration]: answer }))).rejects.toThrow(
      'fail2ban: what fail2ban-client -d printed cannot be read',
    );
  });

  test.each([
    ['no list of links', found((all) => (all.links = 'jail.d/00-cfsync.conf'))],
    ['a number among the links', found((all) => (all.links = [1]))],
    ['a list', '[]'],
    ['a text', '"writable"'],
    ['no answer to whether it may be written to', found((all) => delete all.writable)],
  ])('for the folder is refused with %s', async (_, answer) => {
    await expect(observe(answering('sections', { [configuration]: answer }))).rejects.toThrow(
      /cannot be read|may not be written to/,
    );
  });

  const none = { code: 0, stdout: 'none\n', stderr: '' };
  test.each([
    ['no answer of a jail', { ignoreip: [] }],
    [
      'an answer too many',
      {
        ignoreip: [
          ['labt', none],
          ['labt', none],
        ],
      },
    ],
    ['the answer of another jail', { ignoreip: [['labx', none]] }],
    ['no name of a jail', { ignoreip: [null] }],
    ['no list of a name and an answer', { ignoreip: [{}] }],
    ['a text for the answer of a jail', { ignoreip: [['labt', 'none\n']] }],
    ['no code', { ignoreip: [['labt', { stdout: 'none\n', stderr: '' }]] }],
    ['no output', { ignoreip: [['labt', { code: 0, stderr: '' }]] }],
    ['no bans', { banned: undefined }],
  ])('in one is refused with %s', async (_, change) => {
    const { answers, ...host } = joined(hosts.plain!);
    const { stdout } = answers![script] as Outcome;
    const whole = { ...(JSON.parse(stdout) as object), ...change };
    const asked = fail2ban.observe(
      recorded({ ...host, answers: { [script]: JSON.stringify(whole) } }),
      {},
    );
    await expect(asked).rejects.toThrow(/^fail2ban: what fail2ban-client.* printed cannot be read/);
  });

  test.each([banned, labt])('may not come: %s', async (question) => {
    const said = { code: null, ended: 'did not end within 30 s', stdout: '', stderr: '' };
    const host = { ...hosts.plain, answers: { ...hosts.plain!.answers, [question]: said } };
    await expect(observe(host as unknown as Recorded)).rejects.toThrow(
      `${question} did not end within 30 s`,
    );
  });

  test('may name jails as every object has them', async () => {
    for (const name of words('constructor __proto__ toString hasOwnProperty')) {
      const loaded = printed('plain', configuration).replaceAll('"labt"', JSON.stringify(name));
      const one = answering('plain', {
        [banned]: `[{'${name}': ['104.16.0.1']}]`,
        [ignored(name)]: printed('bans', labt),
        [configuration]: loaded,
      });
      const observed = await observe(one);
      expect(observed.around.jails.map((jail) => jail.name)).toEqual([name]);
      expect(Object.keys(observed.owned.server!)).toEqual([name]);
      const { owned } = fail2ban.want(desired(), {}, observed.around);
      expect(Object.keys(owned.server!)).toEqual([name]);
      expect(fail2ban.plan(owned, observed).at(-1)!.summary).toContain(`jail ${name}`);
    }
  });

  test('is read as Python writes it, whatever the names and addresses', async () => {
    const text = fc.string({
      unit: fc.oneof(
        fc.constantFrom('"', "'", '\\', 'é', '\u{1f600}'),
        fc.string({ minLength: 1, maxLength: 1, unit: 'grapheme-ascii' }),
      ),
      minLength: 1,
      maxLength: 8,
    });
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(text, fc.array(text, { maxLength: 3 }), { maxKeys: 3 }),
        async (jails) => {
          const names = Object.keys(jails);
          const one = answering('plain', {
            [banned]: `[${names.map((name) => `{${repr(name)}: [${jails[name]!.map(repr).join(', ')}]}`).join(', ')}]\n`,
            ...Object.fromEntries(names.map((name) => [ignored(name), 'none\n'])),
          });
          const { server } = (await observe(one)).around;
          expect(Object.fromEntries(server!.map(({ name, bans }) => [name, bans]))).toEqual(jails);
        },
      ),
      cases(500),
    );
  });

  test.each(pumps)('is read in time that grows with its length: %j', async (piece) => {
    for (const start of ['', "[{'", "[{'labt': ['"])
      await expectLinear(
        (size) =>
          observe(answering('plain', { [banned]: start + piece.repeat(size) })).catch(
            () => undefined,
          ),
        `${start} ${piece}`,
      );
    await expectLinear(
      (size) =>
        observe(answering('plain', { [labt]: `:\n\`- ${piece.repeat(size)}` })).catch(
          () => undefined,
        ),
      piece,
    );
  });

  test.each([
    ['a name', `[{'${'\\x61'.repeat(4_000_000)}': []}]`],
    ['lists in lists', '['.repeat(1_000_000)],
  ])('is refused when it is longer than anybody could mean: %s', async (_, answer) => {
    const asked = observe(answering('plain', { [banned]: answer }));
    const error: unknown = await asked.catch((cause: unknown) => cause);
    expect(error instanceof BackendError).toBe(true);
  });
});

/** As Python 3.11 prints a text of printable characters. */
function repr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  return quote + text.replaceAll('\\', '\\\\').replaceAll(quote, `\\${quote}`) + quote;
}

/** Whether a text is what another one is with something cut out. */
function isLeftOf(rest: string, whole: string): boolean {
  let at = 0;
  for (let i = 0; i < rest.length; i++, at++) {
    at = whole.indexOf(rest[i]!, at);
    if (at < 0) return false;
  }
  return true;
}

describe("the admin's files", () => {
  const text = `# mine
[DEFAULT]
ignoreip = 127.0.0.1/8 ::1, 104.16.0.0/13
    203.0.113.9 ; office
    # 198.51.100.1
    2400:cb00::/32
bantime = 1h

[sshd]
enabled : true
IgnoreIP: 172.64.0.0/13 # not a comment
`;
  const known = parseRanges(['104.16.0.0/13', '172.64.0.0/13', '2400:cb00::/32']);
  const isTheirs = (entry: string): boolean => [...known.v4, ...known.v6].includes(entry);
  const entriesIn = (one: string) =>
    settingsOf(one).flatMap((setting) => setting.lines.flatMap((each) => each.entries));

  test('are read to the letter, and edited without a change to anything else', () => {
    fc.assert(
      fc.property(damaged(text, pieces), (one) => {
        const wrong = entriesIn(one).filter(
          (e) => one.slice(e.start, e.start + e.text.length) !== e.text,
        );
        expect(wrong).toEqual([]);
        const rest = withoutEntries(one, (_, entry) => isTheirs(entry.text));
        expect(isLeftOf(rest, one)).toBe(true);
        expect(entriesIn(rest).filter((entry) => isTheirs(entry.text))).toEqual([]);
        expect(withEntries(one, 'DEFAULT', [])).toBe(one);
      }),
      cases(1000),
    );
  });

  test.each(pumps)('are read in time that grows with their length: %j', async (piece) => {
    for (const start of [
      '',
      '[DEFAULT]\n',
      '[DEFAULT]\nx',
      '[DEFAULT]\nignoreip = ',
      '[DEFAULT]\nignoreip = 1\n    ',
    ])
      await expectLinear(
        (size) =>
          withoutEntries(`${start}${piece.repeat(size)}x`, (_, entry) => entry.text === 'a'),
        `${start} ${piece}`,
      );
  });

  const adopted = async (jails: string): Promise<void> => {
    const one = { ...hosts.leftovers, files: { '/etc/fail2ban/jail.local': jails } };
    const all = fail2ban.adopt!(await observe(one), desired(), known);
    expect(all.owned.strays?.length).toBeGreaterThan(0);
    expect(fail2ban.plan(fail2ban.nothing, all).length).toBeGreaterThan(0);
  };

  test('may set ignoreip very often', async () => {
    await expectLinear(
      (size) => adopted(`[DEFAULT]\n${'ignoreip = 104.16.0.0/13\n'.repeat(size)}`),
      'settings',
      100,
    );
  });
});
