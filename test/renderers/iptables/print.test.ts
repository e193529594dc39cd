import { describe, expect, it } from 'vitest';
import iptables from '../../../renderers/iptables/index.ts';
import type { Desired } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';

describe('render', () => {
  const cases: [string, Partial<Desired>, Record<string, unknown>][] = [
    ['allow', {}, {}],
    ['lockdown', { mode: 'lockdown' }, {}],
    ['one-port-udp', { tcpPorts: [443], udpPorts: [443], mode: 'lockdown' }, {}],
    ['extra', { extra: { v4: ['10.1.0.0/16'], v6: ['fd00::/16'] } }, {}],
    ['trusted', { mode: 'lockdown', udpPorts: [443] }, { trusted: ['wg0', 'cni0'] }],
    ['set', { mode: 'lockdown' }, { set: true }],
  ];
  it.each(cases)('%s', (name, changes, raw) => {
    for (const _ of ['once', 'again']) {
      const artifacts = iptables.print(
        iptables.want(desired(changes), iptables.options(raw)).owned,
      );
      golden(
        `iptables/${name}.txt`,
        artifacts.map(({ path, content }) => `== ${path}\n${content}`).join(''),
      );
    }
  });

  it('prints nothing for a host that cfsync never touched', () => {
    expect(iptables.print(iptables.nothing)).toEqual([]);
  });

  it('prints a large list as large as it is, one rule each or one set', () => {
    const v4 = Array.from({ length: 10_000 }, (_, i) => `1.${i >> 7}.${(i & 127) * 2}.0/24`);
    const large = desired({ ranges: { v4, v6: ['2400:cb00::/32'] } });
    const size = (raw: Record<string, unknown>, ending: string) =>
      iptables
        .print(iptables.want(large, iptables.options(raw)).owned)
        .find((a) => a.path.endsWith(ending))!
        .content.split('\n').length;
    expect(size({}, '.v4')).toBeGreaterThan(10_000);
    expect(size({ set: true }, '.v4')).toBeLessThan(20);
    expect(size({ set: true }, '.ipset')).toBeGreaterThan(10_000);
  });
});
