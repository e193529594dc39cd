import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit, type ExitCode } from '../../src/errors.ts';
import { updated, updateOf, writeMetrics } from '../../src/report/metrics.ts';
import { none } from '../../src/prefix.ts';
import { makeRecorder, type RunReport } from '../../src/report/run-report.ts';
import type { Settings } from '../../src/settings/settings.ts';
import { parseMetrics } from '../helpers/exposition.ts';
import { listRenderer, runProgram } from '../helpers/program.ts';

let folder: string;
let file: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-metrics-'));
  file = join(folder, 'cfsync.prom');
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

const day = new Date('2026-03-01T00:00:00.900Z');
const at = day.getTime() / 1000 - 0.9;

function report(
  command: string,
  code: ExitCode,
  backends: Readonly<Record<string, ExitCode>> = {},
  more: Partial<RunReport> = {},
): RunReport {
  const record = makeRecorder(day);
  for (const [name, its] of Object.entries(backends))
    record.backend(name, { code: its, message: '' });
  return { ...record.end(command, code, []), ended: day, ...more };
}

const source = {
  origin: { kind: 'bundled', detail: '' },
  ranges: { v4: ['192.0.2.0/24', '198.51.100.0/24'], v6: ['2001:db8::/32'] },
} as const;

function write(run: RunReport, old = '', around: Partial<Parameters<typeof updateOf>[1]> = {}) {
  return updated(old, updateOf(run, { allBackends: true, since: undefined, ...around }));
}

const samples = (text: string, name: string) => parseMetrics(text)[name]?.samples;

describe('what a run has to say', () => {
  it('is a gauge each, with help', () => {
    const since = new Date('2026-02-27T00:00:00Z');
    const metrics = parseMetrics(write(report('apply', 0, { lb: 0 }, { source }), '', { since }));
    expect(Object.keys(metrics)).toEqual(Object.keys(metrics).sort());
    expect(metrics).toEqual(
      Object.fromEntries(
        Object.entries({
          cfsync_changed: { '': 0 },
          cfsync_drift: { 'backend=lb': 0 },
          cfsync_last_exit_code: { 'command=apply': 0 },
          cfsync_last_run_timestamp_seconds: { 'command=apply': at },
          cfsync_last_success_timestamp_seconds: { 'command=apply': at },
          cfsync_ranges: { 'family=ipv4': 2, 'family=ipv6': 1 },
          cfsync_snapshot_age_seconds: { '': 2 * 86_400 },
          cfsync_snapshot_timestamp_seconds: { '': at - 2 * 86_400 },
        }).map(([name, list]) => [
          name,
          { help: expect.stringMatching(/^[A-Z].*\.$/) as string, type: 'gauge', samples: list },
        ]),
      ),
    );
  });

  it('says whether the last apply changed anything', () => {
    const record = makeRecorder(day);
    record.backend('a', { code: 0, message: '', changed: true });
    record.backend('b', { code: 0, message: '' });
    const changed = write(record.end('apply', 0, []));
    expect(samples(changed, 'cfsync_changed')).toEqual({ '': 1 });
    expect(samples(write(report('verify', 0), changed), 'cfsync_changed')).toEqual({ '': 1 });
    expect(samples(write(report('apply', 1), changed), 'cfsync_changed')).toEqual({ '': 0 });
  });

  it('is not made older than it is by a clock that went back', () => {
    const text = write(report('fetch', 0), '', { since: new Date('2026-03-02') });
    expect(samples(text, 'cfsync_snapshot_age_seconds')).toEqual({ '': 0 });
  });
});

