/** The first file of the program: what it answers before anything else is loaded. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../src/errors.ts';
import { listRenderer, runProgram } from './helpers/program.ts';

const manifest = JSON.parse(
  readFileSync(join(import.meta.dirname, '..', 'package.json'), 'utf8'),
) as { readonly version: string; readonly engines: { readonly node: string } };

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-bin-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('who only asks changes nothing', () => {
  const state = (): string => join(folder, 'state');
  const list = (): string => join(folder, 'cloudflare.lst');
  const cfsync = (line: string) =>
    runProgram(line.split(' '), { cwd: folder, env: { CFSYNC_STATE_DIR: state() } });
  const apply = 'apply --config config.yaml --source bundled';

  beforeEach(() => {
    writeFileSync(join(folder, 'list.mjs'), listRenderer);
    const section = `{ renderer: ./list.mjs, path: ${list()} }`;
    writeFileSync(join(folder, 'config.yaml'), `backends:\n  lb: ${section}\n`);
  });

  it.each(['-V', '--version', '-qV', '-Vv', '-qhV'])(
    'apply with %s prints the version',
    async (flag) => {
      const lines = [`${apply} ${flag}`, apply.replace('apply', `apply ${flag}`), flag];
      for (const line of lines) {
        const ended = await cfsync(line);
        expect(ended).toEqual({ code: exit.ok, stdout: `${manifest.version}\n`, stderr: '' });
      }
      expect([existsSync(list()), existsSync(state())]).toEqual([false, false]);
    },
  );

  it.each(['-h', '--help', '-qh', '-hv'])('apply with %s prints its help', async (flag) => {
    const { code, stdout } = await cfsync(`${apply} ${flag}`);
    expect({ code, first: stdout.split('\n')[0] }).toEqual({
      code: exit.ok,
      first: 'Usage: cfsync apply [options]',
    });
    expect([existsSync(list()), existsSync(state())]).toEqual([false, false]);
  });

  it.each([
    '-qV=false',
    '-qV1',
    '-V=false',
    '--version=no',
    '-qh=false',
    // A blank is missing.
    '-v--dry-run',
    '-q-dry-run',
    '-q-V',
  ])('apply with %s is refused', async (flag) => {
    const { code, stderr } = await cfsync(`${apply} ${flag}`);
    expect({ code, stderr }).toEqual({
      code: exit.usage,
      stderr: expect.stringMatching(/(no|without a) value/),
    });
    expect([existsSync(list()), existsSync(state())]).toEqual([false, false]);
  });

  it('and without such a word it is applied', async () => {
    expect(await cfsync(apply)).toMatchObject({ code: exit.ok });
    expect(existsSync(list())).toBe(true);
  });
});

describe('the release of Node', () => {
  /** The program, in a Node that says that it is this one. */
  const on = (release: string) => {
    const preload = join(folder, 'release.cjs');
    writeFileSync(
      preload,
      `Object.defineProperty(process.versions, 'node', { value: '${release}' });`,
    );
    return runProgram(['show', '--source', 'bundled'], {
      cwd: folder,
      env: { NODE_OPTIONS: `--require ${preload}`, CFSYNC_STATE_DIR: folder },
    });
  };

  it.each(['8.17.0', '18.20.8', '20.18.3', '21.7.3', '22.11.0'])(
    '%s is not enough',
    async (release) => {
      expect(await on(release)).toEqual({
        code: exit.failed,
        stdout: '',
        stderr: `cfsync: needs Node 20.19 or later, or 22.12 or later; this is Node ${release} (${process.execPath}); nothing was changed\n`,
      });
    },
  );

  it.each(['20.19.0', '22.12.0', '23.0.0', '24.0.0', '26.1.0'])('%s is', async (release) => {
    expect(await on(release)).toMatchObject({ code: exit.ok, stderr: '' });
  });

  it('is what the package asks for', () => {
    expect(manifest.engines.node).toBe('^20.19 || >=22.12');
  });
});
