/** The frame of the doctor: order, limits, what cannot be checked, and how it is printed. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { defineCheck, type Check, type DoctorHost, type Finding } from '../../src/doctor/check.ts';
import { chosen, loadCheck } from '../../src/doctor/checks.ts';
import { checkNames } from '../../src/cli/flags.ts';
import { codeOf, examine, ranked, type Report } from '../../src/doctor/examine.ts';
import { asJson, asProbe, asText } from '../../src/doctor/report.ts';
import { BackendError, CfsyncError, exit } from '../../src/errors.ts';
import type { Command } from '../../src/renderer.ts';
import { doctorContext } from '../helpers/doctor.ts';
import { recorded } from '../helpers/host.ts';
import { violations } from '../helpers/schema.ts';

const finding = (title: string, more: Partial<Finding> = {}): Finding => ({
  level: 'problem',
  share: 'all',
  causes: [522],
  title,
  evidence: [],
  ...more,
});

const check = (name: string, ...findings: readonly Finding[]): Check<readonly Finding[]> =>
  defineCheck({
    name,
    title: name,
    observe: async () => findings,
    judge: (seen: readonly Finding[]) => seen,
  });

const refuses = (name: string, error: Error): Check =>
  defineCheck({
    name,
    title: name,
    observe: async () => {
      throw error;
    },
    judge: () => [],
  });

const look = (checks: readonly Check<any>[], host: DoctorHost = recorded({})) =>
  examine(checks, host, doctorContext());

describe('checks', () => {
  it.each(checkNames)(
    '%s has its name, a title of one line, and is in the manual',
    async (name) => {
      const found = await loadCheck(name);
      expect(found.name).toBe(name);
      expect(name).toMatch(/^[a-z0-9-]+$/);
      expect(found.title).toMatch(/^[^\n]{10,100}$/);
      const manual = readFileSync(
        join(import.meta.dirname, '..', '..', 'docs', 'doctor.md'),
        'utf8',
      );
      expect(manual).toMatch(new RegExp(`^\\| \`${name}\``, 'm'));
    },
  );

  it('are those of --only, less those of --skip, in their own order', () => {
    expect(chosen(undefined, undefined)).toEqual(checkNames);
    expect(chosen([checkNames[0]], undefined)).toEqual([checkNames[0]]);
    expect(chosen(undefined, [checkNames[0]])).toEqual(checkNames.slice(1));
  });

  it('are refused by a name that is none, with the nearest one', () => {
    expect(() => chosen(['listning'], undefined)).toThrow(
      expect.objectContaining({
        code: exit.usage,
        message:
          '--only: there is no check listning (did you mean listening?); cfsync doctor --list names them',
      }),
    );
    expect(() => chosen(undefined, ['nothing-like-it'])).toThrow('--skip: there is no check');
  });
});

describe('order', () => {
  it('is level, share, an error before none, then the order of the checks', async () => {
    const all = [
      finding('note of all', { level: 'note' }),
      finding('warning of a part', { level: 'warning', share: 'part' }),
      finding('warning of all without an error', { level: 'warning', causes: [] }),
      finding('warning of all', { level: 'warning' }),
      finding('what may be', { share: 'maybe' }),
      finding('a part'),
      finding('first of all'),
      finding('second of all'),
    ].map((one) => (one.title === 'a part' ? { ...one, share: 'part' as const } : one));
    const titles = [
      'first of all',
      'second of all',
      'a part',
      'what may be',
      'warning of all',
      'warning of all without an error',
      'warning of a part',
      'note of all',
    ];
    expect(ranked(all).map(({ title }) => title)).toEqual(titles);
    const { findings } = await look([check('a', ...all.slice(0, 7)), check('b', all[7]!)]);
    expect(findings.map(({ title }) => title)).toEqual(titles);
    expect(findings[1]!.check).toBe('b');
  });
});

describe('a check', () => {
  it('that cannot be made counts as neither, and is named with the reason', async () => {
    const report = await look([
      check('good'),
      refuses('bad', new CfsyncError(exit.failed, 'there is no such thing')),
      refuses('missing', new BackendError('not installed', 'nft is not installed')),
    ]);
    expect(report).toMatchObject({ checked: ['good'], findings: [], failed: [] });
    expect(report.unchecked).toEqual([
      { check: 'bad', why: 'there is no such thing' },
      { check: 'missing', why: 'nft is not installed' },
    ]);
    expect(codeOf(report)).toBe(exit.ok);
  });

  it('says to others than root what root would see', async () => {
    const context = { ...doctorContext(), isRoot: false };
    const checks = ['permission denied', 'nft: you must be root'].map((text, i) =>
      refuses(`c${i}`, new CfsyncError(exit.failed, text)),
    );
    const { unchecked } = await examine(checks, recorded({}), context);
    expect(unchecked.map(({ why }) => why)).toEqual([
      'permission denied; run it as root',
      'nft: you must be root',
    ]);
  });

  it('that fails by a mistake of its own fails the doctor, and not the other checks', async () => {
    const report = await look([refuses('broken', new TypeError('oops')), check('b', finding('x'))]);
    expect(report.failed).toEqual([{ check: 'broken', error: expect.any(TypeError) }]);
    expect(report.findings).toHaveLength(1);
    expect(codeOf(report)).toBe(exit.failed);
    expect(asProbe(report)).toEqual({ level: 'error', text: 'UNKNOWN: check broken failed: oops' });
  });

  it('that hangs costs its own time limit, not the report', async () => {
    const hangs = defineCheck<never>({
      name: 'hangs',
      title: 'hangs',
      observe: () => new Promise(() => {}),
      judge: () => [],
    });
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const ended = vi.fn<(report: Report) => void>();
      void look([hangs, check('b', finding('x'))]).then(ended);
      await vi.advanceTimersByTimeAsync(8999);
      expect(ended).not.toHaveBeenCalled();
      await vi.advanceTimersByTimeAsync(1);
      const why = 'it did not end within 9 s';
      expect(ended).toHaveBeenCalledWith(
        expect.objectContaining({ unchecked: [{ check: 'hangs', why }], checked: ['b'] }),
      );
    } finally {
      vi.useRealTimers();
    }
  });

  it('gets each answer of the host once, and no program runs for longer than 4 s', async () => {
    const asked: Command[] = [];
    const read: string[] = [];
    const host: DoctorHost = {
      ...recorded({}),
      query: async (command) => {
        asked.push(command);
        return { code: 0, stdout: '', stderr: '' };
      },
      read: async (path) => {
        read.push(path);
        return undefined;
      },
    };
    const asks = (name: string): Check =>
      defineCheck({
        name,
        title: name,
        observe: async (on) => {
          await Promise.all([
            on.query({ argv: ['nft', '-j', 'list', 'ruleset'], timeout: 60_000 }),
            on.query({ argv: ['true'], timeout: 100 }),
            on.read('/proc/net/tcp'),
          ]);
        },
        judge: () => [],
      });
    await look([asks('a'), asks('b')], host);
    expect(asked.map(({ argv, timeout }) => [argv[0], timeout])).toEqual([
      ['nft', 4000],
      ['true', 100],
    ]);
    expect(read).toEqual(['/proc/net/tcp']);
  });
});

describe('report', () => {
  const rule =
    'tcp dport { 80, 443 } ip saddr { 173.245.48.0/20, 103.21.244.0/22, 103.22.200.0/22 } drop comment "no"';
  const report: Report = {
    checked: ['one', 'two'],
    findings: [
      {
        check: 'one',
        ...finding('Nothing of Cloudflare gets in on port 443', {
          evidence: [rule, 'a\u001B[2Jb'],
          command: 'cfsync apply --backend nftables',
          advice:
            'What the advice is about is said in a sentence that is longer than one line has room for.',
        }),
      },
      { check: 'two', ...finding('Not so bad', { level: 'note', causes: [] }) },
    ],
    unchecked: [{ check: 'three', why: 'nft is not installed; install it' }],
    failed: [],
  };

  it('has 80 columns and nothing that steers a terminal', () => {
    const text = asText(report);
    expect(text).toBe(`Found 1 problem, 1 note (2 checks made, 1 not possible here).

1. PROBLEM -> error 522: Nothing of Cloudflare gets in on port 443 [one]
     tcp dport { 80, 443 } ip saddr { 173.245.48.0/20, 103.21.244.0/22,
         103.22.200.0/22 } drop comment "no"
     a\\u001b[2Jb
   What the advice is about is said in a sentence that is longer than one line
   has room for.
   To mend it:  cfsync apply --backend nftables

2. NOTE: Not so bad [two]

Could not be checked here:
  three: nft is not installed; install it
`);
    for (const line of text.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
  });

  it('says once what keeps several checks from being made', () => {
    const why = 'nft: you must be root';
    const unchecked = ['a', 'b'].map((check) => ({ check, why }));
    expect(asText({ ...report, findings: [], unchecked })).toContain(`\n  a, b: ${why}\n`);
  });

  it('leaves out the effect of what another check explains', async () => {
    const effect = check(
      'effect',
      finding('seen', { effect: 'x' }),
      finding('other', { effect: 'y' }),
    );
    const cause = check('cause', finding('why', { explains: ['x'] }));
    const { findings } = await look([effect, cause]);
    expect(findings.map(({ title }) => title)).toEqual(['other', 'why']);
    expect((await look([effect])).findings).toHaveLength(2);
  });

  it('says what was looked at when nothing was found', () => {
    expect(asText({ ...report, findings: [], unchecked: [] })).toBe(
      'Nothing found (2 checks made).\n\nChecked: one, two.\n',
    );
  });

  it('in JSON is as its schema says', () => {
    const schema = JSON.parse(
      readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'doctor.schema.json'), 'utf8'),
    ) as Record<string, unknown>;
    const failed = [{ check: 'four', error: new TypeError('oops') }];
    const json: unknown = JSON.parse(asJson({ ...report, failed }));
    expect(violations(json, schema)).toEqual([]);
    expect(json).toMatchObject({ schema: 1, failed: [{ check: 'four', error: 'oops' }] });
  });

  it('as a probe is one line with a level', () => {
    expect(asProbe(report)).toEqual({
      level: 'error',
      text: 'CRITICAL: Nothing of Cloudflare gets in on port 443 (error 522); cfsync doctor tells more',
    });
    const [first, note] = report.findings;
    const warned = {
      ...report,
      findings: [{ ...first!, level: 'warning' as const }, first!, note!],
    };
    expect(asProbe(warned)).toEqual({
      level: 'warning',
      text: 'WARNING: Nothing of Cloudflare gets in on port 443 (error 522); and 1 more; cfsync doctor tells more',
    });
    expect(asProbe({ ...report, findings: [note!] })).toEqual({
      level: 'info',
      text: 'OK: Found 1 note (2 checks made, 1 not possible here).',
    });
  });

  it.each([
    ['nothing', [], exit.ok],
    ['a note', ['note'], exit.ok],
    ['a warning', ['note', 'warning'], exit.pending],
    ['a problem', ['problem'], exit.pending],
  ] as const)('with %s has the exit code that fits', (_name, levels, code) => {
    const findings = levels.map((level) => ({ check: 'x', ...finding('x', { level }) }));
    expect(codeOf({ ...report, findings })).toBe(code);
  });
});
