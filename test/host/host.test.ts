import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { BackendError } from '../../src/errors.ts';
import { digest } from '../../src/digest.ts';
import { failure, host, run } from '../../src/host/host.ts';
import { processes } from '../../src/host/programs.ts';

describe('a program that does not end in time', () => {
  it.each([
    ['itself', 'exec sleep 1000'],
    ['one that it started', 'sleep 1000 & wait'],
    ['one that left its group with the pipes open', 'setsid sleep 1000 & wait'],
  ])('is not waited for: %s', async (_, script) => {
    const ended = run({ argv: ['sh', '-c', script], timeout: 300 });
    await expect(ended).rejects.toThrow(/did not end within 0\.3 s$/);
  });
});

it('a command is told without the folder that it ran in, which is gone', async () => {
  const argv = ['sh', '-c', 'test -d "$1" && exit 3', 'sh', '{stage}'] as const;
  const told = await failure({ argv, stage: { files: {} } });
  expect(told).toBe('sh -c test -d "$1" && exit 3 sh FOLDER ended with code 3');
});

it.each(['comm', 'environ'] as const)('processes are found by %s', async (file) => {
  const argv = ['sh', '-c', 'echo $$; exec sleep 600'] as const;
  const child = spawn(argv[0], argv.slice(1), { env: { PATH: process.env.PATH, LAB: 'here' } });
  const [pid] = await once(child.stdout, 'data');
  try {
    const isOne = {
      comm: (text: string) => text === 'sleep\n',
      environ: (text: string) => text.split('\0').includes('LAB=here'),
    };
    await expect.poll(() => processes(host, file, isOne[file])).toContain(Number(pid));
    expect(await processes(host, file, (text) => text === 'nothing')).toEqual([]);
  } finally {
    child.kill();
  }
});

describe('the standard input of a program', () => {
  const kind = (stdin?: string) =>
    run({
      argv: ['stat', '-L', '-c', '%F, %a, %h names', '/proc/self/fd/0'],
      ...(stdin !== undefined && { stdin }),
    });
  const sum = async (stdin: string) =>
    (await run({ argv: ['sha256sum'], stdin })).stdout.split(' ')[0];

  it('is a private file without a name', async () => {
    expect((await kind('rules\n')).stdout).toBe('regular file, 600, 0 names\n');
  });

  it('is only to be read, from the beginning, and not left open for others', async () => {
    const script = 'cat; cat /dev/stdin; echo more >&0 || ls /proc/$PPID/fd -l';
    const { stdout, stderr } = await run({ argv: ['bash', '-c', script], stdin: 'rules\n' });
    expect(stdout).toMatch(/^rules\nrules\n/);
    expect(stdout).not.toContain('(deleted)');
    expect(stderr).toContain('write error');
  });

  it.each([undefined, ''])('is at its end where there is none (%j)', async (stdin) => {
    expect((await kind(stdin)).stdout).toMatch(/^character special file, 666, 1 names$/m);
    const outcome = await run({ argv: ['cat'], ...(stdin !== undefined && { stdin }) });
    expect(outcome).toEqual({ code: 0, stdout: '', stderr: '' });
  });

  it.each([
    ['50 MB', 'add element inet cfsync cfsync4 { 104.16.0.0/13 }\n'.repeat(1_000_000)],
    ['letters of one, two and four bytes', `x${'é\u{1F600}'.repeat(400_000)}`],
    ['half a letter, as in other ways to write a file', 'a\uD83D'],
  ])('is read whole: %s', async (_, text) => {
    expect(await sum(text)).toBe(digest(text));
  });

  it('need not be read', async () => {
    const stdin = 'x'.repeat(1_000_000);
    expect(await run({ argv: ['true'], stdin })).toEqual({ code: 0, stdout: '', stderr: '' });
  });

  it('is its own for each of several side by side', async () => {
    const texts = Array.from({ length: 20 }, (_, i) => `${i}\n`.repeat(i + 1));
    const outcomes = await Promise.all(texts.map((stdin) => run({ argv: ['cat'], stdin })));
    expect(outcomes.map(({ stdout }) => stdout)).toEqual(texts);
  });

  it.each([
    ['is not there', ['no-such-program']],
    ['cannot be given its words', ['tr\0ue']],
  ] as const)('is closed when a program %s', async (_, argv) => {
    await expect(run({ argv, stdin: 'rules\n' })).rejects.toThrow(BackendError);
    const open = spawnSync('ls', ['-l', `/proc/${process.pid}/fd`]).stdout.toString();
    expect(open).toContain(' -> ');
    expect(open).not.toContain('(deleted)');
  });
});

describe('what went wrong', () => {
  it('is nothing when the program succeeds, whatever it says', async () => {
    expect(await failure({ argv: ['sh', '-c', 'echo no >&2'] })).toBeUndefined();
  });

  it('is the code and the first line, made harmless', async () => {
    const argv = ['sh', '-c', 'printf "\\033[1mno\\nmore\\n" >&2; exit 3'] as const;
    expect(await failure({ argv })).toMatch(/ ended with code 3 \(\\u001b\[1mno\)$/);
  });

  it('is that it is not there', async () => {
    expect(await failure({ argv: ['no-such-program'] })).toMatch(/is not installed; install it$/);
  });
});
