import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { defaultRouteInterfaces, dockerBridges } from '../src/interfaces.ts';
import { recorded } from './helpers/host.ts';

/**
 * Captured on Linux 6.18: a default route of IPv4 on eth0 and of IPv6 on eth1, a bridge docker0, and the two halves
 * of all addresses on tun0, as VPNs set them.
 */
const read = (name: string): string =>
  readFileSync(join(import.meta.dirname, 'fixtures', 'proc', name), 'utf8');

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
