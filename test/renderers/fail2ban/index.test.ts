import { describe, expect, it } from 'vitest';
import fail2ban from '../../../renderers/fail2ban/index.ts';
import type { Fail2banAround, Fail2banOwned } from '../../../renderers/fail2ban/state.ts';
import { BackendError, CfsyncError } from '../../../src/errors.ts';
import { digest } from '../../../src/digest.ts';
import { merge, none, parseRanges } from '../../../src/prefix.ts';
import type { Command, Desired, FileStep, Outcome, Step } from '../../../src/renderer.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { apart, configuration, fixtures, joined } from '../../helpers/fail2ban.ts';
import { golden } from '../../helpers/golden.ts';
import { recorded } from '../../helpers/host.ts';

const early = '/etc/fail2ban/jail.d/00-cfsync.conf';
const late = '/etc/fail2ban/jail.d/zz-cfsync.local';

/** The hosts that are described in test/fixtures/fail2ban/README.md. */
type Fixture =
  | 'plain'
  | 'bans'
  | 'applied'
  | 'lagging'
  | 'known'
  | 'overridden'
  | 'carried'
  | 'sections'
  | 'empty'
  | 'leftovers'
  | 'broken'
  | 'stopped'
  | 'stale'
  | 'nobody';

/** @param files Those of ours that are there, in place of the captured ones. */
function hostOf(fixture: Fixture, files?: Readonly<Record<string, string>>) {
  const host = joined(apart(fixture));
  if (files === undefined) return recorded(host);
  const folder = '/etc/fail2ban/jail.d';
  const theirs = host.folders![folder]!.filter((name) => !name.includes('cfsync'));
  const ours = Object.keys(files).map((path) => path.slice(folder.length + 1));
  return recorded({ ...host, files, folders: { [folder]: [...theirs, ...ours].sort() } });
}

const observe = (fixture: Fixture, files?: Readonly<Record<string, string>>) =>
  fail2ban.observe(hostOf(fixture, files), {});

async function wantOn(fixture: Fixture, changes: Partial<Desired> = {}) {
  const observed = await observe(fixture);
  const { owned, notices } = fail2ban.want(desired(changes), {}, observed.around);
  return { owned, notices, observed, steps: fail2ban.plan(owned, observed) };
}

const said = (steps: readonly Step[]): string[] =>
  steps.map(({ summary }) => summary.replace('fail2ban: ', ''));

function fileSteps(steps: readonly Step[]): FileStep[] {
  return steps.filter((step) => step.kind === 'file');
}

const isFinal = (step: Step): boolean => step.kind === 'run' && step.final === true;

const text = (owned: Fail2banOwned): string =>
  fail2ban
    .print(owned)
    .map(({ path, content }) => `== ${path}\n${content}`)
    .join('');

describe('render', () => {
  const cases: [string, Partial<Desired>][] = [
    ['default', {}],
    ['v4-only', { ranges: { v4: bundled.v4, v6: [] } }],
    ['one-prefix', { ranges: parseRanges(['2400:cb00::/32']) }],
    // A list has no mode, no ports and no extra prefixes.
    ['default', { mode: 'lockdown', tcpPorts: [443], udpPorts: [443] }],
    ['default', { extra: parseRanges(['10.1.0.0/16']) }],
  ];
  it.each(cases)('%s', (name, changes) => {
    for (const _ of ['once', 'again']) {
      const { owned, notices } = fail2ban.want(desired(changes), {});
      expect(notices).toEqual([]);
      golden(`fail2ban/${name}.txt`, text(owned));
    }
  });

  it('prints nothing for a host that cfsync never touched', async () => {
    expect(fail2ban.print(fail2ban.nothing)).toEqual([]);
    expect(fail2ban.print((await observe('plain')).owned)).toEqual([]);
  });
});

describe('options', () => {
  it('are none', () => {
    expect(fail2ban.options({})).toEqual({});
    expect(() => fail2ban.options({ chain: 'auto' })).toThrow(CfsyncError);
  });
});

