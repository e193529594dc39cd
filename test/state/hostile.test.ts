import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { exit } from '../../src/errors.ts';
import {
  beginRun,
  entriesOf,
  lastRun,
  openNames,
  readOpen,
  type Entry,
} from '../../src/state/journal.ts';
import { readHold, readPending } from '../../src/state/pending.ts';
import { parseList } from '../../src/feed/gate.ts';
import { parseRanges } from '../../src/prefix.ts';
import { appliedNames, readApplied, readUsable, type Applied } from '../../src/state/records.ts';
import type { Notice, Ranges } from '../../src/renderer.ts';
import { readPlan, type SavedPlan } from '../../src/run/saved-plan.ts';
import { readState, replacedRanges, type Check, type Snapshot } from '../../src/state/store.ts';
import { bundled, desired } from '../helpers/desired.ts';
import {
  askedOrRefused,
  cases,
  damagedJson,
  expectFit,
  expectLinear,
  pumps,
} from '../helpers/hostile.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'cfsync-hostile-'));
});
afterAll(async () => {
  await rm(dir, { recursive: true });
});

const at = '2026-10-08T06:00:00.000Z';
const applied: Applied = {
  desired: desired({ udpPorts: [443], extra: parseRanges(['10.0.0.0/8']) }),
  options: { set: true },
};
const snapshot: Snapshot = {
  ranges: bundled,
  origin: { kind: 'feeds', detail: 'text and JSON feeds' },
  acceptedAt: at,
};
const check: Check = {
  checkedAt: at,
  believed: { at, feeds: 'text' },
  pending: { digest: 'abc', since: at },
  problem: 'failed',
  settled: true,
};
const entry: Entry = {
  number: 3,
  command: 'apply',
  boot: 'b',
  at,
  before: { ranges: bundled },
  wanted: { ranges: bundled },
  files: [{ path: '/etc/x', before: null, after: 'abc' }],
  ...applied,
  was: applied,
};
const plan: Omit<SavedPlan, 'path'> = {
  id: 'abc',
  backends: [{ name: 'nftables', desired: applied.desired }],
};

