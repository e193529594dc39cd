import { describe, expect, it } from 'vitest';
import { count, escape, firstLines, jsonText, number, suggest, wrap } from '../src/text.ts';

describe('escape', () => {
  it('shows control characters instead of sending them to a terminal', () => {
    expect(escape('a\u001b[2Jb\r\nc\u202ed\td')).toBe('a\\u001b[2Jb\\u000d\\u000ac\\u202ed d');
  });

  it('leaves ordinary text alone', () => {
    expect(escape('104.16.0.0/13 für ✓')).toBe('104.16.0.0/13 für ✓');
  });
});

describe('jsonText', () => {
  it('has nothing in it that steers a terminal or turns a line around, and the same values', () => {
    const value = { 'a\u202eb': ['\u009b2J', '\u007f', 'x\n\u2028y', '\u{e0001}', 'für ✓ 😀'] };
    const text = jsonText(value, 2);
    expect(text.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
    expect(text).toContain('für ✓ 😀');
    expect(JSON.parse(text)).toEqual(value);
    expect(jsonText(value)).not.toContain('\n');
  });
});

describe('number', () => {
  it.each([
    [0, '0'],
    [262_144, '262,144'],
    [1_524_736, '1,524,736'],
    [2n ** 96n, '2^96'],
    [2n ** 96n + 1n, 'about 2^96'],
  ])('%s', (value, text) => {
    expect(number(value)).toBe(text);
  });
});

describe('count', () => {
  it('agrees in number', () => {
    expect([count(1, 'file'), count(2, 'file'), count(0, 'prefix', 'prefixes')]).toEqual([
      '1 file',
      '2 files',
      '0 prefixes',
    ]);
  });
});

describe('suggest', () => {
  it('names a near word and never a far one', () => {
    expect(suggest('nftable', ['ufw', 'nftables'])).toBe(' (did you mean nftables?)');
    expect(suggest('banana', ['ufw', 'nftables'])).toBe('');
  });
});

describe('firstLines', () => {
  it('keeps a few lines with something in them, fit to be printed', () => {
    expect(firstLines('\n a\n\n\u001bb\nc\n', 2)).toEqual([' a', '\\u001bb']);
  });
});

describe('wrap', () => {
  it('breaks at blanks and keeps a long word whole', () => {
    expect(wrap('one two three-and-more four', 8)).toEqual(['one two', 'three-and-more', 'four']);
    expect(wrap('one two', Number.POSITIVE_INFINITY)).toEqual(['one two']);
  });
});
