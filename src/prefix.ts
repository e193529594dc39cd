/** Prefix arithmetic: parse, print, sort, merge, subtract and measure IPv4 and IPv6 prefixes. */

import { endianness } from 'node:os';
import type { Ranges } from './renderer.ts';

// Prefixes are nested or disjoint, never half overlapping. So sorted by address, wider first, one
// look at the neighbour answers every question, and no merge or difference computes interval ends. A family is
// held in columns of 32-bit words: a million objects or BigInts would take seconds and a gigabyte.

export type Family = 'v4' | 'v6';
export const families = ['v4', 'v6'] as const;
/** Bits in an address. */
export const widths = { v4: 32, v6: 128 } as const;
/** For people. */
export const familyNames = { v4: 'IPv4', v6: 'IPv6' } as const;

/** The family that an address or a prefix is of, if it is one. */
export function familyOf(text: string): Family {
  return text.includes(':') ? 'v6' : 'v4';
}

/** No address at all. */
export const none: Ranges = { v4: [], v6: [] };

/** A text is not what it should be, or an interval runs backwards; `entry` is that text as it was given. */
export class PrefixError extends Error {
  readonly entry: string;

  constructor(entry: string, problem: string) {
    super(`${quote(entry)} ${problem}`);
    this.name = 'PrefixError';
    this.entry = entry;
  }
}

/** Foreign text made fit for one line of a message: in quotes, printable ASCII, at most 60 characters. */
export function quote(text: string): string {
  const start = text.slice(0, 60).replace(/["\\]|[^ -~]/gu, (character) => {
    const code = character.codePointAt(0)!;
    return code > 0x20 && code < 0x7f ? `\\${character}` : `\\u{${code.toString(16)}}`;
  });
  return `"${start}"${text.length > 60 ? '...' : ''}`;
}

/**
 * The canonical form of one prefix, or undefined when it is not strictly one: four decimal numbers
 * without leading zeros, or IPv6 as inet_pton(3) takes it but without an embedded dotted quad; then
 * a slash and a length without leading zeros; no host bits, no zone, no white space. IPv6 is printed
 * as RFC 5952 says.
 */
export function canonical(text: string): { family: Family; text: string } | undefined {
  const family = familyOf(text);
  const table = scratch[family];
  table.rows = 0;
  if (!append(table, text)) return undefined;
  // Of IPv4 there is no other form.
  if (family === 'v4') return { family, text };
  return { family, text: line.toString('latin1', 0, writeRow(table, 0, line, 0)) };
}

/** An address with the length of one address, and a prefix as it is; whether it is either, `canonical` tells. */
export function withLength(text: string): string {
  return text.includes('/') ? text : `${text}/${widths[familyOf(text)]}`;
}

/** As `canonical`, for a single address too, as programs print one that leave /32 and /128 out. */
export function asPrefix(text: string): ReturnType<typeof canonical> {
  return canonical(withLength(text));
}

/** Without the length where it is that of one address. */
export function withoutLength(prefix: string): string {
  return prefix.replace(prefix.includes(':') ? /\/128$/ : /\/32$/, '');
}

/**
 * The prefix that an address is in, given with a length or without, as programs read it that cut host bits off;
 * undefined where it is no address.
 */
export function network(text: string): string | undefined {
  const [address = '', length, ...more] = text.split('/');
  const family = familyOf(address);
  const table = tableOf(family, `${address}/${widths[family]}`);
  const bits = length === undefined ? widths[family] : readLength(length, 0);
  if (table.rows === 0 || bits < 0 || bits > widths[family] || more.length > 0) return undefined;
  for (let word = 0; word < table.size; word++) table.words[word]! &= mask(bits - word * 32);
  table.lengths[0] = bits;
  return textsOf(table)[0];
}

/**
 * Prefixes of either family, in any order, overlapping or repeated, as `canonical` takes them.
 * @throws PrefixError on the first entry that is not a prefix.
 */
