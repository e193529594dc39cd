import { describe, expect, it } from 'vitest';
import { edit, parseRules } from '../../../renderers/ufw/rules.ts';
import type { FileStep } from '../../../src/renderer.ts';
import { sections, type Case } from '../../fixtures/ufw/hosts.ts';
import { four, observe, rules, wantOn } from './given.ts';

describe('where our rules stand', () => {
  const blocks = (name: Case) => observe(name).then(({ owned }) => owned.v4.blocks);
  const order = (text: string) =>
    [...text.matchAll(/^### tuple ### (\S+) \S+ \S+ \S+ any (\S+)/gm)].map(
      (m) => `${m[1]} ${m[2]}`,
    );
  const tuple = (words: string, rule: string) =>
    `\n### tuple ### ${words}\n-A ufw-user-input ${rule}\n`;
  const ban = tuple('deny any any 0.0.0.0/0 any 198.41.128.7 in', '-s 198.41.128.7 -j DROP');
  const wall = tuple('deny tcp 443 0.0.0.0/0 any 0.0.0.0/0 in', '-p tcp --dport 443 -j DROP');
  const head = (text: string, first: string) =>
    text.replace('### RULES ###\n', `### RULES ###\n${first}`);

  it('right below the line RULES, where nothing speaks against it', async () => {
    const { steps } = await wantOn('admin');
    expect(order((steps[0] as FileStep).content!).slice(0, 3)).toEqual([
      'allow 173.245.48.0/20',
      'allow 198.41.128.0/17',
      'allow 0.0.0.0/0',
    ]);
  });

  it('behind bans and before what would make them worthless', async () => {
    const { steps } = await wantOn('denied');
    expect(order((steps[0] as FileStep).content!)).toEqual([
      'deny 173.245.48.10',
      'allow 173.245.48.0/20',
      'allow 198.41.128.0/17',
      'allow 0.0.0.0/0',
      'reject 0.0.0.0/0',
      'deny 192.0.2.9',
    ]);
  });

  it('where they are, when the admin put other rules before or between them', async () => {
    const text = sections('ours')[rules]!;
    const between = text.replace(/(?=\n### tuple ### allow tcp 80,443 \S+ any 198)/, ban);
    for (const now of [head(text, ban), between]) {
      const { steps } = await wantOn('ours', {}, { [rules]: now });
      expect(steps).toEqual([]);
      const more = { v4: [...four.v4, '203.0.113.0/24'], v6: four.v6 };
      const next = (await wantOn('ours', { ranges: more }, { [rules]: now })).steps[0] as FileStep;
      expect(next.content!.replace(/\n### tuple ### \S+ \S+ \S+ \S+ any 203.*\n.*\n/, '')).toBe(
        now,
      );
      // Bans stay in front of what they are about.
      const seen = order(next.content!);
      expect(seen.indexOf('deny 198.41.128.7')).toBeLessThan(seen.indexOf('allow 198.41.128.0/17'));
    }
  });

  it('above a new rule that would make them worthless', async () => {
    const text = sections('ours')[rules]!;
    const { steps } = await wantOn('ours', {}, { [rules]: head(text, ban + wall) });
    expect((steps[0] as FileStep).content).toBe(
      text
        .replace('### RULES ###\n', `### RULES ###\n${ban}`)
        .replace(/(\n### tuple ### allow tcp 80,443 \S+ any 198.*\n.*\n)/, `$1${wall}`),
    );
  });

  it('above a rule that shuts one of our prefixes out as a whole', async () => {
    const text = sections('ours')[rules]!;
    const deny = tuple('deny any any 0.0.0.0/0 any 198.0.0.0/8 in', '-s 198.0.0.0/8 -j DROP');
    const { steps } = await wantOn('ours', {}, { [rules]: head(text, deny) });
    expect(order((steps[0] as FileStep).content!).slice(0, 3)).toEqual([
      'allow 173.245.48.0/20',
      'allow 198.41.128.0/17',
      'deny 198.0.0.0/8',
    ]);
  });

  it('in the shipped file, which has no END RULES, and out of it again', async () => {
    const shipped = sections('inactive')[rules]!;
    expect(shipped).not.toContain('END RULES');
    const { steps } = await wantOn('inactive');
    const text = (steps[0] as FileStep).content!;
    expect(edit(parseRules(text, rules), [])).toBe(shipped);
    expect(edit(parseRules(text, rules), await blocks('ours'))).toBe(text);
  });
});
