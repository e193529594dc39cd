import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { exit } from '../../src/errors.ts';
import { parseExtra, parseFeed, parseList } from '../../src/feed/gate.ts';
import type { Ranges } from '../../src/renderer.ts';
import {
  cases,
  damaged,
  damagedJson,
  expectLinear,
  pumps,
  readOrRefused,
  words,
} from '../helpers/hostile.ts';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
const listV4 = read('data/ips-v4');
const listV6 = read('data/ips-v6');
const feed = read('test/fixtures/cloudflare/ips.json');

// The oracle: what a strict public list is, in words of its own. Slow, plain, and without a line of the gate's.

interface Block {
  readonly width: 32 | 128;
  readonly first: bigint;
  readonly last: bigint;
}

const octet = '(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])';
const strict4 = new RegExp(
  `^${octet}\\.${octet}\\.${octet}\\.${octet}/(?:[0-9]|[12][0-9]|3[0-2])$`,
);
const strict6 = /^[0-9A-Fa-f:]{2,39}\/(?:[0-9]|[1-9][0-9]|1[01][0-9]|12[0-8])$/;

function address4(text: string): bigint {
  return text.split('.').reduce((sum, part) => sum * 256n + BigInt(part), 0n);
}

/** RFC 4291, section 2.2, forms 1 and 2. */
function address6(text: string): bigint | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const [head, tail = []] = halves.map((half) => (half === '' ? [] : half.split(':')));
  const given = [...head!, ...tail];
  if (!given.every((group) => /^[0-9A-Fa-f]{1,4}$/.test(group))) return undefined;
  const gap = 8 - given.length;
  if (halves.length === 1 ? gap !== 0 : gap < 1) return undefined;
  const groups = [...head!, ...Array<string>(gap).fill('0'), ...tail];
  return groups.reduce((sum, group) => sum * 65536n + BigInt(`0x${group}`), 0n);
}

/** A prefix without host bits, in its strict form. */
function blockOf(text: string): Block | undefined {
  const [address = '', length] = text.split('/');
  const width = strict4.test(text) ? 32 : 128;
  if (width === 128 && !strict6.test(text)) return undefined;
  const first = width === 32 ? address4(address) : address6(address);
  const size = 2n ** BigInt(width - Number(length));
  if (first === undefined || first % size !== 0n) return undefined;
  return { width, first, last: first + size - 1n };
}

/**
 * The IANA special-purpose registries as of October 2026, all of their rows, and multicast:
 * https://www.iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry.
 */
const registries = words(`
  0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.0.0/29
  192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24
  192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
  255.255.255.255/32
  ::1/128 ::/128 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32 2001:1::1/128
  2001:1::2/128 2001:1::3/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28 2001:30::/28
  2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 ff00::/8`);
const special = registries.map((text) => blockOf(text)!);
/** RFC 4291, section 2.4: what IANA has allocated from is 2000::/3 alone. */
const unicast = blockOf('2000::/3')!;

function isPublic(block: Block): boolean {
  if (block.width === 128 && (block.first < unicast.first || block.last > unicast.last))
    return false;
  return special.every(
    ({ width, first, last }) => width !== block.width || last < block.first || block.last < first,
  );
}

/** Nobody announces more at once: product.md, /8 and /16. */
function isNarrow({ width, first, last }: Block): boolean {
  return last - first < (width === 32 ? 2n ** 24n : 2n ** 112n);
}

/** The blocks of a list, or undefined when a single entry is not what it should be. */
function blocksOf(entries: readonly string[]): Block[] | undefined {
  const blocks = entries.map(blockOf);
  const good = blocks
    .filter((block) => block !== undefined)
    .filter((b) => isPublic(b) && isNarrow(b));
  return good.length === entries.length ? good : undefined;
}

/** The addresses of a list with one entry a line, of these families and of each at least one. */
function oracle(text: string, widths: readonly number[]): Block[] | undefined {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  const blocks = blocksOf(lines);
  if (blocks === undefined || !blocks.every((block) => widths.includes(block.width)))
    return undefined;
  return widths.every((width) => blocks.some((block) => block.width === width))
    ? blocks
    : undefined;
}