export function parseRanges(entries: Iterable<string>): Ranges {
  const list = [...entries];
  const tables = { v4: newTable(sizes.v4, list.length), v6: newTable(sizes.v6, list.length) };
  for (let index = 0; index < list.length; index++) {
    const entry = list[index]!;
    if (!append(tables[familyOf(entry)], entry)) throw new PrefixError(entry, 'is not a prefix');
  }
  return perFamily((family) => minimal(tables[family]));
}

/** Every address that is in any of them. */
export function merge(...all: readonly Ranges[]): Ranges {
  return perFamily((family) => {
    const lists = all.map((ranges) => ranges[family]).filter((texts) => texts.length > 0);
    return lists.length === 1 ? load(family, lists[0]!) : union(family, lists);
  });
}

/** Every address of `a` that is not in `b`, in as few prefixes as it takes. */
export function subtract(a: Ranges, b: Ranges): Ranges {
  return perFamily((family) => difference(load(family, a[family]), load(family, b[family])));
}

/** Every address that is in both. */
export function intersect(a: Ranges, b: Ranges): Ranges {
  return perFamily((family) => common(load(family, a[family]), load(family, b[family])));
}

/** Whether both are the same addresses. */
export function equal(a: Ranges, b: Ranges): boolean {
  return families.every((family) => {
    const [left, right] = [load(family, a[family]), load(family, b[family])];
    if (left.rows !== right.rows) return false;
    for (let row = 0; row < left.rows; row++)
      if (compare(left, row, right, row) !== 0) return false;
    return true;
  });
}

export function isEmpty(ranges: Ranges): boolean {
  return ranges.v4.length === 0 && ranges.v6.length === 0;
}

/**
 * Whether one address is in the ranges. An IPv4-mapped IPv6 address counts as the IPv4 address,
 * because that is how a dual-stack socket reports an IPv4 peer.
 * @throws PrefixError when it is not an IPv4 or IPv6 address; a length or a zone is refused.
 */
export function contains(ranges: Ranges, address: string): boolean {
  const { family, words } = parseAddress(address);
  const wanted = newTable(sizes[family], 1);
  push(wanted, words, 0, widths[family]);
  const prefix = newTable(sizes[family], 1);
  return ranges[family].some((text) => {
    prefix.rows = 0;
    if (!append(prefix, text)) throw new PrefixError(text, 'is not a prefix');
    return covers(prefix, 0, wanted, 0);
  });
}

/**
 * The number of addresses in prefixes of one family that do not overlap.
 * @throws PrefixError on an entry that is not a prefix, or not of the family of the first.
 */
export function addresses(prefixes: readonly string[]): bigint {
  const family = familyOf(prefixes[0] ?? '');
  const { rows, lengths } = printed.get(prefixes) ?? parse(family, prefixes);
  const perLength = new Uint32Array(widths[family] + 1);
  for (let row = 0; row < rows; row++) perLength[lengths[row]!]!++;
  let sum = 0n;
  perLength.forEach((count, length) => (sum += BigInt(count) << BigInt(widths[family] - length)));
  return sum;
}

/**
 * The prefixes that cover the addresses from `first` to `last` inclusive and no others; nft prints
 * neighbouring elements so.
 * @throws PrefixError when one is not an address, the families differ, or `last` comes before `first`.
 */
export function fromInterval(first: string, last: string): string[] {
  const from = parseAddress(first);
  const to = parseAddress(last);
  if (from.family !== to.family) throw new PrefixError(last, `is not of the family of ${first}`);
  if (compareWords(from.words, to.words) > 0) throw new PrefixError(last, `comes before ${first}`);
  return between(from.family, from.words, to.words);
}

/**
 * The first and the last address of a prefix, as numbers.
 * @throws PrefixError when it is not one.
 */
export function bounds(prefix: string): readonly [first: bigint, last: bigint] {
  const family = familyOf(prefix);
  const table = scratch[family];
  table.rows = 0;
  if (!append(table, prefix)) throw new PrefixError(prefix, 'is not a prefix');
  const first = table.words.reduce((sum, word) => (sum << 32n) | BigInt(word), 0n);
  return [first, first | ((1n << BigInt(widths[family] - table.lengths[0]!)) - 1n)];
}

