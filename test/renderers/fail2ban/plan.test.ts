import { describe, expect, it } from 'vitest';
import fail2ban from '../../../renderers/fail2ban/index.ts';
import { digest } from '../../../src/digest.ts';
import { none, parseRanges } from '../../../src/prefix.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { early, fileSteps, isFinal, late, observe, said, wantOn } from './given.ts';

describe('plan', () => {
  it('is empty once applied, in both forms', async () => {
    for (const fixture of ['applied', 'carried', 'known'] as const)
      expect((await wantOn(fixture)).steps).toEqual([]);
    expect(fail2ban.plan(fail2ban.nothing, await observe('plain'))).toEqual([]);
  });

  it('writes a first file in one step, and lifts bans after the reload', async () => {
    const { steps } = await wantOn('plain');
    expect(said(steps)).toEqual([
      `write ${early}`,
      'reload the configuration',
      'lift what is banned of the ranges by then',
    ]);
    expect(steps[0]).toMatchObject({ expect: null, mode: 0o644 });
    expect(steps.map(isFinal)).toEqual([false, false, true]);
  });

  it('checks everything before the first step, and only there', async () => {
    for (const fixture of ['plain', 'overridden', 'sections', 'lagging'] as const) {
      const { steps } = await wantOn(fixture);
      expect(steps.map((step) => step.check !== undefined)).toEqual(steps.map((_, i) => i === 0));
    }
    const { steps } = await wantOn('sections');
    const expected = JSON.parse(steps[0]!.check!.stdin!) as unknown;
    expect(expected).toMatchObject({
      running: true,
      jails: {
        labt: [
          '127.0.0.1/8',
          '203.0.113.77',
          '#',
          'office',
          'fe80::1%eth0',
          ...bundled.v4,
          ...bundled.v6,
        ],
        labu: ['203.0.113.1', ...bundled.v4, ...bundled.v6],
      },
    });
  });

  it('reloads a server that lags behind, and touches no file', async () => {
    expect(said((await wantOn('lagging')).steps)).toEqual([
      'reload the configuration',
      'lift what is banned of the ranges by then',
    ]);
  });

  it('writes no command while the server does not run', async () => {
    for (const fixture of ['stopped', 'stale'] as const)
      expect(said((await wantOn(fixture)).steps)).toEqual([`write ${early}`]);
  });

  it('deletes in two steps around the reload', async () => {
    const observed = await observe('applied');
    const steps = fail2ban.plan(fail2ban.nothing, observed);
    expect(said(steps)).toEqual([
      `mark ${early} as not loaded yet`,
      'reload the configuration',
      `delete ${early}`,
    ]);
    const [marked, gone] = fileSteps(steps);
    expect(marked).toMatchObject({ expect: digest(observed.owned.early!) });
    expect(marked!.content).toMatch(/^# Not loaded yet;/);
    expect(marked!.content).not.toMatch(/^[^#\n]/m);
    expect(gone).toMatchObject({ content: null, expect: digest(marked!.content!) });
  });

  it('goes on after a removal that was cut off, and takes nothing of ours for the admin', async () => {
    const [marked] = fileSteps(fail2ban.plan(fail2ban.nothing, await observe('applied')));
    const host = { [early]: marked!.content! };
    const observed = await observe('applied', host);
    // Nothing of ours is in the configuration by now, but the server has it still.
    const around = { ...observed.around, effective: { labt: [] } };
    expect(said(fail2ban.plan(fail2ban.nothing, { ...observed, around }))).toEqual([
      `mark ${early} as not loaded yet`,
      'reload the configuration',
      `delete ${early}`,
    ]);
    expect(observed.owned.ranges).toEqual(none);
  });

  it('writes the file that takes over before it deletes the other', async () => {
    const { steps } = await wantOn('overridden');
    expect(said(steps)).toEqual([
      `write ${late}`,
      `mark ${early} as not loaded yet`,
      'reload the configuration',
      `delete ${early}`,
      'lift what is banned of the ranges by then',
    ]);
  });

  it('keeps what was ignored at run time only', async () => {
    const { steps } = await wantOn('bans');
    expect(steps).toContainEqual(
      expect.objectContaining({
        command: {
          argv: [
            'fail2ban-client',
            'set',
            'labt',
            'addignoreip',
            '203.0.113.128/25',
            '203.0.113.5',
          ],
          timeout: 120_000,
        },
      }),
    );
    expect(said(steps).indexOf('reload the configuration')).toBe(1);
    expect(said(steps)[2]).toContain('203.0.113.5');
  });

  it('lifts bans inside the ranges, and tells of wider ones', async () => {
    const { steps, notices } = await wantOn('bans');
    expect(said(steps).at(-1)).toBe(
      'lift 3 bans: 173.245.48.10 (jail labt), 2400:cb00::10 (jail labt), 173.245.49.0/24 (jail labt)',
    );
    expect(steps.at(-1)).toMatchObject({
      final: true,
      ifLeft: true,
      command: { argv: ['fail2ban-client', 'unban', ...bundled.v4, ...bundled.v6] },
    });
    expect(notices.map(({ level }) => level)).toEqual(['warning', 'warning']);
    expect(notices[1]!.text).toContain('1 ban: 172.0.0.0/8 (jail labt)');
    const { notices: few } = await wantOn('bans', { ranges: parseRanges(['173.245.49.128/25']) });
    expect(few.map((notice) => notice.text).join()).toContain('1 ban: 173.245.49.0/24 (jail labt)');
  });

  it('lifts a ban made by hand without a reload', async () => {
    const observed = await observe('applied');
    const server = observed.around.server!.map((jail) => ({ ...jail, bans: ['2400:cb00::10'] }));
    const steps = fail2ban.plan(observed.owned, {
      ...observed,
      around: { ...observed.around, server },
    });
    expect(said(steps)).toEqual(['lift 1 ban: 2400:cb00::10 (jail labt)']);
  });

  it('puts recorded bytes back, unless the admin has changed his part since', async () => {
    const before = (await observe('carried')).owned;
    const tampered = { ...before, late: `${before.late}    198.51.100.0/24\n` };
    expect(fileSteps(fail2ban.plan(tampered, await observe('carried'))).at(-1)!.content).toBe(
      tampered.late,
    );
    const steps = fileSteps(fail2ban.plan(before, await observe('sections')));
    expect(steps.at(-1)!.content).toContain(
      'ignoreip = 127.0.0.1/8 203.0.113.77 # office fe80::1%%eth0',
    );
  });

  const odd = ['198.51.100.7\t198.51.100.8', '\u001b[2J', 'a\rb', '\ud800'];

  /** A host with files of ours, and this among what the admin ignores. */
  const ignoring = async (value: string) => {
    const { owned, around } = await observe('carried');
    const defaults = ['127.0.0.1/8', value];
    const beside = { ...owned.beside, DEFAULT: defaults };
    return { owned: { ...owned, beside }, around: { ...around, defaults } };
  };

  it.each(odd)('goes away and goes back whatever the admin ignores: %j', async (value) => {
    const now = await ignoring(value);
    const gone = fileSteps(fail2ban.plan(fail2ban.nothing, now));
    expect(gone.some(({ content }) => content === null)).toBe(true);
    const before = { ...now.owned, beside: {}, late: `${now.owned.late}    198.51.100.0/24\n` };
    expect(fileSteps(fail2ban.plan(before, now)).length).toBeGreaterThan(0);
  });

  it.each(odd.slice(0, 2))('repeats %j next to the ranges', async (value) => {
    const { around } = await ignoring(value);
    expect(fail2ban.want(desired(), {}, around).owned.late).toContain(` ${value}\n`);
  });

  it.each(odd.slice(2))('refuses what no file can hold: %j', async (value) => {
    const { around } = await ignoring(value);
    expect(() => fail2ban.want(desired(), {}, around)).toThrow(
      'which cfsync cannot repeat next to the ranges',
    );
  });

  it('says that a tab parts nothing', async () => {
    const { around } = await observe('plain');
    const defaults = ['198.51.100.7\t198.51.100.8'];
    const { notices } = fail2ban.want(desired(), {}, { ...around, defaults });
    expect(notices.map(({ text }) => text)).toContainEqual(
      expect.stringMatching(/^ignoreip has 198\.51\.100\.7 TAB 198\.51\.100\.8: /),
    );
  });
});
