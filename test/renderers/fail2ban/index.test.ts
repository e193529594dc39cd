import { describe, expect, it } from 'vitest';
import fail2ban from '../../../renderers/fail2ban/index.ts';
import { CfsyncError } from '../../../src/errors.ts';
import { parseRanges } from '../../../src/prefix.ts';
import type { Desired } from '../../../src/renderer.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { early, late, observe, said, text, wantOn, type Fixture } from './given.ts';

describe('render', () => {
  const cases: [string, Partial<Desired>][] = [
    ['default', {}],
    ['v4-only', { ranges: { v4: bundled.v4, v6: [] } }],
    ['one-prefix', { ranges: parseRanges(['2400:cb00::/32']) }],
    // A list has no mode, no ports and no extra prefixes.
    ['default', { mode: 'lockdown', tcpPorts: [443], udpPorts: [443] }],
    ['default', { extra: parseRanges(['10.1.0.0/16']) }],
  ];
  it.each(cases)('%s', (name, changes) => {
    for (const _ of ['once', 'again']) {
      const { owned, notices } = fail2ban.want(desired(changes), {});
      expect(notices).toEqual([]);
      golden(`fail2ban/${name}.txt`, text(owned));
    }
  });

  it('prints nothing for a host that cfsync never touched', async () => {
    expect(fail2ban.print(fail2ban.nothing)).toEqual([]);
    expect(fail2ban.print((await observe('plain')).owned)).toEqual([]);
  });
});

describe('options', () => {
  it('are none', () => {
    expect(fail2ban.options({})).toEqual({});
    expect(() => fail2ban.options({ chain: 'auto' })).toThrow(CfsyncError);
  });
});

describe('want', () => {
  const cases: Fixture[] = ['plain', 'known', 'overridden', 'sections', 'empty', 'stopped'];
  it.each(cases)('on the host %s', async (fixture) => {
    for (const _ of ['once', 'again']) {
      const { owned, notices, steps } = await wantOn(fixture);
      expect(owned.ranges).toEqual(bundled);
      const lines = [
        ...notices.map((notice) => `${notice.level}: ${notice.text}`),
        ...said(steps).map((line) => `step: ${line}`),
      ];
      golden(`fail2ban/host-${fixture}.txt`, `${lines.join('\n')}\n${text(owned)}`);
    }
  });

  it('reads back what it writes, in both files', async () => {
    for (const fixture of ['plain', 'sections'] as const) {
      const { owned } = await wantOn(fixture);
      const { early: first, late: last } = owned;
      const files = { ...(first && { [early]: first }), ...(last && { [late]: last }) };
      expect((await observe(fixture, files)).owned.ranges).toEqual(bundled);
    }
  });

  it('takes a large list', async () => {
    const entries = Array.from({ length: 20_000 }, (_, i) => `20.${i >> 8}.${i & 255}.0/25`);
    const ranges = parseRanges(entries);
    const { owned, steps } = await wantOn('sections', { ranges });
    const files = { [late]: owned.late! };
    expect((await observe('sections', files)).owned.ranges).toEqual(ranges);
    expect(steps).toHaveLength(3);
  });
});
