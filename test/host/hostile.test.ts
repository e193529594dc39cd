import { expect, test } from 'vitest';
import { BackendError, CfsyncError } from '../../src/errors.ts';
import { host, run } from '../../src/host/host.ts';
import { expectFit } from '../helpers/hostile.ts';

test.each([
  ['a NUL in the name of a program', ['tr\0ue']],
  ['a NUL in an argument', ['true', 'a\0b']],
  [
    'more arguments than a program takes',
    ['true', ...Array<string>(200_000).fill('104.16.0.0/13')],
  ],
  ['an argument longer than one may be', ['true', 'x'.repeat(300_000)]],
  ['no name', ['']],
  ['a folder', ['/etc']],
  ['a name that does things to a terminal', ['no\u001b[2J']],
] as const)('%s is an error for people', async (_, argv) => {
  const error: unknown = await run({ argv: [...argv] as [string] }).catch(
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(BackendError);
  expectFit((error as Error).message);
});

test.each(['/etc/host\0name', '/\u001b[2J\0', '/etc', `/${'x'.repeat(5000)}`])(
  'a file named %j that cannot be read is an error for people',
  async (path) => {
    const error: unknown = await host.read(path).catch((cause: unknown) => cause);
    expect(error).toBeInstanceOf(CfsyncError);
    expectFit((error as Error).message);
  },
);
