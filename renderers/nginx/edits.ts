/** Plans the files that the admin's directives are taken out of, or put back into. */
import { groupBy } from '../../src/group.ts';
import { CfsyncError, exit } from '../../src/errors.ts';
import type { Edit } from '../../src/plugin/file-renderer.ts';
import type { Artifact, Observed } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { withAgain, without } from './lines.ts';
import type { NginxAround, NginxOwned } from './state.ts';

export function edits(
  wanted: NginxOwned,
  { owned, around }: Observed<NginxOwned, NginxAround>,
): readonly Edit[] {
  const back = groupBy(wanted.strays ?? [], ({ file }) => file);
  const out = groupBy(owned.strays ?? [], ({ file }) => file);
  return [...new Set([...back.keys(), ...out.keys()])].flatMap((path) => {
    const old = Object.hasOwn(around.texts, path) ? around.texts[path]! : null;
    const strays = back.get(path);
    const content =
      strays === undefined
        ? without(old ?? '', out.get(path)!)
        : withAgain(old, wanted.theirs![path]!, strays);
    if (content === old) return [];
    if (old?.includes('\ufffd'))
      throw new CfsyncError(
        exit.failed,
        `nginx: ${escape(path)} has bytes that are not UTF-8, which a change would lose; nothing was changed; convert it, for instance with iconv -f latin1`,
      );
    return [{ path, old, content }];
  });
}

/** What is taken over. */
export function printed({ strays = [] }: NginxOwned): readonly Artifact[] {
  return [...groupBy(strays, ({ file }) => file)].map(([file, list]) => ({
    path: `nginx${file}`,
    content: list.map(({ source }) => `${source}\n`).join(''),
  }));
}
