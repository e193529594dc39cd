import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { observeSessions } from '../src/sessions.ts';
import { answer, expected } from './fixtures/sessions/expected.ts';
import { recorded, type Recorded } from './helpers/host.ts';

const scene = (name: string): Required<Recorded> =>
  JSON.parse(
    readFileSync(join(import.meta.dirname, 'fixtures', 'sessions', `${name}.json`), 'utf8'),
  );

describe('observeSessions', () => {
  it.each(Object.keys(expected))('%s', async (name) => {
    const { own, peers } = await observeSessions(recorded(scene(name)), [80, 443]);
    expect(answer(own, peers)).toEqual(expected[name]);
  });

  it('tells only of the ports it is asked about', async () => {
    expect(await observeSessions(recorded(scene('held')), [80])).toEqual({
      own: [],
      peers: new Map(),
    });
    const { own } = await observeSessions(recorded(scene('redirected')), [22]);
    expect(own).toHaveLength(3);
  });

  it.each(['', 'UNKNOWN 65535 UNKNOWN 65535', '203.0.113.300 1 203.0.113.5 443', '443', '%eth0'])(
    'makes nothing of SSH_CONNECTION=%s',
    async (value) => {
      const { files, ...rest } = scene('named');
      const changed = Object.entries(files).map(([path, text]) => [
        path,
        text.replace(/SSH_CONNECTION=[^\0]*/, `SSH_CONNECTION=${value}`),
      ]);
      const host = recorded({ ...rest, files: Object.fromEntries(changed) as typeof files });
      expect((await observeSessions(host, [443])).own).toEqual([]);
    },
  );

  it('takes no other variable for SSH_CONNECTION', async () => {
    const { files, ...rest } = scene('named');
    const changed = Object.entries(files).map(([path, text]) => [
      path,
      text.replace('SSH_CONNECTION', 'OLD_SSH_CONNECTION'),
    ]);
    const host = recorded({ ...rest, files: Object.fromEntries(changed) as typeof files });
    expect((await observeSessions(host, [443])).own).toEqual([]);
  });

  it('finds nothing, and does not fail, where there is no /proc', async () => {
    expect(await observeSessions(recorded({}), [443])).toEqual({ own: [], peers: new Map() });
  });

  it('finds the parent that has ended meanwhile to be the last one', async () => {
    const { files, ...rest } = scene('named');
    const { '/proc/self/stat': self, ...others } = files;
    const orphan = recorded({ ...rest, files: { '/proc/self/stat': self!, ...dropStats(others) } });
    expect((await observeSessions(orphan, [443])).own).toEqual([]);
  });
});

function dropStats(files: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(files).filter(([path]) => !path.endsWith('/stat')));
}
