import { readFileSync } from 'node:fs';
import ipaddr from 'ipaddr.js';
import { describe, expect, test, vi } from 'vitest';
import { CfsyncError, exit } from '../../src/errors.ts';
import { GateError, parseExtra, parseFeed, parseList } from '../../src/feed/gate.ts';
import { canonical, parseRanges } from '../../src/prefix.ts';
import { globalUnicastV6, specialPurpose } from '../../src/special-purpose.ts';

const read = (name: string) => readFileSync(new URL(`../../data/${name}`, import.meta.url), 'utf8');
const listV4 = read('ips-v4');
const listV6 = read('ips-v6');
const urlV4 = 'https://www.cloudflare.com/ips-v4';
const urlV6 = 'https://www.cloudflare.com/ips-v6';
const api = 'https://api.cloudflare.com/client/v4/ips';

/** The message of the GateError. */
function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof GateError) return error.message;
    throw error;
  }
  return 'accepted';
}
const refused = (text: string, expected: 'v4' | 'v6' | 'any' = 'v4', what = 'list') =>
  refusal(() => parseList(text, expected, what));

const feed = (change: object = {}, result: object = {}) =>
  JSON.stringify({
    result: {
      ipv4_cidrs: listV4.split('\n'),
      ipv6_cidrs: listV6.split('\n'),
      etag: '38f79d050aa027e3be3865e495dcc9bc',
      ...result,
    },
    success: true,
    errors: [],
    messages: [],
    ...change,
  });

describe('the lists as published', () => {
  test('are accepted, with or without the final newline', () => {
    const v4 = parseList(listV4, 'v4', urlV4);
    const v6 = parseList(listV6, 'v6', urlV6);
    expect(v4).toEqual(parseRanges(listV4.split('\n')));
    expect(v4.v4).toHaveLength(15);
    expect(v6.v6).toHaveLength(7);
    expect(parseList(`${listV4}\n`, 'v4', urlV4)).toEqual(v4);
    expect(parseList(`${listV4}\n${listV6}\n`, 'any', 'list')).toEqual({ v4: v4.v4, v6: v6.v6 });
    expect(parseFeed(feed(), api)).toEqual({ v4: v4.v4, v6: v6.v6 });
  });

  test('repeated and overlapping entries merge', () => {
    expect(parseList('1.1.0.0/16\n1.0.0.0/16\n1.1.1.0/24\n1.0.0.0/16', 'v4', 'list').v4).toEqual([
      '1.0.0.0/15',
    ]);
  });
});

describe('failures seen at these addresses', () => {
  test.each([
    ['', 'list: empty'],
    ['\n', 'list: empty'],
    [' \r\n\t', 'list: empty'],
    [
      '<!DOCTYPE html>\n<html lang="en-US"><head><title>Cloudflare - The Web Performance</title>',
      'list: an HTML page ("Cloudflare - The Web Performance"), not a list',
    ],
    [
      '<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center>cloudflare</center>',
      'list: an HTML page ("502 Bad Gateway"), not a list',
    ],
    [
      '<html>\r\n<head><title>500 Internal Server Error</title></head>',
      'list: an HTML page ("500 Internal Server Error"), not a list',
    ],
    ['\n  <html>', 'list: an HTML page, not a list'],
    [
      '<!DOCTYPE html><html lang="en-US"><head><title>Just a moment...</title><meta http-equiv="refresh">',
      'list: a bot challenge ("Just a moment..."), not a list',
    ],
    [
      '<html><head><script src="/cdn-cgi/challenge-platform/h/b/orchestrate/chl_page/v1"></script>',
      'list: a bot challenge, not a list',
    ],
    [
      `<title>\u001b]0;x\u0007${'y'.repeat(100)}</title>`,
      `list: an HTML page ("\\u{1b}]0;x\\u{7}${'y'.repeat(54)}"...), not a list`,
    ],
    ['error code: 1020', 'list: line 1: "error code: 1020" is not a prefix'],
    [`${listV4}${listV6}`, 'list: line 15: "131.0.72.0/222400:cb00::/32" is not a prefix'],
  ])('%j', (body, message) => {
    expect(refused(body)).toBe(message);
  });

  test('one family at the address of the other', () => {
    expect(refused(listV4, 'v6', urlV6)).toBe(
      `${urlV6}: line 1: 173.245.48.0/20 is IPv4, expected IPv6`,
    );
    expect(refused(`${listV4}\n${listV6}`, 'v4', urlV4)).toBe(
      `${urlV4}: line 16: 2400:cb00::/32 is IPv6, expected IPv4`,
    );
  });

  test('a list cut off in the middle of a line', () => {
    expect(refused(listV4.slice(0, -3))).toBe('list: line 15: "131.0.72.0" is not a prefix');
    expect(refused(listV4.slice(0, -1))).toBe('list: line 15: 131.0.72.0/2 has host bits set');
  });

  test('a mixed list needs both families', () => {
    expect(refused(listV4, 'any')).toBe('list: no IPv6 prefix');
    expect(refused(listV6, 'any')).toBe('list: no IPv4 prefix');
  });
});

