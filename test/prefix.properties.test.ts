import { isIP } from 'node:net';
import * as fc from 'fast-check';
import IPCIDR from 'ip-cidr';
import ipaddr from 'ipaddr.js';
import { describe, expect, test } from 'vitest';
import {
  addresses,
  bounds,
  canonical,
  contains,
  equal,
  type Family,
  fromBounds,
  fromInterval,
  intersect,
  isEmpty,
  merge,
  none,
  parseRanges,
  PrefixError,
  subtract,
} from '../src/prefix.ts';
import type { Ranges } from '../src/renderer.ts';

// The oracle: plain intervals of BigInts, read and printed by ipaddr.js. Slow, and nothing in common
// with the code under test.

type Interval = readonly [first: bigint, last: bigint];
const widths = { v4: 32, v6: 128 } as const;

function toNumber(address: string): bigint {
  const bytes = address.includes(':')
    ? ipaddr.IPv6.parse(address).toByteArray()
    : ipaddr.IPv4.parse(address).toByteArray();
  return bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
}

function toAddress(family: Family, value: bigint): string {
  const bytes = Array.from({ length: widths[family] / 8 }, (_, index) =>
    Number((value >> BigInt(widths[family] - 8 * (index + 1))) & 255n),
  );
  return family === 'v4'
    ? new ipaddr.IPv4(bytes).toString()
    : new ipaddr.IPv6(bytes).toRFC5952String();
}

function toInterval(prefix: string): Interval {
  const [address = '', length] = prefix.split('/');
  const first = toNumber(address);
  const width = address.includes(':') ? 128 : 32;
  return [first, first + (1n << BigInt(width - Number(length))) - 1n];
}

/** Disjoint, not adjacent, sorted. */
function tidy(intervals: readonly Interval[]): Interval[] {
  const out: [bigint, bigint][] = [];
  for (const [first, last] of [...intervals].sort((a, b) => (a[0] < b[0] ? -1 : 1))) {
    const top = out.at(-1);
    if (top === undefined || first > top[1] + 1n) out.push([first, last]);
    else if (last > top[1]) top[1] = last;
  }
  return out;
}

function without(a: readonly Interval[], b: readonly Interval[]): Interval[] {
  return b.reduce<Interval[]>(
    (rest, [first, last]) =>
      rest.flatMap(([from, to]): Interval[] => [
        ...(from < first ? [[from, to < first ? to : first - 1n] as const] : []),
        ...(to > last ? [[from > last ? from : last + 1n, to] as const] : []),
      ]),
    [...a],
  );
}

/** The fewest prefixes: from each first address the widest one that is aligned and fits. */
function toPrefixes(family: Family, intervals: readonly Interval[]): string[] {
  const out: string[] = [];
  for (const [first, last] of tidy(intervals)) {
    for (let at = first; at <= last;) {
      let host = 0;
      const fits = (bits: number) =>
        bits <= widths[family] &&
        at % (1n << BigInt(bits)) === 0n &&
        at + (1n << BigInt(bits)) - 1n <= last;
      while (fits(host + 1)) host++;
      out.push(`${toAddress(family, at)}/${widths[family] - host}`);
      at += 1n << BigInt(host);
    }
  }
  return out;
}

function oracle(
  operation: (family: Family, ...sets: Interval[][]) => readonly Interval[],
  ...all: readonly Ranges[]
): Ranges {
  const answer = (family: Family) =>
    toPrefixes(
      family,
      operation(family, ...all.map((ranges) => tidy(ranges[family].map(toInterval)))),
    );
  return { v4: answer('v4'), v6: answer('v6') };
}

// Inputs: a few bases and small steps from them, so that nesting, siblings and neighbours are common.

const entry = (family: Family): fc.Arbitrary<string> => {
  const width = widths[family];
  const bases =
    family === 'v4'
      ? [0n, 0x68100000n, 0xac400000n, 0xffffff00n]
      : [0n, 0x26064700n << 96n, (0x2a0698c0n << 96n) | 0xffffffffffffffn, (1n << 128n) - 256n];
  return fc
    .tuple(
      fc.constantFrom(...bases),
      fc.oneof(
        { weight: 4, arbitrary: fc.integer({ min: width - 9, max: width }) },
        fc.integer({ min: 0, max: width }),
      ),
      fc.nat(15),
      fc.nat(width),
    )
    .map(([base, length, step, shift]) => {
      const value = (base ^ (BigInt(step) << BigInt(shift))) & ((1n << BigInt(width)) - 1n);
      const host = BigInt(width - length);
      return `${toAddress(family, (value >> host) << host)}/${length}`;
    });
};
/** The first address of a block of 256. */
const first = (family: Family) =>
  fc
    .bigInt({ min: 0n, max: (1n << BigInt(widths[family] - 8)) - 1n })
    .map((value) => toAddress(family, value << 8n));