describe('want', () => {
  const cases: Fixture[] = ['plain', 'known', 'overridden', 'sections', 'empty', 'stopped'];
  it.each(cases)('on the host %s', async (fixture) => {
    for (const _ of ['once', 'again']) {
      const { owned, notices, steps } = await wantOn(fixture);
      expect(owned.ranges).toEqual(bundled);
      const lines = [
        ...notices.map((notice) => `${notice.level}: ${notice.text}`),
        ...said(steps).map((line) => `step: ${line}`),
      ];
      golden(`fail2ban/host-${fixture}.txt`, `${lines.join('\n')}\n${text(owned)}`);
    }
  });

  it('reads back what it writes, in both files', async () => {
    for (const fixture of ['plain', 'sections'] as const) {
      const { owned } = await wantOn(fixture);
      const { early: first, late: last } = owned;
      const files = { ...(first && { [early]: first }), ...(last && { [late]: last }) };
      expect((await observe(fixture, files)).owned.ranges).toEqual(bundled);
    }
  });

  it('takes a large list', async () => {
    const entries = Array.from({ length: 20_000 }, (_, i) => `20.${i >> 8}.${i & 255}.0/25`);
    const ranges = parseRanges(entries);
    const { owned, steps } = await wantOn('sections', { ranges });
    const files = { [late]: owned.late! };
    expect((await observe('sections', files)).owned.ranges).toEqual(ranges);
    expect(steps).toHaveLength(3);
  });
});

