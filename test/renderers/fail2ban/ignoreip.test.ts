import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  entriesOf,
  going,
  renamed,
  settingsOf,
  withEntries,
  withoutEntries,
} from '../../../renderers/fail2ban/ignoreip.ts';

/** What is to go, in these tests. */
const isX = (_: unknown, { text }: { text: string }): boolean => text.startsWith('x');

/** Section and values of each setting. */
const read = (text: string) =>
  settingsOf(text).map((setting) => [
    setting.section,
    ...entriesOf(setting).map((entry) => entry.text),
  ]);

describe('what a file sets', () => {
  it.each([
    ['[a]\nignoreip = 1 2', [['a', '1', '2']]],
    [
      '[a]\nIgnoreIP:1,2 , 3\n[b]\nignoreip=4\n',
      [
        ['a', '1', '2', '3'],
        ['b', '4'],
      ],
    ],
    ['[a]\nignoreip =\t1\t2 ,\t3,4\t\n', [['a', '1\t2', '3', '4']]],
    ['[a]\nignoreip =\n  1\n\n\t2\n  # 3\n  ; 4\n  5 ; 6\nx = 7\n', [['a', '1', '2', '5']]],
    ['[a]\r\nignoreip = 1\r\n  2\r\n', [['a', '1', '2']]],
    ['[a]\nx = 1\n  ignoreip = 2\n', []],
    ['[a]\n  ignoreip = 1\n  x = 2\n    3\n', [['a', '1']]],
    ['[a]\nignoreip = 1\n  [b]\n  x = 2\n', [['a', '1', '[b]', 'x', '=', '2']]],
    ['[a]\nignoreip = 1;2 # 3\n', [['a', '1;2', '#', '3']]],
    ['[a]\nignoreip\n  1\n[b]\n# ignoreip = 2\nignoreips = 3\n', []],
    ['ignoreip = 1\n', []],
    [
      '[a]\nignoreip = 1\n[b]\n  2\nignoreip = 3',
      [
        ['a', '1'],
        ['b', '3'],
      ],
    ],
  ])('%j', (text, expected) => {
    expect(read(text)).toEqual(expected);
  });
});

describe('values that go', () => {
  it.each([
    ['ignoreip = x', 'ignoreip ='],
    ['ignoreip = x 1', 'ignoreip = 1'],
    ['ignoreip = 1 x', 'ignoreip = 1'],
    ['ignoreip = 1, x, 2', 'ignoreip = 1, 2'],
    ['ignoreip = 1  x1 x2,x3  2 x4 x5', 'ignoreip = 1  2'],
    ['ignoreip=x;y ; x', 'ignoreip= ; x'],
    ['ignoreip = 1\n  x # why\n  x #\n  2 x # why\n', 'ignoreip = 1\n  2 # why\n'],
    ['ignoreip = x,;y\n  1 x;y x,;y 2 ; x\n', 'ignoreip =\n  1 ; x\n'],
    ['ignoreip = 1,x,;y\n', 'ignoreip = 1\n'],
    ['ignoreip = x # 1', 'ignoreip = # 1'],
    ['ignoreip =\n  x1\n  x2 x3\n  1\n', 'ignoreip =\n  1\n'],
    ['ignoreip = x\n  x ; why\n\n  # x\n\t1, x\n', 'ignoreip =\n   ; why\n\n  # x\n\t1\n'],
    ['ignoreip = x\r\n  x\r\n  1 x\r\n', 'ignoreip =\r\n  1\r\n'],
    ['ignoreip = 1\n  x', 'ignoreip = 1\n'],
    ['ignoreip = 1\n  2\n', 'ignoreip = 1\n  2\n'],
    ['other = x\n', 'other = x\n'],
  ])('%j', (from, to) => {
    expect(withoutEntries(`[a]\n${from}`, isX)).toBe(`[a]\n${to}`);
    expect(read(withoutEntries(`[a]\n${from}`, isX)).flat()).not.toContain('x');
  });

  const pieces = fc.array(
    fc.constantFrom(
      ...'x1|x2|1|2|[b]|a| |  |,|;|#|=|\n|\n |\n\t|\r\n|\n\n|\n[s]\n'.split('|'),
      ...'\nignoreip = |\n  ignoreip = |\nother = '.split('|'),
    ),
    { maxLength: 40 },
  );
  const file = pieces.map((all) => `[a]\nignoreip = ${all.join('')}`);

  it('are those that are announced, in whatever file', () => {
    fc.assert(
      fc.property(file, (text) => {
        const bare = withoutEntries(text, isX);
        const stays = settingsOf(text).map((setting) => {
          const gone = going(setting, (entry) => isX(setting, entry));
          const rest = entriesOf(setting).filter((entry) => !gone.has(entry));
          return [setting.section, ...rest.map((entry) => entry.text)];
        });
        expect(read(bare)).toEqual(stays);
        expect(withoutEntries(bare, isX)).toBe(bare);
      }),
      { numRuns: 3000 },
    );
  });

  it('leave every other value where there are no comments', () => {
    fc.assert(
      fc.property(file, (all) => {
        const text = all.replaceAll(/[#;]/g, '');
        const others = read(text).map((values) => values.filter((value) => !value.startsWith('x')));
        expect(read(withoutEntries(text, isX))).toEqual(others);
      }),
      { numRuns: 3000 },
    );
  });
});

it('values are renamed where they stand', () => {
  const text = '[a]\nignoreip = 1 22\n  3 ; 1\n[b]\nignoreip=1\n';
  const entries = settingsOf(text).flatMap(entriesOf);
  const names = new Map(entries.map((entry, i) => [entry, `n${i}`]));
  expect(renamed(text, names)).toBe('[a]\nignoreip = n0 n1\n  n2 ; 1\n[b]\nignoreip=n3\n');
});

describe('values that come back', () => {
  it.each([
    ['[a]\nignoreip =\n', '[a]\nignoreip = x y\n'],
    ['[a]\nignoreip = 1 ; why\n  2\n', '[a]\nignoreip = x y 1 ; why\n  2\n'],
    ['[a]\nignoreip=1 y\n', '[a]\nignoreip= x 1 y\n'],
    ['[b]\nignoreip = 1\n', '[b]\nignoreip = 1\n'],
  ])('%j', (from, to) => {
    expect(withEntries(from, 'a', ['x', 'y'])).toBe(to);
  });
});
