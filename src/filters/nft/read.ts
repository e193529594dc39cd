/** Reads what `nft -j list ruleset` prints (nft 0.9.8 to 1.1.7) as rules that the walk understands. */
import type { Family } from '../../prefix.ts';
import { unknown } from '../conditions.ts';
import type { Action, Base, Condition, Hook, Match, Rule } from '../walk.ts';
import {
  at,
  itemsOf,
  keptByIptables,
  listOf,
  parseListing,
  type Listing,
  type Rule as Listed,
} from './listing.ts';
import { translate } from './statements.ts';

export interface NftRules {
  readonly bases: readonly Base[];
  readonly chains: ReadonlyMap<string, readonly Rule[]>;
  /** Rules that nft itself wrote into a table that iptables-nft keeps. */
  readonly native: readonly Rule[];
}

/** What is known beside the listing. */
export interface NftMore {
  /** What `nft -j list set` and `list map` printed; undefined where the listing itself has the elements. */
  readonly elements?: readonly string[] | undefined;
  /** What stands for the elements of a set or map that was not read; without it they are not known. */
  readonly otherwise?: readonly unknown[];
  /** What `nft -a -t list ruleset` printed; for evidence alone. */
  readonly text?: string;
  /**
   * By family, table and chain, as `ip filter INPUT`: what iptables-nft-save says of the tables that are its own,
   * because half of such a rule is hidden from nft.
   */
  readonly kept?: ReadonlyMap<string, readonly Rule[]>;
  /** What `nft --debug=netlink list ruleset` printed, where `hidesFamily` says that it is needed. */
  readonly debug?: string | undefined;
}

/**
 * @param json What `nft -j list ruleset` printed, with `-t` or without.
 * @throws BackendError when it is no listing.
 */
export function readNft(json: string, more: NftMore = {}): NftRules {
  return readListing(parseListing(json), more, json);
}

/** @param json Where the elements of sets may be. */
export function readListing(
  listing: Pick<Listing, 'chains' | 'rules'>,
  { elements, otherwise, text = '', kept = new Map(), debug = '' }: NftMore,
  json = '{"nftables": []}',
): NftRules {
  const words = wordings(text);
  const hidden = hiddenFamilies(debug);
  const dormant = new Set(dormantIn(text));
  const named = new Map((elements ?? [json]).flatMap((one) => [...setsOf(one)]));
  const keptTables = kept.size === 0 ? new Set() : keptByIptables(listing.chains);
  const chains = new Map<string, Rule[]>();
  const native: Rule[] = [];
  for (const rule of listing.rules) {
    const table = `${rule.family} ${rule.table}`;
    const key = `${table} ${rule.chain}`;
    const list = chains.get(`nft ${key}`) ?? [];
    chains.set(`nft ${key}`, list);
    const said = translate(rule, (set) => named.get(`${table} ${set}`) ?? otherwise, words, table);
    const own = withFamily(said, rule, hidden);
    const theirs = keptTables.has(table) ? kept.get(key)?.[list.length] : undefined;
    if (theirs === undefined) list.push(own);
    else if (rule.expr.some((e) => 'xt' in e)) list.push(renamed(theirs, rule.family));
    else if (isNative(rule)) {
      native.push(own);
      list.push(own);
    } else list.push({ ...own, id: theirs.id, place: theirs.place, text: theirs.text });
  }
  const bases = listing.chains.flatMap((chain): Base[] => {
    const { base, family, table } = chain;
    const hook = base?.hook;
    const families = familiesOf(family);
    if (base === undefined || !isHook(hook) || families.length === 0) return [];
    if (dormant.has(`${family} ${table}`)) return [];
    const name = `nft ${family} ${table} ${chain.chain}`;
    const isKept = keptTables.has(`${family} ${table}`);
    const place = isKept ? `iptables ${table} ${chain.chain}` : name;
    const policy = base.policy === 'drop' ? 'drop' : 'accept';
    const end: Rule = {
      id: `${place} policy`,
      place,
      text: isKept ? `-P ${chain.chain} ${policy.toUpperCase()}` : `policy ${policy}`,
      conditions: [],
      actions: [],
      sets: [],
    };
    const shared = { hook, priority: base.prio, families, nat: base.type === 'nat', end };
    if (hook !== 'ingress') return [{ ...shared, chain: name, policy }];
    // Which device it belongs to is not in the JSON of nft 1.0.6.
    const whole: Action[] = [{ kind: 'jump', chain: name }];
    if (policy === 'drop') whole.push({ kind: 'drop' });
    const device = [(): Match => unknown('the device of an ingress chain')];
    chains.set(`${name} (device)`, [{ ...end, conditions: device, actions: whole }]);
    return [{ ...shared, chain: `${name} (device)`, policy: 'accept' }];
  });
  return { bases, chains, native };
}

