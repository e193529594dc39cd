import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { failure, processes, run } from '../src/host.ts';

describe('a program that does not end in time', () => {
  it.each([
    ['itself', 'exec sleep 20'],
    ['one that it started', 'sleep 20 & wait'],
    ['one that left its group with the pipes open', 'setsid sleep 20 & wait'],
  ])('is not waited for: %s', async (_, script) => {
    const began = Date.now();
    const ended = run({ argv: ['sh', '-c', script], timeout: 300 });
    await expect(ended).rejects.toThrow(/did not end within 0\.3 s$/);
    expect(Date.now() - began).toBeLessThan(10_000);
  });
});

it.each(['comm', 'environ'] as const)('processes are found by %s', async (file) => {
  const argv = ['sh', '-c', 'echo $$; exec sleep 20'] as const;
  const child = spawn(argv[0], argv.slice(1), { env: { PATH: process.env.PATH, LAB: 'here' } });
  const [pid] = await once(child.stdout, 'data');
  try {
    const isOne = {
      comm: (text: string) => text === 'sleep\n',
      environ: (text: string) => text.split('\0').includes('LAB=here'),
    };
    await expect.poll(() => processes(file, isOne[file])).toContain(Number(pid));
    expect(await processes(file, (text) => text === 'nothing')).toEqual([]);
  } finally {
    child.kill();
  }
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