describe('what was there before', () => {
  const before = write(report('apply', 0, { a: 0, b: 0 }, { source }), '', { since: day });

  it('is kept where a run says nothing of it: the last success, and the other commands', () => {
    const later = new Date(day.getTime() + 60_000);
    const failed = report('apply', 3, { a: 3, b: 0 }, { ended: later });
    const text = write(failed, write(report('fetch', 0), before, { since: day }), { since: day });
    expect(samples(text, 'cfsync_last_success_timestamp_seconds')).toEqual({
      'command=apply': at,
      'command=fetch': at,
    });
    expect(samples(text, 'cfsync_last_run_timestamp_seconds')).toEqual({
      'command=apply': at + 60,
      'command=fetch': at,
    });
    expect(samples(text, 'cfsync_last_exit_code')).toEqual({
      'command=apply': 3,
      'command=fetch': 0,
    });
    expect(samples(text, 'cfsync_ranges')).toEqual({ 'family=ipv4': 2, 'family=ipv6': 1 });
    expect(samples(text, 'cfsync_snapshot_age_seconds')).toEqual({ '': 60 });
  });

  it('ends when it is not known any more', () => {
    const text = write(report('fetch', 1), before);
    expect(parseMetrics(text)).not.toHaveProperty('cfsync_snapshot_age_seconds');
    expect(parseMetrics(text)).not.toHaveProperty('cfsync_snapshot_timestamp_seconds');
  });

  it('of drift is what verify last saw of a backend, until an apply has mended it', () => {
    const drift = (text: string) => samples(text, 'cfsync_drift');
    const verified = write(report('verify', 2, { a: 2, b: 0, c: 2 }), before);
    expect(drift(verified)).toEqual({ 'backend=a': 1, 'backend=b': 0, 'backend=c': 1 });
    const some = { allBackends: false };
    expect(drift(write(report('verify', 0, { a: 0 }), verified, some))).toEqual({
      'backend=a': 0,
      'backend=b': 0,
      'backend=c': 1,
    });
    expect(drift(write(report('verify', 1, { a: 1 }), verified, some))).toEqual({
      'backend=b': 0,
      'backend=c': 1,
    });
    expect(drift(write(report('verify', 0, { a: 0 }), verified))).toEqual({ 'backend=a': 0 });
    expect(drift(write(report('verify', 1), verified))).toBeUndefined();
    expect(drift(write(report('apply', 4, { a: 4, c: 0 }), verified))).toEqual({
      'backend=a': 1,
      'backend=b': 0,
      'backend=c': 0,
    });
    for (const command of ['rollback', 'remove'])
      expect(drift(write(report(command, 0, { a: 0, c: 0 }), verified))).toEqual({
        'backend=b': 0,
      });
  });

  it('is kept for a backend of any name', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.string(), (one, other) => {
        const first = write(report('verify', 2, { [one]: 2 }));
        const text = write(report('verify', 0, { [other]: 0 }), first, { allBackends: false });
        const expected = { [`backend=${one}`]: 1, [`backend=${other}`]: 0 };
        expect(samples(text, 'cfsync_drift')).toEqual(expected);
      }),
      {
        examples: [
          ['a"b\\c\nd', '\\n'],
          ['}', '"} 1'],
        ],
      },
    );
  });

  it.each([
    'cfsync_drift{backend="a} 1',
    'cfsync_changed yes',
    'cfsync_changed 1 2',
    'cfsync_later{x="1"} 1',
    'cfsync_changed{a="1",a="2"} 1',
    '# TYPE cfsync_later histogram',
  ])('is left out where it is not to be understood: %s', (line) => {
    expect(write(report('fetch', 0), `${line}\n`)).toBe(write(report('fetch', 0)));
  });
});

describe('the file', () => {
  const settings = (more: object = {}) =>
    ({ stateDir: join(folder, 'state'), lockTimeout: 10, values: {}, ...more }) as Settings;

  it('can be read by everybody, whatever the umask, and no other file is left', async () => {
    const umask = process.umask(0o077);
    await writeMetrics(file, report('fetch', 0), settings());
    process.umask(umask);
    expect(statSync(file).mode & 0o777).toBe(0o644);
    expect(readdirSync(folder).sort()).toEqual(['cfsync.prom', 'state']);
    chmodSync(file, 0o640);
    await writeMetrics(file, report('verify', 0), settings());
    expect(statSync(file).mode & 0o777).toBe(0o640);
  });

  it('has what each of several runs at the same time wrote', async () => {
    const names = ['a', 'b', 'c', 'd', 'e', 'f'];
    const some = settings({ values: { backend: ['x'] } });
    await Promise.all(
      names.map((name) => writeMetrics(file, report('verify', 2, { [name]: 2 }), some)),
    );
    expect(Object.keys(samples(readFileSync(file, 'utf8'), 'cfsync_drift')!)).toEqual(
      names.map((name) => `backend=${name}`),
    );
  });

  it.each(['root:x:0:0::/root:/bin/sh\n', 'node_load1 0.5\n', '# HELP other x\n', 'cfsyncd 1\n'])(
    "is left alone when it is not cfsync's: %j",
    async (content) => {
      writeFileSync(file, content);
      await expect(writeMetrics(file, report('fetch', 0), settings())).rejects.toThrow(
        "has content that is not cfsync's; it is left as it is",
      );
      expect(readFileSync(file, 'utf8')).toBe(content);
    },
  );

  it('is not followed, waited for, or read without end', async () => {
    const target = join(folder, 'target');
    writeFileSync(target, 'cfsync_changed 1\n');
    symlinkSync(target, file);
    await expect(writeMetrics(file, report('fetch', 0), settings())).rejects.toThrow('ELOOP');
    expect(readFileSync(target, 'utf8')).toBe('cfsync_changed 1\n');
    rmSync(file);
    spawnSync('mkfifo', [file]);
    const refused = /is not a file of cfsync's/;
    await expect(writeMetrics(file, report('fetch', 0), settings())).rejects.toThrow(refused);
    rmSync(file);
    writeFileSync(file, 'cfsync_changed 1\n'.repeat(70_000));
    await expect(writeMetrics(file, report('fetch', 0), settings())).rejects.toThrow(refused);
  });

  it('may be empty before, with a mode of its own', async () => {
    writeFileSync(file, '');
    await writeMetrics(
      file,
      report('fetch', 0, {}, { source: { ...source, ranges: none } }),
      settings(),
    );
    expect(samples(readFileSync(file, 'utf8'), 'cfsync_ranges')).toEqual({
      'family=ipv4': 0,
      'family=ipv6': 0,
    });
  });
});

