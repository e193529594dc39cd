/** Says which ranges a decision by the client's address singles out. */
import { fromPrefixes, toPrefixes } from '../../src/filters/intervals.ts';
import {
  addresses,
  canonical,
  fromInterval,
  intersect,
  merge,
  network,
  none,
  parseRanges,
  PrefixError,
  subtract,
  type Family,
} from '../../src/prefix.ts';
import type { Ranges } from '../../src/renderer.ts';
import { publicSpace } from '../../src/special-purpose.ts';
import type { Directive } from './configuration.ts';
import { conditionOf, type Decision } from './decisions.ts';
import { compile, Unreadable, type Effort } from './pattern.ts';

export interface Singled {
  /** Those ranges of which half or more gets what hardly any other address gets. */
  readonly ranges: readonly string[];
  /** What of the block is not understood. */
  readonly unclear?: string;
}

/** Of so many values a block is a table, of countries or networks, and no list of who may enter. */
const mostValues = 32;
/** A value that so many addresses have is no sign of Cloudflare: a sixteenth of all, in IPv6 a large country's. */
const many: Readonly<Record<Family, bigint>> = { v4: 1n << 28n, v6: 1n << 108n };
/** How many addresses of a range are tried where a block compares texts. */
const tries = 16;
/** How many of those that visitors may have, which are in this space. */
const visitorTries = 64;
const visitors: Readonly<Record<Family, readonly string[]>> = {
  v4: fromInterval('1.0.0.0', '223.255.255.255'),
  v6: fromInterval('2001:200::', '2c0f:ffff:ffff:ffff:ffff:ffff:ffff:ffff'),
};
/** Steps that the patterns of one block may take: a second's worth. */
const effort = 10_000_000;

const families = ['v4', 'v6'] as const;
/** Says of a block which of these ranges it singles out; the same lines in another server are read once. */
export function singling(ranges: Ranges): (decision: Decision) => Singled {
  const known = new Map<string, Singled>();
  const trial = new Trial(ranges);
  return (decision) => {
    const { at, words } = decision.directive;
    const key = `${at} ${words.join(' ')}`;
    const found = known.get(key) ?? singled(decision, ranges, trial);
    known.set(key, found);
    return found;
  };
}

function singled(decision: Decision, ranges: Ranges, trial: Trial): Singled {
  const { directive, lines, source } = decision;
  if (directive.words[0] === 'geo' && source === undefined) return singledByGeo(lines, ranges);
  const patterns = new Patterns();
  try {
    const found = trial.singled(answerOf(decision, patterns, new Map()));
    return { ranges: found, ...(patterns.unread && { unclear: patterns.unread }) };
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    return { ranges: [], unclear: 'its patterns take too many steps' };
  }
}

/** What it answers for an address, by way of what it reads. */
function answerOf(decision: Decision, patterns: Patterns, known: Map<Decision, Answer>): Answer {
  const there = known.get(decision);
  if (there !== undefined) return there;
  const { directive, lines, source } = decision;
  const [name] = directive.words;
  const own =
    name === 'geo'
      ? looked(lines)
      : name === 'map'
        ? mapped(lines, patterns)
        : compared(directive.words, patterns);
  const from = Object.entries(source?.from ?? {}).map(
    ([variable, other]) =>
      [variable, other === null ? undefined : answerOf(other, patterns, known)] as const,
  );
  const values = new Map(from);
  const answer: Answer =
    source === undefined
      ? own
      : (address) =>
          own(
            source.text.replaceAll(
              /\$\w+/g,
              (variable) => values.get(variable)?.(address) ?? address,
            ),
          );
  known.set(decision, answer);
  return answer;
}

/** Those ranges that at least half of is in the space. */
function halvesIn(space: Ranges, ranges: Ranges): readonly string[] {
  return families.flatMap((family) =>
    ranges[family].filter((range) => {
      const one = { ...none, [family]: [range] };
      return addresses(intersect(one, space)[family]) * 2n >= addresses([range]);
    }),
  );
}

// ---- geo: networks ----

