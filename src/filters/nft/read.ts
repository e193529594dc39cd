/** Reads what `nft -j list ruleset` prints (nft 0.9.8 to 1.1.7) as rules that the walk understands. */
import { at, elements, listOf, parseListing, type Expr, type Rule as Listed } from './listing.ts';
import type { Family } from '../../prefix.ts';
import {
  agreed,
  destinations,
  familyOf,
  flagsOf,
  holds,
  intervalsOf,
  limit,
  sourcePort,
  synFlag,
  unknown,
} from '../conditions.ts';
import { bits, union, type Intervals } from '../intervals.ts';
import {
  not,
  type Action,
  type Base,
  type Condition,
  type Hook,
  type Match,
  type Packet,
  type Rule,
} from '../walk.ts';

/** The elements of a named set or map, undefined where there is none of that name. */
type Find = (name: string) => readonly unknown[] | undefined;

export interface NftRules {
  readonly bases: readonly Base[];
  readonly chains: ReadonlyMap<string, readonly Rule[]>;
  /** Rules that nft itself wrote into a table that iptables-nft keeps. */
  readonly native: readonly Rule[];
}

/**
 * @param json What `nft -j list ruleset` printed.
 * @param text What `nft -a -t list ruleset` printed; for evidence alone.
 * @param kept By family, table and chain, as `ip filter INPUT`: what iptables-nft-save says of the tables that are
 *   its own, because half of such a rule is hidden from nft.
 * @param debug What `nft --debug=netlink list ruleset` printed, where `hidesFamily` says that it is needed.
 * @throws BackendError when it is no listing.
 */
