/** Takes over what the admin's files say of Cloudflare's ranges. */
import { namesOnly } from '../../src/feed/published.ts';
import type { Desired, Observed, Ranges } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { sectionsOf } from './files.ts';
import { going, prefixOf, type Entry, type Setting } from './ignoreip.ts';
import { mark, marked, probe, token, type Marked } from './marks.ts';
import { folder, type Fail2banAround, type Fail2banOwned, type Fail2banStray } from './state.ts';

export function adopt(
  { owned, around }: Observed<Fail2banOwned, Fail2banAround>,
  _desired: Desired,
  known: Ranges,
): Observed<Fail2banOwned, Fail2banAround> {
  const { files, links, traced } = around;
  const all = marked(files);
  const isTheirs = (entry: Entry): boolean => {
    const prefix = prefixOf(entry.text);
    return prefix !== undefined && namesOnly(known, [prefix]);
  };
  const found = all.filter(({ file, entry }) => !links.includes(file) && isTheirs(entry));
  if (traced === null || found.length === 0)
    return { owned, around: { ...around, left: elsewhere(around, known) } };
  const settings = new Set(found.map(({ setting }) => setting));
  const gone = new Set([...settings].flatMap((setting) => [...going(setting, isTheirs)]));
  const origin = new Map(all.map(({ entry }, n) => [mark(n), entry]));
  const values = (jail: string): readonly string[] =>
    traced[jail]!.flatMap((value) => {
      const entry = origin.get(value);
      if (entry === undefined) return value === token ? [] : [value];
      return gone.has(entry) ? [] : [entry.text];
    });
  const bare = {
    ...around,
    jails: around.jails.map((jail) => ({ ...jail, ignoreip: values(jail.name) })),
    defaults: around.defaults && values(probe),
  };
  const strays = straysOf(found);
  const theirs = Object.fromEntries(strays.map(({ file }) => [file, files[file]!]));
  return {
    owned: { ...owned, strays, theirs, beside: sectionsOf(bare) },
    around: { ...bare, left: elsewhere(bare, known) },
  };
}

/** One for each `ignoreip`. */
function straysOf(found: readonly Marked[]): readonly Fail2banStray[] {
  const settings = new Map<Setting, Marked[]>();
  for (const one of found) {
    const own = settings.get(one.setting);
    if (own === undefined) settings.set(one.setting, [one]);
    else own.push(one);
  }
  return [...settings].map(([{ section }, own]) => {
    const { file } = own[0]!;
    const values = own.map(({ entry }) => entry.text);
    return {
      text: `${folder}/${file}: [${section}] ignoreip = ${values.join(' ')}`,
      prefixes: values.map((value) => prefixOf(value)!),
      file,
      section,
      values,
    };
  });
}

/** What the jails ignore of Cloudflare's ranges and is not to be found in the files of the admin's. */
function elsewhere({ jails }: Pick<Fail2banAround, 'jails'>, known: Ranges): readonly string[] {
  return jails.flatMap(({ name, ignoreip }) => {
    const found = ignoreip.filter((value) => {
      const prefix = prefixOf(value);
      return prefix !== undefined && namesOnly(known, [prefix]);
    });
    if (found.length === 0) return [];
    const some = found.slice(0, 3).map(escape).join(', ');
    return [
      `left alone: jail ${escape(name)} ignores ${some}${found.length > 3 ? ` and ${found.length - 3} more` : ''} by what stands in jail.conf, behind a link, in an included file or in a variable; take that out there`,
    ];
  });
}
