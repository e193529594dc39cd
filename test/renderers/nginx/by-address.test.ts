/** What decides by the client's address: who is singled out, against a plain reckoning address by address. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { singling } from '../../../renderers/nginx/by-address.ts';
import { parse } from '../../../renderers/nginx/configuration.ts';
import { decisions } from '../../../renderers/nginx/decisions.ts';
import { parseRanges } from '../../../src/prefix.ts';
import { cases, expectLinear } from '../../helpers/hostile.ts';

const ranges = parseRanges(['198.18.5.16/28', '198.18.5.48/28']);

/** All blocks of a configuration that says this in http. */
const read = (text: string) => {
  const content = `http { ${text} }\n`;
  return decisions(parse([{ path: '/etc/nginx/nginx.conf', content }]).directives);
};
const named = (text: string) => singling(ranges)(read(text)[0]!);

/** The ranges of whose 16 addresses half or more has another value than 0. */
const expected = (valueAt: (host: number) => string): string[] =>
  [16, 48]
    .filter((start) => {
      const hosts = Array.from({ length: 16 }, (_, i) => valueAt(start + i));
      return hosts.filter((value) => value !== '0').length >= 8;
    })
    .map((start) => `198.18.5.${start}/28`);

describe('geo', () => {
  const line = fc
    .tuple(
      fc.integer({ min: 0, max: 63 }),
      fc.integer({ min: 26, max: 32 }),
      fc.constantFrom('0', '1', '2', null),
    )
    .map(([host, length, value]) => {
      const size = 2 ** (32 - length);
      return { first: host - (host % size), size, length, value };
    });
  type Line = { first: number; size: number; length: number; value: string | null };
  /** What counts of the lines, in their order. */
  const counting = (lines: readonly Line[]): readonly Line[] => {
    const left = new Map<string, Line>();
    for (const one of lines)
      if (one.value === null) left.delete(`${one.first}/${one.length}`);
      else left.set(`${one.first}/${one.length}`, one);
    return [...left.values()];
  };
  const valueAt = (lines: readonly Line[]) => {
    const sorted = [...counting(lines)].sort((a, b) => b.length - a.length);
    return (host: number) =>
      sorted.find(({ first, size }) => first <= host && host < first + size)?.value ?? '0';
  };

  test('gives an address the value of the longest network around it', () => {
    fc.assert(
      fc.property(fc.array(line, { maxLength: 12 }), (lines) => {
        const written = lines.map(({ first, length, value }) =>
          value === null
            ? `delete 198.18.5.${first}/${length};`
            : `198.18.5.${first}/${length} ${value};`,
        );
        const { ranges: found } = named(`geo $x { default 0; ${written.join(' ')} }`);
        expect(found).toEqual(expected(valueAt(lines)));
      }),
      cases(1000),
    );
  });

  test('takes a table of countries for what it is, and few values for a list', () => {
    const table = (countries: number): string =>
      Array.from({ length: countries }, (_, i) => `${i + 1}.0.0.0/24 c${i};`).join(' ');
    expect(named(`geo $x { 198.18.5.16/28 own; ${table(32)} }`).ranges).toEqual([]);
    expect(named(`geo $x { 198.18.5.16/28 own; ${table(31)} }`).ranges).toEqual(['198.18.5.16/28']);
  });

  test('does not take what a sixteenth of all addresses has for a sign of Cloudflare', () => {
    const beside = (prefix: string): string =>
      `geo $x { default 0; 198.18.5.16/28 1; ${prefix} 1; }`;
    expect(named(beside('16.0.0.0/4')).ranges).toEqual([]);
    expect(named(beside('16.0.0.0/5')).ranges).toEqual(['198.18.5.16/28']);
    // That all of IPv6 may enter says nothing about IPv4.
    expect(named(beside('::/0')).ranges).toEqual(['198.18.5.16/28']);
  });

  test('is not mistaken for its neighbour', () => {
    const two = read('geo $a { } geo $b { 198.18.5.16/28 1; } map $remote_addr $c { }');
    expect(two.map(({ lines }) => lines.length)).toEqual([0, 1, 0]);
  });

  test('is not read outside of http, and of other sources', () => {
    expect(
      read('geo $http_x $a { } geo $realip_remote_addr $b { } map $binary_remote_addr $c { }'),
    ).toEqual([]);
  });

  test('may be long', async () => {
    await expectLinear(
      (size) => {
        const lines = Array.from(
          { length: size },
          (_, i) => `${(i >> 8) & 255}.${i & 255}.${(i >> 16) & 255}.0/${24 + (i % 8)} ${i % 4};`,
        );
        named(`geo $x { ${lines.join('\n')} }`);
      },
      'lines',
      2000,
    );
  });
});

describe('map', () => {
  test('looks at literal addresses before patterns', () => {
    const hosts = fc.uniqueArray(fc.integer({ min: 0, max: 63 }), { maxLength: 64 });
    fc.assert(
      fc.property(hosts, hosts, (ones, zeros) => {
        const list = [
          ...ones.map((host) => `~^198\\.18\\.5\\.${host}$ 1;`),
          ...zeros.filter((host) => ones.includes(host)).map((host) => `198.18.5.${host} 0;`),
        ];
        const found = named(`map $remote_addr $x { default 0; ${list.join(' ')} }`).ranges;
        const value = (host: number): string =>
          ones.includes(host) && !zeros.includes(host) ? '1' : '0';
        expect(found).toEqual(expected(value));
      }),
      cases(300),
    );
  });

  test('tries its patterns in their order', () => {
    const text = (first: string, second: string): string =>
      `map $remote_addr $x { default 0; ${first} ${second} }`;
    const [all, mine] = ['~^198 0;', '~^198\\.18 1;'];
    expect(named(text(all, mine)).ranges).toEqual([]);
    expect(named(text(mine, all)).ranges).toEqual(['198.18.5.16/28', '198.18.5.48/28']);
  });

  test('with patterns that take too many steps is not known', () => {
    const slow = Array.from(
      { length: 8 },
      (_, i) => `~${'.*'.repeat(1000)}${'x'.repeat(i + 1)} 1;`,
    ).join(' ');
    expect(named(`map $remote_addr $x { default 0; ${slow} }`)).toEqual({
      ranges: [],
      unclear: 'its patterns take too many steps',
    });
  });
});

