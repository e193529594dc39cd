/** The order of the rooms, as CONTRIBUTING.md draws it: an import goes down or stays in its room, and none goes round. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');

/** From the roof to the ground: what a path starts with. */
const rooms: readonly (readonly string[])[] = [
  ['src/bin.ts', 'src/main.ts', 'src/watcher.ts'],
  ['src/commands/'],
  ['src/doctor/'],
  ['src/setup/'],
  ['src/run/'],
  ['src/report/'],
  ['src/settings/'],
  ['renderers/'],
  ['src/filters/'],
  ['src/engine/'],
  ['src/feed/'],
  ['src/state/'],
  ['src/host/'],
  ['src/cli/'],
  ['src/plugin/'],
  [
    'src/renderer.ts',
    'src/errors.ts',
    'src/text.ts',
    'src/group.ts',
    'src/digest.ts',
    'src/prefix.ts',
    'src/special-purpose.ts',
  ],
];

const floor = (file: string): number =>
  rooms.findIndex((starts) => starts.some((start) => file.startsWith(start)));

const files = ['src', 'renderers'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
    .map((name) => join(folder, name)),
);

/** `import`, `import type`, `export from` and `import()` of a file of ours. */
function importsOf(file: string): readonly string[] {
  const text = readFileSync(join(root, file), 'utf8');
  const named = text.matchAll(/(?:\bfrom|^import|\bimport\()\s*'(\.[^']*\.ts)'/gm);
  return [...named].map(([, path]) => join(dirname(file), path!));
}

const imports = new Map(files.map((file) => [file, importsOf(file)]));

/** Every way from the file back to itself starts with the first; the shortest one, or undefined. */
function circleFrom(file: string): readonly string[] | undefined {
  const seen = new Set<string>();
  const ways = [[file]];
  for (const way of ways)
    for (const next of imports.get(way.at(-1)!) ?? []) {
      if (next === file) return [...way, file];
      if (!seen.has(next)) ways.push([...way, next]);
      seen.add(next);
    }
  return undefined;
}

test('every file has its room', () => {
  expect(files.filter((file) => floor(file) === -1)).toEqual([]);
  expect(files.length).toBeGreaterThan(100);
});

test('every import is of a file that is there', () => {
  const all = [...imports.values()].flat();
  expect(all.filter((file) => !imports.has(file))).toEqual([]);
});

test('no import goes up', () => {
  const up = [...imports].flatMap(([file, targets]) =>
    targets.filter((target) => floor(target) < floor(file)).map((to) => `${file} -> ${to}`),
  );
  expect(up).toEqual([]);
});

test('no imports go round', () => {
  const circles = files.flatMap((file) => circleFrom(file)?.join(' -> ') ?? []);
  expect(circles).toEqual([]);
});

test('no backend imports another one', () => {
  const backend = (file: string): string | undefined => /^renderers\/([^/]+)\//.exec(file)?.[1];
  const across = [...imports].flatMap(([file, targets]) =>
    targets
      .filter((to) => backend(file) && backend(to) && backend(to) !== backend(file))
      .map((to) => `${file} -> ${to}`),
  );
  expect(across).toEqual([]);
});
