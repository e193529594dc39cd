import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { run } from '../../src/host/host.ts';
import { withLocks } from '../../src/state/lock.ts';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-lock-'));
  path = join(folder, 'lock');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** How other programs take these locks: ufw as in `create_lock` of ufw 0.36.2, CSF by flock(2). */
const python = `
import fcntl, sys
f = open(sys.argv[1], 'w')
fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
print('held', flush=True)
sys.stdin.read()`;
const others = {
  fcntl: ['python3', '-c', python],
  flock: ['flock', '--nonblock', '--no-fork'],
} as const;
type Kind = keyof typeof others;
const kinds = ['fcntl', 'flock'] as const;
const other = (kind: Kind, file = path): readonly [string, ...string[]] => {
  const [program, ...args] = others[kind];
  return [program, ...args, file, ...(kind === 'flock' ? ['sh', '-c', 'echo held; cat'] : [])];
};

/** Whether another program gets the lock now. */
async function isFree(kind: Kind, file = path): Promise<boolean> {
  return (await run({ argv: other(kind, file) })).stdout === 'held\n';
}

/** Another program that has the lock until it is told to end. */
async function held(kind: Kind): Promise<() => void> {
  const [program, ...args] = other(kind);
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'ignore'] });
  await once(child.stdout, 'data');
  return () => child.stdin.end();
}

describe.each(kinds)('a lock of %s', (kind) => {
  const lock = { kind, path };
  beforeEach(() => {
    lock.path = path;
  });

  it('keeps that of other programs out while the work lasts, and no longer', async () => {
    const during = await withLocks([lock], 100, () => isFree(kind));
    expect(during).toBe(false);
    expect(await isFree(kind)).toBe(true);
  });

  it('is let go when the work fails', async () => {
    const work = () => Promise.reject(new Error('the work'));
    await expect(withLocks([lock], 100, work)).rejects.toThrow('the work');
    expect(await isFree(kind)).toBe(true);
  });

  it('leaves no program behind that would have to be waited for', async () => {
    const children = await withLocks([lock], 100, () =>
      run({
        argv: ['sh', '-c', `tr '\\0' ' ' </proc/${process.pid}/task/${process.pid}/children`],
      }),
    );
    expect(children.stdout.trim().split(' ')).toHaveLength(1);
  });

  it('that another program has is waited for', async () => {
    const release = await held(kind);
    const steps: string[] = [];
    setTimeout(() => {
      steps.push('released');
      release();
    }, 300);
    await withLocks([lock], 100, async () => steps.push('taken'));
    expect(steps).toEqual(['released', 'taken']);
  });

  it.each([0, 0.2])('is said to be taken after %s s', async (seconds) => {
    const release = await held(kind);
    let begun = false;
    const ours = withLocks([lock], seconds, async () => {
      begun = true;
    });
    await expect(ours).rejects.toMatchObject({
      code: exit.busy,
      message: expect.stringContaining(`is locked by another program for more than ${seconds} s`),
    });
    expect(begun).toBe(false);
    release();
  });

  it('of a file that cannot be opened is refused', async () => {
    const loop = join('/proc/self', 'nothing');
    await expect(
      withLocks([{ kind, path: loop }], 0, () => Promise.resolve()),
    ).rejects.toMatchObject({
      code: exit.failed,
      message: `${loop} cannot be locked: ENOENT; nothing was changed; run it as root`,
    });
  });

  it('of a program that is not installed is not taken', async () => {
    const file = join(folder, 'none', 'lock');
    expect(await withLocks([{ kind, path: file }], 0, () => Promise.resolve('done'))).toBe('done');
    expect(existsSync(file)).toBe(false);
  });
});

it('a lock of flock is one of a folder as well', async () => {
  mkdirSync(path);
  const during = await withLocks([{ kind: 'flock', path }], 0, () => isFree('flock'));
  expect(during).toBe(false);
});

it('several locks are taken, each of its kind', async () => {
  const files = [join(folder, 'a'), join(folder, 'b')] as const;
  const locks = kinds.map((kind, i) => ({ kind, path: files[i]! }));
  const during = await withLocks(locks, 100, () =>
    Promise.all(kinds.map((kind, i) => isFree(kind, files[i]))),
  );
  expect(during).toEqual([false, false]);
});