export function readNft(
  json: string,
  text: string,
  kept: ReadonlyMap<string, readonly Rule[]>,
  debug = '',
): NftRules {
  const listing = parseListing(json);
  const words = wordings(text);
  const hidden = hiddenFamilies(debug);
  const named = setsOf(json);
  const keptTables = new Set([...kept.keys()].map((key) => key.split(' ').slice(0, 2).join(' ')));
  const chains = new Map<string, Rule[]>();
  const native: Rule[] = [];
  for (const rule of listing.rules) {
    const table = `${rule.family} ${rule.table}`;
    const key = `${table} ${rule.chain}`;
    const list = chains.get(`nft ${key}`) ?? [];
    chains.set(`nft ${key}`, list);
    const said = translate(rule, (set) => named.get(`${table} ${set}`), words, table);
    const own = withFamily(said, rule, hidden);
    const theirs = kept.get(key)?.[list.length];
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
 * text nor in JSON that it is for one family.
 */
export function hidesFamily(json: string): boolean {
  return /"type": ?"tcp reset"/.test(json);
}

/** The families of rules that ask for one, by table, chain and handle; `any` for those that do not. */
function hiddenFamilies(debug: string): ReadonlyMap<string, Family | 'any'> {
  const found = new Map<string, Family | 'any'>();
  const rules = debug.matchAll(/^(\S+ \S+ \S+ \d+)(?: \d+)? *\n((?: +\[.*\]\n?)+)/gm);
  for (const [, name = '', code = ''] of rules) {
    const [, , family] =
      /meta load nfproto => reg (\d+) \]\s+\[ cmp eq reg \1 0x0*(2|a|02000000|0a000000) \]/.exec(
        code,
      ) ?? [];
    found.set(name, family === undefined ? 'any' : /a/.test(family) ? 'v6' : 'v4');
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

function familiesOf(family: string): readonly Family[] {
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
  for (const item of at(JSON.parse(json), 'nftables') as readonly unknown[])
    for (const kind of ['set', 'map']) {
      const set = at(item, kind);
      if (set === undefined) continue;
      const key = ['family', 'table', 'name'].map((name) => String(at(set, name))).join(' ');
      found.set(key, listOf(at(set, 'elem')));
    }
  return found;
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

/** Statements that neither decide nor restrict. */
const neutral = new Set([
  'counter',
  'log',
  'last',
  'continue',
  'dup',
  'ct helper',
  'ct timeout',
  'ct expectation',
  'secmark',
  'flow',
  'snat',
  'masquerade',
]);

function translate(
  rule: Listed,
  find: Find,
  words: ReadonlyMap<string, string>,
  table: string,
): Rule {
  const conditions: Condition[] = [];
  const actions: Action[] = [];
  const asked = new Set<string>();
  for (const e of rule.expr) {
    const [key = ''] = Object.keys(e);
    if (neutral.has(key)) continue;
    if (key === 'match') conditions.push(matchOf(e.match, find));
    else if (key === 'limit' || key === 'ct count') conditions.push(limitOf(e[key]));
    else if (key === 'meter' || key === 'set') conditions.push(...stateful(at(e, key, 'stmt')));
    else actions.push(...actionOf(key, e, conditions, find, table));
    for (const name of setsAsked(e)) asked.add(`${table} ${name}`);
  }
  const place = `nft ${table} ${rule.chain}`;
  return {
    id: `${place} handle ${rule.handle}`,
    place,
    text: words.get(`${table} ${rule.chain} ${rule.handle}`) ?? JSON.stringify(rule.expr),
    conditions,
    actions,
    sets: [...asked],
  };
}

/** Named sets in which a rule looks up the source. */
function setsAsked(e: Expr): readonly string[] {
  const left = at(e, 'match', 'left') ?? at(e, 'vmap', 'key');
  const right = at(e, 'match', 'right') ?? at(e, 'vmap', 'data');
  const isNamed = typeof right === 'string' && right.startsWith('@');
  return isNamed && JSON.stringify(left).includes('"saddr"') ? [right.slice(1)] : [];
}

function limitOf(statement: unknown): Condition {
  return limit(at(statement, 'inv') === true ? 'above' : 'below');
}

/** What a rule that remembers addresses asks of each: a limit of its own, or nothing. */
function stateful(statements: unknown): readonly Condition[] {
  return [statements].flat().flatMap((one: unknown) => {
    const inner = at(one, 'limit') ?? at(one, 'ct count');
    return inner === undefined ? [] : [limitOf(inner)];
  });
}

function actionOf(
  key: string,
  e: Expr,
  conditions: Condition[],
  find: Find,
  table: string,
): readonly Action[] {
  const onlyFor = (family: Family): void =>
    void conditions.push((packet) => packet.family === family);
  switch (key) {
    case 'accept':
    case 'drop':
    case 'return':
      return [{ kind: key }];
    case 'reject': {
      // nft prints no `meta nfproto` in front of one that says it itself.
      const type = at(e, key, 'type');
      if (type === 'icmp' || type === 'icmpv6') onlyFor(type === 'icmp' ? 'v4' : 'v6');
      return [{ kind: 'reject' }];
    }
    case 'jump':
    case 'goto':
      return [{ kind: key, chain: `nft ${table} ${String(at(e, key, 'target'))}` }];
    case 'vmap':
      return [mapOf(e.vmap, find, table)];
    case 'notrack':
      return [{ kind: 'untrack' }];
    case 'mangle':
      return markOf(at(e, key, 'key'), at(e, key, 'value'));
    case 'dnat':
    case 'redirect':
      return [translation(key, e[key], onlyFor)];
    case 'queue':
    case 'synproxy':
    case 'tproxy':
    case 'fwd':
      return [{ kind: 'unknown', unknown: key }];
    default:
      conditions.push(() => unknown(key === 'xt' ? 'a match of iptables' : key));
      return [];
  }
}

function translation(key: string, to: unknown, onlyFor: (family: Family) => void): Action {
  const [address, port, family] = ['addr', 'port', 'family'].map((name) => at(to, name));
  if (family === 'ip' || family === 'ip6') onlyFor(family === 'ip' ? 'v4' : 'v6');
  const isText = typeof address === 'string';
  if ((address !== undefined && !isText) || (port !== undefined && typeof port !== 'number'))
    return { kind: 'unknown', unknown: `${key} to a map or a range` };
  if (isText) onlyFor(familyOf(address));
  return {
    kind: 'translate',
    ...(isText && { address }),
    ...(typeof port === 'number' && { port }),
  };
}

/** What a statement sets that later rules may ask for. */
function markOf(key: unknown, value: unknown): readonly Action[] {
  const set = typeof value === 'number' ? { value } : {};
  if (at(key, 'meta', 'key') === 'mark') return [{ kind: 'mark', ...set }];
  const ofConnection = at(key, 'ct', 'key');
  if (ofConnection === 'mark') return [{ kind: 'connectionMark', ...set }];
  return ofConnection === 'zone' ? [{ kind: 'connectionMark' }] : [];
}

function mapOf(vmap: unknown, find: Find, table: string): Action {
  const data = at(vmap, 'data');
  const listed = typeof data === 'string' ? find(data.slice(1)) : at(data, 'set');
  if (!Array.isArray(listed)) return { kind: 'unknown', unknown: 'a verdict map' };
  const left = at(vmap, 'key');
  const entries: (readonly [Condition, Action])[] = [];
  let rest: readonly [Condition, Action] | undefined;
  for (const entry of listed as readonly unknown[]) {
    const [value, verdict] = Array.isArray(entry) ? (entry as readonly unknown[]) : [];
    const [key = ''] = Object.keys(verdict ?? {});
    const right = at(value, 'elem', 'val') ?? value;
    const [action] = neutral.has(key)
      ? [{ kind: 'map', entries: [] } as const]
      : actionOf(key, (verdict ?? {}) as Expr, [], find, table);
    const then = action ?? { kind: 'unknown', unknown: 'a verdict map' };
    // `*`: what no other entry has.
    if (right === '*') rest = [() => true, then];
    else entries.push([matchOf({ op: '==', left, right: { set: [right] } }, find), then]);
  }
  return { kind: 'map', entries: rest === undefined ? entries : [...entries, rest] };
}

/** What a rule looks at: the source, or something that has one of a few values. */
type Field =
  | { readonly source: Family }
  | {
      /** Undefined where nobody can tell. */
      readonly values: (packet: Packet) => readonly (string | number)[] | undefined;
      /** Where it is absent (another protocol), the rule does not match, whatever it asks for. */
      readonly absent?: (packet: Packet) => boolean;
    };

function matchOf(match: unknown, find: Find): Condition {
  const [op, left, right] = ['op', 'left', 'right'].map((name) => at(match, name));
  const what = nameOf(left);
  const parts = resolved(right, find);
  if (parts === undefined) return () => unknown(`${what} ${String(right)}`);
  const inner = at(left, 'payload', 'field');
  if (inner === 'flags' || at(left, '&') !== undefined) return bitwise(left, op, right);
  const concat = at(left, 'concat');
  if (Array.isArray(concat)) return concatOf(concat as readonly unknown[], op, parts);
  if (inner === 'sport') return sourcePortOf(left, op, parts);
  const field = fieldOf(left);
  if (field === undefined) return () => unknown(what);
  if ('source' in field) return sourceOf(field.source, op, parts, what);
  const { values, absent } = field;
  return (packet) => {
    if (absent?.(packet) === true) return false;
    const list = values(packet);
    if (list === undefined) return unknown(what);
    return agreed(list, (value) => compare(op, value, parts), what);
  };
}

/** What stands on the right, as a list; undefined for a set that is not there. */
function resolved(right: unknown, find: Find): readonly unknown[] | undefined {
  if (typeof right === 'string' && right.startsWith('@')) return find(right.slice(1));
  const set = at(right, 'set');
  if (Array.isArray(set)) return set as readonly unknown[];
  return Array.isArray(right) ? (right as readonly unknown[]) : [right];
}

/** What a rule looks at, in nft's words. */
function nameOf(left: unknown): string {
  const [key = 'expression'] = Object.keys(left ?? {});
  const parts = ['protocol', 'field', 'key'].map((name) => at(left, key, name));
  const words = parts.filter((part) => typeof part === 'string');
  return key === 'payload' ? words.join(' ') || key : [key, ...words].join(' ');
}

/** Transport protocols, and others, that TCP over IP is not. */
const others = new Set(
  'udp udplite icmp icmpv6 sctp dccp igmp esp ah comp arp vlan gre geneve vxlan'.split(' '),
);

function fieldOf(left: unknown): Field | undefined {
  const [protocol, field] = [at(left, 'payload', 'protocol'), at(left, 'payload', 'field')];
  if (typeof protocol === 'string') {
    if (others.has(protocol)) return { values: () => [0], absent: () => true };
    if ((protocol === 'tcp' || protocol === 'th') && field === 'dport')
      return { values: ({ port }) => [port] };
    if (protocol !== 'ip' && protocol !== 'ip6') return undefined;
    const family = protocol === 'ip' ? 'v4' : 'v6';
    const absent = (packet: Packet): boolean => packet.family !== family;
    if (field === 'saddr') return { source: family };
    if (field === 'daddr') return { values: destinations, absent };
    if (field === 'protocol' || field === 'nexthdr') return { values: () => ['tcp'], absent };
    return { values: () => undefined, absent };
  }
  const [meta, ct] = [at(left, 'meta', 'key'), at(left, 'ct', 'key')];
  switch (meta) {
    case 'iifname':
    case 'iif':
      return { values: ({ interfaces }) => interfaces };
    case 'oifname':
    case 'oif':
      return {
        values: ({ to }) => (to === 'here' || to.through === undefined ? undefined : [to.through]),
        absent: ({ to }) => to === 'here',
      };
    case 'l4proto':
      return { values: () => ['tcp'] };
    case 'nfproto':
      return { values: ({ family }) => [family === 'v4' ? 'ipv4' : 'ipv6'] };
    case 'protocol':
      return { values: ({ family }) => [family === 'v4' ? 'ip' : 'ip6'] };
    case 'pkttype':
      return { values: () => ['host'] };
    case 'mark':
      return { values: ({ mark }) => (mark === undefined ? undefined : [mark]) };
  }
  switch (ct) {
    case 'mark':
      return { values: ({ connectionMark: mark }) => (mark === undefined ? undefined : [mark]) };
    case 'zone':
      return { values: ({ connectionMark: mark }) => (mark === undefined ? undefined : [0]) };
    case 'state':
      return { values: ({ tracked }) => [tracked ? 'new' : 'untracked'] };
    case 'status':
      return { values: ({ translated }) => [translated === undefined ? 'none' : 'dnat'] };
    case 'direction':
      return { values: () => ['original'] };
    case 'proto-dst':
      return { values: ({ originalPort }) => [originalPort] };
  }
  const [flags, result] = [at(left, 'fib', 'flags'), at(left, 'fib', 'result')];
  if (Array.isArray(flags) && flags.includes('daddr') && result === 'type')
    return { values: ({ to }) => [to === 'here' ? 'local' : 'unicast'] };
  if (Array.isArray(flags) && flags.includes('saddr') && result === 'type')
    return { values: () => ['unicast'] };
  // Behind one default route the way back is the way in.
  if (Array.isArray(flags) && flags.includes('saddr') && result === 'oif')
    return { values: ({ interfaces }) => (interfaces.length === 1 ? ['exists'] : undefined) };
  const isExtension = at(left, 'exthdr') !== undefined && at(left, 'exthdr', 'field') === undefined;
  if (isExtension || at(left, 'rt', 'key') === 'ipsec') return { values: () => ['missing'] };
  return undefined;
}

/** How a field compares with the right side; undefined where that is not understood. */
function compare(
  op: unknown,
  value: string | number,
  parts: readonly unknown[],
): boolean | undefined {
  const [bound] = parts;
  const numbers = typeof value === 'number' && typeof bound === 'number';
  switch (op) {
    case '<':
      return numbers ? value < bound : undefined;
    case '>':
      return numbers ? value > bound : undefined;
    case '<=':
      return numbers ? value <= bound : undefined;
    case '>=':
      return numbers ? value >= bound : undefined;
    case '==':
    case 'in':
      return anyPart(parts, value);
    case '!=':
    case '!': {
      const found = anyPart(parts, value);
      return found === undefined ? undefined : !found;
    }
    default:
      return undefined;
  }
}

function anyPart(parts: readonly unknown[], value: string | number): boolean | undefined {
  const all = parts.map((part) => isPart(at(part, 'elem', 'val') ?? part, value));
  return all.includes(true) ? true : all.includes(undefined) ? undefined : false;
}

function isPart(part: unknown, value: string | number): boolean | undefined {
  if (value === 'exists' || value === 'missing') {
    const isThere = part === true || (part !== false && part !== 0 && part !== '0');
    return isThere === (value === 'exists');
  }
  if (typeof part === 'number') return typeof value === 'number' ? part === value : undefined;
  const range = at(part, 'range');
  if (typeof value === 'number') {
    const [low, high] = Array.isArray(range) ? (range as readonly unknown[]) : [];
    return typeof low === 'number' && typeof high === 'number'
      ? low <= value && value <= high
      : undefined;
  }
  if (/^[\d.]+$|:/.test(value)) {
    const listed = elements(part);
    const set = listed === undefined ? undefined : intervalsOf(listed);
    return set === undefined ? undefined : holds(set, value);
  }
  if (typeof part !== 'string') return undefined;
  return part.endsWith('*') ? value.startsWith(part.slice(0, -1)) : part === value;
}

/** Sets of addresses are large, and asked in many walks. */
const known = new WeakMap<readonly unknown[], Intervals | null>();

function sourcesOf(parts: readonly unknown[]): Intervals | undefined {
  let found = known.get(parts);
  if (found === undefined) {
    const lists = parts.map(elements);
    found = lists.includes(undefined) ? null : (intervalsOf(lists.flatMap((l) => l!)) ?? null);
    known.set(parts, found);
  }
  return found ?? undefined;
}

function sourceOf(family: Family, op: unknown, parts: readonly unknown[], what: string): Condition {
  const top = (1n << bits[family]) - 1n;
  return (packet) => {
    if (packet.family !== family) return false;
    const set = sourcesOf(parts);
    if (set === undefined) return unknown(what);
    const [[first] = [0n]] = set;
    const last = set.at(-1)?.[1] ?? 0n;
    switch (op) {
      case '==':
      case 'in':
        return set;
      case '!=':
        return not(set, family);
      case '<':
        return first === 0n ? [] : [[0n, first - 1n]];
      case '<=':
        return [[0n, last]];
      case '>':
        return last === top ? [] : [[last + 1n, top]];
      case '>=':
        return [[first, top]];
      default:
        return unknown(what);
    }
  };
}

function sourcePortOf(left: unknown, op: unknown, parts: readonly unknown[]): Condition {
  const what = nameOf(left);
  const isTcp = ['tcp', 'th'].includes(String(at(left, 'payload', 'protocol')));
  const ranges: (readonly [number, number])[] = [];
  for (const part of parts) {
    const value = at(part, 'elem', 'val') ?? part;
    const range = at(value, 'range');
    const [low, high] = Array.isArray(range) ? (range as readonly unknown[]) : [value, value];
    if (typeof low !== 'number' || typeof high !== 'number') return () => unknown(what);
    ranges.push([low, high]);
  }
  const [[first, last] = [0, 0]] = ranges;
  const bound: Readonly<Record<string, readonly [number, number]>> = {
    '>': [last + 1, 65_535],
    '>=': [first, 65_535],
    '<': [0, first - 1],
    '<=': [0, first],
  };
  const wanted = bound[String(op)];
  return ({ family }) => {
    if (!isTcp) return false;
    const match = sourcePort(wanted === undefined ? ranges : [wanted], what);
    return op === '!=' ? not(match, family) : match;
  };
}

/** `tcp flags & (fin | syn) == syn`, `meta mark & 0xff == 1`, and flags by themselves. */
function bitwise(left: unknown, op: unknown, right: unknown): Condition {
  const and = at(left, '&');
  const [inner, mask] = Array.isArray(and) ? (and as readonly unknown[]) : [left];
  const what = nameOf(inner);
  const [protocol, field] = [at(inner, 'payload', 'protocol'), at(inner, 'payload', 'field')];
  const values = ({ mark, connectionMark }: Packet): readonly number[] | undefined => {
    if (field === 'flags' && protocol === 'tcp') return [synFlag];
    // Not a fragment; whether it may become one is the sender's choice.
    if (field === 'frag-off') return [0, 0x4000];
    const [isMark, isOfConnection] = ['meta', 'ct'].map((one) => at(inner, one, 'key') === 'mark');
    const value = isMark === true ? mark : isOfConnection === true ? connectionMark : undefined;
    return value === undefined ? undefined : [value];
  };
  const set = at(right, 'set');
  const numbers = (Array.isArray(set) ? (set as readonly unknown[]) : [right]).map(numberOf);
  const bitmask = mask === undefined ? ~0 : numberOf(mask);
  const test = (value: number): boolean | undefined => {
    const cut = value & bitmask!;
    if (op === 'in') return numbers.some((n) => (cut & n!) !== 0);
    if (op === '!') return numbers.every((n) => (cut & n!) === 0);
    if (op === '==') return numbers.includes(cut);
    return op === '!=' ? !numbers.includes(cut) : undefined;
  };
  return (packet) => {
    if (protocol === 'ip' && packet.family !== 'v4') return false;
    if (protocol === 'ip6' && packet.family !== 'v6') return false;
    const list = values(packet);
    const isKnown = list !== undefined && bitmask !== undefined && !numbers.includes(undefined);
    return isKnown ? agreed(list, test, what) : unknown(what);
  };
}

function numberOf(value: unknown): number | undefined {
  if (typeof value === 'number') return value;
  const list = [at(value, '|') ?? value].flat() as readonly unknown[];
  if (list.every((name) => typeof name === 'string')) return flagsOf(list);
  const all = list.length === 1 && list[0] === value ? [undefined] : list.map(numberOf);
  return all.includes(undefined) ? undefined : all.reduce<number>((sum, n) => sum | n!, 0);
}

/** `ip saddr . tcp dport { 192.0.2.1 . 443 }`: each element asks for several things at once. */
function concatOf(lefts: readonly unknown[], op: unknown, parts: readonly unknown[]): Condition {
  const what = lefts.map(nameOf).join(' . ');
  const fields = lefts.map(fieldOf);
  return (packet) => {
    if (op !== '==' && op !== '!=' && op !== 'in') return unknown(what);
    for (const field of fields) {
      if (field === undefined) return unknown(what);
      if ('source' in field ? field.source !== packet.family : field.absent?.(packet) === true)
        return false;
    }
    let found: Intervals = [];
    for (const part of parts) {
      const values = at(at(part, 'elem', 'val') ?? part, 'concat');
      if (!Array.isArray(values) || values.length !== fields.length) return unknown(what);
      const match = elementOf(
        fields as readonly Field[],
        values as readonly unknown[],
        packet,
        what,
      );
      if (match === true) return op !== '!=';
      if (match === false) continue;
      if ('unknown' in match) return match;
      found = union(found, match);
    }
    const match: Match = found.length === 0 ? false : found;
    return op === '!=' ? not(match, packet.family) : match;
  };
}

function elementOf(
  fields: readonly Field[],
  values: readonly unknown[],
  packet: Packet,
  what: string,
): Match {
  let match: Match = true;
  for (const [i, field] of fields.entries()) {
    const right = values[i];
    if ('source' in field) {
      const set = sourcesOf([right]);
      if (set === undefined) return unknown(what);
      match = match === true ? set : match;
      continue;
    }
    const list = field.values(packet);
    const one =
      list === undefined ? unknown(what) : agreed(list, (value) => isPart(right, value), what);
    if (one === false) return false;
    if (one !== true) match = one;
  }
  return match;
}