/**
 * Of `meta nfproto ipv6 tcp dport 443 reject with tcp reset` in a table of both families, nft 1.0.6 prints neither in
 * text nor in JSON that it is for one family; nor of `meta protocol ip6` or `ether type ip6` in that place.
 */
export function hidesFamily(json: string): boolean {
  return /"type": ?"tcp reset"/.test(json);
}

/** How the code of a rule asks for a family: what it loads, and the two numbers that it compares with. */
const familyAsked = [
  /meta load nfproto => reg (?<reg>\d+) \]\s+\[ cmp eq reg \k<reg> 0x0*(?:(?<v4>2|2000000)|a|a000000) \]/,
  /(?:meta load protocol|payload load 2b @ link header \+ 12) => reg (?<reg>\d+) \]\s+\[ cmp eq reg \k<reg> 0x0*(?:(?<v4>8|800)|dd86|86dd) \]/,
];

/** The families of rules that ask for one, by table, chain and handle; `any` for those that do not. */
function hiddenFamilies(debug: string): ReadonlyMap<string, Family | 'any'> {
  const found = new Map<string, Family | 'any'>();
  const rules = debug.matchAll(/^(\S+ \S+ \S+ \d+)(?: \d+)? *\n((?: +\[.*\]\n?)+)/gm);
  for (const [, name = '', code = ''] of rules) {
    const groups = familyAsked.map((pattern) => pattern.exec(code)?.groups).find(Boolean);
    found.set(name, groups === undefined ? 'any' : groups.v4 === undefined ? 'v6' : 'v4');
  }
  return found;
}

function withFamily(
  own: Rule,
  { family, table, chain, handle, expr }: Listed,
  hidden: ReadonlyMap<string, Family | 'any'>,
): Rule {
  const isHiding = family === 'inet' && expr.some((e) => at(e, 'reject', 'type') === 'tcp reset');
  if (!isHiding) return own;
  const only = hidden.get(`${family} ${table} ${chain} ${handle}`);
  if (only === 'any') return own;
  const condition: Condition =
    only === undefined
      ? () => unknown('a family that nft does not print')
      : (packet) => packet.family === only;
  return { ...own, conditions: [...own.conditions, condition] };
}

/** A rule of iptables, with the chains that it leads to under the names that nft has for them. */
function renamed(rule: Rule, family: string): Rule {
  const rename = (action: Action): Action =>
    action.kind === 'jump' || action.kind === 'goto'
      ? { ...action, chain: action.chain.replace(/^\S+/, `nft ${family}`) }
      : action;
  return { ...rule, actions: rule.actions.map(rename) };
}

function isHook(hook: string | undefined): hook is Hook {
  return hook === 'ingress' || hook === 'prerouting' || hook === 'input' || hook === 'forward';
}

/** Of IP, in a family of nft. */
export function familiesOf(family: string): readonly Family[] {
  if (family === 'ip') return ['v4'];
  if (family === 'ip6') return ['v6'];
  return family === 'inet' || family === 'netdev' ? ['v4', 'v6'] : [];
}

/** iptables-nft 1.8.9 never writes a set or a map. */
function isNative({ expr }: Listed): boolean {
  return expr.some((e) => {
    const text = JSON.stringify(e);
    return /"(set|vmap|map|meter)":/.test(text) || /"right":"@/.test(text);
  });
}

/** The elements of sets and maps, by family, table and name. */
function setsOf(json: string): ReadonlyMap<string, readonly unknown[]> {
  const found = new Map<string, readonly unknown[]>();
  for (const item of itemsOf(json))
    for (const kind of ['set', 'map']) {
      const set = at(item, kind);
      if (set === undefined) continue;
      const key = ['family', 'table', 'name'].map((name) => String(at(set, name))).join(' ');
      found.set(key, listOf(at(set, 'elem')));
    }
  return found;
}

/** Tables that are switched off: nft 1.0.6 says so in its text alone. */
function dormantIn(text: string): readonly string[] {
  const heads = text.matchAll(/^table (\S+ \S+) \{.*\n\tflags .*\bdormant\b/gm);
  return [...heads].map(([, name]) => name!);
}

/** The rules as people write them, by table, chain and handle; a long set takes several lines. */
function wordings(text: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  let [table, chain, rule] = ['', '', ''];
  for (const line of text.split('\n')) {
    table = /^table (\S+ \S+) \{/.exec(line)?.[1] ?? table;
    chain = /^\tchain (\S+) \{/.exec(line)?.[1] ?? chain;
    rule = line.startsWith('\t\t') ? `${rule} ${line.trim()}`.trimStart() : '';
    const [, words, handle] = /^(.*) # handle (\d+)$/s.exec(rule) ?? [];
    if (handle !== undefined) found.set(`${table} ${chain} ${handle}`, words!);
    if (handle !== undefined || /^type \w+ hook /.test(rule)) rule = '';
  }
  return found;
}