function oracleOfFeed(text: string): Block[] | undefined {
  let content: any;
  try {
    content = JSON.parse(text);
  } catch {
    return undefined;
  }
  const lists: unknown[] = [content?.result?.ipv4_cidrs, content?.result?.ipv6_cidrs];
  if (content?.success !== true) return undefined;
  const both = lists.map((list, index) =>
    Array.isArray(list) && list.every((entry) => typeof entry === 'string' && !entry.includes('\n'))
      ? oracle(list.map((entry) => `${entry}\n`).join(''), [index === 0 ? 32 : 128])
      : undefined,
  );
  return both.includes(undefined) ? undefined : both.flatMap((blocks) => blocks!);
}

/** Sorted, and in one where they touch or overlap: two lists of the same addresses look the same. */
function addressesOf(blocks: readonly Block[]): string[] {
  const out: { width: number; first: bigint; last: bigint }[] = [];
  const sorted = [...blocks].sort((a, b) =>
    a.width === b.width ? Number(a.first > b.first) - Number(a.first < b.first) : a.width - b.width,
  );
  for (const block of sorted) {
    const top = out.at(-1);
    if (top?.width !== block.width || block.first > top.last + 1n) out.push({ ...block });
    else if (block.last > top.last) top.last = block.last;
  }
  return out.map(({ width, first, last }) => `${width} ${first} ${last}`);
}

/** Counts how often the gate and the oracle took a text, and fails where they disagree. */
class Comparison {
  taken = 0;

  see(text: string, found: Ranges | undefined, expected: Block[] | undefined): void {
    if ((found === undefined) !== (expected === undefined))
      expect.fail(`${expected ? 'refused' : 'taken'}, and should not be: ${JSON.stringify(text)}`);
    if (found === undefined || expected === undefined) return;
    this.taken++;
    const texts = [...found.v4, ...found.v6];
    expect(found.v4.every((prefix) => strict4.test(prefix))).toBe(true);
    expect(addressesOf(texts.map((entry) => blockOf(entry)!))).toEqual(addressesOf(expected));
  }
}