const entries = fc.array(fc.oneof(entry('v4'), entry('v6')), { maxLength: 40 });
const ranges = entries.map((list) => parseRanges(list));
const runs = { numRuns: 2000 };

const split = (list: readonly string[]): Ranges => ({
  v4: list.filter((text) => !text.includes(':')),
  v6: list.filter((text) => text.includes(':')),
});

/** `contains` reads an IPv4-mapped address as the IPv4 address; the examples have those. */
const unmapped = entry('v6').filter((text) =>
  toInterval(text).every((value) => value >> 32n !== 0xffffn),
);

describe('parseRanges', () => {
  test('is the same addresses in the fewest prefixes, sorted', () => {
    fc.assert(
      fc.property(entries, (list) => {
        expect(parseRanges(list)).toEqual(oracle((_, all) => all, split(list)));
      }),
      runs,
    );
  });

  test('does not care about order or repetition, and settles at once', () => {
    const shuffled = entries.chain((list) =>
      fc.tuple(
        fc.constant(list),
        fc.shuffledSubarray([...list, ...list], { minLength: list.length * 2 }),
      ),
    );
    fc.assert(
      fc.property(shuffled, ([list, other]) => {
        const once = parseRanges(list);
        expect(parseRanges(other)).toEqual(once);
        expect(parseRanges([...once.v6, ...once.v4])).toEqual(once);
        expect(merge(once)).toEqual(once);
      }),
      runs,
    );
  });

  test('sorts long lists, where every digit of the addresses differs', () => {
    fc.assert(
      fc.property(
        // Above a thousand of a family they are sorted in another way than below.
        fc.array(fc.oneof(first('v4'), first('v6')), {
          minLength: 1500,
          maxLength: 1800,
          size: 'max',
        }),
        (addresses) => {
          // At each address the narrow one comes first, and is inside of the wide one.
          const list = [0, 8].flatMap((host) =>
            addresses.map((text) => `${text}/${(text.includes(':') ? 128 : 32) - host}`),
          );
          expect(parseRanges(list)).toEqual(oracle((_, all) => all, split(list)));
        },
      ),
      { numRuns: 5 },
    );
  });
});

describe('set laws', () => {
  test('merge, subtract and intersect are those of the intervals', () => {
    fc.assert(
      fc.property(ranges, ranges, (a, b) => {
        expect(merge(a, b)).toEqual(oracle((_, x, y) => [...x, ...y], a, b));
        expect(subtract(a, b)).toEqual(oracle((_, x, y) => without(x, y), a, b));
        expect(intersect(a, b)).toEqual(oracle((_, x, y) => without(x, without(x, y)), a, b));
      }),
      runs,
    );
  });

  test('inputs that are not minimal or sorted are read as the addresses they name', () => {
    fc.assert(
      fc.property(entries.map(split), entries.map(split), (a, b) => {
        const [x, y] = [merge(a), merge(b)];
        expect(merge(a, b)).toEqual(merge(x, y));
        expect(subtract(a, b)).toEqual(subtract(x, y));
        expect(intersect(a, b)).toEqual(intersect(x, y));
        expect(equal(a, x)).toBe(true);
        expect(equal(a, b)).toBe(JSON.stringify(x) === JSON.stringify(y));
      }),
      runs,
    );
  });

  test('what is taken away and what is kept make up the whole', () => {
    fc.assert(
      fc.property(ranges, ranges, (a, b) => {
        const lost = subtract(a, b);
        const kept = intersect(a, b);
        expect(merge(lost, kept)).toEqual(a);
        expect(intersect(lost, b)).toEqual(none);
        expect(isEmpty(subtract(kept, b))).toBe(true);
        expect(subtract(a, a)).toEqual(none);
        for (const family of ['v4', 'v6'] as const) {
          expect(addresses(lost[family]) + addresses(kept[family])).toBe(addresses(a[family]));
        }
      }),
      runs,
    );
  });

  test('contains is membership of the interval', () => {
    fc.assert(
      fc.property(ranges, entry('v4'), unmapped, (a, four, six) => {
        for (const [family, text] of [
          ['v4', four],
          ['v6', six],
        ] as const) {
          const inside = toInterval(text).map((value) =>
            a[family].map(toInterval).some(([first, last]) => first <= value && value <= last),
          );
          const ends = toInterval(text).map((value) => toAddress(family, value));
          expect(ends.map((address) => contains(a, address))).toEqual(inside);
        }
      }),
      runs,
    );
  });

  const interval = fc.constantFrom('v4', 'v6').chain((family: Family) => {
    const limit = (1n << BigInt(widths[family])) - 1n;
    const near = fc
      .tuple(fc.bigInt({ min: 0n, max: limit }), fc.nat(5000))
      .map(([value, step]) => [value, value + BigInt(step)] as const);
    const far = fc.tuple(fc.bigInt({ min: 0n, max: limit }), fc.bigInt({ min: 0n, max: limit }));
    return fc.oneof(near, far).map(([a, b]) => {
      const end = b > limit ? limit : b;
      return { family, first: a < end ? a : end, last: a < end ? end : a };
    });
  });

  test('fromInterval covers the interval and nothing else', () => {
    fc.assert(
      fc.property(interval, ({ family, first, last }) => {
        expect(fromInterval(toAddress(family, first), toAddress(family, last))).toEqual(
          toPrefixes(family, [[first, last]]),
        );
      }),
      runs,
    );
  });

  test('fromBounds does the same with numbers, and bounds reads them', () => {
    fc.assert(
      fc.property(interval, ({ family, first, last }) => {
        const prefixes = fromBounds(family, first, last);
        expect(prefixes).toEqual(toPrefixes(family, [[first, last]]));
        expect(prefixes.map(bounds)).toEqual(prefixes.map(toInterval));
      }),
      runs,
    );
  });
});