function singledByGeo(lines: readonly Directive[], ranges: Ranges): Singled {
  const binary = lines.find(({ words: [name, path] }, i) => {
    // nginx takes PATH.bin in place of PATH where there is one, and the dump then has neither.
    return name === 'include' && path !== undefined && !isFrom(lines[i + 1], path);
  });
  const unclear = binary && { unclear: `"${binary.words.join(' ')}" is empty, or in binary form` };
  const read = geoNetworks(lines, mostValues);
  if (read === undefined) return { ranges: [], ...unclear };
  const { networks, fallback, proxies } = read;
  const values = new Map<string, string[]>([[fallback, []]]);
  for (const [prefix, value] of networks) {
    const list = values.get(value) ?? [];
    values.set(value, list);
    list.push(prefix);
  }
  const spaces = new Map([...values].map(([value, list]) => [value, parseRanges(list)]));
  const space = merge(
    ...families.map((family) => {
      const common = commonValues(spaces, fallback, family, ranges);
      const only = [...networks].filter(([prefix]) => prefix.includes(':') === (family === 'v6'));
      return spaceOf(only, (value) => !common.has(value), ranges);
    }),
  );
  // Of a connection from a proxy it is the address in X-Forwarded-For that counts.
  return { ranges: halvesIn(subtract(space, proxies), ranges), ...unclear };
}

function isFrom(line: Directive | undefined, path: string): boolean {
  return line?.at.replace(/:\d+$/, '').endsWith(path) === true;
}

interface Geo {
  readonly networks: ReadonlyMap<string, string>;
  readonly fallback: string;
  readonly proxies: Ranges;
}

/** Undefined of a table, which may have half a million lines. */
function geoNetworks(lines: readonly Directive[], most: typeof Infinity): Geo;
function geoNetworks(lines: readonly Directive[], most: number): Geo | undefined;
function geoNetworks(lines: readonly Directive[], most: number): Geo | undefined {
  const networks = new Map<string, string>();
  const values = new Set<string>();
  const proxies: string[] = [];
  let fallback = '';
  for (const { words } of lines) {
    const [key = '', value = ''] = words;
    const named = prefixesOf(key);
    if (named.length > 0) values.add(value);
    if (values.size > most) return undefined;
    if (key === 'default') fallback = value;
    else if (key === 'proxy') proxies.push(...prefixesOf(value));
    else if (key === 'delete') for (const prefix of prefixesOf(value)) networks.delete(prefix);
    else for (const prefix of named) networks.set(prefix, value);
  }
  return { networks, fallback, proxies: parseRanges(proxies) };
}

/** Of an address, a network, or `FIRST-LAST`; of another word none. */
function prefixesOf(word: string): readonly string[] {
  const [first = '', last] = word.split('-');
  // The second reader knows more, and takes four times as long.
  if (last === undefined) return [canonical(word)?.text ?? network(word) ?? []].flat();
  try {
    return fromInterval(first, last);
  } catch (error) {
    if (error instanceof PrefixError) return [];
    throw error;
  }
}

/** The values that many addresses have, or that a list of others has in which a few of Cloudflare's are. */
function commonValues(
  spaces: ReadonlyMap<string, Ranges>,
  fallback: string,
  family: Family,
  ranges: Ranges,
): ReadonlySet<string> {
  const sizes = [...spaces].map(([value, space]) => [value, addresses(space[family])] as const);
  const total = 1n << (family === 'v4' ? 32n : 128n);
  const rest = sizes.reduce(
    (left, [value, size]) => (value === fallback ? left : left - size),
    total,
  );
  return new Set(
    sizes.flatMap(([value, size]) =>
      (value === fallback ? rest : size) >= many[family] ||
      isOfOthers(spaces.get(value)!, family, ranges)
        ? [value]
        : [],
    ),
  );
}

/**
 * As the networks of a small country: few of them are Cloudflare's, and most of Cloudflare's are not there. One that is
 * only taken too wide, as 173.245.0.0/16, has sixteen times what is meant.
 */
function isOfOthers(space: Ranges, family: Family, ranges: Ranges): boolean {
  const size = (of: Ranges): bigint => addresses(of[family]);
  const [named, all] = [size(intersect(space, ranges)), size(ranges)];
  return named * 2n < all && size(intersect(subtract(space, ranges), publicSpace)) > named * 16n;
}

/** The part of the ranges that has such a value: the longest network around an address gives it. */
function spaceOf(
  networks: readonly (readonly [string, string])[],
  counts: (value: string) => boolean,
  ranges: Ranges,
): Ranges {
  const byLength = new Map<number, { readonly yes: string[]; readonly no: string[] }>();
  for (const [prefix, value] of networks) {
    const length = Number(prefix.slice(prefix.indexOf('/') + 1));
    const lists = byLength.get(length) ?? { yes: [], no: [] };
    byLength.set(length, lists);
    (counts(value) ? lists.yes : lists.no).push(prefix);
  }
  let space = none;
  for (const [, { yes, no }] of [...byLength].sort(([a], [b]) => a - b))
    space = subtract(merge(space, intersect(parseRanges(yes), ranges)), parseRanges(no));
  return space;
}