describe('one bad entry rejects the list', () => {
  test.each([
    ['', '"" is not a prefix'],
    ['# comment', '"# comment" is not a prefix'],
    ['104.16.0.0/13\r', '"104.16.0.0/13\\u{d}" is not a prefix'],
    [' 104.16.0.0/13', '" 104.16.0.0/13" is not a prefix'],
    ['104.16.0.0/13 ', '"104.16.0.0/13 " is not a prefix'],
    ['\ufeff104.16.0.0/13', '"\\u{feff}104.16.0.0/13" is not a prefix'],
    ['104.16.0.0', '"104.16.0.0" is not a prefix'],
    ['104.16.0.0/013', '"104.16.0.0/013" is not a prefix'],
    ['0104.16.0.0/13', '"0104.16.0.0/13" is not a prefix'],
    ['010.0.0.0/13', '"010.0.0.0/13" is not a prefix'],
    ['0x68.16.0.0/13', '"0x68.16.0.0/13" is not a prefix'],
    ['104.16/13', '"104.16/13" is not a prefix'],
    ['104.16.0.256/32', '"104.16.0.256/32" is not a prefix'],
    ['104.16.0.0/13/13', '"104.16.0.0/13/13" is not a prefix'],
    ['104.16.0.0/255.248.0.0', '"104.16.0.0/255.248.0.0" is not a prefix'],
    ['104.16.0.1/13', '104.16.0.1/13 has host bits set'],
    ['104.16.0.0/33', '104.16.0.0/33 is longer than /32'],
    ['2606:4700::/129', '2606:4700::/129 is longer than /128'],
    ['2606:4700::%0/32', '"2606:4700::%0/32" is not a prefix'],
    ['2606:4700::1.2.3.4/128', '"2606:4700::1.2.3.4/128" is not a prefix'],
    ['2606:4700::1/32', '2606:4700::1/32 has host bits set'],
    ['0.0.0.0/0', '0.0.0.0/0 is wider than /8'],
    ['104.0.0.0/7', '104.0.0.0/7 is wider than /8'],
    ['64.0.0.0/2', '64.0.0.0/2 is wider than /8'],
    ['::/0', '::/0 is wider than /16'],
    ['2606::/15', '2606::/15 is wider than /16'],
    ['10.0.0.0/8', '10.0.0.0/8 overlaps the special-purpose block 10.0.0.0/8'],
    ['10.1.2.0/24', '10.1.2.0/24 overlaps the special-purpose block 10.0.0.0/8'],
    ['192.0.0.0/8', '192.0.0.0/8 overlaps the special-purpose block 192.0.0.0/24'],
    ['172.0.0.0/8', '172.0.0.0/8 overlaps the special-purpose block 172.16.0.0/12'],
    ['198.0.0.0/8', '198.0.0.0/8 overlaps the special-purpose block 198.18.0.0/15'],
    ['2001::/16', '2001::/16 overlaps the special-purpose block 2001::/23'],
    ['2001:db8:1::/48', '2001:db8:1::/48 overlaps the special-purpose block 2001:db8::/32'],
    ['2620::/16', '2620::/16 overlaps the special-purpose block 2620:4f:8000::/48'],
    ['fe80::/16', 'fe80::/16 is not inside 2000::/3, the public IPv6 space'],
    ['::/16', '::/16 is not inside 2000::/3, the public IPv6 space'],
    ['::ffff:6810:0/109', '::ffff:6810:0/109 is not inside 2000::/3, the public IPv6 space'],
    ['64:ff9b::/96', '64:ff9b::/96 is not inside 2000::/3, the public IPv6 space'],
    [`1.1.1.1/32${'x'.repeat(5000)}`, `"1.1.1.1/32${'x'.repeat(50)}"... is not a prefix`],
  ])('%j', (entry, problem) => {
    const lines = [...listV4.split('\n'), ...listV6.split('\n')];
    for (const at of [0, 9, 22]) {
      const body = [...lines.slice(0, at), entry, ...lines.slice(at)].join('\n');
      expect(refused(`${body}\n`, 'any')).toBe(`list: line ${at + 1}: ${problem}`);
    }
  });

  test('the first of several special blocks is named', () => {
    expect(refused(`${listV4}\n10.0.0.0/8\n127.0.0.0/8`)).toMatch(
      /^list: line 16: 10\.0\.0\.0\/8 /,
    );
  });

  test('public neighbours of special space are let through', () => {
    const neighbours = [
      '172.64.0.0/13',
      '172.32.0.0/11',
      '11.0.0.0/8',
      '9.0.0.0/8',
      '100.128.0.0/9',
    ];
    const six = [
      '2001:200::/23',
      '2001:db9::/32',
      '2003::/16',
      '2000::/16',
      '3ffe::/16',
      '3fff:1000::/20',
    ];
    expect(refused([...neighbours, ...six].join('\n'), 'any')).toBe('accepted');
  });

  test('an entry that ipaddr.js reads otherwise, or not at all, is refused', () => {
    const parse = vi.spyOn(ipaddr.IPv4, 'parse');
    try {
      parse.mockReturnValueOnce(new ipaddr.IPv4([104, 16, 0, 1]));
      expect(refused('104.16.0.0/13')).toBe('list: line 1: 104.16.0.0/13 is ambiguous');
      parse.mockImplementationOnce(() => {
        throw new Error('no');
      });
      expect(refused('104.16.0.0/13')).toBe('list: line 1: 104.16.0.0/13 is ambiguous');
    } finally {
      parse.mockRestore();
    }
    expect(refused('104.16.0.0/13')).toBe('accepted');
  });

  test('the error is a refusal', () => {
    expect(() => parseList('x', 'v4', 'list')).toThrow(
      expect.objectContaining({ name: 'GateError', code: exit.refused }),
    );
  });
});

