/** What goes wrong on a host: a clear message, the right exit code, and nothing changed. */
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const filter =
  'table inet filter {\n chain input {\n type filter hook input priority filter; policy drop;\n iifname "lo" accept\n tcp dport 22 accept\n }\n}\n';

describeLive('bad input', { programs: ['nft', 'strace', 'setpriv'] }, () => {
  let lab: Lab;
  let before: string;

  const ruleset = () => lab.origin.must(['nft', '-a', 'list', 'ruleset']);
  const apply = (...args: string[]) =>
    lab.cfsync(['apply', '-b', 'nftables', '--source', 'bundled', ...args]);
  const must = (...argv: [string, ...string[]]) => lab.origin.must(argv);
  const write = (path: string, content: string) =>
    lab.origin.must(['tee', path], { stdin: content });

  /** Runs cfsync under another program, in the lab. */
  const under = async (wrapper: readonly [string, ...string[]], ...args: string[]) => {
    const script = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));
    return lab.origin.run(
      [
        ...wrapper,
        process.execPath,
        script,
        'apply',
        '-b',
        'nftables',
        '--source',
        'bundled',
        ...args,
      ],
      { env: { CFSYNC_STATE_DIR: '/run/lab/state' } },
    );
  };

  beforeEach(async () => {
    lab = await Lab.create();
    await lab.origin.nft(filter);
    before = await ruleset();
  });

  afterEach(async () => {
    expect(await ruleset()).toBe(before);
    await lab.close();
  });

  it('nft is not installed', async () => {
    await must('mkdir', '/run/lab/empty');
    await must('mount', '--bind', '/run/lab/empty', '/usr/sbin');
    const { code, stderr } = await apply();
    await must('/bin/umount', '/usr/sbin');
    expect(stderr).toContain('nft is not installed; install it (Debian: apt-get install nftables)');
    expect(code).toBe(exit.failed);
  });

  it('no permission', async () => {
    await must('chmod', '755', '/run/lab');
    await must('install', '-d', '-o', '65534', '/run/lab/state');
    const nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'] as const;
    const { code, stderr } = await under(nobody);
    expect(stderr).toContain('needs root (CAP_NET_ADMIN); run it with sudo');
    expect(code).toBe(exit.failed);
  });

  it('no nf_tables in the kernel', async () => {
    // Only nft asks for a netlink socket of this family; the error is what a kernel without it answers.
    const { code, stderr } = await under([
      'strace',
      '-f',
      '-o/dev/null',
      '-etrace=socket',
      '-einject=socket:error=EPROTONOSUPPORT',
    ]);
    expect(stderr).toContain('this kernel has no nf_tables');
    expect(code).toBe(exit.failed);
  });

  describe('for the input of a program', () => {
    const folders = ['/dev/shm', '/run', '/var/tmp', '/tmp'];
    const small = (options: string) =>
      must('mount', '-t', 'tmpfs', '-o', `mode=1777,${options}`, 'none', '/dev/shm');
    const opened = (error: string, ...paths: string[]) =>
      under(
        [
          'strace',
          '-f',
          '-o/dev/null',
          ...paths.map((path) => `-P${path}`),
          '-etrace=openat',
          `-einject=openat:error=${error}`,
        ],
        '--mode=lockdown',
      );
    it('no room anywhere', async () => {
      const { code, stderr } = await opened('ENOSPC', ...folders);
      for (const folder of folders)
        expect(stderr).toContain(`${folder} (ENOSPC: no space left on device)`);
      expect(stderr).toContain('it was not started; free some space in one of them');
      expect(code).toBe(exit.failed);
    });

    it.each([
      ['no room for a file', 'nr_inodes=1'],
      ['too little room for all of it', 'size=4k'],
    ])('%s in memory: on the disk', async (_, options) => {
      await small(options);
      await must('mkdir', '/run/lab/lists');
      const many = Array.from({ length: 2000 }, (_, i) => `104.${i >> 8}.${i & 255}.128/25\n`);
      await write('/run/lab/lists/ips-v4', many.join(''));
      await write('/run/lab/lists/ips-v6', '2606:4700::/32\n');
      const { code, stderr } = await lab.cfsync([
        'apply',
        '-b',
        'nftables',
        '--source',
        '/run/lab/lists',
      ]);
      expect(code, stderr).toBe(exit.ok);
      expect(await must('ls', '-A', '/dev/shm')).toBe('');
      expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
    });

    it.each(['EOPNOTSUPP', 'EISDIR'])(
      'a file system where every file has a name (%s)',
      async (error) => {
        await small('size=1m');
        // As it is left by SIGKILL between two system calls.
        await must('touch', '/dev/shm/.cfsync-input');
        const { code, stderr } = await opened(error, '/dev/shm');
        expect(code, stderr).toBe(exit.ok);
        expect(await must('ls', '-A', '/dev/shm')).toBe('');
        expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
      },
    );
  });

  it('a read-only state directory', async () => {
    await must('mkdir', '-p', '/run/lab/state');
    await must('mount', '-t', 'tmpfs', '-o', 'ro,mode=700', 'none', '/run/lab/state');
    const { code, stderr } = await apply();
    expect(stderr).toContain('/run/lab/state');
    expect(stderr).toContain('--state-dir');
    expect(code).toBe(exit.failed);
  });

  it('an unreachable feed, and nothing stored: the bundled list, said so, exit 1', async () => {
    const url = 'https://203.0.113.5:1/ips';
    const { code, stdout, stderr } = await lab.cfsync([
      'apply',
      '--backend=nftables',
      '--dry-run',
      `--ipv4-url=${url}`,
      `--ipv6-url=${url}`,
      `--api-url=${url}`,
    ]);
    expect(stderr).toContain('the list that comes with this release is used');
    expect(stdout).toContain('104.16.0.0/13');
    expect(code).toBe(exit.failed);
  });

  it('a list with one bad line', async () => {
    await write('/run/lab/list', '173.245.48.0/20\n2400:cb00::/32\n10.0.0.0/8\n');
    const { code, stderr } = await lab.cfsync([
      'apply',
      '-b',
      'nftables',
      '--source',
      '/run/lab/list',
    ]);
    expect(stderr).toContain('line 3');
    expect(code).toBe(exit.refused);
  });

  it.each([
    ['80;443', 'is not a port'],
    ['80,99999', 'is not a port'],
  ])('a port list with a typo: %s', async (ports, message) => {
    const { code, stderr } = await apply('--ports', ports);
    expect(stderr).toContain(message);
    expect(code).toBe(exit.usage);
  });

  it('a chain that is not there', async () => {
    const { code, stderr } = await apply('--nft-chain', 'inet/filter/inputs');
    expect(stderr).toContain('there is no chain inet filter inputs; nothing was changed');
    expect(code).toBe(exit.failed);
  });

  it('a configuration that others can write', async () => {
    await write('/run/lab/config.yaml', 'mode: allow\n');
    await must('chmod', '666', '/run/lab/config.yaml');
    const { code, stderr } = await apply('--config', '/run/lab/config.yaml');
    expect(stderr).toContain('can be written by others; nothing was changed');
    expect(code).toBe(exit.failed);
  });

  it('a dry run', async () => {
    const { code, stdout } = await apply('--dry-run', '--exit-code');
    expect(stdout).toMatch(/step 1: nftables: sets and chains\nstep 2: nftables: hooks\n/);
    expect(stdout).toMatch(/plan [0-9a-f]{12}: nothing was changed\n$/);
    expect(code).toBe(exit.pending);
    expect(await must('find', '/run/lab/state', '-type', 'f')).toBe('');
  });
});

