import { describe, expect, it } from 'vitest';
import iptables from '../../../renderers/iptables/index.ts';
import { desired } from '../../helpers/desired.ts';
import { printed, wantOn } from './host.ts';

describe('sets', () => {
  const sets = (text: string, more = '') => ({
    v4: printed('ours-set.save'),
    v6: printed('ours-set6.save'),
    answers: {
      'ipset list -n': `cfsync4\ncfsync6\n${more}`,
      'ipset save cfsync4': text,
      'ipset save cfsync6': printed('cfsync6.ipset'),
      'ipset save cfsync4-new': printed('cfsync4.ipset').replaceAll('cfsync4', 'cfsync4-new'),
    },
  });
  const changes = { mode: 'lockdown', tcpPorts: [443], udpPorts: [443] } as const;

  it('are swapped, never flushed, and only where they differ', async () => {
    const text = printed('cfsync4.ipset').replace('add cfsync4 104.16.0.0/13\n', '');
    const { steps } = await wantOn(sets(text), changes, { set: true });
    expect(steps).toHaveLength(1);
    expect(steps[0]!.command.argv).toEqual(['ipset', 'restore', '-exist']);
    const lines = steps[0]!.command.stdin!.trim().split('\n');
    expect(lines[0]).toMatch(/^create cfsync4-new hash:net family inet /);
    expect(lines.slice(-2)).toEqual(['swap cfsync4-new cfsync4', 'destroy cfsync4-new']);
    expect(lines.some((line) => /flush|cfsync6/.test(line))).toBe(false);
  });

  it('with a timeout or an exception are made anew', async () => {
    const { observed, steps } = await wantOn(sets(printed('foreign.ipset')), changes, {
      set: true,
    });
    expect(observed.owned.ranges.v4).toEqual(['192.0.2.1/32']);
    expect(steps[0]!.command.stdin).toContain('swap cfsync4-new cfsync4');
  });

  it('that a swap left over are destroyed', async () => {
    const whole = sets(printed('cfsync4.ipset'), 'cfsync4-new\n');
    const { steps } = await wantOn(whole, changes, { set: true });
    expect(steps.map((s) => s.command.stdin)).toEqual(['destroy cfsync4-new\n']);
  });

  it('are there before the rules, and go after them', async () => {
    const to = await wantOn({}, changes, { set: true });
    expect(to.steps.map((s) => s.command.argv[0])).toEqual([
      'ipset',
      'iptables-restore',
      'ip6tables-restore',
    ]);
    // The set does not exist yet when --test is asked, and a rule without a condition would be for everybody.
    for (const [step, set, nobody] of [
      [to.steps[1]!, 'cfsync4', '255.255.255.255/32'],
      [to.steps[2]!, 'cfsync6', 'ff00::/8'],
    ] as const) {
      expect(step.command.stdin).toContain(`-m set --match-set ${set} src `);
      expect(step.check!.stdin).toBe(
        step.command.stdin!.replaceAll(`-m set --match-set ${set} src `, `-s ${nobody} `),
      );
      expect(step.check!.argv).toContain('--test');
    }
    const away = await wantOn(
      { ...sets(printed('cfsync4.ipset')), folders: { '/sys/module/ip_set': [] } },
      changes,
    );
    expect(away.steps.map((s) => s.command.argv[0])).toEqual([
      'iptables-restore',
      'ip6tables-restore',
      'ipset',
    ]);
    expect(away.steps[2]!.command.stdin).toBe('destroy cfsync4\ndestroy cfsync6\n');
  });

  it('of the admin are not destroyed', async () => {
    const { observed } = await wantOn({
      v4: printed('shared-set.save'),
      answers: { 'ipset list -n': 'cfsync4\n', 'ipset save cfsync4': printed('cfsync4.ipset') },
      folders: { '/sys/module/ip_set': [] },
    });
    expect(observed.owned.sets).toHaveLength(1);
    expect(iptables.plan(iptables.nothing, observed)).toEqual([]);
  });

  it('grow with the list', () => {
    const v4 = Array.from(
      { length: 50_000 },
      (_, i) => `${1 + (i >> 15)}.${(i >> 7) & 255}.${(i & 127) * 2}.0/24`,
    );
    const { owned } = iptables.want(
      desired({ ranges: { v4, v6: [] } }),
      iptables.options({ set: true }),
    );
    expect(iptables.print(owned)[0]!.content).toContain('maxelem 100000');
  });
});
