import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Desired } from '../../../src/renderer.ts';
import { printed, wantOn, type Situation } from './host.ts';

describe('what is said', () => {
  it.each([
    ['nothing drops', {}, {}, 'changes nothing today; --mode lockdown'],
    [
      'open',
      { v4: printed('open-port.save') },
      {},
      'accepts a port from everywhere (-A INPUT -p tcp',
    ],
    ['unclear', { v4: printed('unclear.save') }, {}, '-j NFQUEUE'],
    ['docker', { v4: printed('docker.save') }, {}, 'port 443 is sent on by DNAT'],
    ['ufw', { v4: printed('ufw.save'), v6: printed('ufw6.save') }, {}, '--backend ufw'],
    [
      'netfilter-persistent',
      { folders: { '/usr/share/netfilter-persistent/plugins.d': ['15-ip4tables'] } },
      {},
      'netfilter-persistent save would freeze',
    ],
    [
      'large',
      {},
      {
        ranges: {
          v4: Array.from({ length: 256 }, (_, i) => `1.${i}.0.0/24`),
          v6: ['2400:cb00::/32'],
        },
      },
      '256 rules of iptables are asked one after another',
    ],
    ['shared', { v4: printed('shared-set.save') }, {}, 'no longer refreshed'],
  ] as [string, Situation, Partial<Desired>, string][])(
    '%s',
    async (_, situation, changes, text) => {
      expect((await wantOn(situation, changes)).notices).toContain(text);
    },
  );

  it('is nothing on an ordinary host with a firewall', async () => {
    const v4 = printed('policy-drop.save');
    expect((await wantOn({ v4 })).notices).toBe('');
  });

  it('does not say that nothing drops the ports while a program may', async () => {
    const { notices } = await wantOn({ v4: printed('unclear.save') });
    expect(notices).not.toContain('changes nothing today');
    // It stands below ours.
    expect(notices).not.toContain('-m recent');
  });

  it('does not trouble lockdown with what only matters for allow', async () => {
    const { notices } = await wantOn({ v4: printed('docker.save') }, { mode: 'lockdown' });
    expect(notices).toBe('');
  });

  it('does not say of one firewall that it drops nothing when only the other family is open', async () => {
    const { notices } = await wantOn({ v6: printed('policy-drop.save') });
    expect(notices).not.toContain('changes nothing today');
  });

  it('names a chain of nftables that drops the ports', async () => {
    const listing = (name: string): string =>
      readFileSync(join(import.meta.dirname, '..', '..', 'fixtures', 'nftables', name), 'utf8');
    const { notices } = await wantOn({
      answers: {
        'nft -j -t list chains': listing('policy-drop.json'),
        'nft -j -t list table inet filter': listing('policy-drop.json'),
      },
    });
    expect(notices).toContain('chain inet filter input of nftables drops the ports');
    expect(notices).toContain('--nft-chain inet/filter/input');
  });
});
