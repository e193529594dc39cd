/** The two ipsets that hold the ranges with `set: true`. */
import { linesOf, unreadable } from '../../src/filters/iptables/save.ts';
import { sameList } from '../../src/filters/lines.ts';
import { parseRanges } from '../../src/prefix.ts';
import type { Command, Host, Observed, Ranges } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import type { IptAround } from './around.ts';
import { ask, optional } from './ask.ts';
import { families, setName, setType } from './names.ts';
import type { IptOptions } from './options.ts';
import type { IpSet, IptOwned } from './owned.ts';

/** Our sets, and what a run that was cut off left of a swap. Nothing is asked that would load the module. */
export async function observeSets(host: Host, options: IptOptions): Promise<IpSet[]> {
  if (!options.set && (await host.list('/sys/module/ip_set')) === undefined) return [];
  const list: Command = { argv: ['ipset', 'list', '-n'] };
  const names = options.set ? await ask(host, list) : ((await optional(host, list)) ?? '');
  const ours = names.split('\n').filter((name) => /^cfsync[46](-new)?$/.test(name));
  return Promise.all(
    ours
      .sort()
      .map(async (name) => parseSet(name, await ask(host, { argv: ['ipset', 'save', name] }))),
  );
}

/** ipset 7.17: `create NAME hash:net family inet hashsize 1024 ...`, then `add NAME 192.0.2.0/24` and so on. */
function parseSet(name: string, text: string): IpSet {
  const [create = '', ...added] = linesOf(text, 'ipset save');
  const [, , ...words] = create.split(' ');
  if (!create.startsWith(`create ${name} `)) throw unreadable('ipset save', create);
  const sizes = ['hashsize', 'maxelem', 'bucketsize', 'initval'];
  const type = words.filter((word, i) => !sizes.includes(word) && !sizes.includes(words[i - 1]!));
  const whole: string[] = [];
  let withOptions = false;
  for (const line of added) {
    const [, , member = '', ...options] = line.split(' ');
    if (!line.startsWith(`add ${name} `) || member === '') throw unreadable('ipset save', line);
    // An element with a timeout or `nomatch` is not what we add.
    withOptions ||= options.length > 0;
    if (options.includes('nomatch')) continue;
    whole.push(member.includes('/') ? member : `${member}/${member.includes(':') ? 128 : 32}`);
  }
  if (withOptions) type.push('with options');
  const { v4, v6 } = prefixesIn(whole);
  return { name, type: type.join(' '), prefixes: [...v4, ...v6] };
}

/** The sets, other than ours, from which rules of table filter accept. */
export async function acceptedSets(
  host: Host,
  { v4, v6 }: Pick<IptAround, 'v4' | 'v6'>,
): Promise<IptAround['accepted']> {
  const rules = [v4, v6].flatMap((f) => f?.tables.find((t) => t.name === 'filter')?.rules ?? []);
  const names = rules.flatMap(({ text }) => {
    const [, accepted, kept] =
      /-m set (?:--match-set (\S+) src .*-j ACCEPT$|! --match-set (\S+) src .*-j (?:DROP|REJECT)\b)/.exec(
        text,
      ) ?? [];
    return accepted ?? kept ?? [];
  });
  const sets = [...new Set(names)].filter((name) => !/^cfsync[46]$/.test(name));
  const members = await Promise.all(
    sets.map(async (name) => {
      const text = await optional(host, { argv: ['ipset', 'save', name] });
      // Of other types it is not the source address alone that is looked up; `nomatch` is an exception.
      const plain =
        text !== undefined && /^create \S+ hash:(net|ip) /.test(text) && !/ nomatch\b/.test(text);
      return plain ? [[name, parseSet(name, text).prefixes] as const] : [];
    }),
  );
  return new Map(members.flat());
}

/** Swap wants the same kind and family; what else differs is put right by it. */
export function mismatches(sets: readonly IpSet[]): string[] {
  return families.flatMap((family) =>
    sets
      .filter((s) => s.name === setName[family] && !`${s.type} `.startsWith(`${setType[family]} `))
      .map((s) => `ipset ${s.name} is of type ${escape(s.type)}`),
  );
}

/** The prefixes among words that a foreign hand may have written. */
export function prefixesIn(words: readonly string[]): Ranges {
  try {
    return parseRanges(words);
  } catch {
    return parseRanges(
      words.filter((word) => {
        try {
          parseRanges([word]);
          return true;
        } catch {
          return false;
        }
      }),
    );
  }
}

export function createSet({ name, type, prefixes }: IpSet): string {
  return `create ${name} ${type} hashsize 1024 maxelem ${Math.max(65_536, prefixes.length * 2)}`;
}

export function refreshSets(wanted: IptOwned, observed: IptOwned): string[] {
  return wanted.sets.flatMap((set) => {
    const now = observed.sets.find((s) => s.name === set.name);
    if (now?.type === set.type && sameList(now.prefixes, set.prefixes)) return [];
    const fill = (name: string): string[] => set.prefixes.map((p) => `add ${name} ${p}`);
    if (now === undefined) return [createSet(set), ...fill(set.name)];
    const next = `${set.name}-new`;
    return [
      ...(observed.sets.some((s) => s.name === next) ? [`destroy ${next}`] : []),
      createSet({ ...set, name: next }),
      ...fill(next),
      `swap ${next} ${set.name}`,
      `destroy ${next}`,
    ];
  });
}

export function sweepSets(wanted: IptOwned, observed: Observed<IptOwned, IptAround>): string[] {
  const swapped = refreshSets(wanted, observed.owned);
  return observed.owned.sets
    .map((s) => s.name)
    .filter((name) => !wanted.sets.some((s) => s.name === name))
    .filter((name) => !observed.around.shared.includes(name))
    .map((name) => `destroy ${name}`)
    .filter((line) => !swapped.includes(line));
}
