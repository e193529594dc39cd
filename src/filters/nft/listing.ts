/** Reads what `nft -j` prints: libnftables-json(5), nft 0.9.8 to 1.1.7; only the members that are used. */
import { BackendError } from '../../errors.ts';
import { groupBy } from '../../group.ts';
import { isFields } from '../../plugin/options.ts';
import { canonical, fromInterval, PrefixError } from '../../prefix.ts';

export type Family = 'ip' | 'ip6' | 'inet';

export interface ChainName {
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
}

export type Expr = Readonly<Record<string, unknown>>;
export interface Chain extends ChainName {
  readonly base?: {
    readonly hook: string;
    readonly type: string;
    readonly prio: number;
    /** `accept` where nft names none. */
    readonly policy: string;
  };
}
export interface Rule extends ChainName {
  readonly handle: number;
  readonly comment?: string;
  readonly expr: readonly Expr[];
}
export interface Listing {
  readonly tables: readonly {
    readonly family: string;
    readonly name: string;
    readonly flags: boolean;
  }[];
  readonly chains: readonly Chain[];
  readonly rules: readonly Rule[];
  readonly sets: readonly {
    readonly family: string;
    readonly table: string;
    readonly name: string;
    readonly type: unknown;
    readonly flags: readonly unknown[];
    readonly elem: readonly unknown[];
  }[];
  /** Without their elements. */
  readonly maps: readonly {
    readonly family: string;
    readonly table: string;
    readonly name: string;
  }[];
}

/** The chain of accepts, in every table that cfsync attaches to. */
export const chainName = 'cfsync';

export function same(a: ChainName, b: ChainName): boolean {
  return a.family === b.family && a.table === b.table && a.chain === b.chain;
}

export function isOurJump(rule: Rule): boolean {
  return rule.expr.some((e) => at(e.jump ?? e.goto, 'target') === chainName);
}

/** The part of a value at these names, undefined where there is none. */
export function at(value: unknown, ...names: readonly string[]): unknown {
  return names.reduce(
    (part, name) => (isFields(part) && Object.hasOwn(part, name) ? part[name] : undefined),
    value,
  );
}

/**
 * What is printed as a list, or without brackets when it is one alone: libnftables-json(5) allows both. Releases up
 * to 1.1.3 print flags of tables and NAT so, 1.1.4 those of sets and fib as well, and 1.1.5 to 1.1.7 none.
 */
export function listOf(value: unknown): readonly unknown[] {
  if (value === undefined || value === null) return [];
  return Array.isArray(value) ? (value as readonly unknown[]) : [value];
}

/** Whether the scripts of nft take a name (`string` in scanner.l of nft 1.0.6); other programs may give others. */
export function isWritable(name: string): boolean {
  return /^[A-Za-z_.][A-Za-z0-9_./-]*$/.test(name);
}

/** The tables of iptables, which iptables-nft keeps under the same names. */
const iptablesTables: readonly string[] = ['filter', 'nat', 'mangle', 'raw', 'security'];

/** The chains that iptables has by itself; nft's own have a hook under any name, and lower-case ones as a rule. */
const builtIn = /^(PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING)$/;

/**
 * The tables that iptables-nft keeps, as `FAMILY NAME`: one of its names, with a built-in chain that has a hook. It
 * lists a native set match there as a rule without its set and ports, and saves it so (1.8.7 to 1.8.11).
 */
export function keptByIptables(chains: readonly Chain[]): ReadonlySet<string> {
  let kept = keptTables.get(chains);
  if (kept === undefined) {
    const theirs = chains.filter(
      ({ family, table, chain, base }) =>
        (family === 'ip' || family === 'ip6') &&
        iptablesTables.includes(table) &&
        base !== undefined &&
        builtIn.test(chain),
    );
    kept = new Set(theirs.map(({ family, table }) => `${family} ${table}`));
    keptTables.set(chains, kept);
  }
  return kept;
}

const keptTables = new WeakMap<readonly Chain[], ReadonlySet<string>>();

/** The rules of a chain, in order. Sorted out once for all: some hosts have thousands of chains and rules. */
export function rulesOf(rules: readonly Rule[], chain: ChainName): readonly Rule[] {
  const key = (name: ChainName): string => JSON.stringify([name.family, name.table, name.chain]);
  let chains = sortedOut.get(rules);
  if (chains === undefined) sortedOut.set(rules, (chains = groupBy(rules, key)));
  return chains.get(key(chain)) ?? [];
}

const sortedOut = new WeakMap<readonly Rule[], Map<string, Rule[]>>();

/**
 * @throws BackendError when it is not a listing. What the rules say is left as it is but for `flags`, always a list, for
 * those who read a part of it: there are more statements than are known here.
 */
