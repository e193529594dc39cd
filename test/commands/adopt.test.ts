/** What `adopt` says where it cannot look. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { listRenderer, runProgram } from '../helpers/program.ts';

it('does not say that nothing is there where a renderer has no way to look', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'cfsync-adopt-'));
  try {
    writeFileSync(join(folder, 'list.mjs'), listRenderer);
    const section = `renderer: ./list.mjs, path: ${join(folder, 'list')}`;
    writeFileSync(join(folder, 'config.yaml'), `backends: { haproxy: { ${section} } }\n`);
    const words = 'adopt --config config.yaml --source bundled'.split(' ');
    const env = { CFSYNC_STATE_DIR: join(folder, 'state') };
    expect(await runProgram(words, { cwd: folder, env })).toEqual({
      code: exit.ok,
      stdout:
        'haproxy: not looked at: its renderer cannot tell what scripts left there; look by hand\n',
      stderr: '',
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