describe('plan', () => {
  it('is empty once applied, in both forms', async () => {
    for (const fixture of ['applied', 'carried', 'known'] as const)
      expect((await wantOn(fixture)).steps).toEqual([]);
    expect(fail2ban.plan(fail2ban.nothing, await observe('plain'))).toEqual([]);
  });

  it('writes a first file in one step, and lifts bans after the reload', async () => {
    const { steps } = await wantOn('plain');
    expect(said(steps)).toEqual([
      `write ${early}`,
      'reload the configuration',
      'lift what is banned of the ranges by then',
    ]);
    expect(steps[0]).toMatchObject({ expect: null, mode: 0o644 });
    expect(steps.map(isFinal)).toEqual([false, false, true]);
  });

  it('checks everything before the first step, and only there', async () => {
    for (const fixture of ['plain', 'overridden', 'sections', 'lagging'] as const) {
      const { steps } = await wantOn(fixture);
      expect(steps.map((step) => step.check !== undefined)).toEqual(steps.map((_, i) => i === 0));
    }
    const { steps } = await wantOn('sections');
    const expected = JSON.parse(steps[0]!.check!.stdin!) as unknown;
    expect(expected).toMatchObject({
      running: true,
      jails: {
        labt: [
          '127.0.0.1/8',
          '203.0.113.77',
          '#',
          'office',
          'fe80::1%eth0',
          ...bundled.v4,
          ...bundled.v6,
        ],
        labu: ['203.0.113.1', ...bundled.v4, ...bundled.v6],
      },
    });
  });

  it('reloads a server that lags behind, and touches no file', async () => {
    expect(said((await wantOn('lagging')).steps)).toEqual([
      'reload the configuration',
      'lift what is banned of the ranges by then',
    ]);
  });

  it('writes no command while the server does not run', async () => {
    for (const fixture of ['stopped', 'stale'] as const)
      expect(said((await wantOn(fixture)).steps)).toEqual([`write ${early}`]);
  });

  it('deletes in two steps around the reload', async () => {
    const observed = await observe('applied');
    const steps = fail2ban.plan(fail2ban.nothing, observed);
    expect(said(steps)).toEqual([
      `mark ${early} as not loaded yet`,
      'reload the configuration',
      `delete ${early}`,
    ]);
    const [marked, gone] = fileSteps(steps);
    expect(marked).toMatchObject({ expect: digest(observed.owned.early!) });
    expect(marked!.content).toMatch(/^# Not loaded yet;/);
    expect(marked!.content).not.toMatch(/^[^#\n]/m);
    expect(gone).toMatchObject({ content: null, expect: digest(marked!.content!) });
  });

  it('goes on after a removal that was cut off, and takes nothing of ours for the admin', async () => {
    const [marked] = fileSteps(fail2ban.plan(fail2ban.nothing, await observe('applied')));
    const host = { [early]: marked!.content! };
    const observed = await observe('applied', host);
    // Nothing of ours is in the configuration by now, but the server has it still.
    const around = { ...observed.around, effective: { labt: [] } };
    expect(said(fail2ban.plan(fail2ban.nothing, { ...observed, around }))).toEqual([
      `mark ${early} as not loaded yet`,
      'reload the configuration',
      `delete ${early}`,
    ]);
    expect(observed.owned.ranges).toEqual(none);
  });

  it('writes the file that takes over before it deletes the other', async () => {
    const { steps } = await wantOn('overridden');
    expect(said(steps)).toEqual([
      `write ${late}`,
      `mark ${early} as not loaded yet`,
      'reload the configuration',
      `delete ${early}`,
      'lift what is banned of the ranges by then',
    ]);
  });

  it('keeps what was ignored at run time only', async () => {
    const { steps } = await wantOn('bans');
    expect(steps).toContainEqual(
      expect.objectContaining({
        command: {
          argv: [
            'fail2ban-client',
            'set',
            'labt',
            'addignoreip',
            '203.0.113.128/25',
            '203.0.113.5',
          ],
          timeout: 120_000,
        },
      }),
    );
    expect(said(steps).indexOf('reload the configuration')).toBe(1);
    expect(said(steps)[2]).toContain('203.0.113.5');
  });

  it('lifts bans inside the ranges, and tells of wider ones', async () => {
    const { steps, notices } = await wantOn('bans');
    expect(said(steps).at(-1)).toBe(
      'lift 3 bans: 173.245.48.10 (jail labt), 2400:cb00::10 (jail labt), 173.245.49.0/24 (jail labt)',
    );
    expect(steps.at(-1)).toMatchObject({
      final: true,
      ifLeft: true,
      command: { argv: ['fail2ban-client', 'unban', ...bundled.v4, ...bundled.v6] },
    });
    expect(notices.map(({ level }) => level)).toEqual(['warning', 'warning']);
    expect(notices[1]!.text).toContain('1 ban: 172.0.0.0/8 (jail labt)');
    const { notices: few } = await wantOn('bans', { ranges: parseRanges(['173.245.49.128/25']) });
    expect(few.map((notice) => notice.text).join()).toContain('1 ban: 173.245.49.0/24 (jail labt)');
  });

  it('lifts a ban made by hand without a reload', async () => {
    const observed = await observe('applied');
    const server = observed.around.server!.map((jail) => ({ ...jail, bans: ['2400:cb00::10'] }));
    const steps = fail2ban.plan(observed.owned, {
      ...observed,
      around: { ...observed.around, server },
    });
    expect(said(steps)).toEqual(['lift 1 ban: 2400:cb00::10 (jail labt)']);
  });

  it('puts recorded bytes back, unless the admin has changed his part since', async () => {
    const before = (await observe('carried')).owned;
    const tampered = { ...before, late: `${before.late}    198.51.100.0/24\n` };
    expect(fileSteps(fail2ban.plan(tampered, await observe('carried'))).at(-1)!.content).toBe(
      tampered.late,
    );
    const steps = fileSteps(fail2ban.plan(before, await observe('sections')));
    expect(steps.at(-1)!.content).toContain(
      'ignoreip = 127.0.0.1/8 203.0.113.77 # office fe80::1%%eth0',
    );
  });
});

describe('adopt', () => {
  const known = merge(bundled, parseRanges(['104.16.0.0/12']));
  const local = '/etc/fail2ban/jail.local';

  async function adopted(changes: Partial<Fail2banAround> = {}) {
    const seen = await observe('leftovers');
    const around = { ...seen.around, ...changes };
    const observed = fail2ban.adopt!({ ...seen, around }, desired(), known);
    const { owned, notices } = fail2ban.want(desired(), {}, observed.around);
    const steps = fail2ban.plan(owned, observed);
    return { seen, observed, before: observed.owned, owned, notices, steps };
  }
  type Adopted = Awaited<ReturnType<typeof adopted>>;

  /** The host after some of the steps. */
  const after = ({ seen }: Adopted, steps: readonly Step[], files: Record<string, string> = {}) => {
    const written = Object.fromEntries(
      fileSteps(steps).map(({ path, content }) => [path, content]),
    );
    const theirs: Record<string, string> = Object.fromEntries(
      Object.entries(seen.around.files).map(([name, now]) => [
        name,
        written[`/etc/fail2ban/${name}`] ?? now,
      ]),
    );
    return {
      owned: { ...seen.owned, early: written[early] ?? null, late: written[late] ?? null },
      around: { ...seen.around, files: { ...theirs, ...files } },
    };
  };

  it('takes the ranges out, in one go with ours in', async () => {
    const { before, owned, notices, steps } = await adopted();
    const lines = [
      ...before.strays!.map((stray) => `${stray.text} (${stray.prefixes.join(' ')})`),
      ...notices.map((notice) => `${notice.level}: ${notice.text}`),
      ...said(steps).map((line) => `step: ${line}`),
      ...fileSteps(steps).map(({ path, content }) => `== ${path}\n${content}`),
      `== before\n${text(before)}== wanted\n${text(owned)}`,
    ];
    golden('fail2ban/adopted.txt', `${lines.join('\n')}\n`);
  });

  it('tries the whole of it before the first step', async () => {
    const { steps } = await adopted();
    const [first] = steps;
    expect(JSON.parse(first!.check!.stdin!)).toMatchObject({
      files: { 'jail.local': fileSteps(steps).find(({ path }) => path === local)!.content },
      jails: { labv: ['8.8.8.0/24', ...bundled.v4, ...bundled.v6] },
    });
  });

  it('goes back to the same bytes from every step, and marks the way', async () => {
    const all = await adopted();
    const old = all.seen.around.files;
    for (let n = 0; n <= all.steps.length; n++) {
      const done = all.steps.slice(0, n);
      const host = after(all, done);
      const looks = [host, fail2ban.adopt!(host, desired(), known)];
      for (const look of looks) {
        const back = fileSteps(fail2ban.plan(all.before, look));
        const theirs = back
          .filter(({ path }) => path !== late)
          .map(({ path, content }) => [path.slice('/etc/fail2ban/'.length), content]);
        expect({ ...host.around.files, ...Object.fromEntries(theirs) }).toEqual(old);
        const ours = back.filter(({ path }) => path === late).map(({ content }) => content);
        expect(ours.map((content) => content?.split('\n')[0] ?? null)).toEqual(
          host.owned.late === null
            ? []
            : ['# Not loaded yet; cfsync apply or cfsync remove goes on from here. Before:', null],
        );
      }
    }
  });

  it('leaves every state alone that can be recorded, and one that it came back to', async () => {
    const usable = fixtures.filter((name) => name !== 'broken' && name !== 'nobody') as Fixture[];
    for (const fixture of usable) {
      const { owned, observed } = await wantOn(fixture);
      for (const files of [observed.owned, owned, fail2ban.nothing]) {
        const { early: first, late: last } = files;
        const seen = { ...observed, owned: { ...observed.owned, early: first, late: last } };
        for (const look of [seen, fail2ban.adopt!(seen, desired(), known)]) {
          // What lags behind its files is reloaded, and nothing else is done.
          const left = said(fail2ban.plan(look.owned, look).filter((step) => !isFinal(step)));
          expect(left, fixture).toEqual(fixture === 'lagging' ? ['reload the configuration'] : []);
        }
      }
    }
    // The admin has added a range since it was recorded: it stays as well.
    const { seen, owned } = await adopted();
    const applied = { ...seen, owned: { ...seen.owned, early: owned.early, late: owned.late } };
    const { owned: before, around } = fail2ban.adopt!(applied, desired(), known);
    const [first] = before.strays!;
    const later = { ...first!, values: ['103.22.200.0/22'], prefixes: ['103.22.200.0/22'] };
    const text = around.files[first!.file]!.replace('104.16.', '103.22.200.0/22 104.16.');
    const now = {
      owned: { ...before, strays: [...before.strays!, later] },
      around: { ...around, files: { ...around.files, [first!.file]: text } },
    };
    expect(text).not.toBe(around.files[first!.file]);
    for (const server of [null, around.server])
      expect(fail2ban.plan(before, { ...now, around: { ...now.around, server } })).toEqual([]);
  });

  it('puts the values to what the admin has written meanwhile', async () => {
    const all = await adopted();
    const now = after(all, all.steps);
    const edited = now.around.files['jail.local']!.replace(
      '203.0.113.77',
      '203.0.113.99 103.22.200.0/22',
    );
    const files = { 'jail.local': edited, 'jail.d/cf.conf': '[labx]\nignoreip = 8.8.8.0/24\n' };
    const looked = fail2ban.adopt!(after(all, all.steps, files), desired(), known);
    expect(looked.owned.strays!.map(({ values }) => values)).toEqual([['103.22.200.0/22']]);
    const back = fileSteps(fail2ban.plan(all.before, looked));
    expect(back.map(({ path }) => path)).not.toContain('/etc/fail2ban/jail.d/cf.conf');
    expect(back.find(({ path }) => path === local)!.content).toBe(
      edited
        .replace(
          'ignoreip =',
          'ignoreip = 173.245.48.0/20 104.16.0.0/12 2400:cb00::/32 2c0f:f248::/32 103.21.244.0/22',
        )
        .replace('ignoreip = %', 'ignoreip = 162.158.0.0/15 %'),
    );
  });

  it('marks a file of ours as not loaded even where none of them changes', async () => {
    const all = await adopted();
    const refers = 'ignoreip = %(known/ignoreip)s';
    const files = {
      'jail.local': all.seen.around.files['jail.local']!.replace(/ignoreip = 127[^[]*/, ''),
    };
    const seen = {
      owned: { ...all.seen.owned, early: all.owned.early, late: all.owned.late },
      around: { ...all.seen.around, files },
    };
    expect(files['jail.local']).toContain(refers);
    const traced = Object.fromEntries(
      Object.entries(seen.around.traced!).map(([jail, values]) => [
        jail,
        jail === 'labu' ? ['cfsync-0.invalid'] : values,
      ]),
    );
    const around = { ...seen.around, jails: [], defaults: null, traced };
    const observed = fail2ban.adopt!({ ...seen, around }, desired(), known);
    const { owned } = fail2ban.want(desired(), {}, observed.around);
    const settled = { ...observed, owned: { ...observed.owned, early: owned.early, late: null } };
    const steps = fail2ban.plan(owned, settled);
    expect(said(steps).slice(0, 4)).toEqual([
      `mark ${early} as not loaded yet`,
      `rewrite ${local}: Cloudflare's ranges leave ignoreip`,
      'reload the configuration',
      `write ${early}`,
    ]);
    const [mark] = fileSteps(steps);
    expect(mark!.content).toContain('\n# 162.158.0.0/15\n');
  });

  it('counts nothing where the values could not be followed, and says what is left', async () => {
    const { seen, observed, notices, steps } = await adopted({ traced: null });
    expect(observed.owned).toEqual(seen.owned);
    expect(notices.map((notice) => notice.text).join()).toContain(
      'left alone: jail labt ignores 173.245.48.0/20, 104.16.0.0/12, 2400:cb00::/32 and 2 more by',
    );
    expect(fileSteps(steps).map(({ path }) => path)).toEqual([late]);
  });

  it('leaves alone what a link leads to', async () => {
    const { before, steps } = await adopted({ links: ['jail.local'] });
    expect(new Set(before.strays!.map(({ file }) => file))).toEqual(new Set(['jail.d/cf.conf']));
    expect(fileSteps(steps).map(({ path }) => path)).not.toContain(local);
  });

  it('has nothing to do where nobody wrote anything', async () => {
    const seen = await observe('carried');
    const observed = fail2ban.adopt!(seen, desired(), known);
    expect(observed.owned).toEqual(seen.owned);
    expect(fail2ban.plan(observed.owned, observed)).toEqual([]);
  });
});

describe('a host that cannot be used', () => {
  it.each([
    ['broken', 'misconfigured', 'does not load'],
    ['nobody', 'no permission', 'run cfsync as root'],
  ] as const)('%s', async (fixture, reason, message) => {
    const error: unknown = await observe(fixture).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(BackendError);
    expect(error).toMatchObject({ reason, message: expect.stringContaining(message) as string });
  });

  it('broken: fail2ban says where', async () => {
    await expect(observe('broken')).rejects.toMatchObject({
      detail: [
        "Failed during configuration: While reading from '/etc/fail2ban/jail.local' [line 10]: option 'ignoreip' in section 'labt' already exists",
        'Init of command line failed',
      ],
    });
  });

  it('broken, although our early file would mend it', async () => {
    await expect(observe('known', {})).rejects.toThrow('does not load');
  });

  it('a file of ours that is a link', async () => {
    const host = apart('applied');
    const said = JSON.parse(host.answers![configuration] as string) as { links: string[] };
    said.links.push('jail.d/00-cfsync.conf');
    const answers = { ...host.answers, [configuration]: JSON.stringify(said) };
    const linked = recorded(joined({ ...host, answers }));
    await expect(fail2ban.observe(linked, {})).rejects.toThrow('is a symbolic link');
  });

  const missing = (program: string) =>
    new BackendError('not installed', `${program} is not installed`);
  it.each([
    ['fail2ban is', ['fail2ban-client'], 'fail2ban-client'],
    ['fail2ban and python3 are', ['fail2ban-client', 'python3'], 'fail2ban-client'],
    ['python3 is', ['python3'], 'python3'],
  ])('%s not installed', async (_, absent, named) => {
    const host = {
      ...recorded({}),
      query: async ({ argv: [program] }: Command): Promise<Outcome> => {
        if (absent.includes(program)) throw missing(program);
        return { code: program === 'python3' ? 127 : 0, stdout: '', stderr: '' };
      },
    };
    await expect(fail2ban.observe(host, {})).rejects.toThrow(missing(named));
  });

  it('no folder for our files', async () => {
    const host = apart('plain');
    const answers = { ...host.answers, [configuration]: 'null' };
    await expect(fail2ban.observe(recorded(joined({ ...host, answers })), {})).rejects.toThrow(
      'there is no /etc/fail2ban/jail.d',
    );
  });
});