/** The prefixes that cover the addresses from `first` to `last`, given as numbers, and no others. */
export function fromBounds(family: Family, first: bigint, last: bigint): string[] {
  return between(family, wordsOf(family, first), wordsOf(family, last));
}

function wordsOf(family: Family, value: bigint): Uint32Array {
  const words = new Uint32Array(sizes[family]);
  for (let word = sizes[family] - 1, rest = value; word >= 0; word--, rest >>= 32n)
    words[word] = Number(rest & 0xffff_ffffn);
  return words;
}

function between(family: Family, from: Uint32Array, to: Uint32Array): string[] {
  const out = newTable(sizes[family], 8);
  // Start at the narrowest prefix that holds both ends: an interval is mostly short.
  let length = 0;
  while (length < widths[family] && bit(from, length) === bit(to, length)) length++;
  const at = from.map((word, index) => word & mask(length - index * 32));
  span(from, to, at, length, out);
  return textsOf(out);
}

/** 32-bit words in an address. */
const sizes = { v4: 1, v6: 4 } as const;

/** Prefixes of one family, a row each. */
interface Table {
  /** 32-bit words in an address. */
  readonly size: number;
  /** Addresses, the most significant word first. */
  words: Uint32Array;
  lengths: Uint8Array;
  /** Rows in use. */
  rows: number;
  /** The same prefixes as text, once they were printed: from then on nothing changes the table. */
  texts?: readonly string[];
}

/**
 * The tables of lists that were printed here. A run compares the same few lists again and again, and nearly all of
 * its time with 100,000 prefixes would go into reading them. The lists are frozen, so that this stays true.
 */
const printed = new WeakMap<readonly string[], Table>();

function newTable(size: number, capacity: number): Table {
  return {
    size,
    words: new Uint32Array(capacity * size),
    lengths: new Uint8Array(capacity),
    rows: 0,
  };
}

/** One prefix of each family and its text: filled and read within one call of `canonical`. */
const scratch = { v4: newTable(sizes.v4, 1), v6: newTable(sizes.v6, 1) };
const line = Buffer.alloc(44);

function perFamily(operation: (family: Family) => Table): Ranges {
  return { v4: print(operation('v4')), v6: print(operation('v6')) };
}

function parse(family: Family, texts: readonly string[]): Table {
  const table = newTable(sizes[family], texts.length);
  for (let row = 0; row < texts.length; row++) {
    const text = texts[row]!;
    if (!append(table, text)) throw new PrefixError(text, `is not an IP${family} prefix`);
  }
  return table;
}

function load(family: Family, texts: readonly string[]): Table {
  return printed.get(texts) ?? minimal(parse(family, texts));
}

function union(family: Family, lists: readonly (readonly string[])[]): Table {
  const tables = lists.map((texts) => load(family, texts));
  const all = newTable(
    sizes[family],
    tables.reduce((sum, { rows }) => sum + rows, 0),
  );
  for (const { words, lengths, rows, size } of tables) {
    all.words.set(words.subarray(0, rows * size), all.rows * size);
    all.lengths.set(lengths.subarray(0, rows), all.rows);
    all.rows += rows;
  }
  return minimal(all);
}

// Order and containment

/** The mask of the leading bits of a word; a shift by 32 would be a shift by 0. */
function mask(bits: number): number {
  if (bits <= 0) return 0;
  return bits >= 32 ? -1 : -1 << (32 - bits);
}

/** Orders by address, then wider first. */
function compare(a: Table, i: number, b: Table, j: number): number {
  for (let word = 0; word < a.size; word++) {
    const difference = a.words[i * a.size + word]! - b.words[j * b.size + word]!;
    if (difference !== 0) return difference;
  }
  return a.lengths[i]! - b.lengths[j]!;
}

