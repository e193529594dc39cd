import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  addresses,
  asPrefix,
  canonical,
  contains,
  equal,
  fromInterval,
  intersect,
  isEmpty,
  merge,
  network,
  none,
  parseRanges,
  PrefixError,
  quote,
  subtract,
  withoutLength,
} from '../src/prefix.ts';

const published = (name: string) =>
  readFileSync(new URL(`../data/${name}`, import.meta.url), 'utf8').split('\n');
const cloudflare = parseRanges([...published('ips-v4'), ...published('ips-v6')]);

const v4 = (...entries: string[]) => parseRanges(entries).v4;
const v6 = (...entries: string[]) => parseRanges(entries).v6;

describe('network', () => {
  test.each([
    ['173.245.48.1', '173.245.48.1/32'],
    ['173.245.48.1/20', '173.245.48.0/20'],
    ['173.245.63.255/0', '0.0.0.0/0'],
    ['2400:CB00::1', '2400:cb00::1/128'],
    ['2400:cb00:1::/32', '2400:cb00::/32'],
    ['ffff:ffff:ffff:ffff:ffff::/33', 'ffff:ffff:8000::/33'],
    ['::1/0', '::/0'],
  ])('%s is %s', (text, expected) => {
    expect(network(text)).toBe(expected);
  });

  test.each([
    '',
    '/',
    '1.2.3/24',
    '1.2.3.4/33',
    '::/129',
    '1.2.3.4/',
    '1.2.3.4/a',
    '1.2.3.4/8/8',
    'all',
    'unix:',
    'a:b',
  ])('%s is none', (text) => {
    expect(network(text)).toBeUndefined();
  });
});

test('a single address is a prefix too, and host bits are none', () => {
  expect(asPrefix('173.245.48.1')).toEqual({ family: 'v4', text: '173.245.48.1/32' });
  expect(asPrefix('2400:CB00::1')).toEqual({ family: 'v6', text: '2400:cb00::1/128' });
  expect(asPrefix('173.245.48.0/20')).toEqual({ family: 'v4', text: '173.245.48.0/20' });
  for (const text of ['', 'all', '173.245.48.1/20', '1.2.3'])
    expect(asPrefix(text)).toBeUndefined();
});

describe('canonical', () => {
  test.each([
    ['0.0.0.0/0', '0.0.0.0/0'],
    ['255.255.255.255/32', '255.255.255.255/32'],
    ['104.16.0.0/13', '104.16.0.0/13'],
    ['128.0.0.0/1', '128.0.0.0/1'],
    ['::/0', '::/0'],
    ['::1/128', '::1/128'],
    ['2606:4700::/32', '2606:4700::/32'],
    ['2A06:98C0::/29', '2a06:98c0::/29'],
    ['2606:4700:0000:0:0:0:0:0/32', '2606:4700::/32'],
    ['2001:0:0:1:0:0:0:1/128', '2001:0:0:1::1/128'],
    ['2001:db8:0:0:1:0:0:1/128', '2001:db8::1:0:0:1/128'],
    ['2001:db8:0:1:1:1:1:1/128', '2001:db8:0:1:1:1:1:1/128'],
    ['1:2:3:4:5:6:7::/112', '1:2:3:4:5:6:7:0/112'],
    ['::2:3:4:5:6:7:8/128', '0:2:3:4:5:6:7:8/128'],
    ['1::8/128', '1::8/128'],
    ['ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128'],
    ['::ffff:102:304/128', '::ffff:102:304/128'],
  ])('%s is %s', (text, expected) => {
    expect(canonical(text)).toEqual({ family: text.includes(':') ? 'v6' : 'v4', text: expected });
  });

  test.each([
    ['nothing', ''],
    ['no length', '1.2.3.4'],
    ['an empty length', '1.2.3.0/'],
    ['no address', '/8'],
    ['a length with a leading zero', '1.0.0.0/08'],
    ['a length of 33', '1.2.3.4/33'],
    ['a length of 129', '::1/129'],
    ['a length that overflows', '1.0.0.0/4294967304'],
    ['a length with a sign', '1.0.0.0/+8'],
    ['a netmask', '10.0.0.0/255.0.0.0'],
    ['two lengths', '2606:4700::/32/32'],
    ['three numbers', '1.2.3/24'],
    ['five numbers', '1.2.3.0.0/24'],
    ['an empty number', '1..3.0/24'],
    ['an octal number', '010.0.0.0/8'],
    ['a hexadecimal number', '0x0a.0.0.0/8'],
    ['a number of 256', '1.2.256.0/24'],
    ['host bits', '1.2.3.4/24'],
    ['IPv6 host bits', '2606:4700::1/32'],
    ['IPv6 host bits in the word of the length', '2606:4700:8000::/32'],
    ['host bits under a length of 0', '1.0.0.0/0'],
    ['white space in front', ' 1.2.3.0/24'],
    ['white space behind', '1.2.3.0/24 '],
    ['a newline', '1.2.3.0/24\n'],
    ['NUL', '1.2.3.0/24\0'],
    ['full-width digits', '１.2.3.0/24'],
    ['a zone', 'fe80::1%eth0/128'],
    ['an embedded dotted quad', '::ffff:1.2.3.4/128'],
    ['seven groups', '1:2:3:4:5:6:7/128'],
    ['nine groups', '1:2:3:4:5:6:7:8:9/128'],
    ['two gaps', '1::2::3/128'],
    ['a gap for no group', '1:2:3:4::5:6:7:8/128'],
    ['a gap for no group at the end', '1:2:3:4:5:6:7:8::/128'],
    ['three colons', ':::/0'],
    ['three colons behind a group', '1:::/16'],
    ['a single colon in front', ':1:2:3:4:5:6:7/128'],
    ['a single colon behind', '1:2:3:4:5:6:7:/128'],
    ['five digits', '02606:4700::/32'],
    ['a letter', '2606:470g::/32'],
    ['brackets', '[2606:4700::]/32'],
  ])('refuses %s', (_, text) => {
    expect(canonical(text)).toBeUndefined();
  });
});

