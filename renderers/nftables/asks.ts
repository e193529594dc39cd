/** Reads what a rule of nftables asks of a packet, as far as it is one that a script would write. */
import { at, elements, isWritable, type Rule } from '../../src/filters/nft/listing.ts';
import type { Asks } from '../../src/filters/strays.ts';
import type { PortRange } from '../../src/plugin/ports.ts';

export interface NftAsks extends Asks {
  /** In nft's syntax. */
  readonly text: string;
  readonly sources: readonly string[];
  readonly set?: string;
  /** What else it asks for, which may hold for every connection: matches of libnftables-json(5). */
  readonly besides: readonly unknown[];
  readonly accepts: boolean;
}

/** Undefined when a rule asks for anything else, or is not for new connections. */
export function read(rule: Rule): NftAsks | undefined {
  const words: string[] = [];
  const sources: string[] = [];
  const ports: PortRange[][] = [];
  const besides: unknown[] = [];
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
      const more = besideText(e.match);
      if (more !== undefined) {
        words.push(more);
        besides.push(e.match);
        if (more.startsWith('tcp ')) protocol = 'tcp';
        continue;
      }
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
  return {
    text,
    sources,
    ...(set && { set }),
    ...(protocol && { protocol }),
    ports,
    besides,
    accepts,
  };
}

/** A match of the way in, of the address here or of the flags of a first packet, in nft's syntax. */
function besideText(match: unknown): string | undefined {
  const [op, left, right] = ['op', 'left', 'right'].map((name) => at(match, name));
  const key = at(left, 'meta', 'key');
  if (op === '==' && (key === 'iifname' || key === 'iif'))
    return typeof right === 'string' && /^[\w.@-]+$/.test(right) ? `${key} "${right}"` : undefined;
  const [protocol, field] = [at(left, 'payload', 'protocol'), at(left, 'payload', 'field')];
  const value = textOf(right);
  if (op === '==' && field === 'daddr' && (protocol === 'ip' || protocol === 'ip6'))
    return value && !value.startsWith('@') ? `${protocol} daddr ${value}` : undefined;
  const and = at(left, '&');
  const [inner, mask] = Array.isArray(and) ? (and as readonly unknown[]) : [left];
  const isFlags =
    at(inner, 'payload', 'protocol') === 'tcp' && at(inner, 'payload', 'field') === 'flags';
  if (!isFlags || typeof right !== 'string' || value === undefined) return undefined;
  if (mask === undefined) return op === 'in' ? `tcp flags ${value}` : `tcp flags == ${value}`;
  const masked = Array.isArray(mask) ? textOf(mask)?.replaceAll(',', ' | ') : undefined;
  return masked && op === '==' ? `tcp flags & (${masked}) == ${value}` : undefined;
}

/** The ranges that a rule names as sources, and whether it lets all others than these; for any rule. */
export function namedSources({ expr }: Rule): {
  readonly prefixes: readonly string[];
  readonly set: string | undefined;
  readonly isInverted: boolean;
} {
  for (const e of expr) {
    const [left, right] = [at(e, 'match', 'left'), at(e, 'match', 'right')];
    if (at(left, 'payload', 'field') !== 'saddr') continue;
    const isInverted = at(e, 'match', 'op') === '!=';
    if (typeof right === 'string' && right.startsWith('@'))
      return { prefixes: [], set: right.slice(1), isInverted };
    return { prefixes: elements(right) ?? [], set: undefined, isInverted };
  }
  return { prefixes: [], set: undefined, isInverted: false };
}

/** A rule in nft's syntax, where it is one of those that are understood here. */
export function textOfRule(rule: Rule): string | undefined {
  return read(rule)?.text;
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