const feedRefused = (text: string) => refusal(() => parseFeed(text, 'feed'));

describe('parseFeed', () => {
  test('takes keys that it does not know', () => {
    expect(feedRefused(feed({ later: 1 }, { jdcloud_cidrs: ['x'], etag: 7 }))).toBe('accepted');
  });

  test.each([
    ['', 'feed: empty'],
    [
      '<html><title>Just a moment...</title>',
      'feed: a bot challenge ("Just a moment..."), not a list',
    ],
    ['{"result":', 'feed: not JSON: "{\\"result\\":"'],
    [listV4.slice(0, 15), 'feed: not JSON: "173.245.48.0/20"'],
    ['null', 'feed: "success" is not true'],
    ['[]', 'feed: "success" is not true'],
    ['"x"', 'feed: "success" is not true'],
    [feed({ success: false }), 'feed: "success" is not true'],
    [feed({ success: 'true' }), 'feed: "success" is not true'],
    [feed({ success: 1 }), 'feed: "success" is not true'],
    [feed({ result: null }), 'feed: "result.ipv4_cidrs" is not a list of texts'],
    [feed({ result: [] }), 'feed: "result.ipv4_cidrs" is not a list of texts'],
    ['{"success":true}', 'feed: "result.ipv4_cidrs" is not a list of texts'],
    [feed({}, { ipv4_cidrs: listV4 }), 'feed: "result.ipv4_cidrs" is not a list of texts'],
    [
      feed({}, { ipv4_cidrs: { 0: '1.1.1.0/24', length: 1 } }),
      'feed: "result.ipv4_cidrs" is not a list of texts',
    ],
    [
      feed({}, { ipv6_cidrs: ['2606:4700::/32', 7] }),
      'feed: "result.ipv6_cidrs" is not a list of texts',
    ],
    [feed({}, { ipv6_cidrs: undefined }), 'feed: "result.ipv6_cidrs" is not a list of texts'],
    [feed({}, { ipv4_cidrs: [] }), 'feed: no IPv4 prefix'],
    [feed({}, { ipv6_cidrs: [] }), 'feed: no IPv6 prefix'],
    [
      feed({}, { ipv6_cidrs: ['2606:4700::/32', '1.1.1.0/24'] }),
      'feed: result.ipv6_cidrs[1]: 1.1.1.0/24 is IPv4, expected IPv6',
    ],
    [
      feed({}, { ipv4_cidrs: ['1.1.1.0/24\n1.1.2.0/24'] }),
      'feed: result.ipv4_cidrs[0]: "1.1.1.0/24\\u{a}1.1.2.0/24" is not a prefix',
    ],
    [
      feed({}, { ipv4_cidrs: ['1.1.1.0/24', '192.168.0.0/24'] }),
      'feed: result.ipv4_cidrs[1]: 192.168.0.0/24 overlaps the special-purpose block 192.168.0.0/16',
    ],
  ])('refuses %j', (text, expected) => {
    expect(feedRefused(text)).toBe(expected);
  });
});