// ---- map and if: texts ----

/** What the block answers for an address. */
type Answer = (address: string) => string;

/** Reads patterns, and keeps which one it could not read. */
class Patterns {
  unread: string | undefined;
  readonly #effort: Effort = { left: effort };

  /** `~` and `~*` are taken off already. */
  read(text: string, ignoreCase: boolean): ((text: string) => boolean) | undefined {
    // As ngx_conf_read_token takes backslashes away.
    const plain = text.replaceAll(/\\(["'\\])/g, '$1');
    try {
      return compile(plain, ignoreCase, this.#effort);
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      this.unread ??= `the pattern ${text} is not understood`;
      return undefined;
    }
  }
}

/** The value of the longest network around an address. */
function looked(lines: readonly Directive[]): Answer {
  const read = geoNetworks(lines, Infinity);
  const lengths = [...new Set([...read.networks.keys()].map((prefix) => prefix.split('/')[1]!))]
    .map(Number)
    .sort((a, b) => b - a);
  return (address) => {
    for (const length of lengths) {
      const value = read.networks.get(network(`${address}/${length}`) ?? '');
      if (value !== undefined) return value;
    }
    return read.fallback;
  };
}

function mapped(lines: readonly Directive[], patterns: Patterns): Answer {
  const literal = new Map<string, string>();
  const matchers: { readonly matches: (text: string) => boolean; readonly value: string }[] = [];
  let fallback = '';
  for (const { words } of lines) {
    const [key = '', value] = words;
    if (value === undefined || key === 'include') continue;
    const [, sign, pattern = ''] = /^(~\*?)(.*)$/s.exec(key) ?? [];
    if (key === 'default') fallback = value;
    else if (sign === undefined) literal.set(key.toLowerCase(), value);
    else {
      const matches = patterns.read(pattern, sign === '~*');
      if (matches !== undefined) matchers.push({ matches, value });
    }
  }
  return (address) =>
    literal.get(address.toLowerCase()) ??
    matchers.find(({ matches }) => matches(address))?.value ??
    fallback;
}

function compared(words: readonly string[], patterns: Patterns): Answer {
  const [, sign = '', operand = ''] = conditionOf(words);
  const isSet = (text: string): boolean => text !== '' && text !== '0';
  const same = sign === '' ? isSet : (text: string): boolean => text === operand;
  const matches = sign.includes('~') ? patterns.read(operand, sign.endsWith('*')) : same;
  // What is not understood is the same for all.
  return (address) => String(matches?.(address));
}

/** Tries what a block answers for some addresses of each range, and for some that visitors may have. */
class Trial {
  readonly #ranges: Ranges;
  /** Of a range, or of the visitors of a family; made when first asked for. */
  readonly #samples = new Map<string, readonly string[]>();

  constructor(ranges: Ranges) {
    this.#ranges = ranges;
  }

  singled(answer: Answer): readonly string[] {
    return families.flatMap((family) => {
      const given = this.#of(visitors[family], visitorTries).map(answer);
      const common = (value: string): boolean =>
        given.filter((one) => one === value).length * 16 >= visitorTries;
      return this.#ranges[family].filter((range) => {
        const rare = this.#of([range], tries).filter((address) => !common(answer(address)));
        return rare.length * 2 >= tries;
      });
    });
  }

  #of(prefixes: readonly string[], count: number): readonly string[] {
    const key = prefixes.join();
    const list = this.#samples.get(key) ?? samples(prefixes, count);
    this.#samples.set(key, list);
    return list;
  }
}

/** Addresses of one interval at equal distances, its first and its last among them. */
function samples(prefixes: readonly string[], count: number): readonly string[] {
  const family = prefixes[0]!.includes(':') ? 'v6' : 'v4';
  const [[first, last]] = fromPrefixes(prefixes) as unknown as [readonly [bigint, bigint]];
  return Array.from({ length: count }, (_, i) => {
    const address = first + ((last - first) * BigInt(i)) / BigInt(count - 1);
    return toPrefixes([[address, address]], family)[0]!.split('/')[0]!;
  });
}
