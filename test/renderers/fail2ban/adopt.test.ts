import { describe, expect, it } from 'vitest';
import fail2ban from '../../../renderers/fail2ban/index.ts';
import type { Fail2banAround } from '../../../renderers/fail2ban/state.ts';
import { merge, parseRanges } from '../../../src/prefix.ts';
import type { Step } from '../../../src/renderer.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { fixtures } from '../../helpers/fail2ban.ts';
import { golden } from '../../helpers/golden.ts';
import {
  early,
  fileSteps,
  isFinal,
  late,
  observe,
  said,
  text,
  wantOn,
  type Fixture,
} from './given.ts';

describe('adopt', () => {
  const known = merge(bundled, parseRanges(['104.16.0.0/12']));
  const local = '/etc/fail2ban/jail.local';

  async function adopted(changes: Partial<Fail2banAround> = {}) {
    const seen = await observe('leftovers');
    const around = { ...seen.around, ...changes };
    const observed = fail2ban.adopt!({ ...seen, around }, desired(), known);
    const { owned, notices } = fail2ban.want(desired(), {}, observed.around);
    const steps = fail2ban.plan(owned, observed);
    return { seen, observed, before: observed.owned, owned, notices, steps };
  }
  type Adopted = Awaited<ReturnType<typeof adopted>>;

  /** The host after some of the steps. */
  const after = ({ seen }: Adopted, steps: readonly Step[], files: Record<string, string> = {}) => {
    const written = Object.fromEntries(
      fileSteps(steps).map(({ path, content }) => [path, content]),
    );
    const theirs: Record<string, string> = Object.fromEntries(
      Object.entries(seen.around.files).map(([name, now]) => [
        name,
        written[`/etc/fail2ban/${name}`] ?? now,
      ]),
    );
    return {
      owned: { ...seen.owned, early: written[early] ?? null, late: written[late] ?? null },
      around: { ...seen.around, files: { ...theirs, ...files } },
    };
  };

  it('takes the ranges out, in one go with ours in', async () => {
    const { before, owned, notices, steps } = await adopted();
    const lines = [
      ...before.strays!.map((stray) => `${stray.text} (${stray.prefixes.join(' ')})`),
      ...notices.map((notice) => `${notice.level}: ${notice.text}`),
      ...said(steps).map((line) => `step: ${line}`),
      ...fileSteps(steps).map(({ path, content }) => `== ${path}\n${content}`),
      `== before\n${text(before)}== wanted\n${text(owned)}`,
    ];
    golden('fail2ban/adopted.txt', `${lines.join('\n')}\n`);
  });

  it('tries the whole of it before the first step', async () => {
    const { steps } = await adopted();
    const [first] = steps;
    expect(JSON.parse(first!.check!.stdin!)).toMatchObject({
      files: { 'jail.local': fileSteps(steps).find(({ path }) => path === local)!.content },
      jails: { labv: ['8.8.8.0/24', ...bundled.v4, ...bundled.v6] },
    });
  });

  it('goes back to the same bytes from every step, and marks the way', async () => {
    const all = await adopted();
    const old = all.seen.around.files;
    for (let n = 0; n <= all.steps.length; n++) {
      const done = all.steps.slice(0, n);
      const host = after(all, done);
      const looks = [host, fail2ban.adopt!(host, desired(), known)];
      for (const look of looks) {
        const back = fileSteps(fail2ban.plan(all.before, look));
        const theirs = back
          .filter(({ path }) => path !== late)
          .map(({ path, content }) => [path.slice('/etc/fail2ban/'.length), content]);
        expect({ ...host.around.files, ...Object.fromEntries(theirs) }).toEqual(old);
        const ours = back.filter(({ path }) => path === late).map(({ content }) => content);
        expect(ours.map((content) => content?.split('\n')[0] ?? null)).toEqual(
          host.owned.late === null
            ? []
            : ['# Not loaded yet; cfsync apply or cfsync remove goes on from here. Before:', null],
        );
      }
    }
  });

  it('leaves every state alone that can be recorded, and one that it came back to', async () => {
    const usable = fixtures.filter((name) => name !== 'broken' && name !== 'nobody') as Fixture[];
    for (const fixture of usable) {
      const { owned, observed } = await wantOn(fixture);
      for (const files of [observed.owned, owned, fail2ban.nothing]) {
        const { early: first, late: last } = files;
        const seen = { ...observed, owned: { ...observed.owned, early: first, late: last } };
        for (const look of [seen, fail2ban.adopt!(seen, desired(), known)]) {
          const left = said(fail2ban.plan(look.owned, look).filter((step) => !isFinal(step)));
          expect(left, fixture).toEqual([]);
        }
      }
    }
    // The admin has added a range since it was recorded: it stays as well.
    const { seen, owned } = await adopted();
    const applied = { ...seen, owned: { ...seen.owned, early: owned.early, late: owned.late } };
    const { owned: before, around } = fail2ban.adopt!(applied, desired(), known);
    const [first] = before.strays!;
    const later = { ...first!, values: ['103.22.200.0/22'], prefixes: ['103.22.200.0/22'] };
    const text = around.files[first!.file]!.replace('104.16.', '103.22.200.0/22 104.16.');
    const now = {
      owned: { ...before, strays: [...before.strays!, later] },
      around: { ...around, files: { ...around.files, [first!.file]: text } },
    };
    expect(text).not.toBe(around.files[first!.file]);
    for (const server of [null, around.server])
      expect(fail2ban.plan(before, { ...now, around: { ...now.around, server } })).toEqual([]);
  });

  it('puts the values to what the admin has written meanwhile', async () => {
    const all = await adopted();
    const now = after(all, all.steps);
    const edited = now.around.files['jail.local']!.replace(
      '203.0.113.77',
      '203.0.113.99 103.22.200.0/22',
    );
    const files = { 'jail.local': edited, 'jail.d/cf.conf': '[labx]\nignoreip = 8.8.8.0/24\n' };
    const looked = fail2ban.adopt!(after(all, all.steps, files), desired(), known);
    expect(looked.owned.strays!.map(({ values }) => values)).toEqual([['103.22.200.0/22']]);
    const back = fileSteps(fail2ban.plan(all.before, looked));
    expect(back.map(({ path }) => path)).not.toContain('/etc/fail2ban/jail.d/cf.conf');
    expect(back.find(({ path }) => path === local)!.content).toBe(
      edited
        .replace(
          'ignoreip =',
          'ignoreip = 173.245.48.0/20 104.16.0.0/12 2400:cb00::/32 2c0f:f248::/32 103.21.244.0/22',
        )
        .replace('ignoreip = %', 'ignoreip = 162.158.0.0/15 %'),
    );
  });

  it('marks a file of ours as not loaded even where none of them changes', async () => {
    const all = await adopted();
    const refers = 'ignoreip = %(known/ignoreip)s';
    const files = {
      'jail.local': all.seen.around.files['jail.local']!.replace(/ignoreip = 127[^[]*/, ''),
    };
    const seen = {
      owned: { ...all.seen.owned, early: all.owned.early, late: all.owned.late },
      around: { ...all.seen.around, files },
    };
    expect(files['jail.local']).toContain(refers);
    const traced = Object.fromEntries(
      Object.entries(seen.around.traced!).map(([jail, values]) => [
        jail,
        jail === 'labu' ? ['cfsync-0.invalid'] : values,
      ]),
    );
    const around = { ...seen.around, jails: [], defaults: null, traced };
    const observed = fail2ban.adopt!({ ...seen, around }, desired(), known);
    const { owned } = fail2ban.want(desired(), {}, observed.around);
    const settled = { ...observed, owned: { ...observed.owned, early: owned.early, late: null } };
    const steps = fail2ban.plan(owned, settled);
    expect(said(steps).slice(0, 4)).toEqual([
      `mark ${early} as not loaded yet`,
      `rewrite ${local}: Cloudflare's ranges leave ignoreip`,
      'reload the configuration',
      `write ${early}`,
    ]);
    const [mark] = fileSteps(steps);
    expect(mark!.content).toContain('\n# 162.158.0.0/15\n');
  });

  it('counts nothing where the values could not be followed, and says what is left', async () => {
    const { seen, observed, notices, steps } = await adopted({ traced: null });
    expect(observed.owned).toEqual(seen.owned);
    expect(notices.map((notice) => notice.text).join()).toContain(
      'left alone: jail labt ignores 173.245.48.0/20, 104.16.0.0/12, 2400:cb00::/32 and 2 more by',
    );
    expect(fileSteps(steps).map(({ path }) => path)).toEqual([late]);
  });

  it('leaves alone what a link leads to', async () => {
    const { before, steps } = await adopted({ links: ['jail.local'] });
    expect(new Set(before.strays!.map(({ file }) => file))).toEqual(new Set(['jail.d/cf.conf']));
    expect(fileSteps(steps).map(({ path }) => path)).not.toContain(local);
  });

  it('has nothing to do where nobody wrote anything', async () => {
    const seen = await observe('carried');
    const observed = fail2ban.adopt!(seen, desired(), known);
    expect(observed.owned).toEqual(seen.owned);
    expect(fail2ban.plan(observed.owned, observed)).toEqual([]);
  });
});
