/** Regular expressions of nginx, against those of JavaScript where both mean the same. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { compile, Unreadable } from '../../../renderers/nginx/pattern.ts';
import { cases } from '../../helpers/hostile.ts';
import { patterns } from '../../helpers/nginx-patterns.ts';

const plenty = () => ({ left: 1_000_000 });
const matches = (pattern: string, text: string, ignoreCase = false): boolean =>
  compile(pattern, ignoreCase, plenty())(text);

describe('a pattern', () => {
  test.each(patterns)('%s on %s: %s', (pattern, text, expected) => {
    expect(matches(pattern, text)).toBe(expected);
  });

  test('may leave the case of letters open', () => {
    expect(matches('^2400:CB00', '2400:cb00::', true)).toBe(true);
    expect(matches('^2400:[^C]', '2400:cb00::', true)).toBe(false);
    expect(matches('^2400:CB00', '2400:cb00::')).toBe(false);
  });

  // PCRE takes these, or takes them in another sense than JavaScript.
  test.each([
    '1++',
    '(?>1)2',
    '(?<=1)2',
    '(1)\\1',
    '\\Q1.2\\E',
    '[[:digit:]]',
    '\\h',
    '(*UTF)1',
    '(?x) 1',
    '1(?i)a',
    '[\\b]',
    'a)',
    '(a',
    '[a',
    'a\\',
    '**',
    `${'('.repeat(100)}${')'.repeat(100)}`,
  ])('that has %s is not read', (pattern) => {
    expect(() => compile(pattern, false, plenty())).toThrow(Unreadable);
  });

  test.each([
    ['(.*)*x', 'a'.repeat(39), false],
    [`${'(?:'.repeat(40)}.*${')*'.repeat(40)}x`, 'a'.repeat(39), false],
    [`${'1?'.repeat(40)}${'1'.repeat(40)}`, '1'.repeat(39), false],
    ['(1{65535}){65535}', '1'.repeat(39), false],
    [`${'.*'.repeat(2000)}x`, 'a'.repeat(39), false],
    [`${'.*'.repeat(40_000)}x`, 'a'.repeat(39), 'too many'],
  ] as const)('takes a limited number of steps: %.20s', (pattern, text, expected) => {
    const effort = plenty();
    const matching = compile(pattern, false, effort);
    const answer = (): boolean | 'too many' => {
      try {
        return matching(text);
      } catch (error) {
        if (error instanceof Unreadable) return 'too many';
        throw error;
      }
    };
    expect(answer()).toBe(expected);
    expect(effort.left).toBeGreaterThan(-100);
  });

  test('answers as the same pattern of JavaScript', () => {
    const atom = fc.oneof(
      fc.constantFrom(
        '1',
        '2',
        ':',
        '\\.',
        '.',
        '\\d',
        '\\D',
        '\\w',
        '[12]',
        '[^1.]',
        '[0-2a]',
        '^',
        '$',
        '\\b',
      ),
      fc.constantFrom('(?=1)', '(?!2)', '(?:)'),
    );
    const { all } = fc.letrec<{ all: string; part: string }>((tie) => ({
      part: fc.oneof(
        { maxDepth: 3 },
        atom,
        fc
          .tuple(fc.constantFrom('(', '(?:', '(?!', '(?='), tie('all'))
          .map(([open, text]) => `${open}${text})`),
      ),
      all: fc
        .array(
          fc.tuple(
            tie('part'),
            fc.constantFrom('', '', '', '*', '+', '?', '{2}', '{1,2}', '{0,}', '*?', '|'),
          ),
          { maxLength: 4 },
        )
        .map((list) =>
          // JavaScript has no quantifier for what takes no character.
          list
            .map(([part, sign]) =>
              /^(?:\^|\$|\\b|\(\?[=!])/.test(part) && sign !== '|' ? part : part + sign,
            )
            .join(''),
        ),
    }));
    const text = fc.string({ unit: fc.constantFrom('1', '2', ':', '.', 'a'), maxLength: 8 });
    fc.assert(
      fc.property(all, text, (pattern, subject) => {
        expect(matches(pattern, subject), pattern).toBe(new RegExp(pattern, 'u').test(subject));
      }),
      cases(3000),
    );
  });
});
