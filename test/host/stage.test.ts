/** The temporary folder in which a configuration is tried: what is in it, and that nothing is written outside. */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { withStage } from '../../src/host/files.ts';

let dir: string;
let conf: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'cfsync-stage-test-'));
  conf = join(dir, 'conf');
  await mkdir(join(conf, 'jail.d'), { recursive: true });
  await mkdir(join(dir, 'elsewhere'));
  await writeFile(join(conf, 'jail.conf'), 'stock', { mode: 0o640 });
  await writeFile(join(conf, 'jail.d', 'a.conf'), 'a');
  await writeFile(join(dir, 'elsewhere', 'b.conf'), 'b');
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const content = (folder: string, name: string) => readFile(join(folder, name), 'utf8');

test('a copy with files added, replaced and deleted, gone afterwards', async () => {
  const files = { 'jail.conf': null, 'jail.d/a.conf': 'new', 'x/y': 'made', 'missing.conf': null };
  const stage = await withStage({ copy: conf, files }, async (folder) => {
    expect((await stat(folder)).mode & 0o777).toBe(0o700);
    expect((await readdir(folder, { recursive: true })).sort()).toEqual([
      'jail.d',
      'jail.d/a.conf',
      'x',
      'x/y',
    ]);
    expect(await content(folder, 'jail.d/a.conf')).toBe('new');
    return folder;
  });
  expect(existsSync(stage)).toBe(false);
  expect(await content(conf, 'jail.conf')).toBe('stock');
  expect(await content(conf, 'jail.d/a.conf')).toBe('a');
});

test('it goes at exit too, from the turn on in which it is made', async () => {
  const before = process.listenerCount('exit');
  const work = withStage({ files: { x: '' } }, () => Promise.resolve());
  // Within a turn; nothing from outside is seen before it ends.
  for (let i = 0; i < 10; i++) await Promise.resolve();
  expect(process.listenerCount('exit')).toBe(before + 1);
  await work;
  expect(process.listenerCount('exit')).toBe(before);
});

test('modes are kept', () =>
  withStage({ copy: conf, files: {} }, async (folder) => {
    expect((await stat(join(folder, 'jail.conf'))).mode & 0o777).toBe(0o640);
  }));

test('links out of the folder lead there still, whichever way they are written', async () => {
  await symlink('../elsewhere/b.conf', join(conf, 'relative'));
  await symlink('../../elsewhere/b.conf', join(conf, 'jail.d', 'deeper'));
  await symlink(join(dir, 'elsewhere', 'b.conf'), join(conf, 'absolute'));
  await symlink('../elsewhere', join(conf, 'folder'));
  await symlink('../nowhere', join(conf, 'dangling'));
  await withStage({ copy: conf, files: {} }, async (folder) => {
    for (const name of ['relative', 'jail.d/deeper', 'absolute', 'folder/b.conf'])
      expect(await content(folder, name), name).toBe('b');
    expect(existsSync(join(folder, 'dangling'))).toBe(false);
  });
});

test('links within the folder lead to the copy', async () => {
  await symlink('jail.d/a.conf', join(conf, 'relative'));
  await symlink(join(conf, 'jail.d', 'a.conf'), join(conf, 'absolute'));
  await withStage({ copy: conf, files: { 'jail.d/a.conf': 'new' } }, async (folder) => {
    expect(await content(folder, 'relative')).toBe('new');
    expect(await content(folder, 'absolute')).toBe('new');
  });
});

test('a folder that is a link itself', async () => {
  await symlink('conf', join(dir, 'linked'));
  await withStage({ copy: join(dir, 'linked'), files: {} }, async (folder) => {
    expect(await content(folder, 'jail.d/a.conf')).toBe('a');
  });
});

test.for(['../elsewhere', 'absolute'])('nothing is written through links (%s)', async (how) => {
  const elsewhere = join(dir, 'elsewhere');
  await symlink(how === 'absolute' ? elsewhere : how, join(conf, 'linked.d'));
  await symlink(join(elsewhere, 'b.conf'), join(conf, 'jail.d', 'b.conf'));
  const files = {
    'linked.d/b.conf': 'new',
    'linked.d/c.conf': 'new',
    'jail.d/b.conf': 'new',
  };
  await withStage({ copy: conf, files }, async (folder) => {
    for (const name of Object.keys(files)) expect(await content(folder, name)).toBe('new');
  });
  expect(await readdir(elsewhere)).toEqual(['b.conf']);
  expect(await content(elsewhere, 'b.conf')).toBe('b');
  await withStage({ copy: conf, files: { 'linked.d/b.conf': null } }, async (folder) => {
    expect(await readdir(join(folder, 'linked.d'))).toEqual([]);
  });
  expect(await content(elsewhere, 'b.conf')).toBe('b');
});