/** Prefixes at and around the ends of special space, and anywhere. */
const prefix = fc
  .tuple(
    fc.oneof(
      fc
        .constantFrom(...special, unicast)
        .chain(({ width, first, last }) =>
          fc
            .tuple(fc.constantFrom(first, last), fc.integer({ min: -2, max: 2 }))
            .map(([end, step]) => ({ width, at: end + BigInt(step) })),
        ),
      fc.bigInt({ min: 0n, max: 2n ** 32n - 1n }).map((at) => ({ width: 32 as const, at })),
      fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }).map((at) => ({ width: 128 as const, at })),
      fc
        .bigInt({ min: unicast.first, max: unicast.last })
        .map((at) => ({ width: 128 as const, at })),
    ),
    fc.nat(132),
    fc.boolean(),
  )
  .map(([{ width, at }, length, clean]) => {
    const limit = 2n ** BigInt(width);
    const start = ((at % limit) + limit) % limit;
    const narrow = Math.min(length, width + (length % 17 === 0 ? 1 : 0));
    const host = 2n ** BigInt(Math.max(0, width - narrow));
    const value = clean ? start - (start % host) : start;
    if (width === 32)
      return `${[24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 255n).join('.')}/${narrow}`;
    const groups = Array.from({ length: 8 }, (_, i) =>
      ((value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16),
    );
    return `${groups.join(':').replace(/(?:^|:)0(?::0)+(?::|$)/, '::')}/${narrow}`;
  });

describe('a list', () => {
  test('of 100,000 damaged ones is taken if, and only if, it is a strict public list', () => {
    const lists = [
      `${listV4}\n${listV6}`,
      `${listV6}\n${listV4}\n`,
      '104.16.0.0/13\n172.64.0.0/13\n2606:4700::/32\n2a06:98c0::/29',
    ];
    const own = ['/8', '/13', '2', '6', '%', '10.', '\n1.1.1.0/24', '\n64.0.0.0/2'];
    const more = ['\n2400:CB00:0::/32', '\n2001:db8::/32', '\n10.0.0.0/8'];
    const both = new Comparison();
    fc.assert(
      fc.property(damaged(fc.constantFrom(...lists), [...own, ...more]), (text) => {
        both.see(
          text,
          readOrRefused(() => parseList(text, 'any', 'list'), exit.refused),
          oracle(text, [32, 128]),
        );
      }),
      cases(100_000),
    );
    // Both outcomes must be common, or the test would say little.
    expect(both.taken).toBeGreaterThan(3000);
    expect(both.taken).toBeLessThan(90_000);
  }, 120_000);

  test('of prefixes at the edges of special space, and anywhere', () => {
    const seen = new Comparison();
    fc.assert(
      fc.property(fc.array(prefix, { minLength: 1, maxLength: 3 }), (entries) => {
        for (const [family, width, one] of [
          ['v4', 32, '104.16.0.0/13'],
          ['v6', 128, '2606:4700::/32'],
        ] as const) {
          const own = entries.filter((entry) => entry.includes(':') === (width === 128));
          const text = [...own, one].join('\n');
          const found = readOrRefused(() => parseList(text, family, 'list'), exit.refused);
          seen.see(text, found, oracle(text, [width]));
        }
      }),
      cases(15_000),
    );
    expect(seen.taken).toBeGreaterThan(10_000);
    expect(seen.taken).toBeLessThan(28_000);
  }, 60_000);

  test.each([
    ['look-alike digits', '１04.16.0.0/13'],
    ['Arabic digits', '١٠٤.16.0.0/13'],
    ['a full-width stop', '104．16.0.0/13'],
    ['a division slash', '104.16.0.0∕13'],
    ['a Cyrillic a', '2\u043006:98c0::/29'],
    ['a zero-width space', '104.16.0.0\u200b/13'],
    ['a soft hyphen', '104.16.0.0\u00ad/13'],
    ['a no-break space', '104.16.0.0/13\u00a0'],
    ['a byte order mark', '\ufeff104.16.0.0/13'],
    ['NUL', '104.16.0.0/13\0'],
    ['a line separator', '104.16.0.0/13\u2028104.24.0.0/14'],
    ['a vertical tab', '104.16.0.0/13\v104.24.0.0/14'],
    ['carriage returns alone', '104.16.0.0/13\r104.24.0.0/14'],
    ['hexadecimal', '0x68.16.0.0/13'],
    ['octal', '0150.16.0.0/13'],
    ['one number', '1745879040/13'],
    ['an exponent', '1e2.16.0.0/13'],
    ['a sign', '+104.16.0.0/13'],
    ['a sign of the length', '104.16.0.0/+13'],
    ['a length of a fraction', '104.16.0.0/13.0'],
    ['an embedded quad', '::ffff:104.16.0.0/109'],
    ['a mapped address', '::ffff:6810:0/109'],
    ['brackets', '[2606:4700::]/32'],
    ['a zone', '2606:4700::%eth0/32'],
    ['two gaps', '2606::4700::/32'],
    ['nine groups', '2606:4700:0:0:0:0:0:0:0/32'],
    ['a gap of nothing', '2606:4700:1:2:3:4:5::6/128'],
    ['five digits', '02606:4700::/32'],
    ['a mask', '104.16.0.0/255.248.0.0'],
    ['a range', '104.16.0.0-104.23.255.255'],
    ['everybody', '0.0.0.0/0'],
    ['everybody in two halves', '0.0.0.0/1\n128.0.0.0/1'],
    ['everybody in /8s', Array.from({ length: 256 }, (_, i) => `${i}.0.0.0/8`).join('\n')],
    ['loopback', '127.0.0.1/32'],
    ['a key of every object', '__proto__'],
    ['a shell', '$(reboot)'],
    ['rules', '104.16.0.0/13 }; flush ruleset'],
    ['a very long line', `104.16.0.0/13${' '.repeat(1_000_000)}`],
    ['very many lines', `${'104.16.0.0/13\n'.repeat(70_000)}x`],
  ])('with %s is refused', (_, entry) => {
    const text = `${listV4}\n${entry}\n${listV6}`;
    expect(readOrRefused(() => parseList(text, 'any', 'list'), exit.refused)).toBeUndefined();
    expect(oracle(text, [32, 128])).toBeUndefined();
  });

  test.each(pumps)(
    'of %j without end is read in time that grows with its length',
    async (piece) => {
      for (const [start, end] of [
        ['', ''],
        ['104.16.0.0/13\n', '\n'],
        ['<html><title>', '</title>'],
      ] as const)
        await expectLinear(
          (size) =>
            readOrRefused(
              () => parseList(start + piece.repeat(size) + end, 'any', 'list'),
              exit.refused,
            ),
          JSON.stringify(piece),
        );
    },
  );

  test('of very many prefixes is read in time that grows with its length', async () => {
    for (const last of ['', '10.0.0.0/8', 'x'])
      await expectLinear(
        (size) => {
          const lines = Array.from(
            { length: size },
            (_, i) => `104.${i >> 16}.${(i >> 8) & 255}.${i & 255}/32`,
          );
          return readOrRefused(
            () => parseList([...lines, ...(last === '' ? [] : [last])].join('\n'), 'v4', 'list'),
            exit.refused,
          );
        },
        last,
        10_000,
      );
  });
});

test('any text at all is refused, or both lists', () => {
  const any = fc.oneof(fc.string({ unit: 'binary' }), fc.json(), fc.string({ unit: 'grapheme' }));
  fc.assert(
    fc.property(any, (text) => {
      expect(readOrRefused(() => parseList(text, 'any', 'list'), exit.refused)).toBeUndefined();
      expect(readOrRefused(() => parseFeed(text, 'feed'), exit.refused)).toBeUndefined();
    }),
    cases(5000),
  );
});

describe("the admin's own prefixes", () => {
  test('may be private, and are as strict in form and width, in 10,000 damaged ones', () => {
    let taken = 0;
    fc.assert(
      fc.property(
        damaged(fc.oneof(prefix, fc.constantFrom('10.0.0.0/8', 'fd00::/16'))),
        (entry) => {
          const found = readOrRefused(() => parseExtra([entry]), exit.usage);
          const single = `${entry}/${entry.includes(':') ? 128 : 32}`;
          const expected = blockOf(entry) ?? blockOf(single);
          expect(found !== undefined).toBe(expected !== undefined && isNarrow(expected));
          if (found === undefined || expected === undefined) return;
          taken++;
          const texts = [...found.v4, ...found.v6];
          expect(addressesOf(texts.map((text) => blockOf(text)!))).toEqual(addressesOf([expected]));
        },
      ),
      cases(10_000),
    );
    expect(taken).toBeGreaterThan(500);
  });
});

describe('a JSON feed', () => {
  test('of 10,000 damaged ones is taken if, and only if, both lists are strict and public', () => {
    const seen = new Comparison();
    fc.assert(
      fc.property(
        damagedJson(feed, ['"1.1.1.0/24"', '["1.1.1.0/24"]', '["2606:4700::/32"]']),
        (text) => {
          const found = readOrRefused(() => parseFeed(text, 'feed'), exit.refused);
          seen.see(text, found, oracleOfFeed(text));
        },
      ),
      cases(10_000),
    );
    expect(seen.taken).toBeGreaterThan(500);
    expect(seen.taken).toBeLessThan(9000);
  }, 60_000);

  test.each([
    [
      'a key twice, the second one bad',
      feed.replace('"ipv6_cidrs"', '"ipv4_cidrs": ["10.0.0.0/8"], "ipv6_cidrs"'),
    ],
    ['the lists in the prototype', feed.replace('"result"', '"__proto__"')],
    ['success in the prototype', '{"__proto__": {"success": true, "result": {}}}'],
    [
      'lists that only look like lists',
      feed.replace(/"ipv4_cidrs": \[[^\]]*\]/, '"ipv4_cidrs": {"0": "1.1.1.0/24", "length": 1}'),
    ],
    ['a list in a list', feed.replace('"ipv4_cidrs": [', '"ipv4_cidrs": [["1.1.1.0/24"],')],
    [
      'a list that is a text',
      feed.replace(/"ipv4_cidrs": \[[^\]]*\]/, '"ipv4_cidrs": "1.1.1.0/24"'),
    ],
    ['very deep nesting', '['.repeat(1_000_000)],
    ['very deep objects', '{"result":'.repeat(200_000)],
  ])('with %s is refused', (_, text) => {
    expect(readOrRefused(() => parseFeed(text, 'feed'), exit.refused)).toBeUndefined();
    expect(oracleOfFeed(text)).toBeUndefined();
  });

  test.each(pumps)(
    'of %j without end is read in time that grows with its length',
    async (piece) => {
      for (const [start, end] of [
        ['', ''],
        [`${feed.slice(0, -3)},"x":"`, '"}'],
      ] as const)
        await expectLinear(
          (size) =>
            readOrRefused(() => parseFeed(start + piece.repeat(size) + end, 'feed'), exit.refused),
          JSON.stringify(piece),
        );
    },
  );
});
