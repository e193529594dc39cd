/** What the tests want of a host, from the list that comes with the package. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { none, parseRanges } from '../../src/prefix.ts';
import type { Desired, Ranges } from '../../src/renderer.ts';

const data = join(import.meta.dirname, '..', '..', 'data');

export const bundled: Ranges = parseRanges(
  ['ips-v4', 'ips-v6'].flatMap((name) => readFileSync(join(data, name), 'utf8').split('\n')),
);

export function desired(changes: Partial<Desired> = {}): Desired {
  return {
    ranges: bundled,
    extra: none,
    tcpPorts: [80, 443],
    udpPorts: [],
    mode: 'allow',
    ...changes,
  };
}
