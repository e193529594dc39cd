/** Download gate: decides whether a list is to be believed, as a whole or not at all. */

import ipaddr from 'ipaddr.js';
import { isIPv4 } from 'node:net';
import { CfsyncError, exit } from '../errors.ts';
import {
  canonical,
  families,
  familyNames,
  familyOf,
  intersect,
  isEmpty,
  merge,
  parseRanges,
  quote,
  subtract,
  widths,
  type Family,
} from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import { globalUnicastV6, publicSpace, specialPurpose } from '../special-purpose.ts';

/** A list is not to be believed; the message names the input, the line and the entry. */
export class GateError extends CfsyncError {
  constructor(what: string, problem: string) {
    super(exit.refused, `${what}: ${problem}`);
    this.name = 'GateError';
  }
}

/** Nobody announces anything wider; Cloudflare's widest are /13 and /29. */
const floors = { v4: 8, v6: 16 } as const;

/**
 * The ranges of a text with one prefix on each line.
 *
 * Lines end with LF; the last one may or may not, because Cloudflare's lists come either way within
 * a day. No comments, blank lines, CR or white space: every such thing seen at these addresses was a
 * page of something else. Repeated and overlapping entries are no error.
 * @param expected the only family allowed, or `any`: both, and neither may be empty.
 * @param what names the input in messages: a URL or a path.
 * @throws GateError when anything at all is wrong with any line.
 */
export function parseList(text: string, expected: Family | 'any', what: string): Ranges {
  refusePage(text, what);
  const lines = (text.endsWith('\n') ? text.slice(0, -1) : text).split('\n');
  return believe(lines, expected, what, (index) => `line ${index + 1}`);
}

/**
 * The ranges of Cloudflare's JSON feed, `GET /client/v4/ips`:
 * `{result: {ipv4_cidrs, ipv6_cidrs}, success: true}` and anything else besides.
 * @throws GateError when it is not that, a list is empty, or any entry is refused.
 */
export function parseFeed(text: string, what: string): Ranges {
  refusePage(text, what);
  let feed: unknown;
  try {
    feed = JSON.parse(text);
  } catch {
    throw new GateError(what, `not JSON: ${quote(text)}`);
  }
  if (field(feed, 'success') !== true) throw new GateError(what, '"success" is not true');
  const list = (name: string, family: Family): Ranges => {
    const entries = field(field(feed, 'result'), name);
    if (!Array.isArray(entries) || !entries.every((entry) => typeof entry === 'string')) {
      throw new GateError(what, `"result.${name}" is not a list of texts`);
    }
    return believe(entries, family, what, (index) => `result.${name}[${index}]`);
  };
  return merge(list('ipv4_cidrs', 'v4'), list('ipv6_cidrs', 'v6'));
}

/**
 * The ranges of the admin's own prefixes. They may be private or special, and a single address may
 * come without a length; but they are as strict in form, and no wider than /8 (IPv4) and /16 (IPv6).
 * @throws CfsyncError with code `usage` on the first one that is not so.
 */
export function parseExtra(entries: readonly string[]): Ranges {
  return parseRanges(
    entries.map((entry) => {
      const single = canonical(`${entry}${entry.includes(':') ? '/128' : '/32'}`);
      const prefix = readPrefix(single?.text ?? entry);
      if (typeof prefix !== 'string') return prefix.text;
      throw new CfsyncError(exit.usage, `extra prefix ${prefix}`);
    }),
  );
}

/** A body that is not even meant to be a list gets a message that says what it is. */
function refusePage(text: string, what: string): void {
  if (text.trim() === '') throw new GateError(what, 'empty');
  if (!text.trimStart().startsWith('<')) return;
  const head = text.slice(0, 4096);
  const title = /<title[^>]*>([^<]*)/i.exec(head)?.[1]?.trim();
  const page = /just a moment|challenge-platform|cf-chl/i.test(head)
    ? 'a bot challenge'
    : 'an HTML page';
  throw new GateError(what, `${page}${title ? ` (${quote(title)})` : ''}, not a list`);
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null
    ? Object.getOwnPropertyDescriptor(value, name)?.value
    : undefined;
}

