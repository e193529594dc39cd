import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import iptables from '../../../renderers/iptables/index.ts';
import { parseSave } from '../../../src/filters/iptables/save.ts';
import { parseRanges } from '../../../src/prefix.ts';
import type { Desired, RunStep } from '../../../src/renderer.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { hostWith, jump, printed, wantOn, type Situation } from './host.ts';

describe('adopt', () => {
  const known = parseRanges([...bundled.v4, ...bundled.v6, '104.16.0.0/12', '199.27.128.0/21']);
  const sets = ['cloudflare', 'mixed', 'exceptions'];
  const ipsets = Object.fromEntries(
    sets.map((name) => [`ipset save ${name}`, printed(`${name}.ipset`)]),
  );

  async function adoptOn(situation: Situation, changes: Partial<Desired> = {}) {
    const options = iptables.options({});
    const host = hostWith({ ...situation, answers: { ...ipsets, ...situation.answers } });
    const now = await iptables.observe(host, options);
    const observed = iptables.adopt!(now, desired(changes), known);
    const { owned, notices } = iptables.want(desired(changes), options, observed.around);
    const steps = iptables.plan(owned, observed) as readonly RunStep[];
    return { now, observed, owned, notices: notices.map((n) => n.text).join('\n'), steps };
  }

  it('finds what lets Cloudflare in on the ports, or on all of them', async () => {
    const { observed } = await adoptOn({ v4: printed('leftovers.save') });
    const every = 'they reach every other port as well';
    const found = observed.owned.strays!.map((s) => [s.text, ...(s.beyond ? [s.beyond] : [])]);
    expect(found).toEqual([
      ['iptables -A INPUT -s 173.245.48.0/20 -j ACCEPT', every],
      ['iptables -A INPUT -s 104.16.0.0/12 -p tcp -m tcp --dport 443 -j ACCEPT'],
      ['iptables -A INPUT -s 104.16.0.0/12 -p tcp -m tcp --dport 443 -j ACCEPT'],
      [
        String.raw`iptables -A INPUT -s 104.16.0.0/12 -p tcp -m multiport --dports 80,443 -m comment --comment "\"Cloudflare\" -j DROP" -j ACCEPT`,
      ],
      [
        'iptables -A INPUT -s 199.27.128.0/21 -p tcp -m state --state NEW,ESTABLISHED -m tcp --dport 80 -j ACCEPT',
      ],
      [
        'iptables -A INPUT -s 103.21.244.0/22 -p tcp -m conntrack --ctstate NEW -j ACCEPT',
        'they reach every other TCP port as well',
      ],
      [
        'iptables -A INPUT -p tcp -m set --match-set cloudflare src -m multiport --dports 80,443 -j ACCEPT',
      ],
      // Every connection comes by eth0.
      ['iptables -A INPUT -s 103.21.244.0/22 -i eth0 -p tcp -m tcp --dport 443 -j ACCEPT'],
      ['iptables -A CLOUDFLARE -s 103.22.200.0/22 -j ACCEPT'],
      ['iptables -A CLOUDFLARE -s 103.31.4.0/22 -p tcp -m tcp --dport 443 -j ACCEPT'],
      ['iptables -A PANEL -s 103.31.4.0/22 -p tcp -m tcp --dport 443 -j ACCEPT'],
    ]);
    expect(observed.owned.strays!.map((s) => s.prefixes)[6]).toEqual([
      '104.16.0.0/12',
      '141.101.64.0/18',
      '173.245.48.0/20',
    ]);
  });

  it('knows other ports by the ports that are wanted', async () => {
    const situation = { v4: printed('leftovers.save') };
    const { observed, notices } = await adoptOn(situation, { udpPorts: [443] });
    const texts = (all: typeof observed): string => all.owned.strays!.map((s) => s.text).join('\n');
    expect(texts(observed)).toContain('-p udp -m udp --dport 443');
    expect(texts(observed)).toContain('-p udp -j ACCEPT');
    expect(notices).toContain('--dports 80,443,8443');
    const more = await adoptOn(situation, { tcpPorts: [80, 443, 2087, 8443] });
    expect(texts(more.observed)).toContain('--dports 80,443,8443');
    expect(texts(more.observed)).toContain('-A PANEL -s 103.22.200.0/22 -j ACCEPT');
    const range = Array.from({ length: 364 }, (_, i) => 80 + i);
    expect(texts(iptables.adopt!(more.now, desired({ tcpPorts: range }), known))).toContain(
      '--dport 80:443',
    );
  });

  it("says what stays: rules for other ports, a set that nobody uses, and the script's own files", async () => {
    const { notices } = await adoptOn({ v4: printed('leftovers.save') });
    expect(notices).toMatch(
      /open other ports stay as they are \(iptables -A INPUT .*--dports 80,443,8443 -j ACCEPT; .*; and 3 more\)/,
    );
    expect(notices).toContain('brings them back');
    expect(notices).toContain(
      'serves something else as well stays as it is (iptables -A INPUT -p tcp -m set --match-set mixed src -m tcp --dport 443 -j ACCEPT)',
    );
    // A rule that drops asks the set `cloudflare` as well.
    expect(notices).not.toContain('ipset destroy');
    const alone = printed('leftovers.save').replaceAll(/.*(! --match-set| dst ).*\n/g, '');
    expect((await adoptOn({ v4: alone })).notices).toContain('ipset destroy cloudflare');
  });

  it('leaves alone what UFW, CSF and firewalld wrote', async () => {
    for (const chain of ['ufw-user-input', 'LOCALINPUT', 'INPUT_ZONES']) {
      const v4 = printed('leftovers.save').replaceAll('PANEL', chain);
      const { observed } = await adoptOn({ v4 });
      expect(new Set(observed.owned.strays!.map((s) => s.chain))).toEqual(new Set(['INPUT']));
    }
  });

  it('is not fooled by names that every object has', async () => {
    const v4 = printed('leftovers.save').replaceAll('--match-set mixed', '--match-set constructor');
    const answers = { 'ipset save constructor': { code: 1, stdout: '', stderr: '' } };
    const { observed } = await adoptOn({ v4, answers });
    expect(observed.owned.strays).toHaveLength(11);
  });

  it('takes nothing of our own chains for theirs', async () => {
    const v4 = `*filter\n:INPUT DROP [0:0]\n:CFSYNC - [0:0]\n-A INPUT ${jump}\n-A CFSYNC -s 173.245.48.0/20 -j ACCEPT\nCOMMIT\n`;
    const { observed } = await adoptOn({ v4 });
    expect(observed.owned.strays).toEqual([]);
  });

  it('counts none of it where nobody asks', async () => {
    const { owned, observed, steps } = await wantOn({
      v4: printed('leftovers.save'),
      answers: ipsets,
    });
    expect([owned.strays, observed.owned.strays]).toEqual([undefined, undefined]);
    expect(steps[0]!.command.stdin).not.toContain('-D ');
  });

  it('takes all of it away in the transaction that brings ours', async () => {
    const { steps } = await adoptOn({ v4: printed('leftovers.save') });
    expect(steps.map((step) => step.summary)).toEqual([
      'iptables: iptables-restore',
      'iptables: ip6tables-restore',
    ]);
    golden('iptables/adopt.v4', steps[0]!.command.stdin!);
    // A set of the admin's is there, so the check may ask for it.
    expect(steps[0]!.check!.stdin).toContain('--match-set cloudflare src');
  });

  /** The chains of table filter as they are after a restore, in the syntax of iptables-save. */
  function restored(save: string, stdin: string): string {
    const [table] = parseSave(save, 'iptables-save');
    const chains = new Map(table!.chains.map(({ name }) => [name, [] as string[]]));
    for (const { chain, text } of table!.rules) chains.get(chain)!.push(text);
    for (const line of stdin.split('\n')) {
      const [, option, chain = '', rest = ''] = /^(-[ADICFX]|:)\s*(\S+)\s?(.*)/.exec(line) ?? [];
      const list = chains.get(chain) ?? [];
      const [, number = '1', rule = rest] = /^(\d+) (.*)/.exec(rest) ?? [];
      if (option === ':' || option === '-F') chains.set(chain, []);
      else if (option === '-X') chains.delete(chain);
      else if (option === '-A') list.push(rest);
      else if (option === '-I' && Number(number) <= list.length + 1)
        list.splice(Number(number) - 1, 0, rule);
      else if (option !== undefined) {
        const at = list.indexOf(rest);
        if (at < 0) throw new Error(`iptables-restore would refuse ${line}`);
        if (option === '-D') list.splice(at, 1);
      }
    }
    const policy = (name: string): string =>
      table!.chains.find((c) => c.name === name)?.policy ?? '-';
    const names = [...chains.keys()].sort();
    return [
      '*filter',
      ...names.map((name) => `:${name} ${policy(name)} [0:0]`),
      ...names.flatMap((name) => chains.get(name)!.map((rule) => `-A ${name} ${rule}`)),
      'COMMIT\n',
    ].join('\n');
  }

  const stdinOf = (steps: readonly unknown[]): string =>
    (steps as readonly RunStep[]).find((s) => s.command.argv[0] === 'iptables-restore')?.command
      .stdin ?? '';

  const rule = fc.constantFrom(
    ...['173.245.48.0/20', '104.16.0.0/12', '192.0.2.0/24'].map(
      (s) => `-s ${s} -p tcp -m tcp --dport 443 -j ACCEPT`,
    ),
    '-s 173.245.48.0/20 -j ACCEPT',
    '-s 192.0.2.0/24 -j DROP',
    '-i lo -j ACCEPT',
    '-p tcp -m tcp --dport 443 -j SCRIPT',
    jump,
    '-j REJECT --reject-with icmp-port-unreachable',
  );
  const layout = fc.record({
    input: fc.array(rule, { maxLength: 9 }),
    script: fc.array(
      rule.filter((r) => !r.includes(' SCRIPT') && r !== jump),
      { maxLength: 4 },
    ),
    policy: fc.constantFrom('ACCEPT', 'DROP'),
  });
  const saved = ({
    input,
    script,
    policy,
  }: {
    input: string[];
    script: string[];
    policy: string;
  }): string =>
    restored(
      `*filter\n:INPUT ${policy} [0:0]\n:CFSYNC - [0:0]\n:SCRIPT - [0:0]\nCOMMIT\n`,
      [...input.map((r) => `-A INPUT ${r}`), ...script.map((r) => `-A SCRIPT ${r}`)].join('\n'),
    );

  it('settles at once, and its way back leads to every rule of theirs in its place', async () => {
    await fc.assert(
      fc.asyncProperty(layout, async (chains) => {
        const before = saved(chains);
        const first = await adoptOn({ v4: before });
        const after = restored(before, stdinOf(first.steps));
        const second = await adoptOn({ v4: after });
        expect(second.observed.owned.strays).toEqual([]);
        expect(stdinOf(second.steps)).toBe('');
        const back = stdinOf(iptables.plan(first.observed.owned, second.observed));
        const lines = restored(after, back).split('\n');
        const [now, then] = [lines, before.split('\n')].map((all) => ({
          others: all.filter((line) => line !== `-A INPUT ${jump}`),
          jump: all.indexOf(`-A INPUT ${jump}`),
        }));
        expect(now!.others).toEqual(then!.others);
        // The way back never moves the jump down, past what may be a drop of the admin's.
        expect(now!.jump).toBeLessThanOrEqual(then!.jump);
        expect(now!.jump < 0).toBe(then!.jump < 0);
      }),
      { numRuns: 500 },
    );
  });

  it('goes back on a host that has changed since, and leaves the change alone', async () => {
    const rules = (save: string): string[] => save.match(/^-A (INPUT|SCRIPT) .*/gm) ?? [];
    await fc.assert(
      fc.asyncProperty(layout, fc.nat(), rule, fc.boolean(), async (chains, at, another, adds) => {
        const before = saved(chains);
        const first = await adoptOn({ v4: before });
        const adopted = restored(before, stdinOf(first.steps)).split('\n');
        const theirs = [...adopted.keys()].filter((i) =>
          /^-A (INPUT|SCRIPT) (?!.*cfsync)/.test(adopted[i]!),
        );
        if (theirs.length === 0) return;
        const index = theirs[at % theirs.length]!;
        const chain = adopted[index]!.split(' ')[1]!;
        const fits = chain === 'INPUT' || !another.includes(' SCRIPT');
        adopted.splice(index, adds ? 0 : 1, ...(adds && fits ? [`-A ${chain} ${another}`] : []));
        const changed = adopted.join('\n');
        const second = await adoptOn({ v4: changed });
        const after = restored(
          changed,
          stdinOf(iptables.plan(first.observed.owned, second.observed)),
        );

        const third = await adoptOn({ v4: after });
        expect(stdinOf(iptables.plan(first.observed.owned, third.observed))).toBe('');
        const strays = first.observed.owned.strays!.map((s) => `-A ${s.chain} ${s.rule}`);
        const others = (save: string): string[] =>
          rules(save).filter((r) => !strays.includes(r) && !r.includes('cfsync'));
        expect(others(after)).toEqual(others(changed));
        for (const stray of strays)
          expect(rules(after).filter((r) => r === stray)).toHaveLength(
            rules(before).filter((r) => r === stray).length,
          );
      }),
      { numRuns: 500 },
    );
  });

  it('goes back to the top where the rule below is gone: no drop comes first there', async () => {
    const chains = {
      input: ['-i lo -j ACCEPT', '-s 173.245.48.0/20 -j ACCEPT', '-s 192.0.2.0/24 -j DROP'],
      script: [],
      policy: 'DROP',
    };
    const first = await adoptOn({ v4: saved(chains) });
    const changed = saved({ ...chains, input: ['-i lo -j ACCEPT', '-j DROP'] });
    const { now } = await adoptOn({ v4: changed });
    const back = restored(changed, stdinOf(iptables.plan(first.observed.owned, now)));
    expect(back.match(/^-A INPUT .*/gm)?.[0]).toBe('-A INPUT -s 173.245.48.0/20 -j ACCEPT');
  });

  it('puts nothing back into a chain that is gone', async () => {
    const script = {
      input: ['-j SCRIPT'],
      script: ['-s 173.245.48.0/20 -j ACCEPT'],
      policy: 'DROP',
    };
    const first = await adoptOn({ v4: saved(script) });
    expect(first.observed.owned.strays).toHaveLength(1);
    const { now } = await adoptOn({ v4: '*filter\n:INPUT DROP [0:0]\nCOMMIT\n' });
    expect(stdinOf(iptables.plan(first.observed.owned, now))).not.toContain('SCRIPT');
  });

  it('moves a jump among rules that stay', async () => {
    const stray = '-s 173.245.48.0/20 -j ACCEPT';
    const right = saved({
      input: [stray, '-i lo -j ACCEPT', jump, '-j DROP'],
      script: [],
      policy: 'DROP',
    });
    const wrong = saved({
      input: [stray, '-i lo -j ACCEPT', '-j DROP', jump],
      script: [],
      policy: 'DROP',
    });
    const before = await adoptOn({ v4: right });
    const after = await adoptOn({ v4: wrong });
    const back = stdinOf(iptables.plan(before.observed.owned, after.observed));
    expect(restored(wrong, back)).toBe(right);
  });

  it('leaves what is as it was alone, wherever our jump stands among it', async () => {
    await fc.assert(
      fc.asyncProperty(layout, async (chains) => {
        const { observed } = await adoptOn({ v4: saved(chains) });
        expect(stdinOf(iptables.plan(observed.owned, observed))).toBe('');
      }),
      { numRuns: 300 },
    );
  });

  it('puts nothing back that is there, whether it is looked for or not', async () => {
    const { now, observed } = await adoptOn({ v4: printed('leftovers.save') });
    expect(iptables.plan(observed.owned, observed)).toEqual([]);
    expect(stdinOf(iptables.plan(observed.owned, now))).toBe('');
  });
});
