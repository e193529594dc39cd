/** The terminal session in the README is what the program prints. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';
import { quoted } from '../helpers/program.ts';

const bin = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));
const readme = readFileSync(join(import.meta.dirname, '..', '..', 'README.md'), 'utf8');
const session = /^```console\n([^]*?)^```$/m.exec(readme)![1]!;

describeLive('the session in the README', { programs: ['nft', 'script'] }, () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.create();
    await lab.origin.nft(`table inet filter {
      chain input {
        type filter hook input priority 0; policy drop
        ct state established,related accept
        iif lo accept
        tcp dport 22 accept
      }
    }`);
    // The list of 2021 differs from today's in this alone.
    const lists = fileURLToPath(new URL('../../data', import.meta.url));
    await lab.origin.must(
      [
        'sh',
        '-ec',
        `mkdir -p /etc/cfsync /run/lab/2021 /run/lab/bin
       printf 'source: bundled\\nbackends:\\n  nftables:\\n' >/etc/cfsync/config.yaml
       sed 's,104.16.0.0/13,104.16.0.0/12,; /104.24.0.0/d' ${quoted(lists)}/ips-v4 >/run/lab/2021/ips-v4
       cp ${quoted(lists)}/ips-v6 /run/lab/2021
       cat >/run/lab/bin/cfsync
       chmod 755 /run/lab/bin/cfsync`,
      ],
      { stdin: `#!/bin/sh\nexec ${quoted(process.execPath)} ${quoted(bin)} "$@"\n` },
    );
    expect(await lab.cfsync(['apply', '--source', '/run/lab/2021'])).toMatchObject({
      code: exit.ok,
    });
  });
  afterAll(() => lab.close());

  test('is what is printed on a terminal with 80 columns', async () => {
    const commands = session.split('\n').flatMap((line) => /^# (.*)/.exec(line)?.[1] ?? []);
    expect(commands.length).toBeGreaterThan(5);
    const script = [
      'stty cols 80',
      // It answers the exit code that it finds, for the next command.
      'say() { code=$?; cat; return $code; }',
      ...commands.map((command) => `say <<'END'\n# ${command}\nEND\n${command}`),
    ].join('\n');
    await lab.origin.must(['tee', '/run/lab/session'], { stdin: `true\n${script}\n` });
    const { stdout } = await lab.origin.run(['script', '-qec', '. /run/lab/session', '/dev/null'], {
      env: {
        CFSYNC_STATE_DIR: '/run/lab/state',
        NO_COLOR: '1',
        SHELL: '/bin/sh',
        PATH: '/run/lab/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        TERM: 'xterm',
      },
    });
    // A line of dots stands for any lines.
    const pattern = session
      .split(/^\.\.\.\n/m)
      .map((part) => part.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
      .join('(?:.*\\n)*?');
    expect(stdout.replaceAll('\r\n', '\n')).toMatch(new RegExp(`^${pattern}$`));
    for (const line of session.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
  });
});
