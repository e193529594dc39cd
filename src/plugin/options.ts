/** Checks on configuration values, shared by the renderers and the configuration file. */
import { CfsyncError, exit } from '../errors.ts';
import type { Command } from '../renderer.ts';
import { escape, shown, suggest } from '../text.ts';

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

/** An object of JSON or YAML: no list, and not null. */
export function isFields(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** One of a few words. */
export function oneOf<T extends string>(value: unknown, known: readonly T[], where: string): T {
  if (known.includes(value as T)) return value as T;
  throw new CfsyncError(exit.usage, `${where}: ${shown(value)} is not one of ${known.join(', ')}`);
}

/** A list of strings; a single string counts as a list of one. */
export function stringList(value: unknown, where: string): readonly string[] {
  const list = typeof value === 'string' ? [value] : value;
  if (Array.isArray(list) && list.every((entry) => typeof entry === 'string')) return list;
  throw new CfsyncError(exit.usage, `${where}: must be a list of strings`);
}

/** A prefix of the admin's own, and what it is. */
interface Extra {
  readonly prefix: string;
  readonly comment?: string;
}

/** A list of prefixes, each a text or `{ prefix, comment }`; a single text counts as a list of one. */
export function extras(value: unknown, where: string): readonly Extra[] {
  const list: readonly unknown[] = Array.isArray(value) ? value : [value];
  return list.map((entry) => {
    if (typeof entry === 'string') return { prefix: entry };
    if (!isFields(entry))
      throw new CfsyncError(
        exit.usage,
        `${where}: must be a list of prefixes, each as in 198.51.100.0/24 or as {prefix: 198.51.100.0/24, comment: the office}`,
      );
    checkKeys(entry, ['prefix', 'comment'], where);
    return {
      prefix: text(entry.prefix, `${where}: prefix`),
      ...(entry.comment !== undefined && { comment: text(entry.comment, `${where}: comment`) }),
    };
  });
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

/** The unit of `apply --persist`, which is planned and recorded like a backend. */
export const bootName = 'boot';

/** Why a name is none that a person, the configuration or a plan can give a backend; undefined where it is one. */
export function whyNoName(name: string): string | undefined {
  if (name === bootName)
    return `${name} is no backend but the unit of apply --persist, which cfsync remove takes away as well`;
  if (/^[A-Za-z0-9][\w.-]*$/.test(name)) return undefined;
  return `${escape(name)} is not a name for a backend, with which its records are named as well; use letters, digits and . _ -`;
}

/** A switch; false unless given. */
export function bool(value: unknown, where: string): boolean {
  if (value === undefined || typeof value === 'boolean') return value ?? false;
  throw new CfsyncError(exit.usage, `${where}: must be true or false`);
}
