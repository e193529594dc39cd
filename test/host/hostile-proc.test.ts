import { readdirSync, readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { defaultRouteInterfaces, reachedThrough } from '../../src/host/interfaces.ts';
import { parseRanges } from '../../src/prefix.ts';
import { observeSessions } from '../../src/run/sessions.ts';
import type { ProcessHost } from '../../src/host/proc.ts';
import { recorded, type Recorded } from '../helpers/host.ts';
import { damagedHost, lenient } from '../helpers/hostile-host.ts';
import { askedOrRefused, cases, expectFit, expectLinear, pumps } from '../helpers/hostile.ts';

const read = (path: string) =>
  readFileSync(new URL(`../fixtures/${path}`, import.meta.url), 'utf8');

const tables: readonly Recorded[] = ['', 'nested-'].map((kind) => ({
  files: {
    '/proc/net/route': read(`proc/${kind}route`),
    '/proc/net/ipv6_route': read(`proc/${kind}ipv6_route`),
  },
}));
const scenes = readdirSync(new URL('../fixtures/sessions', import.meta.url))
  .filter((name) => name.endsWith('.json'))
  .map((name) => JSON.parse(read(`sessions/${name}`)) as Recorded);

describe('the routing tables', () => {
  const read4 = (line: string) => recorded({ files: { '/proc/net/route': line } });
  const read6 = (line: string) => recorded({ files: { '/proc/net/ipv6_route': line } });

  test('are read as far as they are tables of routes', async () => {
    let taken = 0;
    await fc.assert(
      fc.asyncProperty(damagedHost(tables, ['\tFFFFFFFF', '0a', ' 81 ']), async (table) => {
        const names = await askedOrRefused(() => defaultRouteInterfaces(lenient(table)));
        for (const name of names!) expect(name).toMatch(/^\S+$/);
        const reached = await askedOrRefused(() => reachedThrough(lenient(table), names!));
        expect(parseRanges([...reached!.v4, ...reached!.v6])).toEqual(reached);
        if (names!.length > 0) taken++;
      }),
      cases(600),
    );
    expect(taken).toBeGreaterThan(300);
  });

  const zeros = '0'.repeat(32);
  test.each([
    ['an address that is too short', read4('eth0\t000000\t0\t0\t0\t0\t0\t00000000\n')],
    ['host bits', read4('eth0\t0000000A\t0\t0\t0\t0\t0\t00000000\n')],
    ['no mask', read4('eth0\t00000000\t0\t0\n')],
    ['no number', read4('eth0\t0000000x\t0\t0\t0\t0\t0\t00000000\n')],
    [
      'no interface',
      read6(`${zeros} 00 ${zeros} 00 ${zeros} 00000400 00000003 00000000 00000001\n`),
    ],
    ['a length beyond an address', read6(`${zeros} ff 0 0 0 0 0 0 0 eth0\n`)],
    ['host bits of IPv6', read6(`${zeros.slice(1)}1 00 0 0 0 0 0 0 0 eth0\n`)],
    ['an address of 31 digits', read6(`${zeros.slice(1)} 00 0 0 0 0 0 0 0 eth0\n`)],
  ])('have no route in a line with %s', async (_, host) => {
    expect(await defaultRouteInterfaces(host)).toEqual([]);
    expect(await reachedThrough(host, ['eth0'])).toEqual({ v4: [], v6: [] });
  });

  test('are read in time that grows with their length', async () => {
    const hex = (n: number): string => n.toString(16).padStart(2, '0').toUpperCase();
    await expectLinear(
      (size) => {
        const lines = Array.from(
          { length: size },
          (_, i) => `eth${i % 3}\t00${hex(i & 255)}${hex(i >> 8)}0A\t0\t1\t0\t0\t0\t00FFFFFF\n`,
        );
        return reachedThrough(read4(lines.join('')), ['eth0']);
      },
      'routes',
      1000,
    );
    for (const piece of pumps)
      await expectLinear((size) => defaultRouteInterfaces(read4(piece.repeat(size))), piece, 2000);
  });
});

describe('the sessions', () => {
  test('are told, or nothing is, whatever /proc says', async () => {
    await fc.assert(
      fc.asyncProperty(
        damagedHost(scenes, ['SSH_CONNECTION=', '198.51.100.10 1 198.51.100.5 443', ' 01 ', '20 ']),
        async (scene) => {
          const found = await askedOrRefused(() =>
            observeSessions(lenient(scene), [80, 443], true),
          );
          const peers = [
            ...found!.own.map((one) => one.peer),
            ...[...found!.peers.values()].flat(),
          ];
          for (const peer of peers) parseRanges([`${peer}/${peer.includes(':') ? 128 : 32}`]);
          for (const { proof, port } of found!.own) {
            expectFit(proof);
            expect(port).toSatisfy((n: number) => Number.isInteger(n) && n < 65_536);
          }
        },
      ),
      cases(1000),
    );
  });

  test.each(['x', '', '-1', '1e1', '0x16', '22.5', '123456', '22 443'])(
    'are not told by an SSH_CONNECTION to port %j',
    async (port) => {
      const environ = `A=b\0SSH_CONNECTION=198.51.100.10 50000 198.51.100.5 ${port}\0C=d\0`;
      const files = { '/proc/self/stat': '7 (a) S 0 0', '/proc/7/environ': environ };
      expect((await observeSessions(recorded({ files }), [22], true)).own).toEqual([]);
    },
  );

  test('end at a process that is its own parent', async () => {
    const files = {
      '/proc/self/stat': '7 (a) S 8 0',
      '/proc/8/stat': '8 (b) S 7 0',
      '/proc/7/stat': '7 (a) S 8 0',
    };
    let asked = 0;
    const host: ProcessHost = {
      ...recorded({}),
      async read(path) {
        if (++asked > 100) throw new Error('it asks without end');
        return recorded({ files }).read(path);
      },
    };
    expect((await observeSessions(host, [443])).own).toEqual([]);
  });

  test.each(pumps)('are found in time that grows with what is read: %j', async (piece) => {
    const start = '  0: 0100007F:0050 0100007F:0051 01 ';
    const files = ['/proc/net/tcp', '/proc/7/environ', '/proc/net/nf_conntrack', '/proc/7/stat'];
    for (const path of files)
      await expectLinear(
        (size) => {
          const texts = { '/proc/self/stat': '7 (a) S 8 0', [path]: start + piece.repeat(size) };
          return observeSessions(recorded({ files: texts }), [443]);
        },
        `${path}: ${piece}`,
        3000,
      );
  });
});
