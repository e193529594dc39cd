import { describe, expect, it } from 'vitest';
import ufw from '../../../renderers/ufw/index.ts';
import type { Desired } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { four } from './given.ts';

describe('render', () => {
  const cases: [string, Partial<Desired>][] = [
    ['allow', {}],
    ['lockdown', { mode: 'lockdown' }],
    ['one-port-udp', { tcpPorts: [443], udpPorts: [443, 8443] }],
    ['extra', { extra: { v4: ['10.1.2.3/32', '9.0.0.0/8'], v6: ['fd00::1/128'] } }],
    ['v6-only', { ranges: { v4: [], v6: four.v6 } }],
    ['fifteen-ports', { ranges: four, tcpPorts: Array.from({ length: 15 }, (_, i) => 1001 + i) }],
  ];
  it.each(cases)('%s', (name, changes) => {
    for (const _ of ['once', 'again']) {
      const artifacts = ufw.print(ufw.want(desired(changes), null).owned);
      golden(`ufw/${name}.txt`, artifacts.map((a) => `== ${a.path}\n${a.content}`).join(''));
    }
  });

  it('prints nothing for a host that cfsync never touched', () => {
    expect(ufw.print(ufw.nothing)).toEqual([]);
  });
});

describe('options and limits', () => {
  it('has no options', () => {
    expect(() => ufw.options({ chain: 'x' })).toThrow('ufw: unknown key chain');
    expect(ufw.options({})).toBe(null);
  });

  it.each(['tcpPorts', 'udpPorts'])('refuses more than 15 %s', (key) => {
    const ports = Array.from({ length: 16 }, (_, i) => 1001 + i);
    expect(() => ufw.want(desired({ [key]: ports }), null)).toThrow('a ufw rule takes 15');
  });

  it('holds the lock that ufw itself takes', () => {
    expect(ufw.locks!(null)).toEqual([{ kind: 'fcntl', path: '/run/ufw.lock' }]);
  });
});
