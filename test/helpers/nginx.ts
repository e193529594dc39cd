/** A host with nginx, made of recorded answers. */
import type { Host } from '../../src/renderer.ts';
import { recorded, type Recorded } from './host.ts';

/** Whose files are no links, unless named. */
export function nginxHost(host: Recorded, links: readonly string[] = []): Host {
  const all = recorded(host);
  return {
    ...all,
    async query(command) {
      if (command.argv[0] !== 'find') return all.query(command);
      const found = links.filter((file) => command.argv.includes(file));
      return { code: 0, stdout: found.map((file) => `${file}\0`).join(''), stderr: '' };
    },
  };
}
