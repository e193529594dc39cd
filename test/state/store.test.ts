import {
  chmod,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CfsyncError, exit } from '../../src/errors.ts';
import { digest } from '../../src/digest.ts';
import {
  type Check,
  CorruptRecord,
  NewerRecord,
  type Snapshot,
  readRecord,
  readState,
  replacedRanges,
  storeCheck,
  storeSnapshot,
  writeRecord,
} from '../../src/state/store.ts';

let base: string;
let dir: string;
beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'cfsync-store-'));
  dir = join(base, 'state');
});
afterEach(async () => {
  await rm(base, { recursive: true, force: true });
});

const path = (name: string) => join(dir, name);
const text = (name: string) => readFile(path(name), 'utf8');
const mode = async (name: string) => (await stat(path(name))).mode & 0o777;

const snapshot: Snapshot = {
  ranges: { v4: ['104.16.0.0/13', '172.64.0.0/13'], v6: ['2606:4700::/32'] },
  origin: { kind: 'feeds', detail: 'text and JSON feeds' },
  acceptedAt: '2026-10-01T06:00:00.000Z',
};
/** One of a row of snapshots. */
const nth = (n: number): Snapshot => ({ ...snapshot, ranges: { v4: [`104.${n}.0.0/16`], v6: [] } });

const check: Check = {
  checkedAt: '2026-10-08T06:00:00.000Z',
  believed: { at: '2026-10-08T06:00:00.000Z', feeds: 'text' },
  pending: { digest: digest(''), since: '2026-10-08T06:00:00.000Z' },
  settled: true,
};

async function failure(work: Promise<unknown>): Promise<CfsyncError> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof CfsyncError)) throw new Error('no CfsyncError', { cause: error });
  return error;
}

/** Rewrites a record as somebody with an editor would. */
async function edit(name: string, change: (record: string) => string): Promise<string> {
  const changed = change(await text(name));
  await writeFile(path(name), changed);
  return changed;
}

test('nothing is stored yet', async () => {
  expect(await readState(dir)).toEqual({ notices: [] });
  expect(await readdir(base)).toEqual([]);
});

test('what was stored is read', async () => {
  expect(await storeSnapshot(dir, snapshot)).toEqual([]);
  expect(await storeCheck(dir, check)).toEqual([]);
  expect(await readState(dir)).toEqual({ snapshot, check, notices: [] });
  expect((await readdir(dir)).sort()).toEqual(['check.json', 'snapshot.json']);
  expect([(await stat(dir)).mode & 0o777, await mode('snapshot.json')]).toEqual([0o700, 0o600]);
});

test('a record says what it is', async () => {
  await storeSnapshot(dir, snapshot);
  expect(JSON.parse(await text('snapshot.json'))).toEqual({
    schema: 1,
    kind: 'snapshot',
    digest: expect.stringMatching(/^[0-9a-f]{64}$/),
    content: snapshot,
  });
});