/** The text of a record, as whoever can write there can make it: with a digest that is right. */
function recordOf(kind: string, content: unknown): string {
  const sorted = JSON.stringify(content, (_, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
  const digest = createHash('sha256').update(sorted).digest('hex');
  return JSON.stringify({ schema: 1, kind, digest, content });
}

/** The same of JSON text; undefined when it is none, or nested more deeply than can be written. */
function recordOfJson(kind: string, text: string): string | undefined {
  try {
    return recordOf(kind, JSON.parse(text));
  } catch {
    return undefined;
  }
}

function expectStrict({ v4, v6 }: Ranges): void {
  expect(parseRanges([...v4, ...v6])).toEqual({ v4, v6 });
}

/** As a download must be. */
function expectPublic({ v4, v6 }: Ranges): void {
  expect(parseList([...v4, ...v6].join('\n'), 'any', 'ranges')).toEqual({ v4, v6 });
}

function expectApplied({ desired: { ranges, extra, tcpPorts, udpPorts, mode } }: Applied): void {
  expectStrict(ranges);
  expectStrict(extra);
  for (const port of [...tcpPorts, ...udpPorts])
    expect(Number.isInteger(port) && port >= 1 && port <= 65_535).toBe(true);
  expect(['allow', 'lockdown']).toContain(mode);
}

function expectNotices(notices: readonly Notice[]): void {
  for (const { text } of notices) expectFit(text);
}

/** A kind of record: its content, where it lies, and how it is read; the reader answers whether it took it. */
interface Kind {
  readonly content: unknown;
  readonly path: string;
  readonly read: (stateDir: string) => Promise<boolean>;
}
const kinds: Readonly<Record<string, Kind>> = {
  snapshot: {
    content: snapshot,
    path: 'snapshot.json',
    async read(stateDir) {
      const state = await readState(stateDir);
      expectNotices(state.notices);
      if (state.snapshot === undefined) return false;
      expectStrict(state.snapshot.ranges);
      return true;
    },
  },
  check: {
    content: check,
    path: 'check.json',
    async read(stateDir) {
      const state = await readState(stateDir);
      expectNotices(state.notices);
      return state.check !== undefined;
    },
  },
  applied: {
    content: applied,
    path: 'applied/x.json',
    async read(stateDir) {
      const { content, notices } = await readUsable(stateDir, 'x');
      expectNotices(notices);
      if (content !== undefined) expectApplied(content);
      expect(await askedOrRefused(() => readApplied(stateDir, 'x'), exit.failed)).toEqual(content);
      return content !== undefined;
    },
  },
  journal: {
    content: entry,
    path: 'journal/x.json',
    async read(stateDir) {
      const { content, notices } = await readOpen(stateDir, 'x');
      expectNotices(notices);
      if (content !== undefined) expectApplied(content);
      await askedOrRefused(() => lastRun(stateDir, undefined), exit.failed);
      await askedOrRefused(() => entriesOf(stateDir, 3), exit.failed);
      expect((await beginRun(stateDir, 'apply', 'b')).number).toBeGreaterThan(0);
      return content !== undefined;
    },
  },
  plan: {
    content: plan,
    path: 'plan.json',
    async read(stateDir) {
      const found = await askedOrRefused(() => readPlan(join(stateDir, 'plan.json')), exit.failed);
      for (const backend of found?.backends ?? []) {
        expectApplied({ ...backend, options: {} });
        expectPublic(backend.desired.ranges);
      }
      return found !== undefined;
    },
  },
  pending: {
    content: { run: 3, until: 100.5, boot: 'b' },
    path: 'pending.json',
    read: async (stateDir) =>
      (await askedOrRefused(() => readPending(stateDir), exit.failed)) !== undefined,
  },
  hold: {
    content: { at, why: 'x', boot: 'b' },
    path: 'hold.json',
    async read(stateDir) {
      const { content, notices } = await readHold(stateDir);
      expectNotices(notices);
      return content !== undefined;
    },
  },
};

const values = [
  '"1.1.1.0/24"',
  '["10.0.0.0/8"]',
  '65536',
  '"lockdown"',
  '2',
  '"2026-10-08T06:00:00Z"',
];

async function put(stateDir: string, path: string, text: string): Promise<void> {
  await mkdir(dirname(join(stateDir, path)), { recursive: true });
  await writeFile(join(stateDir, path), text);
}

describe.each(Object.entries(kinds))('a record of the kind %s', (name, { content, path, read }) => {
  test('that was damaged is read past or refused', async () => {
    const stateDir = join(dir, name);
    const whole = recordOf(name, content);
    await put(stateDir, path, whole);
    expect(await read(stateDir)).toBe(true);
    let taken = 0;
    await fc.assert(
      fc.asyncProperty(damagedJson(whole, values), async (text) => {
        await put(stateDir, path, text);
        // One of a later release is left as it is.
        if ((await askedOrRefused(() => read(stateDir), exit.failed)) === true) taken++;
      }),
      cases(100),
    );
    // A blank more or less does no harm, and that is all.
    expect(taken).toBeLessThan(20);
  }, 60_000);

  test('that says something else, with a digest that is right, is taken or read past', async () => {
    const stateDir = join(dir, `${name}-said`);
    let taken = 0;
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(damagedJson(JSON.stringify(content), values), async (text) => {
        const record = recordOfJson(name, text);
        if (record === undefined) return;
        await put(stateDir, path, record);
        if (await read(stateDir)) taken++;
        else refused++;
      }),
      cases(150),
    );
    expect(taken).toBeGreaterThan(5);
    expect(refused).toBeGreaterThan(25);
  }, 60_000);

  test('is never a folder, a text without end or something of another kind', async () => {
    const stateDir = join(dir, `${name}-odd`);
    await mkdir(join(stateDir, path), { recursive: true });
    await askedOrRefused(() => read(stateDir), exit.failed);
    await rm(stateDir, { recursive: true });
    const other = recordOf('other', content);
    for (const text of [
      '',
      '{}',
      '[]',
      'null',
      '0',
      '"x"',
      '['.repeat(100_000),
      '\0'.repeat(9),
      other,
    ]) {
      await put(stateDir, path, text);
      expect(await read(stateDir)).toBe(false);
    }
  });
});

/** With other ranges, in all that was applied. */
const ranging = (v4: readonly string[], v6 = bundled.v6): Applied => ({
  ...applied,
  desired: { ...applied.desired, ranges: { v4, v6 } },
});
const planned = (one: Applied): typeof plan => ({
  ...plan,
  backends: [{ name: 'nftables', ...one }],
});

test.each<[string, string, unknown]>([
  ['applied', 'a list of options', { ...applied, options: [] }],
  ['applied', 'no options', { ...applied, options: null }],
  ['applied', 'an address without a length', ranging(['1.1.1.1'])],
  ['applied', 'ranges that are not sorted', ranging([...bundled.v4].reverse())],
  ['applied', 'port 0', { ...applied, desired: { ...applied.desired, tcpPorts: [0] } }],
  ['plan', 'a private range', planned(ranging(['10.0.0.0/8']))],
  ['plan', 'everybody', planned(ranging(['0.0.0.0/0']))],
  ['plan', 'one family alone', planned(ranging(bundled.v4, []))],
  ['plan', 'rules for a range', planned(ranging(['1.1.1.0/24 accept']))],
  ['plan', 'a backend twice', { ...plan, backends: [...plan.backends, ...plan.backends] }],
  ['plan', 'a number for a name', { ...plan, backends: [{ name: 7, ...applied }] }],
  ['journal', 'run 0', { ...entry, number: 0 }],
  ['journal', 'no files', { ...entry, files: null }],
  ['journal', 'nothing before', { ...entry, before: {} }],
  ['pending', 'half a run', { run: 1.5, until: 100, boot: 'b' }],
  ['pending', 'a text for a time', { run: 1, until: '100', boot: 'b' }],
  ['hold', 'another time', { at: 'yesterday', why: 'x', boot: 'b' }],
])('a record of the kind %s with %s is not taken', async (name, _, content) => {
  const stateDir = await mkdtemp(join(dir, 'one-'));
  await put(stateDir, kinds[name]!.path, recordOf(name, content));
  expect(await kinds[name]!.read(stateDir)).toBe(false);
});

test.each(pumps)(
  'a record of %j without end is read in time that grows with its length',
  async (piece) => {
    await expectLinear(async (size) => {
      await put(join(dir, 'long'), 'snapshot.json', piece.repeat(size));
      return readState(join(dir, 'long'));
    }, piece);
  },
);

test('a state directory in which folders are files is an error for people, or empty', async () => {
  const stateDir = join(dir, 'files');
  for (const name of ['applied', 'journal', 'history', 'previous']) await put(stateDir, name, 'x');
  const reads = [
    () => appliedNames(stateDir),
    () => openNames(stateDir),
    () => replacedRanges(stateDir),
    () => appliedNames(join(dir, 'a\0b')),
    () => openNames(join(dir, 'x'.repeat(5000))),
  ];
  for (const read of reads)
    expect((await askedOrRefused<readonly unknown[]>(read, exit.failed)) ?? []).toEqual([]);
  const unnamed = await askedOrRefused(() => readState(join(dir, 'a\0b')), exit.failed);
  expect(unnamed?.snapshot).toBeUndefined();
});
