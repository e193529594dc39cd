/** Tries a changed configuration before it is in place. */
import { dirname, relative } from 'node:path';
import type { Changes } from '../../src/plugin/file-renderer.ts';
import type { Command } from '../../src/renderer.ts';

/** A program in a mount namespace of its own: what stands in another place there, nobody else sees. */
export function inNamespace(...argv: readonly string[]): [string, ...string[]] {
  return ['unshare', '--mount', '--propagation', 'private', ...argv];
}

/** Runs a program as if the changes were made; undefined when they have no folder of their own in common. */
export function staged(changes: Changes, argv: readonly string[]): Command | undefined {
  const folder = commonFolder([...changes.keys()].map((path) => dirname(path)));
  if (folder === undefined) return undefined;
  const files = [...changes].map(([path, content]) => [relative(folder, path), content] as const);
  const script = `mount --bind "$1" "$2" && shift 2 && exec "$@"`;
  return {
    argv: inNamespace('sh', '-c', script, 'sh', '{stage}', folder, ...argv),
    stage: { copy: folder, files: Object.fromEntries(files) },
  };
}

/** Not `/etc` and the like: all of it would be copied. */
function commonFolder(folders: readonly string[]): string | undefined {
  const [first, ...more] = [...new Set(folders)].map((folder) => folder.split('/'));
  if (first === undefined || more.length === 0) return first?.join('/');
  const differs = first.findIndex((name, i) => more.some((other) => other[i] !== name));
  const common = differs < 0 ? first : first.slice(0, differs);
  return common.length > 2 ? common.join('/') : undefined;
}