describe('by way of a variable', () => {
  const both = ['198.18.5.16/28', '198.18.5.48/28'];
  const pattern = '~^198\\.18\\.5\\. 1;';
  /** Of the last block. */
  const last = (text: string) => {
    const all = read(text);
    return all.length === 0 ? undefined : singling(ranges)(all.at(-1)!).ranges;
  };
  const values = Array.from({ length: 40 }, (_, i) => `${i + 1}.0.0.0/24 c${i};`).join(' ');
  /** So many values that it is no list of who may enter by itself. */
  const table = `geo $remote_addr $net { default none; ${values} ${both.map((range) => `${range} cf;`).join(' ')} }`;
  const classes = 'abcdefgh'
    .split('')
    .map((c) => `~^9${c} ${c};`)
    .join(' ');

  test.each([
    ['one that is set', `server { set $ip $remote_addr; } map $ip $x { default 0; ${pattern} }`],
    [
      'one in braces',
      `server { set $ip \${remote_addr}; } geo $ip $x { default 0; ${both.join(' 1; ')} 1; }`,
    ],
    ['one of one', 'server { set $b $a; set $a $remote_addr; if ($b ~ ^198\\.18\\.5\\.) { } }'],
    ['a table', `${table} map $net $x { default 0; cf 1; }`],
    [
      'a table behind it',
      `map $y $z { 1 0; } map $net $y { default 0; CF 1; } ${table} map $y $x { 1 a; }`,
    ],
    [
      'two lists',
      `${table} geo $office { default 0; 192.0.2.0/24 1; } map "$office:$net" $x { default 0; ~^1: 1; ~:cf$ 1; }`,
    ],
    ['the answer in an if', `${table} server { if ($net != cf) { return 403; } }`],
    [
      'a map of the address',
      `map $remote_addr $class { default z; ${classes} ~^198\\.18\\.5 cf; } map $class $x { default 0; cf 1; }`,
    ],
  ])('%s', (_, text) => {
    expect(last(text)).toEqual(both);
  });

  test('whether it is set', () => {
    const truth = table
      .replaceAll(' cf;', ' 1;')
      .replace('none', '0')
      .replaceAll(/ c\d+;/g, ' 0;');
    expect(last(`${truth} server { if ($net) { return 200; } }`)).toEqual(both);
  });

  test.each([
    [
      'has another origin as well',
      `server { set $ip $remote_addr; set $ip $http_x; } map $ip $x { ${pattern} }`,
    ],
    ['has another origin', `server { set $ip $http_x; } map $ip $x { ${pattern} }`],
    ['stands beside one', `server { set $ip $remote_addr; } map "$ip$http_x" $x { ${pattern} }`],
    ['reads itself', `map $x $x { ${pattern} } map $z $y { } map $y $z { }`],
  ])('is about something else when it %s', (_, text) => {
    expect(read(text)).toEqual([]);
  });

  test.each([false, true])(
    'through a chain takes its time, and no crash; reversed: %s',
    async (back) => {
      await expectLinear(
        (size) => {
          const maps = Array.from({ length: size }, (_, n) => {
            const i = back ? size - 1 - n : n;
            return `map ${i === 0 ? '$remote_addr' : `$m${i - 1}`} $m${i} { ${pattern} }`;
          });
          const found = read(maps.join(' '));
          expect(found.length).toBeLessThanOrEqual(10);
          for (const one of found) singling(ranges)(one);
        },
        'maps',
        500,
      );
    },
  );
});

describe('if', () => {
  const condition = (text: string) => read(`server { if ${text} { return 403; } }`);

  test.each([
    '($remote_addr ~ ^198\\.18\\.5\\.)',
    '( $remote_addr ~ ^198\\.18\\.5\\. )',
    '($remote_addr ~ "^198\\.18\\.5\\.")',
    '($remote_addr ~ "^198\\\\.18\\\\.5\\\\.")',
    "($remote_addr ~ '^(198\\.18\\.5\\.)')",
    '($remote_addr ~ ^(198\\.18\\.5\\.))',
    '($remote_addr !~ ^198\\.18\\.5\\.)',
    '($remote_addr ~* ^198\\.18\\.5\\.)',
    '($remote_addr !~* ^198\\.18\\.5\\.)',
  ])('%s singles them out', (text) => {
    const [found] = condition(text);
    expect(found!.lines).toEqual([]);
    expect(singling(ranges)(found!)).toEqual({ ranges: ['198.18.5.16/28', '198.18.5.48/28'] });
  });

  test.each(['($remote_addr = 198.18.5.17)', '($remote_addr != 198.18.5.17)', '($remote_addr)'])(
    '%s does not',
    (text) => {
      expect(singling(ranges)(condition(text)[0]!)).toEqual({ ranges: [] });
    },
  );

  test.each(['($http_x ~ ^198)', '($realip_remote_addr ~ ^198)', '(-f $remote_addr)', ''])(
    '%s is about something else',
    (text) => {
      expect(condition(text)).toEqual([]);
    },
  );
});