describe('parseRanges', () => {
  test('sorts by number, not by text', () => {
    expect(v4('100.0.0.0/8', '9.0.0.0/8')).toEqual(['9.0.0.0/8', '100.0.0.0/8']);
    expect(v4('200.0.0.0/8', '3.0.0.0/8')).toEqual(['3.0.0.0/8', '200.0.0.0/8']);
    expect(v6('a000::/16', '2::/16')).toEqual(['2::/16', 'a000::/16']);
  });

  test('merges halves, all the way up', () => {
    expect(v4('1.2.3.128/25', '1.2.2.0/24', '1.2.3.0/25')).toEqual(['1.2.2.0/23']);
    expect(v4('0.0.0.0/1', '128.0.0.0/1')).toEqual(['0.0.0.0/0']);
    expect(v6('8000::/1', '::/1')).toEqual(['::/0']);
    expect(v6('2400:cb00:0:1::/64', '2400:cb00::/64')).toEqual(['2400:cb00::/63']);
    expect(v6('2400:cb00::1/128', '2400:cb00::/128')).toEqual(['2400:cb00::/127']);
  });

  test('leaves neighbours that are not halves of one prefix', () => {
    expect(v4('1.2.3.0/24', '1.2.4.0/24')).toEqual(['1.2.3.0/24', '1.2.4.0/24']);
    expect(v4('1.2.2.0/24', '1.2.3.0/25')).toEqual(['1.2.2.0/24', '1.2.3.0/25']);
  });

  test('drops what a wider prefix holds, wherever it stands', () => {
    expect(v4('1.2.3.4/32', '1.0.0.0/8', '1.0.0.0/24', '1.255.255.255/32')).toEqual(['1.0.0.0/8']);
    expect(v6('2606:4700::1/128', '2606:4700::/32', '2606:4700::/32')).toEqual(['2606:4700::/32']);
  });

  test('takes any iterable, and nothing at all', () => {
    expect(parseRanges(new Set(['1.0.0.0/8']))).toEqual({ v4: ['1.0.0.0/8'], v6: [] });
    expect(parseRanges([])).toEqual(none);
  });

  test('names the first bad entry', () => {
    const entries = ['1.0.0.0/8', '1.2.3/24', 'x'];
    expect(() => parseRanges(entries)).toThrow(PrefixError);
    expect(() => parseRanges(entries)).toThrow('"1.2.3/24" is not a prefix');
    expect(() => parseRanges(entries)).toThrow(expect.objectContaining({ entry: '1.2.3/24' }));
  });

  test('keeps the published list, which is minimal already', () => {
    expect(cloudflare.v4).toHaveLength(15);
    expect(cloudflare.v6).toHaveLength(7);
    expect([...cloudflare.v4].sort()).toEqual(published('ips-v4').sort());
    expect([...cloudflare.v6].sort()).toEqual(published('ips-v6').sort());
  });
});

