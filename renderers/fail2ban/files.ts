/** Composes our two files, which hold the ranges next to the values of the admin's. */
import { canonical, parseRanges } from '../../src/prefix.ts';
import type { Ranges } from '../../src/renderer.ts';
import type { Changes } from './client.ts';
import {
  names,
  type Fail2banAround,
  type Fail2banOwned,
  type Files,
  type Sections,
} from './state.ts';

/** What fail2ban's documentation proposes as a first value. */
export const localhost = ['127.0.0.1/8', '::1'];

export const indent = '    ';

export function sectionsOf({
  defaults,
  jails,
}: Pick<Fail2banAround, 'defaults' | 'jails'>): Sections {
  const own = jails.filter((jail) => jail.own).map(({ name, ignoreip }) => [name, ignoreip]);
  return { ...(defaults && { DEFAULT: defaults }), ...Object.fromEntries(own) };
}

/**
 * Whether a state can be put there as it is. One that was recorded earlier may have other values of the admin's, and its
 * file fewer of them than he has now, where it was written before he added some.
 */
export function carries({ early, late, beside }: Fail2banOwned, now: Fail2banOwned): boolean {
  if (JSON.stringify(beside) !== JSON.stringify(now.beside)) return false;
  if (late === null || (late === now.late && early === now.early)) return true;
  const written = valuesIn(late);
  return Object.entries(beside).every(([name, values]) =>
    values.every((value) => written.get(name)?.includes(value) !== false),
  );
}

/** The admin's values in a file of ours, by section. */
function valuesIn(late: string): ReadonlyMap<string, readonly string[]> {
  const found = late.matchAll(/^\[(.*)\]\nignoreip =(.*)$/gm);
  return new Map(
    [...found].map(([, name, values]) => [name!, values!.replaceAll('%%', '%').split(' ')]),
  );
}

/** The first of the admin's values that no file of ours can hold, with its section. */
export function oddIn(beside: Sections): readonly [section: string, value: string] | undefined {
  for (const [section, values] of Object.entries(beside)) {
    const odd = values.find((value) => /[\r\0\p{Cs}]/u.test(value));
    if (odd !== undefined) return [section, odd];
  }
  return undefined;
}

export function compose(ranges: Ranges, beside: Sections): Files {
  const sections = Object.entries(beside).map(([name, values]) => section(name, values, ranges));
  return {
    early: beside.DEFAULT === undefined ? earlyText(ranges) : null,
    late: sections.length === 0 ? null : lateText(sections),
  };
}

export function earlyText(ranges: Ranges): string {
  return `# Written by cfsync: addresses of Cloudflare are not banned.
# This is read first: an ignoreip of yours, in jail.local for instance, replaces it. Then run cfsync
# apply, which adds these ranges to it in ${names.late}.

${section('DEFAULT', localhost, ranges)}`;
}

function lateText(sections: readonly string[]): string {
  return `# Written by cfsync: addresses of Cloudflare are not banned.
# This is read last and holds what the other files set (the line of ignoreip itself), then the ranges.
# Change your values where you set them, then run cfsync apply.

${sections.join('\n')}`;
}

/** The values stay on the first line: on a line of its own, `#` (which fail2ban takes for an entry) is a comment. */
function section(name: string, values: readonly string[], { v4, v6 }: Ranges): string {
  const first = values.map((value) => value.replaceAll('%', '%%')).join(' ');
  const rest = [...v4, ...v6].map((prefix) => `${indent}${prefix}\n`).join('');
  return `[${name}]\n${`ignoreip = ${first}`.trimEnd()}\n${rest}`;
}

export function rangesIn(...texts: readonly (string | null)[]): Ranges {
  const lines = texts.flatMap((text) => (text ?? '').split('\n'));
  return parseRanges(
    lines
      .filter((line) => line.startsWith(indent) && canonical(line.trim()) !== undefined)
      .map((line) => line.trim()),
  );
}

export function staging(files: Files): Changes {
  return { [names.early]: files.early, [names.late]: files.late };
}
