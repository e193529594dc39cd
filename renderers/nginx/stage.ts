/** Tries a changed configuration before it is in place. */
import { basename, dirname } from 'node:path';
import type { Changes } from '../../src/plugin/file-renderer.ts';
import type { Command } from '../../src/renderer.ts';

/** A program in a mount namespace of its own: what stands in another place there, nobody else sees. */
export function inNamespace(...argv: readonly string[]): [string, ...string[]] {
  return ['unshare', '--mount', '--propagation', 'private', ...argv];
}

/** Runs a program as if the changes were made; undefined when they are in more than one folder. */
export function staged(changes: Changes, argv: readonly string[]): Command | undefined {
  const [folder, ...more] = new Set([...changes.keys()].map((path) => dirname(path)));
  if (folder === undefined || more.length > 0) return undefined;
  const files = [...changes].map(([path, content]) => [basename(path), content] as const);
  const script = `mount --bind "$1" "$2" && shift 2 && exec "$@"`;
  return {
    argv: inNamespace('sh', '-c', script, 'sh', '{stage}', folder, ...argv),
    stage: { copy: folder, files: Object.fromEntries(files) },
  };
}
