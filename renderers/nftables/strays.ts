/** Finds the rules and elements of nftables that other hands wrote to let Cloudflare in. */
import { namesOnly } from '../../src/feed/published.ts';
import type { Desired, Ranges, Stray } from '../../src/renderer.ts';
import { beyondOf, opens, type Asks, type Opens, type PortRange } from '../../src/plugin/strays.ts';
import {
  at,
  chainName,
  elements,
  isOurJump,
  isWritable,
  rulesOf,
  type Chain,
  type ChainName,
  type Family,
  type Rule,
} from '../../src/filters/nft/listing.ts';

interface RuleStray extends Stray {
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
  /** In nft's syntax. */
  readonly rule: string;
  readonly handle: number;
  /** The handles of the next rules of the admin's that stay, none at the end of the chain. */
  readonly below: readonly number[];
}

interface ElementStray extends Stray {
  readonly family: Family;
  readonly table: string;
  readonly set: string;
  /** In nft's syntax: a prefix or an interval. */
  readonly element: string;
  readonly comment?: string;
}

export type NftStray = RuleStray | ElementStray;

/** A set from which rules accept. */
export interface AcceptedSet {
  readonly family: Family;
  readonly table: string;
  readonly name: string;
  readonly elem: readonly unknown[];
}

interface Found {
  readonly strays: readonly NftStray[];
  /** The rules of the host without them. */
  readonly rest: readonly Rule[];
  /** The base chains in which they count, and from where on: an index of the chain without them. */
  readonly places: readonly { readonly chain: Chain; readonly at: number }[];
  /** Rules for Cloudflare's ranges that open other ports, alone or as well: they are left alone. */
  readonly others: readonly string[];
  /** What has ranges of Cloudflare's and serves something else as well: it is left alone. */
  readonly mixed: readonly string[];
}

/** So many rules below a stray may go before its place is no longer known. */
const landmarks = 8;

/** A rule that accepts what a set holds, on the ways there are to it. */
interface Asker {
  readonly rule: Rule;
  readonly text: string;
  readonly all: readonly Opens[];
}

/**
 * Rules of the given base chains, and of chains that only those jump to, which accept new connections from
 * ranges inside of `known` on the desired ports, or on all of them; and such elements of sets that nothing but
 * such rules uses. Any other condition makes a rule the admin's own.
 */
export function findStrays(
  bases: readonly Chain[],
  rules: readonly Rule[],
  sets: readonly AcceptedSet[],
  desired: Desired,
  known: Ranges,
): Found {
  const others: string[] = [];
  const mixed: string[] = [];
  const found = new Map<Rule, Stray & { readonly rule: string }>();
  const askers = new Map<string, Asker[]>();
  const ways = waysIn(bases, rules);
  for (const rule of rules) {
    const isTheirs = rule.chain !== chainName && isWritable(rule.table) && isWritable(rule.chain);
    const here = isTheirs ? (ways.get(nameOf(rule)) ?? []) : [];
    const asks = here.length === 0 ? undefined : read(rule);
    if (asks?.accepts !== true) continue;
    const all = here.map((way) => opens(desired, way, asks));
    const text = `add rule ${nameOf(rule)} ${asks.text}`;
    if (asks.set !== undefined) {
      const set = setName(rule, asks.set);
      const list = askers.get(set);
      if (list === undefined) askers.set(set, [{ rule, text, all }]);
      else list.push({ rule, text, all });
    } else if (!namesOnly(known, asks.sources)) {
      if (asks.sources.some((one) => namesOnly(known, [one]))) mixed.push(text);
    } else if (all.includes('others')) others.push(text);
    else found.set(rule, { ...strayOf(text, asks.sources, all), rule: asks.text });
  }

  const strays: NftStray[] = placed(found, rules);
  const counting = new Set(found.keys());
  for (const set of sets) {
    const here = askers.get(setName(set, set.name)) ?? [];
    const parts = set.elem.map(readElement);
    const ranges = parts.filter((part) => namesOnly(known, part.prefixes));
    const halves = parts.filter(
      (part) => !ranges.includes(part) && part.prefixes.some((one) => namesOnly(known, [one])),
    );
    const name = `${set.family} ${set.table} ${set.name}`;
    if (ranges.length + halves.length === 0) continue;
    if (rules.filter((rule) => uses(rule, set)).length > here.length) {
      mixed.push(`set ${name}`);
      continue;
    }
    const other = here.filter(({ all }) => all.includes('others'));
    others.push(...other.map(({ text }) => text));
    if (other.length > 0) continue;
    mixed.push(...halves.map(({ element }) => `element ${name} { ${element} }`));
    for (const { element, prefixes, comment } of ranges) {
      const text = `add element ${name} { ${element} }`;
      const { family, table } = set;
      const all = here.flatMap((asker) => asker.all);
      const place = { family, table, set: set.name, element };
      strays.push({
        ...strayOf(text, prefixes, all),
        ...place,
        ...(comment === undefined ? {} : { comment }),
      });
    }
    if (ranges.length > 0) for (const { rule } of here) counting.add(rule);
  }
  const rest = rules.filter((rule) => !found.has(rule));
  return { strays, rest, places: placesOf(bases, rules, counting), others, mixed };
}

