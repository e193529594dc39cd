import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { observeSessions } from '../../src/run/sessions.ts';
import type { ProcessHost } from '../../src/host/proc.ts';
import { answer, expected } from '../fixtures/sessions/expected.ts';
import { recorded, type Recorded } from '../helpers/host.ts';

const scene = (name: string): Required<Recorded> =>
  JSON.parse(
    readFileSync(join(import.meta.dirname, '..', 'fixtures', 'sessions', `${name}.json`), 'utf8'),
  );

/** The scene `named` with something else in the environment. */
function renamed(from: string | RegExp, to: string): ProcessHost {
  const { files, ...rest } = scene('named');
  const changed = Object.entries(files).map(([path, text]) => [path, text.replace(from, to)]);
  return recorded({ ...rest, files: Object.fromEntries(changed) as typeof files });
}

describe('observeSessions', () => {
  it.each(Object.keys(expected))('%s', async (name) => {
    expect(answer(await observeSessions(recorded(scene(name)), [80, 443]))).toEqual(expected[name]);
  });

  it('tells only of the ports it is asked about', async () => {
    expect(await observeSessions(recorded(scene('held')), [80])).toEqual({
      own: [],
      peers: new Map(),
    });
    const { own } = await observeSessions(recorded(scene('redirected')), [22]);
    expect(own).toMatchObject([{ port: 22, peer: '2001:db8::10' }]);
    const all = await observeSessions(recorded(scene('redirected')), [], true);
    expect(all.own.map(({ port }) => port)).toContain(22);
    expect(all.peers).toEqual(new Map());
  });

  it.each([
    '',
    'UNKNOWN 65535 UNKNOWN 65535',
    '203.0.113.300 1 203.0.113.5 443',
    '443',
    '%eth0',
    '127.0.0.1 50000 127.0.0.1 443',
    '::1 50000 ::1 443',
  ])('makes nothing of SSH_CONNECTION=%s', async (value) => {
    const host = renamed(/SSH_CONNECTION=[^\0]*/, `SSH_CONNECTION=${value}`);
    expect((await observeSessions(host, [443])).own).toEqual([]);
  });

  it.each([
    ['::ffff:198.51.100.10', '198.51.100.10'],
    ['fe80::10%eth0', 'fe80::10'],
  ])('takes the client %s for %s', async (client, peer) => {
    const host = renamed('SSH_CONNECTION=2001:db8::10', `SSH_CONNECTION=${client}`);
    expect((await observeSessions(host, [443])).own).toMatchObject([{ peer }]);
  });

  it('takes no other variable for SSH_CONNECTION', async () => {
    const host = renamed('SSH_CONNECTION', 'OLD_SSH_CONNECTION');
    expect((await observeSessions(host, [443])).own).toEqual([]);
  });

  it('finds nothing, and does not fail, where there is no /proc', async () => {
    expect(await observeSessions(recorded({}), [443])).toEqual({ own: [], peers: new Map() });
  });

  it('stops at a parent that has ended meanwhile', async () => {
    const { files, ...rest } = scene('named');
    const left = Object.entries(files).filter(([path]) => !/^\/proc\/\d+\/stat$/.test(path));
    const orphan = recorded({ ...rest, files: Object.fromEntries(left) });
    expect((await observeSessions(orphan, [443])).own).toEqual([]);
  });
});
