/** The example that the help of each command ends with runs, on a host that has what it needs. */
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { exit } from '../../src/errors.ts';
import { commands } from '../../src/cli/flags.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';
import { quoted } from '../helpers/program.ts';

const bin = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));

/** What has to be done first. */
const before: Readonly<Record<string, string>> = {
  confirm: 'apply --backend nftables --source bundled --mode lockdown --confirm 60',
  remove: 'apply --backend nftables --source bundled --allow-weaker',
};

describeLive('the examples in --help', { programs: ['nft', 'iptables'] }, () => {
  let lab: Lab;
  /** In a folder of the lab's own, which is written to. */
  const run = (line: string) =>
    lab.origin.run(
      ['sh', '-c', `cd /run/lab && exec ${quoted(process.execPath)} ${quoted(bin)} ${line}`],
      {
        env: { CFSYNC_STATE_DIR: '/run/lab/state' },
      },
    );
  beforeAll(async () => {
    lab = await Lab.create();
    await lab.origin.must(['mkdir', '/etc/cfsync']);
    // There are no feeds to be had.
    await lab.origin.must(['tee', '/etc/cfsync/config.yaml'], { stdin: 'source: bundled\n' });
    expect((await run('apply --backend nftables')).code).toBe(exit.ok);
  });
  afterAll(() => lab.close());

  test.for(Object.entries(commands))('%s', async ([name, { example }]) => {
    if (name === 'init') await lab.origin.must(['rm', '/etc/cfsync/config.yaml']);
    const first = before[name];
    const prepared = first === undefined ? exit.ok : (await run(first)).code;
    expect(prepared).toBe(exit.ok);
    expect(await lab.cfsync([name, '--help'])).toMatchObject({
      code: exit.ok,
      stdout: expect.stringContaining(`\nExample: ${example}\n`) as string,
    });
    const { code, stdout, stderr } = await run(example.replace('cfsync ', ''));
    // doctor ends with 2 when it has something to say.
    const good: readonly number[] = name === 'doctor' ? [exit.ok, exit.pending] : [exit.ok];
    expect(good, stdout + stderr).toContain(code);
    if (name === 'init')
      await lab.origin.must(['tee', '/etc/cfsync/config.yaml'], { stdin: 'source: bundled\n' });
  });
});
