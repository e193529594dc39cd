/** The manual pages: every command and option is in them, and nothing that there is not. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { commands, flags } from '../src/cli/flags.ts';
import { builtIn } from '../src/settings/load.ts';
import { optionsOf } from './helpers/options.ts';

const page = (name: string): string =>
  readFileSync(join(import.meta.dirname, '..', 'man', name), 'utf8');

const manual = page('cfsync.8');

it('names every option, and only those that there are', () => {
  const items = manual.split('\n').filter((line) => line.startsWith('.It Fl '));
  const long = items.flatMap((line) =>
    [...line.matchAll(/(?:Fl |, )-([a-z][a-z0-9-]+)/g)].map(([, name]) => name!),
  );
  expect(long.sort()).toEqual(Object.keys(flags).sort());
  const short = Object.entries(flags).flatMap(([name, flag]) =>
    'short' in flag ? [`.It Fl ${flag.short} , -${name}`] : [],
  );
  for (const item of short) expect(manual).toContain(item);
});

it('names every command, and only those that there are', () => {
  const section = /^\.Sh COMMANDS\n([^]*?)^\.Sh /m.exec(manual)![1]!;
  const named = [...section.matchAll(/^\.It Ic (\S+)/gm)].map(([, name]) => name!);
  expect([...new Set(named)].sort()).toEqual(Object.keys(commands).sort());
});

it.each(Object.keys(builtIn))('names every option of a backend: %s', async (name) => {
  const section = /^\.Sh BACKENDS\n([^]*?)^\.Sh /m.exec(page('cfsync.yaml.5'))![1]!;
  const items = section.split('\n.It ').find((item) => item.startsWith(`${name}\n`)) ?? '';
  for (const key of await optionsOf(name))
    expect(items).toMatch(new RegExp(`^\\.Cm .*\\b${key}\\b`, 'm'));
});

it('names every setting of the configuration', () => {
  const config = readFileSync(
    join(import.meta.dirname, '..', 'src', 'settings', 'config.ts'),
    'utf8',
  );
  const keys = [.../const settingKeys = \[([^\]]*)\]/.exec(config)![1]!.matchAll(/'([^']+)'/g)];
  for (const name of [...keys.map(([, key]) => key!), 'extra', 'probe', 'backends'])
    expect(page('cfsync.yaml.5')).toMatch(new RegExp(`^\\.It Cm .*\\b${name}\\b`, 'm'));
});
