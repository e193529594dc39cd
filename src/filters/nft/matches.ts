/** Reads the matches of a rule of nft as conditions. */
import type { Family } from '../../prefix.ts';
import {
  agreed,
  flagsOf,
  holds,
  intervalsOf,
  sourcePort,
  synFlag,
  unknown,
} from '../conditions.ts';
import { bits, union, type Intervals } from '../intervals.ts';
import { not, type Condition, type Match, type Packet } from '../walk.ts';
import { fieldOf, nameOf, type Field } from './fields.ts';
import { at, elements } from './listing.ts';

/** The elements of a named set or map, undefined where there is none of that name. */
export type Find = (name: string) => readonly unknown[] | undefined;

export function matchOf(match: unknown, find: Find): Condition {
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
  const asked = at(left, 'payload', 'protocol');
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
  return ({ family, protocol }) => {
    if (asked !== 'th' && asked !== protocol) return false;
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
    if (protocol === 'tcp' && packet.protocol !== 'tcp') return false;
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
