import {
  type FileHandle,
  chmod,
  chown,
  link,
  mkdir,
  mkdtemp,
  open,
  readFile,
  readdir,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { CfsyncError, exit } from '../../src/errors.ts';
import { ensureDir, moveAside, removeFile, writeFileAtomic } from '../../src/host/files.ts';
import { digest } from '../../src/digest.ts';

const root = process.getuid?.() === 0;
const nobody = 65534;

let dir: string;
let path: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'cfsync-files-'));
  path = join(dir, 'file');
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(dir, { recursive: true, force: true });
});

const text = () => readFile(path, 'utf8');
const mode = async (of = path) => (await stat(of)).mode & 0o7777;

async function failure(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof CfsyncError)) throw new Error('no CfsyncError', { cause: error });
  expect(error.code).toBe(exit.failed);
  return error.message;
}

/** As a user whom permission bits hold back; root is not. */
async function asNobody<T>(work: () => Promise<T>): Promise<T> {
  if (!root) return work();
  process.seteuid!(nobody);
  try {
    return await work();
  } finally {
    process.seteuid!(0);
  }
}

test('a digest is SHA-256 of UTF-8', () => {
  expect(digest('abc')).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
  expect(digest('ü')).toBe(digest(Buffer.from([0xc3, 0xbc])));
});

describe('writing', () => {
  test.each([undefined, 0o600, 0o644, 0o666])('a new file has mode %o', async (wanted) => {
    await writeFileAtomic(path, 'ü\n', wanted === undefined ? {} : { mode: wanted });
    expect(await text()).toBe('ü\n');
    expect(await mode()).toBe(wanted ?? 0o600);
    expect(await readdir(dir)).toEqual(['file']);
  });

  test('a file that is replaced keeps its mode', async () => {
    await writeFile(path, 'old');
    await chmod(path, 0o640);
    await writeFileAtomic(path, 'new', { mode: 0o600 });
    expect(await text()).toBe('new');
    expect(await mode()).toBe(0o640);
  });

  test.runIf(root)('a file that is replaced keeps its owner, and its set-user-id bit', async () => {
    await writeFile(path, 'old');
    await chown(path, 1234, 2345);
    await chmod(path, 0o4750);
    await writeFileAtomic(path, 'new');
    expect(await stat(path)).toMatchObject({ uid: 1234, gid: 2345 });
    expect(await mode()).toBe(0o4750);
  });

  test('the old file is replaced, never written to', async () => {
    await writeFile(path, 'old');
    const other = join(dir, 'other');
    await link(path, other);
    await writeFileAtomic(path, 'new');
    expect(await readFile(other, 'utf8')).toBe('old');
  });

  test("what a crash left behind is in nobody's way", async () => {
    const left = join(dir, `.cfsync-${'0'.repeat(24)}.tmp`);
    await writeFile(left, 'half of a fi');
    await writeFileAtomic(path, 'new');
    expect(await text()).toBe('new');
    expect(await readFile(left, 'utf8')).toBe('half of a fi');
  });

  test.each(['target', 'nowhere'])('a symbolic link to %s is refused', async (target) => {
    await writeFile(join(dir, 'target'), 'old');
    await symlink(target, path);
    expect(await failure(writeFileAtomic(path, 'new'))).toMatch(
      /is a symbolic link, .*left as it is/,
    );
    expect(await readFile(join(dir, 'target'), 'utf8')).toBe('old');
    expect((await readdir(dir)).sort()).toEqual(['file', 'target']);
  });

  test('a directory is refused', async () => {
    await mkdir(path);
    expect(await failure(writeFileAtomic(path, 'new'))).toMatch(/is not a regular file/);
  });

  test('a folder that is a file', async () => {
    await writeFile(path, 'old');
    const inside = join(path, 'file');
    expect(await failure(writeFileAtomic(inside, 'new'))).toBe(
      `cannot write ${inside}: ENOTDIR: not a directory`,
    );
  });

  test('a folder that is missing', async () => {
    const inside = join(dir, 'missing', 'file');
    expect(await failure(writeFileAtomic(inside, 'new'))).toBe(
      `cannot write ${inside}: ENOENT: no such file or directory`,
    );
  });

  test('a folder that may not be written to', async () => {
    await writeFile(path, 'old');
    await chmod(dir, 0o555);
    expect(await asNobody(() => failure(writeFileAtomic(path, 'new')))).toBe(
      `cannot write ${path}: EACCES: permission denied`,
    );
    expect(await text()).toBe('old');
  });

  test.runIf(root)('the owner of a file that cannot be kept is a reason not to write', async () => {
    await writeFile(path, 'old');
    await chmod(dir, 0o777);
    expect(await asNobody(() => failure(writeFileAtomic(path, 'new')))).toMatch(/EPERM/);
    expect(await text()).toBe('old');
    expect(await readdir(dir)).toEqual(['file']);
  });

  test('foreign text in a message cannot steer the terminal', async () => {
    const inside = join(dir, '\u001b[2J', 'file');
    expect(await failure(writeFileAtomic(inside, 'new'))).toContain('\\u001b[2J');
  });
});