describe('parseExtra', () => {
  test('takes private space and single addresses', () => {
    expect(
      parseExtra(['192.168.1.7', '10.0.0.0/8', 'fd00::/16', '2001:DB8::7', '203.0.113.0/24']),
    ).toEqual({
      v4: ['10.0.0.0/8', '192.168.1.7/32', '203.0.113.0/24'],
      v6: ['2001:db8::7/128', 'fd00::/16'],
    });
    expect(parseExtra([])).toEqual({ v4: [], v6: [] });
  });

  test.each([
    ['office', 'extra prefix "office" is not a prefix'],
    ['', 'extra prefix "" is not a prefix'],
    ['10.0.0.1/8', 'extra prefix 10.0.0.1/8 has host bits set'],
    ['0.0.0.0/0', 'extra prefix 0.0.0.0/0 is wider than /8'],
    ['10.0.0.0/7', 'extra prefix 10.0.0.0/7 is wider than /8'],
    ['fc00::/15', 'extra prefix fc00::/15 is wider than /16'],
    ['fe80::1%eth0', 'extra prefix "fe80::1%eth0" is not a prefix'],
    ['::ffff:1.2.3.4', 'extra prefix "::ffff:1.2.3.4" is not a prefix'],
    ['010.1.1.1', 'extra prefix "010.1.1.1" is not a prefix'],
  ])('refuses "%s"', (entry, message) => {
    expect(() => parseExtra(['192.0.2.1', entry])).toThrow(CfsyncError);
    expect(() => parseExtra(['192.0.2.1', entry])).toThrow(
      expect.objectContaining({ message, code: exit.usage }),
    );
  });
});

// The special-purpose data against what ipaddr.js knows; test/hostile/lists.test.ts has the gate against an oracle.

const value = (address: string) =>
  (address.includes(':') ? ipaddr.IPv6.parse(address) : ipaddr.IPv4.parse(address))
    .toByteArray()
    .reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);

interface Interval {
  readonly first: bigint;
  readonly last: bigint;
  readonly width: number;
}

function interval(prefix: string): Interval {
  const [address = '', digits] = prefix.split('/');
  const width = address.includes(':') ? 128 : 32;
  const first = value(address);
  return { first, last: first + (1n << BigInt(width - Number(digits))) - 1n, width };
}

const overlap = (x: Interval, y: Interval) =>
  x.width === y.width && x.first <= y.last && y.first <= x.last;

const special = [...specialPurpose.v4, ...specialPurpose.v6];
const blocks = special.map(interval);
const space = interval(globalUnicastV6);

describe('special-purpose space', () => {
  test('is canonical, and nothing in it is public to ipaddr.js', () => {
    for (const block of special) {
      expect(canonical(block)?.text).toBe(block);
      const [address = ''] = block.split('/');
      expect(ipaddr.parse(address).range()).not.toBe('unicast');
    }
  });

  test('has everything that ipaddr.js knows, or it is outside the public IPv6 space', () => {
    const texts = [ipaddr.IPv4, ipaddr.IPv6].flatMap((kind) => {
      const known: Record<string, unknown[][]> = Reflect.get(kind.prototype, 'SpecialRanges');
      return Object.values(known)
        .flatMap((ranges) => (Array.isArray(ranges[0]) ? ranges : [ranges]))
        .map(([address, length]) => `${String(address)}/${String(length)}`);
    });
    expect(texts.length).toBeGreaterThan(30);
    const missing = texts.filter((text) => {
      const range = interval(text);
      if (range.width === 128 && !overlap(range, space)) return false;
      return !blocks.some((block) => block.first <= range.first && range.last <= block.last);
    });
    expect(missing).toEqual([]);
  });
});