export function parseListing(text: string): Listing {
  const listing = { tables: [], chains: [], rules: [], sets: [], maps: [] } as {
    [K in keyof Listing]: Listing[K][number][];
  };
  for (const item of itemsOf(text)) {
    const [table, chain, rule, set, map] = ['table', 'chain', 'rule', 'set', 'map'].map((kind) =>
      at(item, kind),
    );
    if (table !== undefined)
      listing.tables.push({
        family: wordAt(table, 'family'),
        name: textAt(table, 'name'),
        flags: listOf(at(table, 'flags')).length > 0,
      });
    if (chain !== undefined) {
      const name = { ...inTable(chain), chain: textAt(chain, 'name') };
      listing.chains.push(
        at(chain, 'hook') === undefined ? name : { ...name, base: baseOf(chain) },
      );
    }
    if (rule !== undefined) listing.rules.push(ruleOf(rule));
    if (map !== undefined) listing.maps.push({ ...inTable(map), name: textAt(map, 'name') });
    if (set !== undefined) {
      listing.sets.push({
        ...inTable(set),
        name: textAt(set, 'name'),
        type: readable(at(set, 'type')),
        flags: listOf(readable(at(set, 'flags'))),
        elem: listOf(at(set, 'elem')),
      });
    }
  }
  return listing;
}

/** @throws BackendError when it is not what nft prints. */
export function itemsOf(text: string): readonly unknown[] {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    throw unreadable('it is not JSON', cause);
  }
  const items = at(content, 'nftables');
  if (!Array.isArray(items)) throw unreadable('there is no rule set in it');
  return items as readonly unknown[];
}

function baseOf(chain: unknown): NonNullable<Chain['base']> {
  const prio = at(chain, 'prio');
  if (typeof prio !== 'number' || !Number.isInteger(prio))
    throw unreadable('a chain has a hook and no priority');
  const policy = at(chain, 'policy') === undefined ? 'accept' : wordAt(chain, 'policy');
  return { hook: wordAt(chain, 'hook'), type: wordAt(chain, 'type'), prio, policy };
}

function ruleOf(rule: unknown): Rule {
  const handle = at(rule, 'handle');
  if (typeof handle !== 'number' || !Number.isSafeInteger(handle) || handle < 0)
    throw unreadable('a rule has no handle');
  const expr = readable(at(rule, 'expr'));
  if (!Array.isArray(expr) || !expr.every(isFields)) throw unreadable('a rule has no statements');
  const name = { ...inTable(rule), chain: textAt(rule, 'chain') };
  const comment = at(rule, 'comment') === undefined ? {} : { comment: textAt(rule, 'comment') };
  return { ...name, handle, ...comment, expr };
}

/** Other families than those of the type are never compared with them. */
function inTable(item: unknown): { readonly family: Family; readonly table: string } {
  return { family: wordAt(item, 'family') as Family, table: textAt(item, 'table') };
}

/** One of nft's own words, which may stand in a script as it is. */
function wordAt(item: unknown, name: string): string {
  const word = textAt(item, name);
  if (/^[a-z0-9_]+$/.test(word)) return word;
  throw unreadable(`${name} is not a word`);
}

function textAt(item: unknown, name: string): string {
  const text = at(item, name);
  if (typeof text === 'string') return text;
  throw unreadable(`${name} is missing, or not a text`);
}

/**
 * The value itself, so deep at most that those may walk through it who call themselves, with `flags` as lists from here
 * on: copies of thousands of rules would take longer than to parse them.
 */
function readable(value: unknown, left = 100): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (left === 0) throw unreadable('it is nested too deeply');
  for (const part of Object.values(value)) readable(part, left - 1);
  if ('flags' in value) value.flags = listOf(value.flags);
  return value;
}

function unreadable(why: string, cause?: unknown): BackendError {
  return new BackendError(
    'broken',
    `what nft -j printed cannot be read: ${why}; nothing was changed; look at nft -j list ruleset`,
    { cause },
  );
}

/** The prefixes of a set or of a literal in a rule; undefined for a named set or anything else. */
export function elements(value: unknown): string[] | undefined {
  const set = at(value, 'set');
  const texts = Array.isArray(set) ? elementTexts(set) : element(value);
  const prefixes = texts?.map((text) => canonical(text)?.text);
  return prefixes?.includes(undefined) === true ? undefined : (prefixes as string[] | undefined);
}

/** The elements of a set as they are printed, each with its length; undefined where one is not of that kind. */
export function elementTexts(set: readonly unknown[]): string[] | undefined {
  const all: string[] = [];
  for (const one of set) {
    const texts = element(one);
    if (texts === undefined) return undefined;
    all.push(...texts);
  }
  return all;
}

/** With what a set may say of an element (`elem`: a timeout, a counter) taken off. */
function element(value: unknown): string[] | undefined {
  const said = at(value, 'elem', 'val') ?? value;
  if (typeof said === 'string') return [`${said}/${said.includes(':') ? 128 : 32}`];
  const [addr, len] = [at(said, 'prefix', 'addr'), at(said, 'prefix', 'len')];
  if (typeof addr === 'string' && typeof len === 'number') return [`${addr}/${len}`];
  const range = at(said, 'range');
  if (!Array.isArray(range)) return undefined;
  const [first, last, ...more] = range as readonly unknown[];
  if (typeof first !== 'string' || typeof last !== 'string' || more.length > 0) return undefined;
  try {
    return fromInterval(first, last);
  } catch (error) {
    if (error instanceof PrefixError) return undefined;
    throw error;
  }
}
