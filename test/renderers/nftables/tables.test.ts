import { describe, expect, it } from 'vitest';
import type { NftAround } from '../../../renderers/nftables/around.ts';
import nftables from '../../../renderers/nftables/index.ts';
import { desired } from '../../helpers/desired.ts';
import { nothingAround } from './host.ts';

describe('lockdown', () => {
  const exempt = (more: Partial<NftAround>, trusted: string[] = []): string[] =>
    nftables
      .want(desired({ mode: 'lockdown' }), nftables.options({ trusted }), {
        ...nothingAround,
        ...more,
      })
      .owned.tables[0]!.chains.find((c) => c.name === 'prerouting')!
      .rules.filter((r) => r.endsWith('return'));

  it('leaves alone lo, Docker bridges as observed, and trusted interfaces', () => {
    expect(exempt({ bridges: ['docker0'] }, ['wg0'])).toEqual([
      'iifname "lo" return',
      'iifname "docker0" return',
      'iifname "wg0" return',
    ]);
  });

  it('refuses to trust an interface with a default route', () => {
    expect(() => exempt({ defaultRoutes: ['eth0'] }, ['eth0'])).toThrow('has a default route');
  });

  it('closes UDP on the ports unless it is named', () => {
    const rules = (udpPorts: number[]): string =>
      nftables
        .want(desired({ mode: 'lockdown', udpPorts }), nftables.options({}))
        .owned.tables[0]!.chains.find((c) => c.name === 'prerouting')!
        .rules.filter((r) => r.startsWith('udp'))
        .join('\n');
    expect(rules([])).toBe(
      'udp dport { 80, 443 } fib daddr type local counter drop comment "cfsync"',
    );
    expect(rules([443])).toBe(
      'udp dport 443 fib daddr type local jump guard\nudp dport 80 fib daddr type local counter drop comment "cfsync"',
    );
  });
});
