import { describe, expect, it } from 'vitest';
import iptables from '../../../renderers/iptables/index.ts';
import { desired } from '../../helpers/desired.ts';
import { wantOn } from './host.ts';

describe('options', () => {
  it.each([
    [{ sets: true }, 'unknown key sets (did you mean set?)'],
    [{ set: 'yes' }, 'must be true or false'],
    [{ trusted: ['eth+'] }, 'not an interface name'],
    [{ trusted: ['wg0 -j ACCEPT'] }, 'not an interface name'],
  ])('refuses %j', (raw, message) => {
    expect(() => iptables.options(raw)).toThrow(message);
  });

  it('refuses more ports than multiport takes, with what to do', () => {
    const many = Array.from({ length: 16 }, (_, i) => 8000 + i);
    for (const changes of [{ tcpPorts: many }, { udpPorts: many }])
      expect(() => iptables.want(desired(changes), iptables.options({}))).toThrow(
        /16 (TCP|UDP) ports are more than the 15 .* nothing was changed; .*--backend nftables/,
      );
    iptables.want(desired({ tcpPorts: many.slice(1) }), iptables.options({}));
  });

  it('refuses to trust an interface with a default route', async () => {
    await expect(wantOn({}, {}, { trusted: ['eth0'] })).rejects.toThrow('has a default route');
  });
});
