/** The first file of the program on releases of Node that are too old for the rest, the real ones. */
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { exit } from '../../src/errors.ts';
import { describeLive } from './privileges.ts';

const program = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));

describeLive('an old Node', { programs: ['npx'] }, () => {
  // Debian 12 and Ubuntu 24.04 bring 18, Debian 11 brings 12.
  test.each(['18', '12'])('Node %s is told in one line what is needed', (release) => {
    const words = ['-y', '-p', `node@${release}`, '--', 'node', program, 'apply', '-b', 'nftables'];
    const { status, stdout, stderr } = spawnSync('npx', words, {
      cwd: tmpdir(),
      encoding: 'utf8',
    });
    expect(stderr).toMatch(
      new RegExp(
        `^cfsync: needs Node 20\\.19 or later, or 22\\.12 or later; this is Node ${release}\\.[\\d.]+ \\(/.*/node\\); nothing was changed\\n$`,
      ),
    );
    expect({ status, stdout }).toEqual({ status: exit.failed, stdout: '' });
  });
});
