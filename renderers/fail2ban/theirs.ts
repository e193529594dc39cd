/** Takes values out of the admin's files, or puts them back. */
import { fileStep } from '../../src/digest.ts';
import type { FileStep } from '../../src/renderer.ts';
import { indent } from './files.ts';
import { withEntries, withoutEntries, type Entry, type Setting } from './ignoreip.ts';
import { folder, type Fail2banAround, type Fail2banOwned, type Fail2banStray } from './state.ts';

function isStray(strays: readonly Fail2banStray[], file: string) {
  const key = (section: string, value: string): string => `${section}\n${value}`;
  const all = new Set(
    strays
      .filter((stray) => stray.file === file)
      .flatMap(({ section, values }) => values.map((value) => key(section, value))),
  );
  return ({ section }: Setting, { text }: Entry): boolean => all.has(key(section, text));
}

/**
 * On the way back, a file that still is as we wrote it gets its bytes back, and any other the values; what was
 * written since then stays.
 */
export function editsOfTheirs(
  wanted: Fail2banOwned,
  owned: Fail2banOwned,
  { files }: Fail2banAround,
): readonly FileStep[] {
  const names = new Set([...(wanted.strays ?? []), ...(owned.strays ?? [])].map((s) => s.file));
  return [...names].flatMap((file) => {
    const now = files[file];
    if (now === undefined) return [];
    const before = wanted.theirs?.[file];
    const back = (wanted.strays ?? []).filter((stray) => stray.file === file);
    const same = (text: string): boolean =>
      withoutEntries(text, isStray(back, file)) === withoutEntries(now, isStray(back, file));
    const then =
      wanted.strays === undefined
        ? withoutEntries(now, isStray(owned.strays ?? [], file))
        : before !== undefined && same(before)
          ? before
          : back.reduce((text, { section, values }) => withEntries(text, section, values), now);
    if (then === now) return [];
    const path = `${folder}/${file}`;
    return [
      fileStep({
        summary: `fail2ban: rewrite ${path}: Cloudflare's ranges ${back.length > 0 ? 'come back into' : 'leave'} ignoreip`,
        path,
        old: now,
        content: then,
        mode: 0o644,
      }),
    ];
  });
}

export function theirTexts(strays: readonly Fail2banStray[]): Readonly<Record<string, string>> {
  const texts: Record<string, string> = {};
  for (const { file, section, values } of strays)
    texts[file] =
      `${texts[file] ?? ''}[${section}]\nignoreip =\n${values.map((value) => `${indent}${value}\n`).join('')}`;
  return texts;
}
