import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  defaultRouteInterfaces,
  dockerBridges,
  reachedThrough,
} from '../../src/host/interfaces.ts';
import { contains, merge, none, parseRanges, subtract } from '../../src/prefix.ts';
import { recorded } from '../helpers/host.ts';

/**
 * Captured on Linux 6.18: a default route of IPv4 on eth0 and of IPv6 on eth1, a bridge docker0, and the two halves
 * of all addresses on tun0, as VPNs set them. `nested`: routes of eth0 inside those of vpn, and the other way round.
 */
const read = (name: string): string =>
  readFileSync(join(import.meta.dirname, '..', 'fixtures', 'proc', name), 'utf8');

describe('defaultRouteInterfaces', () => {
  it('names those of both families, and no other', async () => {
    const files = { '/proc/net/route': read('route'), '/proc/net/ipv6_route': read('ipv6_route') };
    expect(await defaultRouteInterfaces(recorded({ files }))).toEqual(['eth0', 'eth1', 'tun0']);
  });

  it('has none where there is no network', async () => {
    expect(await defaultRouteInterfaces(recorded({}))).toEqual([]);
  });
});

describe('dockerBridges', () => {
  it("takes bridges with Docker's names, and no others", async () => {
    const folders = {
      '/sys/class/net': [
        'br-0123456789ab',
        'br-aaaaaaaaaaaa',
        'br-ex',
        'docker0',
        'eth0',
        'virbr0',
      ],
      '/sys/class/net/br-0123456789ab/bridge': [],
      '/sys/class/net/br-ex/bridge': [],
      '/sys/class/net/docker0/bridge': [],
      '/sys/class/net/virbr0/bridge': [],
    };
    expect(await dockerBridges(recorded({ folders }))).toEqual(['br-0123456789ab', 'docker0']);
  });
});

describe('reachedThrough', () => {
  const nested = recorded({
    files: {
      '/proc/net/route': read('nested-route'),
      '/proc/net/ipv6_route': read('nested-ipv6_route'),
    },
  });

  it('follows the longest prefix, and leaves out where another interface leads as well', async () => {
    const reached = await reachedThrough(nested, ['vpn']);
    const [lan, back] = [parseRanges(['10.5.0.0/24']), parseRanges(['10.5.0.64/28'])];
    const v4 = merge(subtract(parseRanges(['10.0.0.0/8']), lan), back).v4;
    const behind = subtract(parseRanges(['fd00::/48']), parseRanges(['fd00:0:0:7::/64']));
    // The kernel routes the interface's own address by itself.
    const { v6 } = merge(behind, parseRanges(['fe80::85e:94ff:feb4:d67a/128']));
    expect(reached.v4).toEqual(v4);
    expect(reached.v6).toEqual(v6);
    for (const address of [
      '192.168.1.7',
      '203.0.113.9',
      '198.51.100.10',
      'fe80::10',
      '2001:db8::10',
    ])
      expect(contains(reached, address), address).toBe(false);
  });

  it('is everything of an interface with the default route but what others lead to', async () => {
    const reached = await reachedThrough(nested, ['eth0']);
    expect(contains(reached, '198.51.100.10')).toBe(true);
    expect(contains(reached, '10.1.0.1')).toBe(false);
  });

  it('is nothing for no interface', async () => {
    expect(await reachedThrough(nested, [])).toEqual(none);
    expect(await reachedThrough(nested, ['eth7'])).toEqual(none);
  });
});