/** Whether row `i` of `a` is row `j` of `b` or a wider prefix around it. */
function covers(a: Table, i: number, b: Table, j: number): boolean {
  const length = a.lengths[i]!;
  if (length > b.lengths[j]!) return false;
  for (let word = 0; word * 32 < length; word++) {
    const difference = a.words[i * a.size + word]! ^ b.words[j * b.size + word]!;
    if ((difference & mask(length - word * 32)) !== 0) return false;
  }
  return true;
}

/** Whether rows `i` and `i + 1` of a sorted table are the two halves of one prefix. */
function siblings({ size, words, lengths }: Table, i: number): boolean {
  const length = lengths[i]!;
  if (length === 0 || length !== lengths[i + 1]) return false;
  for (let word = 0; word < size; word++) {
    const lastBit = (length - 1) >>> 5 === word ? 1 << (32 - length) : 0;
    if ((words[i * size + word]! ^ words[(i + 1) * size + word]!) !== lastBit) return false;
  }
  return true;
}

// The algebra

/** The same addresses in as few rows as possible, sorted. May change `table`. */
function minimal(table: Table): Table {
  const sorted = sort(table);
  const { size, words, lengths, rows } = sorted;
  sorted.rows = 0;
  for (let row = 0; row < rows; row++) {
    if (sorted.rows > 0 && covers(sorted, sorted.rows - 1, sorted, row)) continue;
    push(sorted, words, row * size, lengths[row]!);
    while (sorted.rows > 1 && siblings(sorted, sorted.rows - 2)) lengths[--sorted.rows - 1]!--;
  }
  return sorted;
}

function difference(a: Table, holes: Table): Table {
  const out = newTable(a.size, a.rows);
  let hole = 0;
  let cut = false;
  for (let row = 0; row < a.rows; row++) {
    let covered = false;
    for (; hole < holes.rows; hole++) {
      covered = covers(holes, hole, a, row);
      if (covered || compare(holes, hole, a, row) >= 0) break;
    }
    if (covered) {
      cut = true;
      continue; // The same hole may cover the next row too.
    }
    const first = hole;
    while (hole < holes.rows && covers(a, row, holes, hole)) hole++;
    const start = row * a.size;
    if (first === hole) push(out, a.words, start, a.lengths[row]!);
    else {
      cut = true;
      carve(a.words.slice(start, start + a.size), a.lengths[row]!, holes, first, hole, out);
    }
  }
  return cut ? out : a;
}

/**
 * Appends what the holes from `first` to before `end` leave of a prefix; all of them are inside it.
 * The answer is minimal: two of its rows could only merge if the prefix around them had no hole.
 */
function carve(
  at: Uint32Array,
  length: number,
  holes: Table,
  first: number,
  end: number,
  out: Table,
): void {
  if (first === end) return push(out, at, 0, length);
  if (holes.lengths[first] === length) return;
  let middle = first;
  for (let high = end; middle < high;) {
    const probe = (middle + high) >>> 1;
    if (bit(holes.words, length, probe * holes.size) === 0) middle = probe + 1;
    else high = probe;
  }
  carve(at, length + 1, holes, first, middle, out);
  flip(at, length);
  carve(at, length + 1, holes, middle, end, out);
  flip(at, length);
}

/** The narrower one wherever a row of `a` and a row of `b` are nested. */
function common(a: Table, b: Table): Table {
  const out = newTable(a.size, a.rows);
  for (let i = 0, j = 0; i < a.rows && j < b.rows;) {
    if (covers(a, i, b, j)) {
      push(out, b.words, j * b.size, b.lengths[j]!);
      j++;
    } else if (covers(b, j, a, i)) {
      push(out, a.words, i * a.size, a.lengths[i]!);
      i++;
    } else if (compare(a, i, b, j) < 0) i++;
    else j++;
  }
  return out;
}

/** Appends the widest prefixes inside `at`/`length` that lie between two addresses. */
function span(
  from: Uint32Array,
  to: Uint32Array,
  at: Uint32Array,
  length: number,
  out: Table,
): void {
  const end = at.map((word, index) => word | ~mask(length - index * 32));
  if (compareWords(end, from) < 0 || compareWords(at, to) > 0) return;
  if (compareWords(at, from) >= 0 && compareWords(end, to) <= 0) return push(out, at, 0, length);
  span(from, to, at, length + 1, out);
  flip(at, length);
  span(from, to, at, length + 1, out);
  flip(at, length);
}