describe('sets', () => {
  test('2021: 104.16.0.0/12 became a /13 and a /14, and 104.28.0.0/14 was dropped', () => {
    const before = parseRanges(['104.16.0.0/12']);
    const after = parseRanges(['104.16.0.0/13', '104.24.0.0/14']);
    expect(subtract(before, after)).toEqual({ v4: ['104.28.0.0/14'], v6: [] });
    expect(subtract(after, before)).toEqual(none);
    expect(intersect(before, after)).toEqual(after);
    expect(merge(after, parseRanges(['104.28.0.0/14']))).toEqual(before);
  });

  test('a hole in the middle leaves the fewest prefixes around it', () => {
    expect(subtract(parseRanges(['1.0.0.0/29']), parseRanges(['1.0.0.2/32'])).v4).toEqual([
      '1.0.0.0/31',
      '1.0.0.3/32',
      '1.0.0.4/30',
    ]);
    expect(subtract(parseRanges(['::/0']), parseRanges(['2000::/3'])).v6).toEqual([
      '::/3',
      '4000::/2',
      '8000::/1',
    ]);
  });

  test('one hole may cover several prefixes', () => {
    const a = parseRanges(['1.0.0.0/24', '1.0.2.0/24', '1.0.8.0/24', '2.0.0.0/8']);
    expect(subtract(a, parseRanges(['1.0.0.0/16'])).v4).toEqual(['2.0.0.0/8']);
  });

  test('the families do not mix', () => {
    const a = parseRanges(['1.0.0.0/8', '2606:4700::/32']);
    expect(subtract(a, parseRanges(['::/0']))).toEqual({ v4: ['1.0.0.0/8'], v6: [] });
    expect(intersect(a, parseRanges(['0.0.0.0/0']))).toEqual({ v4: ['1.0.0.0/8'], v6: [] });
    expect(() => merge({ v4: ['2606:4700::/32'], v6: [] })).toThrow(PrefixError);
    expect(() => merge({ v4: [], v6: ['1.0.0.0/8'] })).toThrow(PrefixError);
  });

  test('merge takes any number of ranges', () => {
    expect(merge()).toEqual(none);
    expect(merge(cloudflare)).toEqual(cloudflare);
    expect(merge(none, cloudflare, none, cloudflare)).toEqual(cloudflare);
  });

  test('equal compares addresses, isEmpty both families', () => {
    const halves = { v4: ['1.0.0.0/9', '1.128.0.0/9'], v6: [] };
    expect(equal(halves, parseRanges(['1.0.0.0/8']))).toBe(true);
    expect(equal(halves, parseRanges(['1.0.0.0/9']))).toBe(false);
    expect(equal(parseRanges(['1.0.0.0/9']), parseRanges(['1.0.0.0/8']))).toBe(false);
    expect(equal(cloudflare, { ...cloudflare, v6: [] })).toBe(false);
    expect(isEmpty(none)).toBe(true);
    expect(isEmpty({ v4: [], v6: ['::/0'] })).toBe(false);
    expect(isEmpty({ v4: ['0.0.0.0/0'], v6: [] })).toBe(false);
  });
});

