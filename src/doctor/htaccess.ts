/** Reads the .htaccess files that count where an Apache serves files, as far as they say who may enter. */
import type { Directive } from '../../renderers/nginx/configuration.ts';
import { ofProcess } from '../host/proc.ts';
import { wordsOf } from './apache.ts';
import type { DoctorHost } from './check.ts';

/** Folders that are looked into. */
const most = 200;

/** Sections in sections; nobody writes more than three or four. */
const deepest = 50;

/** Those of the folders that are served and of the folders in these. */
export async function lookAtHtaccess(
  host: DoctorHost,
  directives: readonly Directive[],
): Promise<readonly Directive[]> {
  const name = valuesOf(directives, 'AccessFileName').at(-1)?.[0] ?? '.htaccess';
  const permits = permissions(directives);
  const roots = [
    ...valuesOf(directives, 'DocumentRoot').map(([path = '']) => path),
    ...permits.map(({ path }) => path),
  ].filter((path) => path.startsWith('/') && path !== '/');
  const open = [...new Set(roots.map(withoutSlash))].filter(
    (path) => permitted(permits, path) !== undefined,
  );
  const inside = await Promise.all(
    open.slice(0, most).map(async (path) => {
      const names = (await ofProcess(host.list(path))) ?? [];
      return names.filter((one) => !one.includes('.')).map((one) => `${path}/${one}`);
    }),
  );
  const folders = [...new Set([...open, ...inside.flat()])].slice(0, most);
  const found = await Promise.all(
    folders.map(async (folder) => {
      const may = permitted(permits, folder);
      const text = may === undefined ? undefined : await ofProcess(host.read(`${folder}/${name}`));
      return text === undefined
        ? []
        : parse(text, folder, name).filter(({ words }) => may!.has(kindOf(words)));
    }),
  );
  return found.flat();
}

function valuesOf(directives: readonly Directive[], name: string): readonly (readonly string[])[] {
  return directives
    .filter(({ words }) => words[0]!.toLowerCase() === name.toLowerCase())
    .map(({ words }) => words.slice(1));
}

type Kind = 'authconfig' | 'limit' | 'other';

/** What must be allowed for a directive (mod_authz_core, mod_access_compat: "Override"). */
function kindOf([name = '']: readonly string[]): Kind {
  if (/^(?:require|satisfy)$/i.test(name)) return 'authconfig';
  return /^(?:allow|deny|order)$/i.test(name) ? 'limit' : 'other';
}

interface Permission {
  readonly path: string;
  readonly may: ReadonlySet<string>;
}

/** AllowOverride of each <Directory> that names one folder; without any, Apache 2.4 reads no .htaccess. */
function permissions(directives: readonly Directive[]): readonly Permission[] {
  return directives.flatMap(({ words, blocks }) => {
    if (words[0]!.toLowerCase() !== 'allowoverride') return [];
    const [, path] = /^Directory#\d+ (\/[^*?[\]]*)$/i.exec(blocks.at(-1) ?? '') ?? [];
    if (path === undefined) return [];
    const said = words.slice(1).map((word) => word.toLowerCase());
    return [{ path, may: new Set(said.includes('all') ? ['authconfig', 'limit'] : said) }];
  });
}

function permitted(list: readonly Permission[], folder: string): ReadonlySet<string> | undefined {
  const around = list
    .filter(({ path }) => `${folder}/`.startsWith(`${withoutSlash(path)}/`))
    .sort((a, b) => a.path.length - b.path.length);
  const may = around.at(-1)?.may;
  return may?.has('authconfig') === true || may?.has('limit') === true ? may : undefined;
}

function withoutSlash(path: string): string {
  return path.replace(/\/+$/, '');
}

function parse(text: string, folder: string, name: string): readonly Directive[] {
  const directives: Directive[] = [];
  const root = `Directory#0 ${folder}`;
  let blocks: readonly string[] = [root];
  /** Sections that are open; `skip` of those that do not apply, which Apache 2.4 leaves out. */
  const open: { readonly skip: boolean; readonly blocks: readonly string[] }[] = [];
  for (const [i, raw] of text.split('\n').entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    if (line.startsWith('</')) {
      blocks = open.pop()?.blocks ?? blocks;
      continue;
    }
    const words = wordsOf(line.replace(/^<|>$/g, ''));
    const skip = open.some((one) => one.skip);
    if (line.startsWith('<')) {
      if (open.length === deepest) break;
      const isTest = /^If(?:Module|Version|Define)$/i.test(words[0] ?? '');
      open.push({ skip: isTest && /^[!<]/.test(words[1] ?? ''), blocks });
      if (!isTest) blocks = [...blocks, `${words[0]}#${i}`];
    } else if (!skip && words.length > 0)
      directives.push({ words, at: `${folder}/${name}:${i + 1}`, blocks });
  }
  return directives;
}