function nameOf({ family, table, chain }: ChainName): string {
  return `${family} ${table} ${chain}`;
}

function setName({ family, table }: Omit<ChainName, 'chain'>, set: string): string {
  return `${family} ${table} @${set}`;
}

function strayOf(text: string, prefixes: readonly string[], all: readonly Opens[]): Stray {
  const beyond = beyondOf(all);
  return { text, prefixes, ...(beyond === undefined ? {} : { beyond }) };
}

/** The rules in order, each with those that stay below it. */
function placed(
  found: ReadonlyMap<Rule, Stray & { readonly rule: string }>,
  rules: readonly Rule[],
): RuleStray[] {
  const strays: RuleStray[] = [];
  const stay = new Map<string, readonly number[]>();
  for (const rule of rules.toReversed()) {
    const { family, table, chain, handle } = rule;
    const below = stay.get(nameOf(rule)) ?? [];
    const stray = found.get(rule);
    if (stray !== undefined) strays.push({ ...stray, family, table, chain, handle, below });
    else if (!isOurJump(rule)) stay.set(nameOf(rule), [handle, ...below].slice(0, landmarks));
  }
  return strays.toReversed();
}

/** Where in each base chain the first of these counts: itself, or the jump to its chain. */
function placesOf(
  bases: readonly Chain[],
  rules: readonly Rule[],
  counting: ReadonlySet<Rule>,
): Found['places'] {
  const chains = new Set([...counting].map(nameOf));
  return bases.flatMap((chain) => {
    const index = rulesOf(rules, chain).findIndex(
      (rule) =>
        counting.has(rule) ||
        targetsOf(rule).some((to) => chains.has(nameOf({ ...rule, chain: to }))),
    );
    return index < 0 ? [] : [{ chain, at: index }];
  });
}

interface NftAsks extends Asks {
  /** In nft's syntax. */
  readonly text: string;
  readonly sources: readonly string[];
  readonly set?: string;
  readonly accepts: boolean;
}

/** The chains to look at, by name, each with what is asked on every way from a base chain to there. */
function waysIn(
  bases: readonly Chain[],
  rules: readonly Rule[],
): ReadonlyMap<string, readonly Asks[]> {
  const isBase = new Set(bases.map(nameOf));
  const asked = new Map<string, (Asks | undefined)[]>();
  // The elements of a named verdict map are not in the listing.
  const hidden = new Set<string>();
  for (const rule of rules) {
    if (rule.expr.some((e) => typeof at(e, 'vmap', 'data') === 'string'))
      hidden.add(nameOf({ ...rule, chain: '' }));
    for (const target of targetsOf(rule)) {
      const name = nameOf({ ...rule, chain: target });
      const asks = isBase.has(nameOf(rule)) ? read(rule) : undefined;
      const list = asked.get(name);
      if (list === undefined) asked.set(name, [asks]);
      else list.push(asks);
    }
  }
  const ways = new Map<string, readonly Asks[]>();
  for (const [name, list] of asked) {
    const all = list.filter((asks) => asks !== undefined);
    const [family, table] = name.split(' ');
    if (all.length === list.length && !hidden.has(`${family} ${table} `)) ways.set(name, all);
  }
  for (const base of isBase) ways.set(base, [{ ports: [] }]);
  return ways;
}

/** The chains that a rule leads to, in its verdict or in a map of verdicts. */
function targetsOf(rule: Rule): string[] {
  return [...JSON.stringify(rule.expr).matchAll(/"(?:jump|goto)":\{"target":"([^"]*)"\}/g)].map(
    ([, target]) => target!,
  );
}

/** Whether a rule has anything to do with a set. */
export function uses(rule: Rule, set: Omit<AcceptedSet, 'elem'>): boolean {
  return (
    rule.family === set.family &&
    rule.table === set.table &&
    JSON.stringify(rule.expr).includes(`"@${set.name}"`)
  );
}

/** A rule in nft's syntax, where it is one of those that are understood here. */
export function textOfRule(rule: Rule): string | undefined {
  return read(rule)?.text;
}

