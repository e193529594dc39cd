/** The test kit for third-party renderers, on renderers that keep their promises and on some that do not. */
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { fileRenderer } from '../../src/plugin/file-renderer.ts';
import type { Renderer, Step } from '../../src/renderer.ts';
import { checkRenderer, exampleDesired, memoryHost } from '../../src/plugin/testing.ts';

const root = join(import.meta.dirname, '..', '..');

const good = fileRenderer({
  name: 'toy',
  options: () => ({}),
  want: ({ ranges }) => ({
    files: [{ path: '/etc/toy', content: [...ranges.v4, ...ranges.v6, ''].join('\n') }],
  }),
}) as Renderer;

describe('checkRenderer', () => {
  it('is content with a renderer that keeps its promises', async () => {
    await expect(checkRenderer(good, { files: { '/etc/other': 'x\n' } })).resolves.toBeUndefined();
  });

  const write = (path: string, content: string | null): Step => ({
    kind: 'file',
    summary: '',
    path,
    content,
    mode: 0o644,
    expect: null,
  });
  let calls = 0;
  const bad: readonly (readonly [string, Partial<Renderer>])[] = [
    ['apply leaves nothing to do', { plan: (w, o) => [...good.plan(w, o), write('/x', null)] }],
    [
      'leads to itself',
      { plan: (w, o) => (w === o.owned ? [write('/x', null)] : good.plan(w, o)) },
    ],
    ['plan answers the same', { plan: (w, o) => good.plan(w, o).slice(calls++ % 2) }],
    [
      'want answers the same',
      {
        want: (d, o, a) => ({
          ...good.want(d, o, a),
          owned: { ...good.want(d, o, a).owned, strays: [{ text: String(calls++), prefixes: [] }] },
        }),
      },
    ],
    [
      'is not what the plan expects',
      { plan: (w, o) => good.plan(w, o).map((s) => ({ ...s, expect: 'x' }) as Step) },
    ],
    [
      'plain JSON',
      {
        observe: async (h, o) => {
          const observed = await good.observe(h, o);
          return { ...observed, owned: { ...observed.owned, strays: undefined as never } };
        },
      },
    ],
    [
      'all that was desired',
      {
        observe: async (h, o) => {
          const observed = await good.observe(h, o);
          return { ...observed, owned: { ...observed.owned, ranges: { v4: [], v6: [] } } };
        },
      },
    ],
    ['stays inside a folder', { print: () => [{ path: '../x', content: '' }] }],
    ['ends with a newline', { print: () => [{ path: 'x', content: 'x' }] }],
    [
      'not extensible',
      {
        want: (d, o, a) => {
          (d.tcpPorts as number[]).push(1);
          return good.want(d, o, a);
        },
      },
    ],
    [
      'never touched',
      { observe: async () => ({ owned: { ranges: exampleDesired().ranges }, around: {} }) },
    ],
  ];
  it.each(bad)('finds: %s', async (message, changes) => {
    await expect(checkRenderer({ ...good, ...changes })).rejects.toThrow(message);
  });

  it('finds a renderer that leaves something behind', async () => {
    let left = [write('/etc/left', '')];
    const untidy: Renderer = {
      ...good,
      plan: (wanted, observed) => {
        const steps = good.plan(wanted, observed);
        return steps.length === 0 ? [] : [...steps, ...left];
      },
    };
    // Twice asked, once done.
    const watched: Renderer = {
      ...untidy,
      observe: async (host, options) => {
        if ((await host.read('/etc/left')) !== undefined) left = [];
        return good.observe(host, options);
      },
    };
    await expect(checkRenderer(watched)).rejects.toThrow('remove leaves');
  });
});

it('a host in memory lists folders, and fails where the real one would', async () => {
  const host = memoryHost({ files: { '/etc/a/b': '' }, folders: { '/run/x': [] } });
  expect(await host.list('/etc')).toEqual(['a']);
  expect(await host.list('/run/x')).toEqual([]);
  expect(await host.list('/var')).toBeUndefined();
  await expect(host.query({ argv: ['nft'] })).rejects.toThrow('no program');
});

it("the example's own tests pass, as a package that finds cfsync beside it", async () => {
  const folder = mkdtempSync(join(tmpdir(), 'cfsync-example-'));
  try {
    cpSync(join(root, 'examples', 'third-party-renderer'), folder, { recursive: true });
    mkdirSync(join(folder, 'node_modules'));
    symlinkSync(root, join(folder, 'node_modules', 'cfsync'));
    const { stdout } = await promisify(execFile)('npm', ['test', '--', '--test-reporter=tap'], {
      cwd: folder,
    });
    expect(stdout).toMatch(/^# pass 3$/m);
    expect(stdout).toMatch(/^# fail 0$/m);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
