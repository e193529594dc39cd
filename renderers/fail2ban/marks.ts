/** Names that nobody has, by which values are followed through the configuration. */
import { namesOnly } from '../../src/feed/published.ts';
import { publicSpace } from '../../src/special-purpose.ts';
import { prefixOf, renamed, settingsOf, type Entry, type Setting } from './ignoreip.ts';
import type { Fail2banAround } from './state.ts';

/** A jail that nobody configures shows what `[DEFAULT]` says. */
export const probe = 'cfsync-probe';
/** A value that nobody sets shows where a value of ours would arrive. */
export const token = 'cfsync.invalid';

/** A name that nobody has, for the nth of the values that are followed through the configuration. */
export function mark(n: number): string {
  return `cfsync-${n}.invalid`;
}

export interface Marked {
  readonly file: string;
  readonly setting: Setting;
  readonly entry: Entry;
}

/**
 * The values on lines that may name ranges of Cloudflare's: public prefixes, and not single hosts. What
 * refers to other values is none.
 */
export function marked(files: Fail2banAround['files']): readonly Marked[] {
  return Object.entries(files).flatMap(([file, text]) =>
    settingsOf(text).flatMap((setting) =>
      setting.lines
        .filter(({ entries }) => entries.some(isPublic))
        .flatMap(({ entries }) => entries.filter(({ text }) => !text.includes('%')))
        .map((entry) => ({ file, setting, entry })),
    ),
  );
}

function isPublic({ text }: Entry): boolean {
  const prefix = prefixOf(text);
  return prefix !== undefined && namesOnly(publicSpace, [prefix]);
}

/** The files with the marks in them, as far as they have any. */
export function withMarks(files: Fail2banAround['files']): Readonly<Record<string, string>> {
  const all = marked(files);
  const changed = Object.entries(files).map(([file, text]) => {
    const names = all.flatMap((one, n) => (one.file === file ? [[one.entry, mark(n)]] : []));
    return [file, renamed(text, new Map(names as [Entry, string][]))] as const;
  });
  return Object.fromEntries(changed.filter(([file, text]) => text !== files[file]));
}