test('the digest is over the data: neither spacing nor the order of keys matters', async () => {
  await storeSnapshot(dir, snapshot);
  await edit('snapshot.json', (text) => {
    const record = JSON.parse(text) as { content: Snapshot };
    const content = Object.fromEntries(Object.entries(record.content).reverse());
    return JSON.stringify(Object.fromEntries(Object.entries({ ...record, content }).reverse()));
  });
  expect(await text('snapshot.json')).toMatch(/^{"content":{"ranges"/);
  expect((await readState(dir)).snapshot).toEqual(snapshot);
});

test('the same addresses are no change', async () => {
  await storeSnapshot(dir, snapshot);
  const before = await text('snapshot.json');
  const later = {
    ...snapshot,
    origin: { kind: 'file', detail: 'x' },
    acceptedAt: check.checkedAt,
  } as const;
  await storeSnapshot(dir, later);
  expect(await text('snapshot.json')).toBe(before);
  expect(await readdir(dir)).toEqual(['snapshot.json']);
});

test('the last five that were replaced are kept, the oldest name first', async () => {
  for (let n = 1; n <= 8; n++) await storeSnapshot(dir, nth(n));
  const names = (await readdir(path('previous'))).sort();
  expect(names).toHaveLength(5);
  expect((await replacedRanges(dir)).map(({ v4 }) => v4[0])).toEqual(
    [3, 4, 5, 6, 7].map((n) => `104.${n}.0.0/16`),
  );
  expect((await readState(dir)).snapshot?.ranges.v4).toEqual(['104.8.0.0/16']);
  expect(await mode(join('previous', names[0]!))).toBe(0o600);
});

test('what else lies beside the replaced ones stays', async () => {
  await mkdir(path('previous'), { recursive: true });
  await writeFile(path('previous/notes.txt'), 'mine');
  for (let n = 1; n <= 8; n++) await storeSnapshot(dir, nth(n));
  expect(await readdir(path('previous'))).toHaveLength(6);
});

test("what a crash left is in nobody's way", async () => {
  await storeSnapshot(dir, snapshot);
  // In the middle of writing, and between the copy of the old one and the new one.
  await writeFile(path(`.cfsync-${'0'.repeat(24)}.tmp`), '{"schema": 1, "ki');
  await mkdir(path('previous'));
  await writeFile(path('previous/000001.json'), await text('snapshot.json'));
  expect(await readState(dir)).toEqual({ snapshot, notices: [] });
  await storeSnapshot(dir, nth(1));
  expect((await readState(dir)).snapshot).toEqual(nth(1));
  expect((await readdir(path('previous'))).sort()).toEqual(['000001.json', '000002.json']);
});

describe('a corrupt record', () => {
  const damage: [string, (record: string) => string][] = [
    ['cut off', (record) => record.slice(0, 100)],
    ['empty', () => ''],
    ['no object', () => 'null'],
    ['an address changed by hand', (record) => record.replace('172.64.0.0/13', '172.64.0.0/12')],
    ['no schema', (record) => record.replace('"schema"', '"sketch"')],
    ['schema 0', (record) => record.replace('"schema": 1', '"schema": 0')],
    ['of another kind', (record) => record.replace('"snapshot"', '"check"')],
    ['without content', (record) => record.replace('"content"', '"contents"')],
  ];

  test.each(damage)(
    '%s: it is not used, and only moved aside to be replaced',
    async (_, change) => {
      await storeSnapshot(dir, snapshot);
      const corrupt = await edit('snapshot.json', change);
      const { notices, ...state } = await readState(dir);
      expect(state).toEqual({});
      expect(notices).toEqual([
        {
          level: 'warning',
          text: expect.stringMatching(/snapshot\.json is corrupt \(.+\); it is not used$/),
        },
      ]);
      expect(notices[0]!.text).toContain(path('snapshot.json'));
      expect(await text('snapshot.json')).toBe(corrupt);

      const moved = await storeSnapshot(dir, snapshot);
      expect(moved).toHaveLength(1);
      expect(moved[0]!.text).toContain(path('snapshot.json.corrupt-1'));
      expect(await text('snapshot.json.corrupt-1')).toBe(corrupt);
      expect((await readState(dir)).snapshot).toEqual(snapshot);
    },
  );

  test('the second one does not overwrite the first', async () => {
    for (const n of [1, 2]) {
      await storeCheck(dir, check);
      await writeFile(path('check.json'), String(n));
      await storeCheck(dir, check);
    }
    expect([await text('check.json.corrupt-1'), await text('check.json.corrupt-2')]).toEqual([
      '1',
      '2',
    ]);
  });

  test.each([
    [
      'ranges that are not sorted',
      { ...snapshot, ranges: { ...snapshot.ranges, v4: [...snapshot.ranges.v4].reverse() } },
    ],
    ['ranges with host bits', { ...snapshot, ranges: { v4: ['104.16.0.1/13'], v6: [] } }],
    ['ranges in the wrong family', { ...snapshot, ranges: { v4: ['2606:4700::/32'], v6: [] } }],
    ['a missing family', { ...snapshot, ranges: { v4: ['104.16.0.0/13'] } }],
    ['an unknown origin', { ...snapshot, origin: { kind: 'rumour', detail: '' } }],
    ['a date that is none', { ...snapshot, acceptedAt: 'yesterday' }],
    ['a date of another zone', { ...snapshot, acceptedAt: '2026-10-01T06:00:00+02:00' }],
  ])('%s: a right digest does not make it valid', async (_, content) => {
    await writeRecord(path('snapshot.json'), 'snapshot', content, (c) => c);
    const { snapshot: read, notices } = await readState(dir);
    expect([read, notices.length]).toEqual([undefined, 1]);
    await storeSnapshot(dir, snapshot);
    expect((await readdir(dir)).sort()).toEqual(['snapshot.json', 'snapshot.json.corrupt-1']);
  });

  test.each([
    { ...check, settled: undefined },
    { ...check, checkedAt: undefined },
    { ...check, believed: { at: check.checkedAt, feeds: 'none' } },
    { ...check, pending: { digest: 1, since: check.checkedAt } },
    { ...check, pending: { digest: '', since: '' } },
  ])('a check that is not valid', async (content) => {
    await writeRecord(path('check.json'), 'check', content, (c) => c);
    const { check: read, notices } = await readState(dir);
    expect([read, notices.length]).toEqual([undefined, 1]);
  });

  test('among the replaced ones is left out', async () => {
    for (const n of [1, 2, 3]) await storeSnapshot(dir, nth(n));
    await writeFile(path('previous/000001.json'), '{');
    expect((await replacedRanges(dir)).map(({ v4 }) => v4[0])).toEqual(['104.2.0.0/16']);
  });
});

describe('a record of a later release', () => {
  test.each(['snapshot.json', 'check.json'])('%s is neither read nor overwritten', async (name) => {
    await storeSnapshot(dir, snapshot);
    await storeCheck(dir, check);
    const newer = await edit(name, (record) => record.replace('"schema": 1', '"schema": 2'));
    const write = () =>
      name === 'check.json' ? storeCheck(dir, check) : storeSnapshot(dir, nth(1));
    for (const work of [() => readState(dir), write]) {
      const error = await failure(work());
      expect(error).toBeInstanceOf(NewerRecord);
      expect(error.code).toBe(exit.failed);
      expect(error.message).toMatch(
        /has schema 2 and this cfsync knows 1; it is left as it is: install/,
      );
      expect(error.message).toContain(path(name));
    }
    expect(await text(name)).toBe(newer);
    expect((await readdir(dir)).sort()).toEqual(['check.json', 'snapshot.json']);
  });

  test('a newer check stops the snapshot as well, before anything is written', async () => {
    await storeSnapshot(dir, snapshot);
    await storeCheck(dir, check);
    await edit('check.json', (record) => record.replace('"schema": 1', '"schema": 2'));
    expect(await failure(storeSnapshot(dir, nth(1)))).toBeInstanceOf(NewerRecord);
    expect((await readdir(dir)).sort()).toEqual(['check.json', 'snapshot.json']);
  });

  test('need not have a content that is known here', async () => {
    await mkdir(dir);
    await writeFile(path('snapshot.json'), '{"schema": 2}');
    expect(await failure(readState(dir))).toBeInstanceOf(NewerRecord);
  });
});

describe('other records', () => {
  const number = (content: unknown) => {
    if (typeof content !== 'number') throw new Error('it is no number');
    return content;
  };

  test('in a folder of their own', async () => {
    const file = path('applied/nftables.json');
    expect(await readRecord(file, 'applied', number)).toBeUndefined();
    expect(await writeRecord(file, 'applied', 7, number)).toEqual([]);
    expect(await readRecord(file, 'applied', number)).toBe(7);
    expect(await mode('applied')).toBe(0o700);
  });

  test('the two errors can be told apart', async () => {
    const file = path('applied/nftables.json');
    await writeRecord(file, 'applied', 'seven', String);
    const error = await failure(readRecord(file, 'applied', number));
    expect(error).toBeInstanceOf(CorruptRecord);
    expect(error).not.toBeInstanceOf(NewerRecord);
    expect(error.message).toBe(`${file} is corrupt (it is no number)`);
  });
});

describe('a state directory that cannot be used', () => {
  test('it is a file (ENOTDIR)', async () => {
    await writeFile(dir, '');
    expect((await failure(readState(dir))).message).toBe(
      `cannot read ${path('snapshot.json')}: ENOTDIR: not a directory`,
    );
    expect((await failure(storeCheck(dir, check))).message).toMatch(
      /ENOTDIR: not a directory; run as root, or name another state directory with --state-dir$/,
    );
  });

  // Permission bits do not hold root back, so root becomes somebody else; EROFS would need a mount.
  test('it may not be written to (EACCES)', async () => {
    await chmod(base, 0o755);
    await mkdir(dir);
    await writeFile(path('snapshot.json'), '');
    await chmod(dir, 0o555);
    const root = process.getuid!() === 0;
    if (root) process.seteuid!(65534);
    let errors: CfsyncError[];
    try {
      errors = [await failure(storeCheck(dir, check)), await failure(storeSnapshot(dir, snapshot))];
    } finally {
      if (root) process.seteuid!(0);
    }
    expect(errors.map(({ message }) => message)).toEqual([
      `cannot write ${path('check.json')}: EACCES: permission denied; run as root, or name another state directory with --state-dir`,
      expect.stringMatching(/^cannot move .*EACCES: permission denied; run as root, or name/),
    ]);
    expect(await readdir(dir)).toEqual(['snapshot.json']);
  });

  test('a record is a symbolic link', async () => {
    await mkdir(dir);
    const target = join(base, 'target');
    await storeCheck(base, check);
    await writeFile(target, await readFile(join(base, 'check.json')));
    await symlink(target, path('check.json'));
    const error = await failure(storeCheck(dir, { ...check, settled: false }));
    expect(error.message).toMatch(/is a symbolic link/);
    expect(error.message).not.toContain('--state-dir');
    expect(JSON.parse(await readFile(target, 'utf8')).content.settled).toBe(true);
  });
});