/** All entries, or a GateError on the first one that is refused. */
function believe(
  entries: readonly string[],
  expected: Family | 'any',
  what: string,
  place: (index: number) => string,
): Ranges {
  const refuse = (index: number, problem: string) =>
    new GateError(what, `${place(index)}: ${problem}`);

  for (let index = 0; index < entries.length; index++) {
    const entry = entries[index]!;
    const prefix = readPrefix(entry);
    if (typeof prefix === 'string') throw refuse(index, prefix);
    if (expected !== 'any' && prefix.family !== expected) {
      throw refuse(
        index,
        `${entry} is ${familyNames[prefix.family]}, expected ${familyNames[expected]}`,
      );
    }
  }
  const ranges = parseRanges(entries);
  if (!isPublic(ranges)) {
    const index = firstNotPublic(entries);
    throw refuse(index, notPublic(entries[index]!));
  }
  for (const family of expected === 'any' ? families : [expected]) {
    if (ranges[family].length === 0) throw new GateError(what, `no ${familyNames[family]} prefix`);
  }
  return ranges;
}

interface Prefix {
  readonly family: Family;
  readonly text: string;
}

/**
 * One strict prefix, or what is wrong with it. Three readers must agree, since none of them alone is
 * a gate: our own, Node's and ipaddr.js, which by itself reads 010.0.0.0 as octal and takes 1.2.3/24.
 * ipaddr.js costs 125 ms for 100,000 entries, its generic `parse` would cost 17 times as much.
 */
function readPrefix(entry: string): Prefix | string {
  const address = strict.test(entry) ? entry.slice(0, entry.indexOf('/')) : '';
  const family = familyOf(address);
  // Node 20 takes 5 ms to compile the expression of its isIPv6.
  const read = family === 'v4' ? isIPv4(address) : URL.canParse(`http://[${address}]`);
  if (!read) return `${quote(entry)} is not a prefix`;
  const length = Number(entry.slice(address.length + 1));
  if (length > widths[family]) return `${entry} is longer than /${widths[family]}`;
  const prefix = canonical(entry);
  if (prefix === undefined) return `${entry} has host bits set`;
  if (prefix.text !== `${secondOpinion(family, address)}/${length}`) return `${entry} is ambiguous`;
  if (length < floors[family]) return `${entry} is wider than /${floors[family]}`;
  return prefix;
}

function secondOpinion(family: Family, address: string): string | undefined {
  try {
    return (family === 'v4' ? ipaddr.IPv4 : ipaddr.IPv6).parse(address).toString();
  } catch {
    return undefined;
  }
}

const strict = /^(?:\d{1,3}(?:\.\d{1,3}){3}|[\da-f:]+)\/(?:0|[1-9]\d{0,2})$/i;

const special = [...specialPurpose.v4, ...specialPurpose.v6];

/** Whole blocks are compared: the first address of 64.0.0.0/2 is public, and 127.0.0.1 is in it. */
function isPublic(ranges: Ranges): boolean {
  return isEmpty(subtract(ranges, publicSpace));
}

/** Bisection, so that a long list with one bad entry costs one more pass over it. */
function firstNotPublic(entries: readonly string[]): number {
  let first = 0;
  for (let end = entries.length; end - first > 1;) {
    const middle = (first + end) >>> 1;
    if (isPublic(parseRanges(entries.slice(first, middle)))) first = middle;
    else end = middle;
  }
  return first;
}

function notPublic(entry: string): string {
  const ranges = parseRanges([entry]);
  const block = special.find((prefix) => !isEmpty(intersect(ranges, parseRanges([prefix]))));
  return block === undefined
    ? `${entry} is not inside ${globalUnicastV6}, the public IPv6 space`
    : `${entry} overlaps the special-purpose block ${block}`;
}