/** What ipaddr.js says about a text that a strict pattern and Node let through. */
function reference(text: string): string | undefined {
  const [, address = '', length = ''] =
    /^([\d.]+|[\da-f:]+)\/(0|[1-9]\d?|1[0-2]\d)$/i.exec(text) ?? [];
  const version = isIP(address);
  if (version === 0 || Number(length) > (version === 4 ? 32 : 128)) return undefined;
  const host = BigInt((version === 4 ? 32 : 128) - Number(length));
  const value = toNumber(address);
  if ((value >> host) << host !== value) return undefined;
  return `${toAddress(version === 4 ? 'v4' : 'v6', value)}/${length}`;
}

describe('text', () => {
  test('canonical agrees with ipaddr.js and ip-cidr on prefixes', () => {
    fc.assert(
      fc.property(fc.oneof(entry('v4'), entry('v6')), (text) => {
        const cidr = new IPCIDR(text);
        const [first, last] = toInterval(text);
        expect(canonical(text)?.text).toBe(text);
        expect(canonical(text.toUpperCase())?.text).toBe(text);
        expect(cidr.start({ type: 'bigInteger' })).toBe(first);
        expect(cidr.end({ type: 'bigInteger' })).toBe(last);
        expect(addresses([text])).toBe(last - first + 1n);
      }),
      runs,
    );
  });

  test('canonical prints every pattern of zero groups as ipaddr.js does', () => {
    for (let pattern = 0; pattern < 256; pattern++) {
      const parts = Array.from({ length: 8 }, (_, index) => ((pattern >> index) & 1 ? 0xa0 : 0));
      const full = parts.map((part) => part.toString(16).padStart(4, '0')).join(':');
      expect(canonical(`${full}/128`)?.text).toBe(
        `${ipaddr.IPv6.parse(full).toRFC5952String()}/128`,
      );
    }
  });

  test('canonical takes and refuses what the reference does, in 100,000 damaged prefixes', () => {
    const damaged = fc
      .tuple(
        fc.oneof(
          entry('v4'),
          entry('v6'),
          fc.constantFrom('1:2:3:4:5:6:7:8/128', '::/0', '1:2:3::6:7:8/128', '0.0.0.0/0'),
        ),
        fc.array(
          fc.tuple(
            fc.nat(50),
            fc.nat(2),
            fc.constantFrom(
              '',
              ':',
              '::',
              '.',
              '/',
              '0',
              '1',
              '25',
              'f',
              'F',
              'g',
              '%',
              ' ',
              '\n',
              '-',
              '٣',
            ),
          ),
          { minLength: 1, maxLength: 3 },
        ),
      )
      .map(([text, edits]) =>
        edits.reduce((now, [at, remove, insert]) => {
          const place = at % (now.length + 1);
          return now.slice(0, place) + insert + now.slice(place + remove);
        }, text),
      );
    let taken = 0;
    fc.assert(
      fc.property(damaged, (text) => {
        const answer = canonical(text)?.text;
        expect(answer).toBe(reference(text));
        if (answer !== undefined) taken++;
      }),
      { numRuns: 100_000 },
    );
    // Both outcomes must be common, or the test would say little.
    expect(taken).toBeGreaterThan(2000);
    expect(taken).toBeLessThan(90_000);
  }, 60_000);

  test('a bad entry among good ones is named', () => {
    fc.assert(
      fc.property(entries, fc.nat(40), (list, at) => {
        const bad = [...list.slice(0, at), '1.2.3.5/31', ...list.slice(at), 'x'];
        const error = (() => {
          try {
            parseRanges(bad);
            return undefined;
          } catch (thrown) {
            return thrown;
          }
        })();
        expect(error).toBeInstanceOf(PrefixError);
        expect(error).toHaveProperty('entry', '1.2.3.5/31');
      }),
      { numRuns: 200 },
    );
  });
});