function compareWords(a: Uint32Array, b: Uint32Array): number {
  const word = a.findIndex((value, index) => value !== b[index]);
  return word < 0 ? 0 : a[word]! - b[word]!;
}

/** Bit `index` of the address that starts at word `start`, 0 or 1. */
function bit(words: Uint32Array, index: number, start = 0): number {
  return (words[start + (index >>> 5)]! >>> (31 - (index & 31))) & 1;
}

function flip(words: Uint32Array, index: number): void {
  words[index >>> 5]! ^= 1 << (31 - (index & 31));
}

function push(table: Table, words: Uint32Array, start: number, length: number): void {
  const { size, rows } = table;
  if (rows === table.lengths.length) {
    const capacity = Math.max(8, rows * 2);
    const grown = newTable(size, capacity);
    grown.words.set(table.words);
    grown.lengths.set(table.lengths);
    table.words = grown.words;
    table.lengths = grown.lengths;
  }
  for (let word = 0; word < size; word++) table.words[rows * size + word] = words[start + word]!;
  table.lengths[rows] = length;
  table.rows++;
}

// Sorting

/**
 * Radix sort, least significant byte first; bytes that are the same in all rows cost no pass. Words are read as bytes
 * too, like the lengths, and each loop is a function by itself: what V8 has optimised for one kind of column, or in the
 * middle of a function, it drops at the next thing that it has not seen yet, and 100,000 rows are sorted before it has
 * done it anew (four times as long in the first call).
 */
function sort(table: Table): Table {
  const { size, words, lengths, rows } = table;
  let ascending = true;
  for (let row = 1; ascending && row < rows; row++)
    ascending = compare(table, row - 1, table, row) <= 0;
  if (ascending) return table;
  if (rows < few)
    return ordered(
      table,
      rowsOf(table).sort((i, j) => compare(table, i, table, j)),
    );

  const width = size * 4;
  const bytes = new Uint8Array(words.buffer);
  let order = rowsOf(table);
  let spare = new Uint32Array(rows);
  const by = (column: Uint8Array, stride: number, first: number) => {
    const places = starts(column, stride, first, rows);
    if (places === undefined) return;
    distribute(column, stride, first, places, order, spare);
    [order, spare] = [spare, order];
  };
  by(lengths, 1, 0);
  for (let byte = 0; byte < width; byte++) {
    const inWord = littleEndian ? byte & 3 : 3 - (byte & 3);
    by(bytes, width, (size - 1 - (byte >>> 2)) * 4 + inWord);
  }
  return ordered(table, order);
}

const littleEndian = endianness() === 'LE';

/** Where the rows with each value of a byte start, in order; undefined when all have the same. */
function starts(column: Uint8Array, stride: number, first: number, rows: number) {
  const places = counts(column, stride, first, rows);
  if (places.includes(rows)) return undefined;
  for (let byte = 1; byte < 256; byte++) places[byte]! += places[byte - 1]!;
  return places;
}

/** How many rows have each value of a byte; those with 0 are counted at 1, and so on. */
function counts(column: Uint8Array, stride: number, first: number, rows: number): Uint32Array {
  const found = new Uint32Array(257);
  for (let row = 0, at = first; row < rows; row++, at += stride) found[column[at]! + 1]!++;
  return found;
}

/** Fills `to` with the rows of `from`, each at the next place for its byte. */
function distribute(
  column: Uint8Array,
  stride: number,
  first: number,
  places: Uint32Array,
  from: Uint32Array,
  to: Uint32Array,
): void {
  for (let place = 0; place < from.length; place++) {
    const row = from[place]!;
    to[places[column[row * stride + first]!]!++] = row;
  }
}

function rowsOf({ rows }: Table) {
  const order = new Uint32Array(rows);
  for (let row = 0; row < rows; row++) order[row] = row;
  return order;
}

