/** Takes over what other hands wrote to have nginx believe Cloudflare's ranges. */
import { namesOnly } from '../../src/feed/published.ts';
import { groupBy } from '../../src/group.ts';
import { network } from '../../src/prefix.ts';
import type { Desired, Observed, Ranges } from '../../src/renderer.ts';
import { isHttp, type Directive } from './configuration.ts';
import { placed, type NginxStray } from './lines.ts';
import { nearestOf } from './real-ip.ts';
import type { NginxAround, NginxOwned } from './state.ts';

export function adopt(
  { owned, around }: Observed<NginxOwned, NginxAround>,
  _desired: Desired,
  known: Ranges,
): Observed<NginxOwned, NginxAround> {
  const { taken, left } = takeable(around, known);
  if (taken.length === 0) return { owned, around: { ...around, left } };
  const strays = straysOf(taken, around.texts);
  return {
    owned: {
      ...owned,
      strays,
      theirs: Object.fromEntries(strays.map(({ file }) => [file, around.texts[file]!])),
    },
    around: {
      ...around,
      left,
      taken,
      directives: around.directives.filter((directive) => !taken.includes(directive)),
    },
  };
}

interface Takeable {
  readonly taken: readonly Directive[];
  /** Directives for Cloudflare's ranges that stay, with the reason. */
  readonly left: readonly { readonly directive: Directive; readonly why: string }[];
}

/** What our file says as well, so that nginx does the same without it. */
export function takeable(around: NginxAround, known: Ranges): Takeable {
  const refused = new Map<string, string>();
  for (;;) {
    const found = attempt(around, known, refused);
    // A file that is included in several places goes in all of them, or stays.
    const stays = new Set(found.left.map(({ directive }) => nameOf(directive)));
    const split = found.taken.filter((one) => stays.has(nameOf(one)));
    if (split.length === 0) return found;
    for (const one of split)
      refused.set(nameOf(one), 'it stands in several blocks, and one of them needs it');
  }
}

function attempt(
  { directives, links, header }: NginxAround,
  known: Ranges,
  refused: ReadonlyMap<string, string>,
): Takeable {
  const taken = new Set<Directive>();
  const left: { directive: Directive; why: string }[] = [];
  const from = directives.filter(({ words }) => words[0] === 'set_real_ip_from');
  const isTheirs = ({ words }: Directive): boolean => namesOnly(known, prefixOf(words));
  const nearest = nearestOf(directives);
  /** Why what stands in a block for Cloudflare cannot go; others in it are believed as well. */
  const reason = (blocks: readonly string[], group: readonly Directive[]): string | undefined => {
    const [said] = nearest('real_ip_header', blocks);
    if (said !== undefined && said.words[1]?.toLowerCase() !== header.toLowerCase())
      return `${said.words.join(' ')} counts there (${said.at}), and not ${header}`;
    if (isHttp(blocks)) return undefined;
    const outer = nearest('set_real_ip_from', blocks.slice(0, -1));
    const rest = [...group.filter((one) => !isTheirs(one)), ...outer].find(
      (one) => !taken.has(one) && !isHttp(one.blocks),
    );
    return (
      rest &&
      `${rest.words.join(' ')} counts there as well (${rest.at}), and nginx would not inherit ours beside it`
    );
  };
  const groups = groupBy(from, ({ blocks }) => blocks.join());
  const outside = [...groups.values()].sort((a, b) => a[0]!.blocks.length - b[0]!.blocks.length);
  for (const group of outside) {
    const [{ blocks }] = group as [Directive];
    const theirs = group.filter(isTheirs);
    const linked = theirs.find(({ at }) => links.includes(fileOf(at)));
    const why =
      theirs.map((one) => refused.get(nameOf(one))).find((one) => one !== undefined) ??
      (linked === undefined
        ? reason(blocks, group)
        : `${fileOf(linked.at)} is a symbolic link, which cfsync does not follow`);
    for (const directive of theirs)
      if (why === undefined) taken.add(directive);
      else left.push({ directive, why });
  }
  for (const one of directives.filter(({ words }) => words[0] === 'real_ip_header')) {
    const own = groups.get(one.blocks.join()) ?? [];
    const isOurs = one.words[1]?.toLowerCase() === header.toLowerCase();
    const goes = isHttp(one.blocks)
      ? taken.size > 0
      : own.length > 0 && own.every((other) => taken.has(other));
    if (isOurs && goes && !links.includes(fileOf(one.at)) && !refused.has(nameOf(one)))
      taken.add(one);
    else if (isOurs && taken.size > 0) left.push({ directive: one, why: 'it stands alone there' });
  }
  return { taken: [...taken], left };
}

function nameOf({ at, words }: Directive): string {
  return `${at} ${words.join(' ')}`;
}

function fileOf(at: string): string {
  return at.replace(/:\d+$/, '');
}

function prefixOf(words: readonly string[]): readonly string[] {
  return [network(words[1] ?? '') ?? []].flat();
}

function straysOf(
  taken: readonly Directive[],
  texts: Readonly<Record<string, string>>,
): readonly NginxStray[] {
  const prefixes = (list: readonly Directive[]): readonly string[] =>
    list.flatMap(({ words }) => (words[0] === 'set_real_ip_from' ? prefixOf(words) : []));
  const all = prefixes(taken);
  const byName = new Map(taken.map((one) => [nameOf(one), one]));
  const files = [...new Set(taken.map(({ at }) => fileOf(at)))];
  return files.flatMap((file) =>
    [...placed(texts[file] ?? '')].flatMap(({ words, line, within, start, end }) => {
      const one = byName.get(nameOf({ words, at: `${file}:${line}`, blocks: [] }));
      if (one === undefined) return [];
      const own = prefixes([one]);
      return [
        {
          text: `${file}:${line}: ${words.join(' ')};`,
          prefixes: own.length > 0 ? own : all,
          file,
          words,
          within,
          source: texts[file]!.slice(start, end),
        },
      ];
    }),
  );
}