describe('what is expected there', () => {
  test('is there', async () => {
    await writeFileAtomic(path, 'one', { expect: null });
    await writeFileAtomic(path, 'two', { expect: digest('one') });
    expect(await text()).toBe('two');
    await removeFile(path, { expect: digest('two') });
    expect(await readdir(dir)).toEqual([]);
  });

  test('has changed', async () => {
    await writeFile(path, 'other');
    const expectation = { expect: digest('old') };
    const message = /changed since it was read .*left as it is now/;
    expect(await failure(writeFileAtomic(path, 'new', expectation))).toMatch(message);
    expect(await failure(removeFile(path, expectation))).toMatch(message);
    expect(await text()).toBe('other');
    expect(await readdir(dir)).toEqual(['file']);
  });

  test('has appeared', async () => {
    await writeFile(path, '');
    expect(await failure(writeFileAtomic(path, 'new', { expect: null }))).toMatch(/appeared/);
    expect(await failure(removeFile(path, { expect: null }))).toMatch(/appeared/);
    expect(await text()).toBe('');
  });

  test('was deleted', async () => {
    const expectation = { expect: digest('old') };
    expect(await failure(writeFileAtomic(path, 'new', expectation))).toMatch(/was deleted/);
    expect(await failure(removeFile(path, expectation))).toMatch(/was deleted/);
    expect(await readdir(dir)).toEqual([]);
  });

  test('is compared byte for byte', async () => {
    await writeFile(path, Buffer.from([0xfc]));
    const expectation = { expect: digest('\ufffd') };
    expect(await failure(writeFileAtomic(path, 'new', expectation))).toMatch(/changed/);
  });

  test('is compared after the new content is on disk', async () => {
    await writeFile(path, 'old');
    const writing = writeFileAtomic(path, 'x'.repeat(2 ** 25), { expect: digest('old') });
    await vi.waitFor(async () => expect(await readdir(dir)).toHaveLength(2), {
      interval: 1,
      timeout: 60_000,
    });
    await writeFile(path, 'meanwhile');
    expect(await failure(writing)).toMatch(/changed/);
    expect(await text()).toBe('meanwhile');
  });
});

describe('deleting', () => {
  test('a file that is not there is no error', async () => {
    await expect(removeFile(path)).resolves.toBeUndefined();
    await expect(removeFile(path, { expect: null })).resolves.toBeUndefined();
    await expect(removeFile(join(dir, 'missing', 'file'))).resolves.toBeUndefined();
  });

  test('a symbolic link is refused', async () => {
    await symlink('target', path);
    expect(await failure(removeFile(path))).toMatch(/is a symbolic link/);
    expect(await readdir(dir)).toEqual(['file']);
  });

  test('a folder that may not be written to', async () => {
    await writeFile(path, 'old');
    await chmod(dir, 0o555);
    expect(await asNobody(() => failure(removeFile(path)))).toBe(
      `cannot delete ${path}: EACCES: permission denied`,
    );
  });
});

describe('directories', () => {
  test('those above are made too, with the same mode', async () => {
    const deep = join(dir, 'a', 'b');
    await ensureDir(deep, 0o700);
    expect([await mode(deep), await mode(join(dir, 'a'))]).toEqual([0o700, 0o700]);
  });

  test('one that is there keeps its mode', async () => {
    await chmod(dir, 0o755);
    await ensureDir(dir, 0o700);
    expect(await mode(dir)).toBe(0o755);
  });

  test('a file is in the way', async () => {
    await writeFile(path, '');
    expect(await failure(ensureDir(path, 0o700))).toBe(
      `cannot make the directory ${path}: EEXIST: file already exists`,
    );
    expect(await failure(ensureDir(join(path, 'a'), 0o700))).toMatch(/ENOTDIR/);
  });
});

test('moving aside never overwrites', async () => {
  for (const n of [1, 2]) {
    await writeFile(path, String(n));
    expect(await moveAside(path)).toBe(`${path}.corrupt-${n}`);
  }
  expect((await readdir(dir)).sort()).toEqual(['file.corrupt-1', 'file.corrupt-2']);
  expect(await readFile(`${path}.corrupt-1`, 'utf8')).toBe('1');
});

test('all is on disk before the rename, and the rename before the end', async () => {
  // What a power cut leaves cannot be shown here; the order of the calls can.
  const handle = await open(dir);
  const prototype: FileHandle = Object.getPrototypeOf(handle);
  await handle.close();
  const calls: string[] = [];
  vi.spyOn(prototype, 'sync').mockImplementation(async function (this: FileHandle) {
    const directory = (await this.stat()).isDirectory();
    calls.push(directory ? `directory with ${(await readdir(dir)).join()}` : 'file');
    await this.datasync();
  });
  await writeFileAtomic(path, 'new');
  expect(calls).toEqual(['file', 'directory with file']);
  calls.length = 0;
  await removeFile(path);
  expect(calls).toEqual(['directory with ']);
  calls.length = 0;
  await ensureDir(join(dir, 'a', 'b'), 0o700);
  expect(calls).toHaveLength(2);
});
