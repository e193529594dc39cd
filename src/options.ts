/** Checks on configuration values, shared by the renderers and the configuration file. */
import { CfsyncError, exit } from './errors.ts';
import type { Command } from './renderer.ts';
import { escape, suggest } from './text.ts';

/** Refuses keys that nobody reads, naming the nearest one that somebody does. */
export function checkKeys(
  raw: Readonly<Record<string, unknown>>,
  known: readonly string[],
  where: string,
): void {
  for (const key of Object.keys(raw))
    if (!known.includes(key))
      throw new CfsyncError(
        exit.usage,
        `${where}: unknown key ${escape(key)}${suggest(key, known)}`,
      );
}

/** One of a few words. */
export function oneOf<T extends string>(value: unknown, known: readonly T[], where: string): T {
  if (known.includes(value as T)) return value as T;
  const said = escape(String(value));
  throw new CfsyncError(exit.usage, `${where}: ${said} is not one of ${known.join(', ')}`);
}

/** A list of strings; a single string counts as a list of one. */
export function stringList(value: unknown, where: string): readonly string[] {
  const list = typeof value === 'string' ? [value] : value;
  if (Array.isArray(list) && list.every((entry) => typeof entry === 'string')) return list;
  throw new CfsyncError(exit.usage, `${where}: must be a list of strings`);
}

/** A text that is not empty. */
export function text(value: unknown, where: string): string {
  if (typeof value === 'string' && value !== '') return value;
  throw new CfsyncError(exit.usage, `${where}: must be a text`);
}

/**
 * A program and its arguments, which no shell reads. The program is a name or an absolute path, because the
 * working directory may be anywhere.
 */
export function argv(value: unknown, where: string): Command['argv'] {
  if (Array.isArray(value) && value.every((word) => typeof word === 'string')) {
    const [program = ''] = value;
    if (program !== '' && (program.startsWith('/') || !program.includes('/')))
      return value as [string, ...string[]];
  }
  throw new CfsyncError(
    exit.usage,
    `${where}: must be a list of a program (a name, or an absolute path) and its arguments`,
  );
}

/** A switch; false unless given. */
export function bool(value: unknown, where: string): boolean {
  if (value === undefined || typeof value === 'boolean') return value ?? false;
  throw new CfsyncError(exit.usage, `${where}: must be true or false`);
}
