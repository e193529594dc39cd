/** Finds the rules and elements of nftables that other hands wrote to let Cloudflare in. */
import { namesOnly } from '../published.ts';
import type { Desired, Ranges, Stray } from '../renderer.ts';
import { beyondOf, opens, type Asks, type Opens, type PortRange } from '../strays.ts';
import {
  chainName,
  elements,
  same,
  type Chain,
  type ChainName,
  type Family,
  at,
  type Rule,
} from './listing.ts';

interface RuleStray extends Stray {
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
  /** In nft's syntax. */
  readonly rule: string;
  readonly handle: number;
  /** The handles of the next rules that are no strays, none at the end of the chain. */
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
    const here = rule.chain === chainName ? [] : (ways.get(nameOf(rule)) ?? []);
    const asks = here.length === 0 ? undefined : read(rule);
    if (asks?.accepts !== true) continue;
    const all = here.map((way) => opens(desired, way, asks));
    const text = `add rule ${nameOf(rule)} ${asks.text}`;
    if (asks.set !== undefined) {
      const set = setName(rule, asks.set);
      askers.set(set, [...(askers.get(set) ?? []), { rule, text, all }]);
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
  const below = new Map<string, readonly number[]>();
  for (const rule of rules.toReversed()) {
    const { family, table, chain, handle } = rule;
    const next = below.get(nameOf(rule)) ?? [];
    const stray = found.get(rule);
    if (stray !== undefined)
      strays.unshift({ ...stray, family, table, chain, handle, below: next });
    else below.set(nameOf(rule), [handle, ...next].slice(0, landmarks));
  }
  return strays;
}

/** Where in each base chain the first of these counts: itself, or the jump to its chain. */
function placesOf(
  bases: readonly Chain[],
  rules: readonly Rule[],
  counting: ReadonlySet<Rule>,
): Found['places'] {
  const chains = new Set([...counting].map(nameOf));
  return bases.flatMap((chain) => {
    const at = rules
      .filter((rule) => same(rule, chain))
      .findIndex(
        (rule) =>
          counting.has(rule) ||
          targetsOf(rule).some((to) => chains.has(nameOf({ ...rule, chain: to }))),
      );
    return at < 0 ? [] : [{ chain, at }];
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
  const ways = new Map<string, (Asks | undefined)[]>();
  for (const base of isBase) ways.set(base, [{ ports: [] }]);
  const hidden = new Set<string>();
  for (const rule of rules) {
    // The elements of a named verdict map are not in the listing.
    if (rule.expr.some((e) => typeof (e.vmap as { data?: unknown } | undefined)?.data === 'string'))
      hidden.add(`${rule.family} ${rule.table}`);
    for (const target of targetsOf(rule)) {
      const name = nameOf({ ...rule, chain: target });
      const asks = isBase.has(nameOf(rule)) ? read(rule) : undefined;
      ways.set(name, [...(ways.get(name) ?? []), asks]);
    }
  }
  const clear = [...ways].filter(
    ([name, all]) =>
      isBase.has(name) ||
      (!all.includes(undefined) && ![...hidden].some((table) => name.startsWith(`${table} `))),
  );
  return new Map(clear as [string, Asks[]][]);
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
      const [op, left, right] = ['op', 'left', 'right'].map((name) => at(e.match, name));
      const value = textOf(right);
      const field = fieldOf(left);
      if ((op !== '==' && op !== 'in') || value === undefined || field === undefined)
        return undefined;
      words.push(field, value);
      const [first, last] = field.split(' ');
      if (last === 'saddr') {
        if (value.startsWith('@')) set = value.slice(1);
        else sources.push(...(elements(right) ?? []));
      } else if (last === 'dport') {
        ports.push(portRanges(right));
        if (first !== 'th') protocol = first as Asks['protocol'];
      } else if (last === 'state') {
        if (!/\bnew\b/.test(value)) return undefined;
      } else if (value === 'tcp' || value === 'udp') protocol = value;
      else return undefined;
    } else if (!('jump' in e || 'goto' in e)) return undefined;
  }
  const { comment } = rule;
  if (comment !== undefined) {
    // A quotation mark would end the text, and nft has no way to write one.
    if (/["\n]/.test(comment)) return undefined;
    words.push(`comment "${comment}"`);
  }
  const text = words.join(' ');
  return { text, sources, ...(set && { set }), ...(protocol && { protocol }), ports, accepts };
}

/** What a match looks at, where it is known here. */
function fieldOf(left: unknown): string | undefined {
  const { payload, meta, ct } = (left ?? {}) as {
    readonly payload?: { readonly protocol?: string; readonly field?: string };
    readonly meta?: { readonly key: string };
    readonly ct?: { readonly key: string };
  };
  return fields.find((field) =>
    [`${payload?.protocol} ${payload?.field}`, `meta ${meta?.key}`, `ct ${ct?.key}`].includes(
      field,
    ),
  );
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

/** A value in nft's syntax. */
function textOf(value: unknown): string | undefined {
  if (typeof value === 'string' || typeof value === 'number') return String(value);
  if (Array.isArray(value)) return value.every(isWord) ? value.join(',') : undefined;
  if (typeof value !== 'object' || value === null) return undefined;
  if ('prefix' in value) {
    const { addr, len } = value.prefix as { readonly addr: string; readonly len: number };
    return `${addr}/${len}`;
  }
  if ('range' in value) return (value.range as readonly unknown[]).join('-');
  if (!('set' in value) || !Array.isArray(value.set)) return undefined;
  const parts = value.set.map(textOf);
  return parts.includes(undefined) ? undefined : `{ ${parts.join(', ')} }`;
}

function isWord(value: unknown): boolean {
  return typeof value === 'string' || typeof value === 'number';
}

function portRanges(right: unknown): PortRange[] {
  if (typeof right === 'number') return [[right, right]];
  const { range, set } = right as { readonly range?: PortRange; readonly set?: readonly unknown[] };
  if (range !== undefined) return [range];
  return (set ?? []).flatMap(portRanges);
}

interface Part {
  readonly element: string;
  /** Empty for an element that is more than its address: with a time limit, for instance. */
  readonly prefixes: readonly string[];
  readonly comment?: string;
}

/** An element, in nft's syntax and as prefixes. */
export function readElement(elem: unknown): Part {
  const parts = (
    typeof elem === 'object' && elem !== null && 'elem' in elem ? elem.elem : { val: elem }
  ) as { readonly val: unknown; readonly comment?: string };
  const { val, comment } = parts;
  const plain =
    Object.keys(parts).every((key) => ['val', 'comment', 'counter'].includes(key)) &&
    !/["\n]/.test(comment ?? '');
  return {
    element: textOf(val) ?? '',
    prefixes: plain ? (elements(val) ?? []) : [],
    ...(comment === undefined ? {} : { comment }),
  };
}
