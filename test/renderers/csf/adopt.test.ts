import { describe, expect, it } from 'vitest';
import csf from '../../../renderers/csf/index.ts';
import {
  chainOf,
  effectiveLines,
  entriesIn,
  includes,
  ruleOf,
} from '../../../renderers/csf/lines.ts';
import { digest } from '../../../src/digest.ts';
import { merge, parseRanges } from '../../../src/prefix.ts';
import type { Step } from '../../../src/renderer.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { look, skeleton } from './given.ts';

describe('adopt', () => {
  const known = merge(bundled, parseRanges(['104.16.0.0/12']));
  const goal = desired({
    ranges: { v4: ['104.16.0.0/13', '173.245.48.0/20'], v6: ['2400:cb00::/32'] },
  });

  /** A host of which only the files and the two chains matter. */
  interface Csf {
    readonly files: Readonly<Record<string, string>>;
    /** Of both families, without `-A`. */
    readonly rules: readonly string[];
  }

  /** As a csf that loads these lists leaves it. */
  const started = (
    allow: string,
    ignore = '127.0.0.1\n',
    more: Record<string, string> = {},
  ): Csf => {
    const style = { in: '! -i lo', out: '! -o lo', accept: 'ACCEPT' };
    const files = { '/etc/csf/csf.allow': allow, '/etc/csf/csf.ignore': ignore, ...more };
    const lines = (text: string): string[] => [
      ...effectiveLines(text),
      ...includes(text).flatMap((name) => lines(files[name as keyof typeof files] ?? '')),
    ];
    const rules = lines(allow)
      .flatMap(entriesIn)
      .map((entry) => `${chainOf[entry.direction]} ${ruleOf(entry, style)}`);
    return { files, rules };
  };

  const observeOn = async ({ files, rules }: Csf, reload = false) => {
    const of = (v6: boolean): string =>
      skeleton(...rules.filter((rule) => rule.includes('::') === v6).map((rule) => `-A ${rule}`));
    return look(files, reload, { 'iptables-save': of(false), 'ip6tables-save': of(true) });
  };

  /** The same host after a step. */
  const after = ({ files, rules }: Csf, step: Step): Csf => {
    if (step.kind === 'file') {
      const { [step.path]: old, ...rest } = files;
      expect(step.expect).toBe(old === undefined ? null : digest(old));
      return {
        rules,
        files: step.content === null ? rest : { ...rest, [step.path]: step.content },
      };
    }
    const next = [...rules];
    for (const line of (step.command.stdin ?? '').split('\n')) {
      if (line.startsWith('-I ')) next.push(line.slice(3));
      if (!line.startsWith('-D ')) continue;
      const at = next.indexOf(line.slice(3));
      expect(at, line).toBeGreaterThanOrEqual(0);
      next.splice(at, 1);
    }
    return { files, rules: next };
  };
  const sorted = ({ files, rules }: Csf): Csf => ({ files, rules: rules.toSorted() });

  async function adopted(on: Csf, reload = false) {
    const seen = await observeOn(on, reload);
    const observed = csf.adopt!(seen, goal, known);
    const { owned, notices } = csf.want(goal, { reload }, observed.around);
    return { observed, before: observed.owned, owned, notices, steps: csf.plan(owned, observed) };
  }

  const allow = `# csf.allow
192.0.2.77 # office
173.245.48.0/20 # Cloudflare
tcp|in|d=80,443|s=173.245.48.0/20
tcp|in|d=443|s=104.16.0.0/12 # old
tcp:in:d=80_80:s=104.16.0.0/12
tcp|out|s=443|d=104.16.0.0/12\t# answers
d=443|s=2400:cb00::/32
2400:CB00::/32
tcp|in|d=22|s=192.0.2.0/24
tcp|in|d=443|s=192.0.2.0/24
tcp|in|d=80,443,8443|s=131.0.72.0/22
udp|in|d=443|s=131.0.72.0/22
tcp|out|d=443|d=131.0.72.0/22
tcp|in|s=131.0.72.0/22
131.0.72.0/22 # Included by hand
104.16.0.9
`;
  const ignore =
    '127.0.0.1\ntcp|in|d=443|s=173.245.48.0/20\n173.245.48.0/20\r\n104.16.0.0/12 # old\n8.8.8.0/24\n';
  const busy = started(allow, ignore);

  it('what scripts left', async () => {
    const { before, owned, notices, steps } = await adopted(busy);
    const done = steps.reduce(after, busy);
    const lines = [
      ...before.strays!.map(
        ({ text, prefixes, beyond }) =>
          `${text} (${prefixes.join()})${beyond === undefined ? '' : `: ends ${beyond}`}`,
      ),
      ...notices.map((n) => `${n.level}: ${n.text}`),
      ...steps.map((step) => `step: ${step.summary}`),
      ...['allow', 'ignore'].map((name) => `== csf.${name}\n${done.files[`/etc/csf/csf.${name}`]}`),
      '== rules',
      ...done.rules.toSorted(),
      ...csf.print(before).map(({ path, content }) => `== before: ${path}\n${content}`),
    ];
    golden('csf/adopted.txt', `${lines.join('\n')}\n`);
    const then = await adopted(done);
    expect(then.before.strays).toBeUndefined();
    expect(then.owned).toEqual(owned);
    expect(then.steps).toEqual([]);
    // What is in force is what CSF makes of the files.
    const { '/etc/csf/csf.allow': a, '/etc/csf/csf.ignore': b, ...more } = done.files;
    expect(sorted(done).rules).toEqual(sorted(started(a!, b, more)).rules);
  });

  it('never leaves a rule in the chains that no file names, nor Cloudflare out', async () => {
    const { steps } = await adopted(busy);
    let now = busy;
    for (const step of steps) {
      now = after(now, step);
      const { '/etc/csf/csf.allow': a, '/etc/csf/csf.ignore': b, ...more } = now.files;
      const named = started(a!, b, more).rules;
      expect(
        now.rules.filter((rule) => !named.includes(rule)),
        step.summary,
      ).toEqual([]);
      for (const prefix of ['173.245.48.0/20', '2400:cb00::/32'])
        expect(now.rules.join('\n'), step.summary).toContain(`ALLOWIN -s ${prefix}`);
    }
  });

  it('takes over what stands there and is not loaded, and loads it not on the way back', async () => {
    const cold = { ...busy, rules: busy.rules.filter((rule) => !rule.includes('104.16')) };
    const { before, steps } = await adopted(cold);
    const done = steps.reduce(after, cold);
    const back = csf.plan(before, await observeOn(done));
    expect(sorted(back.reduce(after, done))).toEqual(sorted(cold));
  });

  it.each([
    ['as it is', allow],
    ['without a last line end', allow.trimEnd()],
    ['with a stray at the end, which has none', `${allow}173.245.48.0/20`],
    ['with a stray twice', `${allow}173.245.48.0/20 # Cloudflare\n`],
    ['with CRLF', allow.replaceAll('\n', '\r\n')],
  ])('goes back to the same bytes and rules from every step (%s)', async (_, text) => {
    const on = started(text, ignore);
    for (const reload of [false, true]) {
      const { before, steps } = await adopted(on, reload);
      let now = on;
      for (const step of [undefined, ...steps]) {
        if (step !== undefined) now = after(now, step);
        const seen = await observeOn(now, false);
        for (const looked of [seen, csf.adopt!(seen, goal, known)]) {
          const end = csf.plan(before, looked).reduce(after, now);
          expect(sorted(end), step?.summary).toEqual(sorted(on));
        }
      }
    }
  });

  it('leaves every state alone that can be recorded', async () => {
    const ours = csf.want(goal, { reload: false }).owned;
    const applied = csf.plan(ours, await observeOn(busy)).reduce(after, busy);
    const { steps } = await adopted(applied);
    for (const on of [busy, applied, steps.reduce(after, applied)]) {
      const seen = await observeOn(on);
      for (const look of [seen, csf.adopt!(seen, goal, known)])
        expect(csf.plan(look.owned, look)).toEqual([]);
    }
  });

  it('goes back to ours and theirs, which both were there', async () => {
    const first = await adopted(started('192.0.2.77\n'));
    let on = first.steps.reduce(after, started('192.0.2.77\n'));
    for (const line of ['192.0.2.78', '173.245.48.0/20', 'tcp|in|d=80,443|s=173.245.48.0/20']) {
      const text = `${on.files['/etc/csf/csf.allow']}${line} # csf -a\n`;
      const loaded = started(`${line}\n`).rules;
      on = { files: { ...on.files, '/etc/csf/csf.allow': text }, rules: [...on.rules, ...loaded] };
    }
    const { before, steps } = await adopted(on);
    expect(before.strays).toHaveLength(2);
    const done = steps.reduce(after, on);
    expect(done.files['/etc/csf/csf.allow']).not.toContain('173.245');
    expect(done.rules.filter((rule) => rule.includes('-s 173.245'))).toHaveLength(1);
    const back = csf.plan(before, await observeOn(done)).reduce(after, done);
    expect(sorted(back)).toEqual(sorted(on));
  });

  it('keeps what the admin did meanwhile', async () => {
    const { before, steps } = await adopted(busy);
    const done = steps.reduce(after, busy);
    const text = `${done.files['/etc/csf/csf.allow']!.replace('192.0.2.77', '192.0.2.78')}131.0.72.0/22 # csf -a\n`;
    const edited = {
      rules: [...done.rules, ...started('131.0.72.0/22\n').rules],
      files: { ...done.files, '/etc/csf/csf.allow': text },
    };
    const looked = csf.adopt!(await observeOn(edited), goal, known);
    expect(looked.owned.strays).toHaveLength(1);
    const back = csf.plan(before, looked).reduce(after, edited);
    const lines = back.files['/etc/csf/csf.allow']!.split('\n').toSorted();
    const meant = allow.replace('192.0.2.77', '192.0.2.78');
    expect(lines).toEqual(`${meant}131.0.72.0/22 # csf -a\n`.split('\n').toSorted());
    expect(sorted(back).rules).toEqual(
      sorted({ ...busy, rules: [...busy.rules, ...started('131.0.72.0/22\n').rules] }).rules,
    );
  });

  it('takes their lines out before csf -r, where that loads the rules', async () => {
    const { steps } = await adopted(busy, true);
    const at = steps.findIndex(({ summary }) => summary === 'csf: csf -r');
    const { files } = steps.slice(0, at).reduce(after, busy);
    expect(files['/etc/csf/csf.allow']).not.toMatch(/Cloudflare|104\.16\.0\.0/);
    expect(steps.slice(at + 1)).toEqual([]);
  });

  it('takes no more rules away than their lines loaded', async () => {
    const extra = started('104.16.0.0/12\n173.245.48.0/20\n').rules;
    const { steps } = await adopted({ ...busy, rules: [...busy.rules, ...extra] });
    const without = (await adopted(busy)).steps.reduce(after, busy).rules;
    const { rules } = steps.reduce(after, { ...busy, rules: [...busy.rules, ...extra] });
    expect(rules.toSorted()).toEqual([...without, ...extra].toSorted());
  });

  it('leaves the end of the file such that nothing is lost with the block', async () => {
    const on = started('192.0.2.77\n173.245.48.0/20');
    const first = csf.plan(csf.want(goal, { reload: false }).owned, await observeOn(on));
    const ours = first.reduce(after, on);
    const { before, steps } = await adopted(ours);
    const done = steps.reduce(after, ours);
    const bare = csf.plan(csf.nothing, await observeOn(done)).reduce(after, done);
    expect(bare.files['/etc/csf/csf.allow']).toBe('192.0.2.77\n');
    const back = csf.plan(before, await observeOn(done)).reduce(after, done);
    expect(sorted(back)).toEqual(sorted(ours));
  });

  it('leaves plain addresses alone that CSF keeps in sets', async () => {
    const { before, notices } = await adopted({
      ...busy,
      files: { ...busy.files, '/etc/csf/csf.conf': 'IPV6 = "1"\nLF_IPSET = "1"\n' },
    });
    const plain = before.strays!.filter(({ beyond }) => beyond !== undefined);
    expect(plain).toEqual([]);
    expect(notices.map(({ text }) => text).join()).toContain(
      'because LF_IPSET keeps them in sets: 173.245.48.0/20 # Cloudflare; 2400:CB00::/32; tcp|in|d=80,443,8443',
    );
  });

  it('has nothing to do where nobody wrote anything', async () => {
    const seen = await observeOn(started('192.0.2.77\n'));
    const found = csf.adopt!(seen, goal, known);
    expect(found.owned).toEqual(seen.owned);
  });
});