/** Undefined when a rule asks for anything else, or is not for new connections. */
function read(rule: Rule): NftAsks | undefined {
  const words: string[] = [];
  const sources: string[] = [];
  const ports: PortRange[][] = [];
  let protocol: Asks['protocol'];
  let set: string | undefined;
  let accepts = false;
  for (const e of rule.expr) {
    if ('counter' in e && typeof e.counter !== 'string') words.push('counter');
    else if ('accept' in e) {
      accepts = true;
      words.push('accept');
    } else if ('match' in e) {
      const right = at(e, 'match', 'right');
      const field = fieldOf(at(e, 'match', 'left'));
      const value = textOf(right);
      const isPlain = ['==', 'in'].includes(String(at(e, 'match', 'op')));
      if (!isPlain || field === undefined || value === undefined) return undefined;
      words.push(field, value);
      const [first, last] = field.split(' ');
      if (last === 'saddr' && value.startsWith('@')) set = value.slice(1);
      else if (last === 'saddr') {
        const prefixes = elements(right);
        if (prefixes === undefined) return undefined;
        sources.push(...prefixes);
      } else if (last === 'dport') {
        const ranges = portRanges(right);
        if (ranges === undefined) return undefined;
        ports.push(ranges);
        if (first !== 'th') protocol = first as Asks['protocol'];
      } else if (last === 'state') {
        if (!/\bnew\b/.test(value)) return undefined;
      } else if (value === 'tcp' || value === 'udp') protocol = value;
      else return undefined;
    } else if (!('jump' in e || 'goto' in e)) return undefined;
  }
  const { comment } = rule;
  if (comment !== undefined) {
    if (!isComment(comment)) return undefined;
    words.push(`comment "${comment}"`);
  }
  const text = words.join(' ');
  return { text, sources, ...(set && { set }), ...(protocol && { protocol }), ports, accepts };
}

/** nft has no way to write a quotation mark. */
function isComment(text: unknown): boolean {
  return typeof text === 'string' && /^[ !#-~]*$/.test(text);
}

/** What a match looks at, where it is known here. */
function fieldOf(left: unknown): string | undefined {
  const names = [
    [at(left, 'payload', 'protocol'), at(left, 'payload', 'field')],
    ['meta', at(left, 'meta', 'key')],
    ['ct', at(left, 'ct', 'key')],
  ].map((words) => words.join(' '));
  return fields.find((field) => names.includes(field));
}

const fields = [
  'ip saddr',
  'ip6 saddr',
  'tcp dport',
  'udp dport',
  'th dport',
  'meta l4proto',
  'ip protocol',
  'ip6 nexthdr',
  'ct state',
];

/** A value in nft's syntax; undefined for one that is not known here. */
function textOf(value: unknown): string | undefined {
  const set = at(value, 'set');
  const list = Array.isArray(value) ? value : set;
  if (!Array.isArray(list)) return partText(value);
  const parts = list.map(partText);
  if (parts.length === 0 || parts.includes(undefined)) return undefined;
  return list === set ? `{ ${parts.join(', ')} }` : parts.join(',');
}

/** As `elements` reads it. */
function partText(value: unknown): string | undefined {
  const range = at(value, 'range');
  const [words, between] = Array.isArray(range)
    ? [range, '-']
    : at(value, 'prefix') === undefined
      ? [[value], '']
      : [[at(value, 'prefix', 'addr'), at(value, 'prefix', 'len')], '/'];
  const parts = words.map(wordText);
  return parts.includes(undefined) ? undefined : parts.join(between);
}

/** Nothing that would end a statement. */
function wordText(value: unknown): string | undefined {
  if (Number.isInteger(value)) return String(value);
  if (typeof value !== 'string') return undefined;
  const fits = value.startsWith('@') ? isWritable(value.slice(1)) : /^[\w.:]+$/.test(value);
  return fits ? value : undefined;
}

function portRanges(right: unknown): PortRange[] | undefined {
  const set = at(right, 'set');
  const ranges = (Array.isArray(set) ? set : [right]).map((part: unknown) => {
    const [low, high, ...more] = [at(part, 'range') ?? [part, part]].flat() as readonly unknown[];
    return typeof low === 'number' && typeof high === 'number' && more.length === 0
      ? ([low, high] as const)
      : undefined;
  });
  const known = ranges.filter((range) => range !== undefined);
  return known.length === ranges.length ? known : undefined;
}

interface Part {
  readonly element: string;
  /** Empty for an element that is more than its address: with a time limit, for instance. */
  readonly prefixes: readonly string[];
  readonly comment?: string;
}

/** An element, in nft's syntax and as prefixes. */
export function readElement(elem: unknown): Part {
  const wrapped = at(elem, 'elem');
  const val = wrapped === undefined ? elem : at(wrapped, 'val');
  const comment = at(wrapped, 'comment');
  const element = partText(val);
  const known = Object.keys(wrapped ?? {}).every((key) =>
    ['val', 'comment', 'counter'].includes(key),
  );
  const plain = known && element !== undefined && (comment === undefined || isComment(comment));
  return {
    element: element ?? '',
    prefixes: plain ? (elements(val) ?? []) : [],
    ...(typeof comment === 'string' ? { comment } : {}),
  };
}
