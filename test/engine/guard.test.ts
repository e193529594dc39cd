import { describe, expect, it } from 'vitest';
import { guard, type GuardInput } from '../../src/engine/guard.ts';
import { none, parseRanges } from '../../src/prefix.ts';

const ranges = (...list: string[]) => parseRanges(list);
const four = ['10.0.0.0/10', '10.64.0.0/10', '10.128.0.0/10', '10.192.0.0/10'];
const six = ['2400:cb00::/32', '2606:4700::/32', '2803:f800::/32', '2405:b500::/32'];

function judge(changes: Partial<GuardInput>) {
  return guard({
    held: ranges(...four, ...six),
    ranges: ranges(...four, ...six),
    extra: none,
    mayRemove: true,
    acceptLargeChange: false,
    ...changes,
  });
}

describe('guard', () => {
  it('lets the first apply through, whatever its size', () => {
    expect(judge({ held: none }).kind).toBe('go');
  });

  it('lets a loss of exactly a quarter through, and refuses more', () => {
    expect(judge({ ranges: ranges(...four.slice(1), ...six) })).toMatchObject({
      kind: 'go',
      ranges: ranges(...four.slice(1), ...six),
    });
    const more = judge({ ranges: ranges(...four.slice(1, 3), '10.192.0.0/11', ...six) });
    expect(more.kind).toBe('no loss');
  });

  it('measures each family by itself', () => {
    const verdict = judge({ ranges: ranges(...four, ...six.slice(2)) });
    expect(verdict).toMatchObject({ kind: 'no loss', why: expect.stringContaining('IPv6') });
  });

  it('takes the additions and keeps the old ranges when only the loss is refused', () => {
    const verdict = judge({ ranges: ranges(...four.slice(2), '11.0.0.0/10', ...six) });
    expect(verdict).toMatchObject({
      kind: 'no loss',
      ranges: ranges(...four, '11.0.0.0/10', ...six),
    });
  });

  it('lets a growth of exactly a half through, and refuses more', () => {
    expect(judge({ ranges: ranges(...four, '11.0.0.0/9', ...six) }).kind).toBe('go');
    const more = judge({ ranges: ranges(...four, '11.0.0.0/9', '12.0.0.0/24', ...six) });
    expect(more).toMatchObject({ kind: 'no change', why: expect.stringContaining('IPv4') });
  });

  it('lets everything through when a person says so', () => {
    const wide = ranges('11.0.0.0/8', '12.0.0.0/8', '13.0.0.0/8', ...six);
    expect(judge({ ranges: wide, acceptLargeChange: true })).toMatchObject({
      kind: 'go',
      ranges: wide,
    });
  });

  it('repairs drift back to what was applied, however large', () => {
    const applied = { ranges: ranges(...four, ...six), extra: none };
    expect(judge({ held: ranges(four[0]!, ...six), applied }).kind).toBe('go');
    expect(judge({ held: ranges(four[0]!, ...six) }).kind).toBe('no change');
  });

  it("counts the admin's own prefixes neither as growth nor as loss", () => {
    const extra = ranges('172.16.0.0/12', '192.168.0.0/16');
    const applied = { ranges: ranges(...four, ...six), extra };
    const held = ranges(...four, ...six, ...extra.v4);
    expect(judge({ held, applied })).toMatchObject({ kind: 'go', ranges: applied.ranges });
    expect(judge({ extra }).kind).toBe('go');
  });

  it("keeps a range that the admin's own prefixes cover as well", () => {
    const extra = ranges('10.0.0.0/8');
    const applied = { ranges: ranges(...four, ...six), extra };
    const verdict = judge({ applied, extra: none, ranges: ranges(...six), mayRemove: true });
    expect(verdict.kind).toBe('go');
  });

  describe('without leave to remove', () => {
    it('keeps what the backend holds, drift excepted', () => {
      const held = ranges(...four, ...six, '192.0.2.0/24');
      const known = ranges(...four, ...six);
      const verdict = judge({
        held,
        known,
        ranges: ranges(...four.slice(0, 1), ...six),
        mayRemove: false,
      });
      expect(verdict).toMatchObject({
        kind: 'go',
        ranges: ranges(...four, ...six),
        kept: ranges(...four.slice(1)),
      });
    });

    it('keeps all of it when nobody knows what was ever accepted', () => {
      const held = ranges(...four, ...six, '192.0.2.0/24');
      const verdict = judge({ held, ranges: ranges(...four, ...six), mayRemove: false });
      expect(verdict).toMatchObject({ kind: 'go', ranges: held, kept: ranges('192.0.2.0/24') });
    });
  });
});
