/** Reads the statements of a rule of nft as conditions with actions. */
import { familyOf, type Family } from '../../prefix.ts';
import { limit, unknown } from '../conditions.ts';
import type { Action, Condition, Rule } from '../walk.ts';
import { at, type Expr, type Rule as Listed } from './listing.ts';
import { matchOf, type Find } from './matches.ts';

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

export function translate(
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
  return isNamed && JSON.stringify(left ?? null).includes('"saddr"') ? [right.slice(1)] : [];
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
      if (type === 'tcp reset') conditions.push(({ protocol }) => protocol === 'tcp');
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