describe('the commands', () => {
  const config = (more = '') =>
    writeFileSync(
      join(folder, 'config.yaml'),
      `${more}backends:\n  lb:\n    renderer: ./list.mjs\n    path: ${folder}/list\n`,
    );
  const run = (...args: string[]) =>
    runProgram([...args, '--config', 'config.yaml'], {
      cwd: folder,
      env: { CFSYNC_STATE_DIR: join(folder, 'state') },
    });
  const now = (name: string) => samples(readFileSync(file, 'utf8'), name);

  beforeEach(() => {
    writeFileSync(join(folder, 'list.mjs'), listRenderer);
    config();
  });

  it('apply, verify and fetch write one file together', async () => {
    config(`metrics: ${file}\n`);
    const began = Math.floor(Date.now() / 1000);
    expect(await run('apply', '--source', 'bundled', '--dry-run')).toMatchObject({ code: exit.ok });
    expect(existsSync(file)).toBe(false);
    expect(await run('apply', '--source', 'bundled')).toMatchObject({ code: exit.ok });
    expect(now('cfsync_changed')).toEqual({ '': 1 });
    expect(now('cfsync_ranges')).toEqual({ 'family=ipv4': 15, 'family=ipv6': 7 });
    writeFileSync(join(folder, 'list'), '');
    expect(await run('verify')).toMatchObject({ code: exit.pending });
    expect(now('cfsync_drift')).toEqual({ 'backend=lb': 1 });
    expect(await run('fetch', '--source', 'nowhere')).toMatchObject({ code: exit.failed });
    expect(now('cfsync_last_exit_code')).toEqual({
      'command=apply': exit.ok,
      'command=fetch': exit.failed,
      'command=verify': exit.pending,
    });
    expect(Object.keys(now('cfsync_last_success_timestamp_seconds')!)).toEqual(['command=apply']);
    expect(await run('apply', '--source', 'bundled')).toEqual({
      code: exit.ok,
      stdout: expect.stringContaining('lb: applied and read back') as string,
      stderr: '',
    });
    expect(now('cfsync_drift')).toEqual({ 'backend=lb': 0 });
    expect(await run('apply', '--source', 'bundled')).toEqual({
      code: exit.ok,
      stdout: '',
      stderr: '',
    });
    expect(now('cfsync_changed')).toEqual({ '': 0 });
    // The bundled list is as old as the day it was taken.
    const day = new Date(now('cfsync_snapshot_timestamp_seconds')!['']! * 1000).toISOString();
    expect(day).toMatch(/T00:00:00\.000Z$/);
    expect(now('cfsync_last_run_timestamp_seconds')!['command=apply']).toBeGreaterThanOrEqual(
      began,
    );
  });

  it('a file that cannot be written is said, and the exit code is that of the run', async () => {
    const ended = await run('apply', '--source', 'bundled', '--metrics', 'no/such/folder');
    expect(ended.code).toBe(exit.ok);
    expect(ended.stderr).toMatch(/^cfsync: cannot write .*no\/such\/folder: ENOENT.*\n$/);
    expect((await run('show', '--metrics', 'x')).code).toBe(exit.usage);
  });
});