function ordered({ size, words, lengths, rows }: Table, order: Uint32Array): Table {
  const sorted = newTable(size, rows);
  sorted.rows = rows;
  for (let place = 0; place < rows; place++) {
    const row = order[place]!;
    sorted.lengths[place] = lengths[row]!;
    for (let word = 0; word < size; word++) {
      sorted.words[place * size + word] = words[row * size + word]!;
    }
  }
  return sorted;
}

/** Below this many rows the counters would cost more than the comparisons. */
const few = 1000;

// Text to words. Character codes and no substrings: this is where the time of a large list goes. Lists are walked by
// index: until V8 has optimised a loop, its iterator makes an object for each text.

const colon = 0x3a;
const dot = 0x2e;
const zero = 0x30;
const nine = 0x39;
const letterA = 0x61;
const letterF = 0x66;
const slash = 0x2f;

/** Appends one strict prefix to a table of its family; says whether it was one. */
function append(table: Table, text: string): boolean {
  return table.size === 1 ? appendV4(table, text) : appendV6(table, text);
}

// Both read in one loop and without calls: those are what costs in the first thousands of texts, until V8 has
// optimised them.

function appendV4(table: Table, text: string): boolean {
  let address = 0;
  let octets = 0;
  let value = -1;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code >= zero && code <= nine) {
      // What would follow a zero.
      if (value === 0) return false;
      value = (value < 0 ? 0 : value * 10) + code - zero;
      if (value > 255) return false;
    } else {
      if (value < 0 || octets === 4 || code !== (octets < 3 ? dot : slash)) return false;
      address = (address << 8) | value;
      octets++;
      value = -1;
    }
  }
  if (octets < 4 || value < 0 || value > 32 || (address & ~mask(value)) !== 0) return false;
  table.words[table.rows] = address;
  table.lengths[table.rows++] = value;
  return true;
}

/** The groups of the address at hand; filled and read within one call of `appendV6` or `writeV6`. */
const groups = new Uint16Array(8);

function appendV6(table: Table, text: string): boolean {
  let count = 0;
  let gap = -1;
  let at = 0;
  if (text.startsWith('::')) {
    gap = 0;
    at = 2;
  }
  let group = 0;
  let digits = 0;
  for (let code = 0; code !== slash; at++) {
    code = at < text.length ? text.charCodeAt(at) : 0;
    const letter = code | 0x20;
    if (code >= zero && code <= nine) {
      group = (group << 4) | (code - zero);
      digits++;
    } else if (letter >= letterA && letter <= letterF) {
      group = (group << 4) | (letter - letterA + 10);
      digits++;
    } else if (code !== colon && code !== slash) {
      return false;
    } else if (digits > 0) {
      if (digits > 4 || count === 8) return false;
      groups[count++] = group;
      group = 0;
      digits = 0;
    } else if (code === slash) {
      // Only "::" may stand before it.
      if (gap !== count) return false;
    } else {
      // The second colon of a "::" that is not at the start.
      if (gap >= 0 || at === 0) return false;
      gap = count;
    }
  }
  // "::" stands for at least one group.
  if (gap < 0 ? count !== 8 : count === 8) return false;
  const length = readLength(text, at);
  if (length < 0) return false;
  if (gap >= 0) {
    // What follows the gap belongs at the end.
    for (let group = 7; group >= gap; group--) {
      groups[group] = group - 8 + count >= gap ? groups[group - 8 + count]! : 0;
    }
  }
  const start = table.rows * 4;
  for (let word = 0; word < 4; word++) {
    const bits = (groups[word * 2]! << 16) | groups[word * 2 + 1]!;
    if ((bits & ~mask(length - word * 32)) !== 0) return false;
    table.words[start + word] = bits;
  }
  table.lengths[table.rows++] = length;
  return true;
}

