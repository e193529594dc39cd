import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readConfig } from '../../src/settings/config.ts';
import { exit } from '../../src/errors.ts';
import { builtIn, loadRenderer } from '../../src/settings/load.ts';

let folder: string;
let config: string;

const source = `export default {
  api: 1, name: 'toy', kind: 'list', nothing: { ranges: { v4: [], v6: [] } },
  options: (raw) => raw, want: () => ({}), observe: async () => ({}), plan: () => [], print: () => [],
};
`;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-load-'));
  config = join(folder, 'config.yaml');
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

const asRoot = process.getuid?.() === 0;

describe('loadRenderer', () => {
  it('finds the built-in ones by name, each under its own', async () => {
    for (const name of Object.keys(builtIn))
      expect((await loadRenderer(name, undefined, undefined)).name).toBe(name);
  });

  it('finds no part of cfsync itself', async () => {
    await expect(loadRenderer('boot', undefined, undefined)).rejects.toThrow('no backend boot');
  });

  it('names the nearest when there is none', async () => {
    await expect(loadRenderer('nftable', undefined, undefined)).rejects.toThrow(
      'no backend nftable (did you mean nftables?)',
    );
  });

  it('resolves a path from the configuration file, not from the working directory', async () => {
    writeFileSync(join(folder, 'toy.mjs'), source);
    expect(await loadRenderer('x', './toy.mjs', config)).toMatchObject({ name: 'toy' });
    await expect(loadRenderer('x', './package.json', config)).rejects.toThrow('cannot read');
  });

  it('resolves a package from the configuration file', async () => {
    const home = join(folder, 'node_modules', 'cfsync-toy');
    mkdirSync(home, { recursive: true });
    writeFileSync(join(home, 'package.json'), '{"name":"cfsync-toy","main":"main.mjs"}');
    writeFileSync(join(home, 'main.mjs'), source);
    expect(await loadRenderer('x', 'cfsync-toy', config)).toMatchObject({ name: 'toy' });
    await expect(loadRenderer('x', 'vitest', config)).rejects.toThrow('is not installed beside');
  });

  it('refuses a module that is no renderer, or one for another api', async () => {
    writeFileSync(join(folder, 'old.mjs'), source.replace('api: 1', 'api: 2'));
    await expect(loadRenderer('x', './old.mjs', config)).rejects.toThrow('api: 1');
    writeFileSync(join(folder, 'part.mjs'), source.replace('plan: () => [],', ''));
    await expect(loadRenderer('x', './part.mjs', config)).rejects.toThrow('no function plan');
    writeFileSync(join(folder, 'broken.mjs'), 'export default {');
    await expect(loadRenderer('x', './broken.mjs', config)).rejects.toThrow('cannot be loaded');
  });

  it.runIf(asRoot)('as root, refuses what others can write, up to the folders above', async () => {
    const file = join(folder, 'toy.mjs');
    writeFileSync(file, source);
    chmodSync(file, 0o666);
    await expect(loadRenderer('x', './toy.mjs', config)).rejects.toThrow(
      'can be written by others',
    );
    chmodSync(file, 0o644);
    chmodSync(folder, 0o777);
    await expect(loadRenderer('x', './toy.mjs', config)).rejects.toThrow(
      'can be written by others',
    );
    chmodSync(folder, 0o755);
    chownSync(file, 65534, 65534);
    await expect(loadRenderer('x', './toy.mjs', config)).rejects.toThrow('does not belong to root');
    symlinkSync(file, join(folder, 'link.mjs'));
    await expect(loadRenderer('x', './link.mjs', config)).rejects.toThrow(
      'does not belong to root',
    );
    chownSync(file, 0, 0);
    expect(await loadRenderer('x', './link.mjs', config)).toMatchObject({ name: 'toy' });
  });
});

describe('readConfig', () => {
  it('answers nothing when there is no file and none was named', async () => {
    expect((await readConfig(undefined)).backends).toEqual({});
  });

  it('fails when the file that was named is not there', async () => {
    await expect(readConfig(join(folder, 'no.yaml'))).rejects.toMatchObject({ code: exit.failed });
  });

  it('reads settings and backends', async () => {
    writeFileSync(config, 'mode: lockdown\nbackends:\n  nftables:\n    trusted: [wg0]\n  other:\n');
    const { settings, backends } = await readConfig(config);
    expect(settings.mode).toBe('lockdown');
    expect(backends).toEqual({ nftables: { trusted: ['wg0'] }, other: {} });
  });

  it.each([
    ['# mine\nmdoe: allow\n', 'config.yaml:2: unknown key mdoe (did you mean mode?)'],
    ['- a\n', 'config.yaml:1: must be a mapping'],
    ['mode: allow\nbackends: nftables\n', 'config.yaml:2: backends: must be a mapping'],
    ['backends:\n  nftables: 1\n', 'config.yaml:2: nftables: must be a mapping'],
    ['backends:\n  ufw:\n  boot:\n', 'config.yaml:3: boot is no backend but the unit of apply'],
    ['backends:\n  boot: { renderer: ./x.js }\n', 'config.yaml:2: boot is no backend'],
    ['\nmode: [\n', 'config.yaml:3: '],
    ['mode: a\nmode: b\n', 'config.yaml:2: Map keys must be unique'],
    [
      'a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n',
      'config.yaml:1: ',
    ],
  ])('refuses %j', async (text, message) => {
    writeFileSync(config, text);
    await expect(readConfig(config)).rejects.toThrow(message);
    await expect(readConfig(config)).rejects.toMatchObject({ code: exit.usage });
  });

  it.runIf(asRoot)('as root, refuses a file that others can write', async () => {
    writeFileSync(config, 'mode: allow\n');
    chmodSync(config, 0o664);
    await expect(readConfig(config)).rejects.toThrow('can be written by others');
  });
});
