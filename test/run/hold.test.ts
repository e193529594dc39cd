/** What runs without a person come to while a rollback holds. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { isOld } from '../../src/run/hold.ts';
import { runProgram } from '../helpers/program.ts';
import { forged } from '../helpers/record.ts';
import { filterRenderer } from '../helpers/wall.ts';

let folder: string;
const at = (name: string): string => join(folder, name);
const cfsync = (line: string) =>
  runProgram([...line.split(' '), '--config', 'config.yaml'], {
    cwd: folder,
    env: { CFSYNC_STATE_DIR: at('state') },
  });
const apply = (more = '') => cfsync(`apply --source list --metrics ${at('m.prom')}${more}`);
const hold = () => at('state/hold.json');
const wall = () => readFileSync(at('wall'), 'utf8');
const days = (n: number): string => new Date(Date.now() - n * 86_400_000).toISOString();
const since = (time: string): void =>
  writeFileSync(
    hold(),
    forged(readFileSync(hold(), 'utf8'), (content) => ({ ...content, at: time })),
  );

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-hold-'));
  writeFileSync(at('wall.mjs'), filterRenderer);
  writeFileSync(at('list'), '104.16.0.0/13\n172.64.0.0/13\n2400:cb00::/32\n');
  const hook = `[/bin/sh, -c, 'cat >>${at('report')}']`;
  writeFileSync(
    at('config.yaml'),
    `judge: off\non-failure: ${hook}\nbackends: {wall: {renderer: ./wall.mjs, path: ${at('wall')}}}\n`,
  );
  expect((await apply()).code).toBe(exit.ok);
  expect((await apply(' --ports 80,443,8443')).code).toBe(exit.ok);
  expect((await cfsync('rollback')).code).toBe(exit.ok);
});
afterEach(() => rmSync(folder, { recursive: true }));

it('a young one is one line, code 0 and a sample, and its own state may be asked for', async () => {
  const before = wall();
  for (const more of ['', ' --ports 80,443']) {
    const { code, stdout, stderr } = await apply(more);
    expect(code, stderr).toBe(exit.ok);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^cfsync: held since [^\n]*; nothing is changed; [^\n]*\n$/);
  }
  expect(wall()).toBe(before);
  expect(readFileSync(at('m.prom'), 'utf8')).toContain('\ncfsync_held 1\n');
  expect(existsSync(at('report'))).toBe(false);
});

it.each([8, -1])('of %i days ago, it is 75, and the hook is told', async (n) => {
  since(days(n));
  const before = wall();
  const { code, stderr } = await apply();
  expect(code).toBe(exit.busy);
  expect(stderr).toMatch(/^cfsync: held since [^\n]*--end-hold, ends the hold\n$/);
  expect(wall()).toBe(before);
  expect(JSON.parse(readFileSync(at('report'), 'utf8'))).toMatchObject({
    code: exit.busy,
    held: true,
    changed: false,
  });
});

it('flags that ask for another state are not passed over: 75, and no hook', async () => {
  const before = wall();
  for (const more of [' --mode lockdown', ' --ports 443', ' --udp-ports 443'])
    expect((await apply(more)).code, more).toBe(exit.busy);
  expect(wall()).toBe(before);
  expect(existsSync(at('report'))).toBe(false);
});

it('--end-hold ends it, not in a dry run, and is nothing where nothing holds', async () => {
  expect((await apply(' --end-hold --dry-run')).code).toBe(exit.ok);
  expect(existsSync(hold())).toBe(true);
  expect((await apply(' --end-hold --ports 80,443,8443')).code).toBe(exit.ok);
  expect(existsSync(hold())).toBe(false);
  expect(wall()).toContain('8443');
  expect(readFileSync(at('m.prom'), 'utf8')).toContain('\ncfsync_held 0\n');
  const again = await apply(' --end-hold --ports 80,443,8443');
  expect(again).toEqual({ code: exit.ok, stdout: '', stderr: '' });
});

it('more than seven days are long, and what is to come is not known', () => {
  const now = new Date('2026-01-08T00:00:00.000Z');
  expect(isOld({ at: '2026-01-01T00:00:00.000Z' }, now)).toBe(false);
  expect(isOld({ at: '2025-12-31T23:59:59.999Z' }, now)).toBe(true);
  expect(isOld({ at: '2026-01-08T00:00:00.001Z' }, now)).toBe(true);
});
