/** Another user on the same host, who changes links as fast as he can while root runs cfsync on them. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const home = '/run/lab/home';
const nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'] as const;

/** Shows what is root's and what is his in turn. */
const flip = `
const { renameSync, symlinkSync } = require('node:fs');
const [, ...targets] = process.argv;
process.chdir('${home}');
for (;;)
  for (const target of targets) {
    symlinkSync(target, 'new');
    renameSync('new', 'link');
  }
`;

/** Before the links were looked at, it took 7 runs. */
const runs = 30;

describeLive('another user', { programs: ['nft', 'setpriv'] }, () => {
  let lab: Lab;
  const must = (...argv: [string, ...string[]]) => lab.origin.must(argv);
  const write = (path: string, content: string) =>
    lab.origin.must(['tee', path], { stdin: content });
  const flipping = async (...targets: string[]) => {
    const argv = [...nobody, process.execPath, '-e', flip, ...targets] as const;
    const child = lab.origin.spawn([...argv]);
    await expect
      .poll(() => lab.origin.run(['test', '-L', `${home}/link`]))
      .toMatchObject({ code: 0 });
    return child;
  };

  beforeEach(async () => {
    lab = await Lab.create();
    await must('chmod', '755', '/run/lab');
    await must('install', '-d', '-o', '65534', home);
    await must('mkdir', '/etc/cfsync');
  });

  afterEach(() => lab.close());

  it('cannot have his hook run by a link that he changes', async () => {
    await write('/etc/cfsync/good.yaml', 'mode: allow\n');
    await write(
      `${home}/evil.yaml`,
      `source: /nonexistent\non-failure: [sh, -c, "id >>${home}/ran"]\n`,
    );
    const child = await flipping(`${home}/evil.yaml`, '/etc/cfsync/good.yaml');
    for (let n = 0; n < runs; n++) {
      const words = `apply -b nftables --source /nonexistent --config ${home}/link`;
      const ended = await lab.cfsync(words.split(' '));
      expect(ended.code).toBe(exit.failed);
      expect(ended.stderr).toContain(`${home} does not belong to root; nothing was changed; copy`);
    }
    expect(child.exitCode).toBeNull();
    expect((await lab.origin.run(['cat', `${home}/ran`])).stdout).toBe('');
  });

  it('cannot have his renderer loaded by a link that he changes', async () => {
    const toy = `export default {
      api: 1, name: 'toy', kind: 'list', nothing: {}, options: (raw) => raw,
      want: () => ({}), observe: async () => ({}), plan: () => [], print: () => [],
    };\n`;
    const theirs = `import { writeFileSync } from 'node:fs'; writeFileSync('${home}/ran', '');\n${toy}`;
    await write('/etc/cfsync/good.mjs', toy);
    await write(`${home}/evil.mjs`, theirs);
    const config = `backends:\n  toy: { renderer: ${home}/link }\n`;
    await write('/etc/cfsync/config.yaml', config);
    const child = await flipping(`${home}/evil.mjs`, '/etc/cfsync/good.mjs');
    for (let n = 0; n < runs; n++) {
      const ended = await lab.cfsync(['config', 'check']);
      expect(ended.code).toBe(exit.failed);
      expect(ended.stderr).toContain(`${home} does not belong to root`);
    }
    expect(child.exitCode).toBeNull();
    expect((await lab.origin.run(['test', '-e', `${home}/ran`])).code).toBe(1);
  });
});
