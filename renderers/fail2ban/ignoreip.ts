/** Reads and edits the values of `ignoreip` in the files of an admin, and leaves every other byte as it is. */
import ipaddr from 'ipaddr.js';
import { isIP } from 'node:net';
import { canonical, parseRanges } from '../../src/prefix.ts';
import type { Ranges } from '../../src/renderer.ts';

/** A value as fail2ban splits it, and where it stands in the text. */
export interface Entry {
  readonly text: string;
  readonly start: number;
}

/** One `ignoreip` of a section. */
export interface Setting {
  readonly section: string;
  /** What stands behind `=`, then the lines that go on with it. */
  readonly lines: readonly Line[];
}

interface Line {
  /** Where the line begins, and the next one. */
  readonly begin: number;
  readonly next: number;
  /** Where the values begin: behind `=` or the blanks in front, and where they end: a comment is not one. */
  readonly start: number;
  readonly end: number;
  readonly entries: readonly Entry[];
}

/** As fail2ban 1.0.2 reads a file: RawConfigParser of Python 3.11, with `;` for comments behind values. */
export function settingsOf(text: string): readonly Setting[] {
  const settings: { section: string; lines: Line[] }[] = [];
  let section: string | undefined;
  /** The option that an indented line goes on with; `lines` is its value when it is `ignoreip`. */
  let option: { readonly indent: number; readonly lines?: Line[] } | undefined;
  let next = 0;
  for (const line of text.split(/(?<=\n)/)) {
    const begin = next;
    next += line.length;
    const value = line.slice(0, commentStart(line)).trimEnd();
    const indent = /^\s*/.exec(value)![0].length;
    if (indent === value.length) continue;
    if (option !== undefined && indent > option.indent) {
      option.lines?.push(lineOf(value, indent, begin, next));
      continue;
    }
    const header = /^\s*\[(.+)\]/.exec(value);
    if (header !== null) {
      section = header[1]!;
      option = undefined;
      continue;
    }
    const [all, name] = /^([^=:]*)[=:]/.exec(value) ?? [];
    option = { indent };
    if (all === undefined || name!.trim().toLowerCase() !== 'ignoreip' || section === undefined)
      continue;
    const lines = [lineOf(value, all.length, begin, next)];
    option = { indent, lines };
    settings.push({ section, lines });
  }
  return settings;
}

function commentStart(line: string): number {
  if (/^\s*[#;]/.test(line)) return 0;
  const found = /\s;/.exec(line);
  return found === null ? line.length : found.index + 1;
}

function lineOf(value: string, from: number, begin: number, next: number): Line {
  const start = begin + from;
  // Blanks and commas alone part them: what has a tab inside is one (1.0.2, `splitwords`).
  const entries = [...value.slice(from).matchAll(/[^\s,](?:[^ ,]*[^\s,])?/g)].map((match) => ({
    text: match[0],
    start: start + match.index,
  }));
  return { begin, next, start, end: begin + value.length, entries };
}

export function entriesOf(setting: Setting): readonly Entry[] {
  return setting.lines.flatMap((line) => line.entries);
}

/** The text with something else for each of these entries. */
export function renamed(text: string, names: ReadonlyMap<Entry, string>): string {
  return spliced(
    text,
    [...names].map(([entry, name]) => ({
      start: entry.start,
      end: entry.start + entry.text.length,
      name,
    })),
  );
}

/**
 * The entries that go when some do: a `#` behind values is a value itself for fail2ban, and would be a comment
 * without them. So it goes with them, and what is behind it.
 */
export function going({ lines }: Setting, gone: (entry: Entry) => boolean): ReadonlySet<Entry> {
  return new Set(
    lines.flatMap(({ entries }, i) => {
      const own = new Set(entries.filter(gone));
      const turning = entries.findIndex(
        (entry, at) =>
          !own.has(entry) &&
          at > 0 &&
          own.has(entries[at - 1]!) &&
          (entry.text.startsWith(';') ||
            (i > 0 && entry.text.startsWith('#') && entries.slice(0, at).every(gone))),
      );
      return turning < 0 ? [...own] : [...own, ...entries.slice(turning)];
    }),
  );
}

/** The text without some entries; a line that has nothing else goes as a whole. */
export function withoutEntries(
  text: string,
  gone: (setting: Setting, entry: Entry) => boolean,
): string {
  const cuts = settingsOf(text).flatMap((setting) => {
    const all = going(setting, (entry) => gone(setting, entry));
    return setting.lines.flatMap((line, i) => {
      const stays = line.entries.map((entry) => !all.has(entry));
      if (stays.every(Boolean)) return [];
      const whole = i > 0 && !stays.includes(true) && text.slice(line.end, line.next).trim() === '';
      return whole ? [{ start: line.begin, end: line.next }] : cutsIn(line, stays);
    });
  });
  return spliced(text, cuts);
}

/** With the separator behind each, or in front of it where nothing follows. */
function cutsIn({ start, end, entries }: Line, stays: readonly boolean[]): readonly Cut[] {
  const cuts: Cut[] = [];
  for (let i = 0; i < entries.length; i++) {
    if (stays[i] === true) continue;
    const first = i;
    while (i + 1 < entries.length && stays[i + 1] === false) i++;
    const next = entries[i + 1];
    const last = entries[first - 1];
    if (next !== undefined) cuts.push({ start: entries[first]!.start, end: next.start });
    else cuts.push({ start: last === undefined ? start : last.start + last.text.length, end });
  }
  return cuts;
}

interface Cut {
  readonly start: number;
  readonly end: number;
  readonly name?: string;
}

function spliced(text: string, cuts: readonly Cut[]): string {
  let at = 0;
  const parts: string[] = [];
  for (const { start, end, name = '' } of cuts.toSorted((a, b) => a.start - b.start)) {
    parts.push(text.slice(at, start), name);
    at = end;
  }
  return parts.join('') + text.slice(at);
}

/** The text with these values in the `ignoreip` of a section again; one that is gone by now stays gone. */
export function withEntries(text: string, section: string, values: readonly string[]): string {
  const setting = settingsOf(text).find((one) => one.section === section);
  const first = setting?.lines[0];
  if (setting === undefined || first === undefined) return text;
  const present = new Set(entriesOf(setting).map((entry) => entry.text));
  const missing = values.filter((value) => !present.has(value));
  if (missing.length === 0) return text;
  const rest = text.slice(first.start);
  return `${text.slice(0, first.start)} ${missing.join(' ')}${/^(\s|$)/.test(rest) ? '' : ' '}${rest}`;
}

/** An address or network as a prefix, host bits cut off as fail2ban does; undefined for a host name. */
export function prefixOf(entry: string): string | undefined {
  const [address, length] = entry.split('/');
  const family = isIP(address!);
  if (family === 0) return undefined;
  const whole = `${address}/${length ?? (family === 4 ? 32 : 128)}`;
  try {
    const kind = family === 4 ? ipaddr.IPv4 : ipaddr.IPv6;
    const network = kind.networkAddressFromCIDR(whole).toString();
    return canonical(`${network}/${whole.split('/')[1]}`)?.text;
  } catch {
    return undefined;
  }
}

export function prefixesOf(entries: readonly string[]): Ranges {
  return parseRanges(entries.map(prefixOf).filter((prefix) => prefix !== undefined));
}