/** The decimal number up to 128 that ends `text` from `start`, or -1. */
function readLength(text: string, start: number): number {
  const digits = text.length - start;
  if (digits < 1 || digits > 3 || (digits > 1 && text.charCodeAt(start) === zero)) return -1;
  let value = 0;
  for (let at = start; at < text.length; at++) {
    const digit = text.charCodeAt(at) - zero;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value <= 128 ? value : -1;
}

function parseAddress(text: string): { family: Family; words: Uint32Array } {
  const { words: v4, rows } = tableOf('v4', `${text}/32`);
  if (rows === 1) return { family: 'v4', words: v4 };
  const tail = text.lastIndexOf(':') + 1;
  const { words: dotted, rows: dots } = tableOf('v4', `${text.slice(tail)}/32`);
  const hex =
    dots === 1
      ? `${text.slice(0, tail)}${(dotted[0]! >>> 16).toString(16)}:${(dotted[0]! & 0xffff).toString(16)}`
      : text;
  const { words, rows: found } = tableOf('v6', `${hex}/128`);
  if (found === 0) throw new PrefixError(text, 'is not an IP address');
  const mapped = words[0] === 0 && words[1] === 0 && words[2] === 0xffff;
  return mapped ? { family: 'v4', words: words.slice(3) } : { family: 'v6', words };
}

/** Holds the prefix, or nothing where it is none. */
function tableOf(family: Family, prefix: string): Table {
  const table = newTable(sizes[family], 1);
  append(table, prefix);
  return table;
}

// Words to text

/** One text for all rows, split once at the end: five times faster than a string for each row. */
function print(table: Table): readonly string[] {
  table.texts ??= Object.freeze(textsOf(table));
  printed.set(table.texts, table);
  return table.texts;
}

function textsOf(table: Table): string[] {
  if (table.rows === 0) return [];
  const out = Buffer.allocUnsafe(table.rows * (table.size === 1 ? 19 : 44));
  let at = 0;
  for (let row = 0; row < table.rows; row++) {
    at = writeRow(table, row, out, at);
    out[at++] = 0x0a;
  }
  return out.toString('latin1', 0, at - 1).split('\n');
}

function writeRow(
  { size, words, lengths }: Table,
  row: number,
  out: Buffer,
  start: number,
): number {
  const at = size === 1 ? writeV4(words[row]!, out, start) : writeV6(words, row * 4, out, start);
  out[at] = slash;
  return writeNumber(lengths[row]!, out, at + 1);
}

function writeNumber(value: number, out: Buffer, start: number): number {
  let at = start;
  if (value >= 100) out[at++] = zero + Math.trunc(value / 100);
  if (value >= 10) out[at++] = zero + (Math.trunc(value / 10) % 10);
  out[at++] = zero + (value % 10);
  return at;
}

function writeV4(address: number, out: Buffer, start: number): number {
  let at = start;
  for (let shift = 24; shift >= 0; shift -= 8) {
    at = writeNumber((address >>> shift) & 0xff, out, at);
    if (shift > 0) out[at++] = dot;
  }
  return at;
}

/** RFC 5952: lower case, no leading zeros, "::" for the first of the longest runs of two or more zeros. */
function writeV6(words: Uint32Array, from: number, out: Buffer, start: number): number {
  let gap = 8;
  let gapLength = 1;
  for (let group = 0, run = 0; group < 8; group++) {
    groups[group] = words[from + (group >>> 1)]! >>> (group & 1 ? 0 : 16);
    run = groups[group] === 0 ? run + 1 : 0;
    if (run > gapLength) {
      gap = group - run + 1;
      gapLength = run;
    }
  }
  let at = start;
  for (let group = 0; group < 8; group++) {
    if (group === gap) {
      out[at++] = colon;
      group += gapLength - 1;
      if (group === 7) out[at++] = colon;
      continue;
    }
    if (group > 0) out[at++] = colon;
    const value = groups[group]!;
    if (value >= 0x1000) out[at++] = hexCode(value >>> 12);
    if (value >= 0x100) out[at++] = hexCode((value >>> 8) & 15);
    if (value >= 0x10) out[at++] = hexCode((value >>> 4) & 15);
    out[at++] = hexCode(value & 15);
  }
  return at;
}

function hexCode(digit: number): number {
  return digit + (digit < 10 ? zero : 0x57);
}
