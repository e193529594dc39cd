/** Finds the rules and elements of nftables that other hands wrote to let Cloudflare in. */
import { namesAny, namesOnly } from '../../src/feed/published.ts';
import {
  at,
  chainName,
  isOurJump,
  isWritable,
  rulesOf,
  type Chain,
  type ChainName,
  type Family,
  type Rule,
} from '../../src/filters/nft/listing.ts';
import {
  beyondOf,
  opens,
  type Asks,
  type Left,
  type Opens,
  type Other,
} from '../../src/filters/strays.ts';
import type { Desired, Ranges, Stray } from '../../src/renderer.ts';
import { namedSources, read, readElement, type NftAsks } from './asks.ts';

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

interface Found extends Left {
  readonly strays: readonly NftStray[];
  /** The rules of the host without them. */
  readonly rest: readonly Rule[];
  /** The base chains in which they count, and from where on: an index of the chain without them. */
  readonly places: readonly { readonly chain: Chain; readonly at: number }[];
}

/** So many rules below a stray may go before its place is no longer known. */
const landmarks = 8;

/** A rule that accepts what a set holds, on the ways there are to it. */
interface Asker {
  readonly rule: Rule;
  readonly protocol: Asks['protocol'];
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
  isAlways: (asks: NftAsks) => boolean,
): Found {
  const others: Other[] = [];
  const mixed: string[] = [];
  const conditional: string[] = [];
  const found = new Map<Rule, Stray & { readonly rule: string }>();
  const askers = new Map<string, Asker[]>();
  const ways = waysIn(bases, rules, isAlways);
  for (const rule of rules) {
    const isTheirs = rule.chain !== chainName && isWritable(rule.table) && isWritable(rule.chain);
    const here = isTheirs ? (ways.get(nameOf(rule)) ?? []) : [];
    if (here.length === 0 || !rule.expr.some((e) => 'accept' in e)) continue;
    const asks = read(rule);
    if (asks === undefined || !isAlways(asks)) {
      const { prefixes, isInverted } = namedSources(rule);
      if (!isInverted && namesOnly(known, prefixes) && isForNew(rule))
        conditional.push(asks ? `add rule ${nameOf(rule)} ${asks.text}` : handleOf(rule));
      continue;
    }
    const all = here.map((way) => opens(desired, way, asks));
    const text = `add rule ${nameOf(rule)} ${asks.text}`;
    const protocol = asks.protocol ?? here[0]!.protocol;
    if (asks.set !== undefined) {
      const set = setName(rule, asks.set);
      const list = askers.get(set);
      if (list === undefined) askers.set(set, [{ rule, text, all, protocol }]);
      else list.push({ rule, text, all, protocol });
    } else if (!namesOnly(known, asks.sources)) {
      if (namesAny(known, asks.sources)) mixed.push(text);
    } else if (all.includes('others')) others.push({ text, protocol });
    else found.set(rule, { ...strayOf(text, asks.sources, all), rule: asks.text });
  }

  const inRules = placed(found, rules);
  const counting = new Set(found.keys());
  const inverted = invertedRules(rules, ways, sets, known);
  const inSets = sets.map((set) => {
    if (inverted.some((rule) => uses(rule, set))) return { strays: [], others: [], mixed: [] };
    const here = askers.get(setName(set, set.name)) ?? [];
    const one = straysIn(set, here, rules, known);
    if (one.strays.length > 0) for (const { rule } of here) counting.add(rule);
    return one;
  });
  return {
    strays: [...inRules, ...inSets.flatMap((one) => one.strays)],
    rest: rules.filter((rule) => !found.has(rule)),
    places: placesOf(bases, rules, counting),
    others: [...others, ...inSets.flatMap((one) => one.others)],
    mixed: [...mixed, ...inSets.flatMap((one) => one.mixed)],
    conditional,
    inverted: inverted.map(handleOf),
  };
}

/** Rules that drop whoever is not on a list of Cloudflare's. */
function invertedRules(
  rules: readonly Rule[],
  ways: ReadonlyMap<string, readonly Asks[]>,
  sets: readonly AcceptedSet[],
  known: Ranges,
): readonly Rule[] {
  return rules.filter((rule) => {
    if (!ways.has(nameOf(rule)) || !isInvertedDrop(rule)) return false;
    const { prefixes, set } = namedSources(rule);
    if (set === undefined) return namesOnly(known, prefixes);
    const held = sets.find((one) => setName(one, one.name) === setName(rule, set));
    return namesOnly(known, held?.elem.flatMap((elem) => readElement(elem).prefixes) ?? []);
  });
}

export function isInvertedDrop(rule: Rule): boolean {
  return rule.expr.some((e) => 'drop' in e || 'reject' in e) && namedSources(rule).isInverted;
}

/** A rule that nft itself would have to print. */
function handleOf(rule: Rule): string {
  return `rule ${nameOf(rule)} handle ${rule.handle}`;
}

/** Whether it may be about new connections at all. */
function isForNew({ expr }: Rule): boolean {
  return expr.every((e) => {
    if (at(e, 'match', 'left', 'ct', 'key') !== 'state') return true;
    return JSON.stringify(at(e, 'match', 'right')).includes('"new"');
  });
}

/** @param askers Its rules that accept on known conditions. */
function straysIn(
  set: AcceptedSet,
  askers: readonly Asker[],
  rules: readonly Rule[],
  known: Ranges,
): Pick<Found, 'strays' | 'others' | 'mixed'> {
  const nothing = { strays: [], others: [], mixed: [] };
  const parts = set.elem.map(readElement);
  const ranges = parts.filter((part) => namesOnly(known, part.prefixes));
  const halves = parts.filter((part) => !ranges.includes(part) && namesAny(known, part.prefixes));
  const { family, table } = set;
  const name = `${family} ${table} ${set.name}`;
  if (ranges.length + halves.length === 0) return nothing;
  if (rules.filter((rule) => uses(rule, set)).length > askers.length)
    return { ...nothing, mixed: [`set ${name}`] };
  const other = askers.filter(({ all }) => all.includes('others'));
  if (other.length > 0) return { ...nothing, others: other };
  const all = askers.flatMap((asker) => asker.all);
  const strays = ranges.map(({ element, prefixes, comment }) => ({
    ...strayOf(`add element ${name} { ${element} }`, prefixes, all),
    family,
    table,
    set: set.name,
    element,
    ...(comment === undefined ? {} : { comment }),
  }));
  const mixed = halves.map(({ element }) => `element ${name} { ${element} }`);
  return { ...nothing, strays, mixed };
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

/** The chains to look at, by name, each with what is asked on every way from a base chain to there. */
function waysIn(
  bases: readonly Chain[],
  rules: readonly Rule[],
  isAlways: (asks: NftAsks) => boolean,
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
      const said = isBase.has(nameOf(rule)) ? read(rule) : undefined;
      const asks = said !== undefined && isAlways(said) ? said : undefined;
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
