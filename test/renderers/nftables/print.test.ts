import { describe, expect, it } from 'vitest';
import nftables from '../../../renderers/nftables/index.ts';
import type { Desired } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';

describe('render', () => {
  const cases: [string, Partial<Desired>, Record<string, unknown>][] = [
    ['allow', {}, {}],
    ['lockdown', { mode: 'lockdown' }, {}],
    ['one-port-udp', { tcpPorts: [443], udpPorts: [443], mode: 'lockdown' }, {}],
    ['extra', { extra: { v4: ['10.1.0.0/16'], v6: ['fd00::/16'] } }, {}],
    ['chain', { udpPorts: [443] }, { chain: 'inet/filter/input' }],
    ['chain-ip', {}, { chain: 'ip/fw/in' }],
    ['chain-none', { mode: 'lockdown' }, { chain: 'none', trusted: ['wg0', 'cni0'] }],
    ['sets', {}, { file: 'sets' }],
    ['define', {}, { file: 'define' }],
  ];
  it.each(cases)('%s', (name, changes, raw) => {
    for (const _ of ['once', 'again']) {
      const options = nftables.options(raw);
      const [artifact, ...rest] = nftables.print(nftables.want(desired(changes), options).owned);
      expect(rest).toEqual([]);
      golden(`nftables/${name}.txt`, `== ${artifact!.path}\n${artifact!.content}`);
    }
  });

  it('prints nothing for a host that cfsync never touched', () => {
    expect(nftables.print(nftables.nothing)).toEqual([]);
  });
});