describeLive('a host without IPv6', { programs: ['nft'] }, () => {
  it('takes the rules of both families all the same', async () => {
    const lab = await Lab.create({ ipv6: false });
    try {
      await lab.origin.listen({ tcp: [443] });
      await lab.origin.nft(filter);
      await lab.expectVerdict(443, { edge: 'closed', stranger: 'closed' });
      const args = ['apply', '-b', 'nftables', '--source', 'bundled', '--mode', 'lockdown'];
      const { code, stderr } = await lab.cfsync(args);
      expect(stderr).toMatch(/^cfsync: warning: nftables: certificates of .*\n$/);
      expect(code).toBe(exit.ok);
      await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
      const sets = await lab.origin.must(['nft', 'list', 'set', 'inet', 'filter', 'cfsync6']);
      expect(sets).toContain('2400:cb00::/32');
    } finally {
      await lab.close();
    }
  });
});

describeLive('a large change', { programs: ['nft'] }, () => {
  let lab: Lab;
  const lists = '/run/lab/lists';
  const from = (...args: string[]) =>
    lab.cfsync(['apply', '-b', 'nftables', '--source', lists, ...args]);
  const held = () => lab.origin.must(['nft', 'list', 'set', 'inet', 'cfsync', 'cfsync4']);

  beforeEach(async () => {
    lab = await Lab.create();
    await lab.origin.must([
      'cp',
      '-r',
      fileURLToPath(new URL('../../data', import.meta.url)),
      lists,
    ]);
    expect((await from()).code).toBe(exit.ok);
  });

  afterEach(() => lab.close());

  describe('a loss of more than a quarter', () => {
    it('is refused, and its additions are taken', async () => {
      const list = '104.16.0.0/13\n8.6.112.0/24\n';
      await lab.origin.must(['tee', `${lists}/ips-v4`], { stdin: list });
      const { code, stderr } = await from();
      expect(code).toBe(exit.refused);
      expect(stderr).toContain('the additions are taken and the old ranges stay');
      expect(stderr).toContain('--accept-large-change');
      expect(await held()).toMatch(/8\.6\.112\.0\/24[^]*172\.64\.0\.0\/13/);
      expect((await from('--accept-large-change')).code).toBe(exit.ok);
      expect(await held()).not.toContain('172.64.0.0/13');
    });
  });

  it('a growth of more than a half is refused whole', async () => {
    const before = await held();
    await lab.origin.must(['tee', '-a', `${lists}/ips-v4`], { stdin: '\n8.0.0.0/8\n' });
    const { code, stderr } = await from();
    expect(code).toBe(exit.refused);
    expect(stderr).toContain('nothing was changed');
    expect(await held()).toBe(before);
    // Asking twice does not help.
    expect((await from()).code).toBe(exit.refused);
    expect(await held()).toBe(before);
  });
});
