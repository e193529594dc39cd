import { applyPatch } from 'diff';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { changed, unified } from '../../src/engine/diff.ts';

const labels = ['a', 'b'] as const;
const text = (lines: readonly string[]): string => lines.map((line) => `${line}\n`).join('');

describe('unified', () => {
  it('has three lines of context, and the numbers that patch needs', () => {
    const before = text(Array.from({ length: 20 }, (_, i) => `line ${i}`));
    const after = before.replace('line 2\n', 'line two\n').replace('line 15\n', '');
    expect(unified({ path: 'x', before, after }, labels)).toBe(
      [
        '--- a/x',
        '+++ b/x',
        '@@ -1,6 +1,6 @@',
        ' line 0',
        ' line 1',
        '-line 2',
        '+line two',
        ' line 3',
        ' line 4',
        ' line 5',
        '@@ -13,7 +13,6 @@',
        ' line 12',
        ' line 13',
        ' line 14',
        '-line 15',
        ' line 16',
        ' line 17',
        ' line 18',
        '',
      ].join('\n'),
    );
  });

  it('joins changes that share their context', () => {
    const before = text(Array.from({ length: 20 }, (_, i) => `line ${i}`));
    const hunks = (second: number): number =>
      unified(
        {
          path: 'x',
          before,
          after: before.replace('line 2\n', '').replace(`line ${second}\n`, ''),
        },
        labels,
      ).match(/^@@/gm)!.length;
    expect([hunks(6), hunks(8), hunks(12)]).toEqual([1, 1, 2]);
  });

  it('is empty when nothing differs', () => {
    expect(unified({ path: 'x', before: 'a\n', after: 'a\n' }, labels)).toBe('');
  });

  it('turns before into after, for any two texts', () => {
    const lines = fc.array(fc.constantFrom('a', 'b', 'c', 'd', 'e', '+x', '-y', ''), {
      maxLength: 30,
    });
    fc.assert(
      fc.property(lines, lines, (one, two) => {
        const [before, after] = [text(one), text(two)];
        const patch = unified({ path: 'x', before, after }, labels);
        expect(patch === '' ? before : applyPatch(before, patch)).toBe(after);
      }),
      { numRuns: 2000 },
    );
  });

  it('says the same as a search over all lines when most of them differ', () => {
    const before = text(Array.from({ length: 10_000 }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`));
    const after = text(Array.from({ length: 10_000 }, (_, i) => `11.${i >> 8}.${i & 255}.0/24`));
    const patch = unified({ path: 'x', before, after }, labels);
    expect(patch.match(/^-1/gm)).toHaveLength(10_000);
    expect(patch.match(/^\+1/gm)).toHaveLength(10_000);
    expect(patch.match(/^@@/gm)).toHaveLength(1);
  });
});

describe('changed', () => {
  it('lists the texts that differ, come or go, by path', () => {
    const before = [
      { path: 'b', content: '1\n' },
      { path: 'same', content: 's\n' },
    ];
    const after = [
      { path: 'same', content: 's\n' },
      { path: 'a', content: '2\n' },
    ];
    expect(changed(before, after)).toEqual([
      { path: 'a', before: '', after: '2\n' },
      { path: 'b', before: '1\n', after: '' },
    ]);
  });
});