describe('contains', () => {
  test.each([
    ['104.16.0.0', true],
    ['104.27.255.255', true],
    ['104.28.0.0', false],
    ['104.15.255.255', false],
    ['172.64.0.1', true],
    ['172.16.0.1', false],
    ['2606:4700::1111', true],
    ['2606:4701::', false],
    ['2a06:98c7:ffff:ffff:ffff:ffff:ffff:ffff', true],
    ['2a06:98c8::', false],
    ['::ffff:104.16.0.1', true],
    ['::ffff:6810:1', true],
    ['::FFFF:8.8.8.8', false],
    ['::104.16.0.1', false],
  ])('%s: %s', (address, expected) => {
    expect(contains(cloudflare, address)).toBe(expected);
  });

  test('a mapped address is the IPv4 address, never an IPv6 one', () => {
    expect(contains(parseRanges(['::/0']), '::ffff:1.2.3.4')).toBe(false);
    expect(contains(parseRanges(['::/0']), '64:ff9b::1.2.3.4')).toBe(true);
  });

  test.each(['', '1.2.3', '1.2.3.4/32', '::1/128', 'fe80::1%eth0', '01.2.3.4', '::1.2.3', ' ::1'])(
    'refuses "%s"',
    (address) => {
      expect(() => contains(cloudflare, address)).toThrow(PrefixError);
      expect(() => contains(cloudflare, address)).toThrow('is not an IP address');
    },
  );
});

describe('addresses', () => {
  test('counts', () => {
    expect(addresses([])).toBe(0n);
    expect(addresses(['0.0.0.0/0'])).toBe(1n << 32n);
    expect(addresses(['::/0'])).toBe(1n << 128n);
    expect(addresses(['1.0.0.0/8', '2.0.0.0/32'])).toBe((1n << 24n) + 1n);
    // As Python's ipaddress module counts them.
    expect(addresses(cloudflare.v4)).toBe(1524736n);
    expect(addresses(cloudflare.v6)).toBe(14n << 96n);
  });

  test('refuses two families at once', () => {
    expect(() => addresses(['1.0.0.0/8', '::/0'])).toThrow(PrefixError);
  });
});

describe('fromInterval', () => {
  test.each([
    ['104.16.0.0', '104.27.255.255', ['104.16.0.0/13', '104.24.0.0/14']],
    ['1.2.3.4', '1.2.3.4', ['1.2.3.4/32']],
    ['0.0.0.0', '255.255.255.255', ['0.0.0.0/0']],
    ['10.0.0.1', '10.0.0.6', ['10.0.0.1/32', '10.0.0.2/31', '10.0.0.4/31', '10.0.0.6/32']],
    ['127.255.255.255', '128.0.0.0', ['127.255.255.255/32', '128.0.0.0/32']],
    ['::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', ['::/0']],
    ['2a06:98c0::', '2a06:98c7:ffff:ffff:ffff:ffff:ffff:ffff', ['2a06:98c0::/29']],
    ['::ffff:ffff', '::1:0:0', ['::ffff:ffff/128', '::1:0:0/128']],
  ])('%s to %s', (first, last, expected) => {
    expect(fromInterval(first, last)).toEqual(expected);
  });

  test('refuses what is no interval', () => {
    expect(() => fromInterval('1.2.3.4', '1.2.3.3')).toThrow('comes before 1.2.3.4');
    expect(() => fromInterval('1.2.3.4', '::1')).toThrow('is not of the family of 1.2.3.4');
    expect(() => fromInterval('1.2.3.4', 'x')).toThrow(PrefixError);
  });
});

test('quote makes foreign text fit for a message', () => {
  expect(quote('a b')).toBe('"a b"');
  expect(quote('\u001b[2J\r\n\0\u007f\u009b')).toBe('"\\u{1b}[2J\\u{d}\\u{a}\\u{0}\\u{7f}\\u{9b}"');
  expect(quote('"\\')).toBe('"\\"\\\\"');
  expect(quote('\ufeff\u{1f600}')).toBe('"\\u{feff}\\u{1f600}"');
  expect(quote('x'.repeat(60))).toBe(`"${'x'.repeat(60)}"`);
  expect(quote('x'.repeat(61))).toBe(`"${'x'.repeat(60)}"...`);
});

test('a length goes where it is that of one address of its family', () => {
  const list = ['192.0.2.1/32', '192.0.2.0/24', '2001:db8::1/128', '2400:cb00::/32'];
  expect(list.map(withoutLength)).toEqual([
    '192.0.2.1',
    '192.0.2.0/24',
    '2001:db8::1',
    '2400:cb00::/32',
  ]);
});
