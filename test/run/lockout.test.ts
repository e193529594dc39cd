import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { judge, mayCut, type Access } from '../../src/run/lockout.ts';
import { merge, none, parseRanges } from '../../src/prefix.ts';
import type { Sessions } from '../../src/run/sessions.ts';
import { bundled } from '../helpers/desired.ts';

const stranger = '198.51.100.10';
const office = parseRanges(['198.51.100.0/28']);

const nothing: Access = { lockdown: false, tcpPorts: [80, 443], ranges: none };
const allow: Access = { ...nothing, ranges: bundled };
const lockdown: Access = { ...allow, lockdown: true };
/** Rules of a script for ranges that are stale by now. */
const wide: Access = { ...nothing, ranges: office, everywhere: office };
const own = (peer: string, port = 443): Sessions => ({
  own: [{ port, peer, proof: 'a test' }],
  peers: new Map([[port, [peer]]]),
});
const peers = (port: number, ...list: string[]): Sessions => ({
  own: [],
  peers: new Map([[port, list]]),
});
const isCut = (before: Access, after: Access, sessions: Sessions, spared = none): boolean =>
  judge(before, after, sessions, spared).own.length > 0;
const warnings = (before: Access, after: Access, sessions: Sessions): string[] =>
  judge(before, after, sessions)
    .notices.map(({ text }) => text)
    .filter((text) => text.startsWith('TCP port'));

describe('the own session', () => {
  // before, after, from whom, to which port -> cut?
  it.each<[string, Access, Access, Sessions, boolean]>([
    ['nothing -> allow', nothing, allow, own(stranger), false],
    ['nothing -> lockdown', nothing, lockdown, own(stranger), true],
    ['nothing -> lockdown, IPv6', nothing, lockdown, own('2001:db8::10'), true],
    ['nothing -> lockdown, of Cloudflare', nothing, lockdown, own('173.245.48.10'), false],
    ['nothing -> lockdown, another port', nothing, lockdown, own(stranger, 22), false],
    ['allow -> lockdown', allow, lockdown, own(stranger), true],
    ['lockdown -> lockdown', lockdown, lockdown, own(stranger), false],
    [
      'lockdown -> lockdown of one more port',
      lockdown,
      { ...lockdown, tcpPorts: [80, 443, 8443] },
      own(stranger, 8443),
      true,
    ],
    ['rules on all ports -> allow, in them', wide, allow, own(stranger, 22), true],
    ['rules on all ports -> allow, not in them', wide, allow, own('203.0.113.9', 22), false],
    [
      'rules on all ports -> ranges with them',
      wide,
      { ...allow, ranges: office },
      own(stranger),
      false,
    ],
    ['lockdown -> allow', lockdown, allow, own(stranger), false],
    ['lockdown -> nothing, of Cloudflare', lockdown, nothing, own('173.245.48.10'), true],
    ['allow -> nothing, of Cloudflare', allow, nothing, own('173.245.48.10'), true],
    [
      'allow -> one port less, of Cloudflare',
      allow,
      { ...allow, tcpPorts: [80] },
      own('173.245.48.10'),
      true,
    ],
    [
      'allow -> one port less, a stranger',
      allow,
      { ...allow, tcpPorts: [80] },
      own(stranger),
      false,
    ],
    [
      'lockdown with extra -> without',
      { ...lockdown, ranges: merge(bundled, office) },
      lockdown,
      own(stranger),
      true,
    ],
    [
      'allow with extra -> without',
      { ...allow, ranges: merge(bundled, office) },
      allow,
      own(stranger),
      true,
    ],
    [
      'nothing -> lockdown with extra',
      nothing,
      { ...lockdown, ranges: merge(bundled, office) },
      own(stranger),
      false,
    ],
  ])('%s', (_name, before, after, sessions, cut) => {
    expect(isCut(before, after, sessions)).toBe(cut);
  });

  it('is not cut by lockdown where it comes in through an interface that is spared', () => {
    expect(isCut(allow, lockdown, own(stranger), office)).toBe(false);
    expect(isCut(allow, lockdown, own('198.51.100.16'), office)).toBe(true);
  });

  it('need not be connected over TCP at the time, as with mosh', () => {
    const { own: sessions } = own(stranger);
    expect(isCut(allow, lockdown, { own: sessions, peers: new Map() })).toBe(true);
  });

  it('is told with its proof, and not as a peer', () => {
    const judged = judge(allow, lockdown, own(stranger));
    expect(judged.own).toEqual([{ port: 443, peer: stranger, proof: 'a test' }]);
    expect(JSON.stringify(judged.notices)).not.toContain(stranger);
  });
});

test('whoever is connected, a change of which nothing is asked would cut nobody', () => {
  const access = fc.record<Access>(
    {
      lockdown: fc.boolean(),
      tcpPorts: fc.subarray([80, 443, 8443]),
      ranges: fc
        .subarray([office, bundled, parseRanges(['2001:db8::/32'])])
        .map((all) => merge(...all)),
      everywhere: fc.constantFrom(office, bundled),
    },
    { requiredKeys: ['lockdown', 'tcpPorts', 'ranges'] },
  );
  const all = [stranger, '173.245.48.10', '2001:db8::10', '203.0.113.9'];
  const sessions: Sessions = {
    own: [22, 80, 443, 8443].flatMap((port) => all.flatMap((peer) => own(peer, port).own)),
    peers: new Map([80, 443, 8443].map((port) => [port, all])),
  };
  let spared = 0;
  fc.assert(
    fc.property(access, access, (before, after) => {
      if (mayCut(before, after)) return;
      spared++;
      expect(judge(before, after, sessions)).toEqual({ own: [], notices: [] });
    }),
    { numRuns: 2000 },
  );
  expect(spared).toBeGreaterThan(10);
  for (const [before, after] of [
    [nothing, allow],
    [allow, allow],
    [lockdown, allow],
  ] as const)
    expect(mayCut(before, after)).toBe(false);
});

describe('other peers', () => {
  it('are named with the port', () => {
    expect(warnings(allow, lockdown, peers(443, stranger, '173.245.48.10'))).toEqual([
      'TCP port 443: 1 connected peer would no longer be let in: 198.51.100.10',
    ]);
    expect(warnings(lockdown, lockdown, peers(443, stranger))).toEqual([]);
    expect(warnings(allow, allow, peers(443, stranger))).toEqual([]);
  });

  it('are counted once each, and at most five of them named', () => {
    const many = Array.from({ length: 9 }, (_, i) => `198.51.100.${i * 2}`);
    expect(warnings(allow, lockdown, peers(443, ...many, ...many, '2001:db8::10'))).toEqual([
      'TCP port 443: 10 connected peers would no longer be let in: 198.51.100.0, 198.51.100.2, 198.51.100.4, 198.51.100.6, 198.51.100.8 and 5 more',
    ]);
    expect(warnings(allow, lockdown, peers(443, ...many.slice(0, 6)))).toEqual([
      expect.stringMatching(/, 198\.51\.100\.8 and 1 more$/),
    ]);
    const neighbours = ['198.51.100.10', '198.51.100.11', '2001:db8::10'];
    expect(warnings(allow, lockdown, peers(443, ...neighbours))).toEqual([
      'TCP port 443: 3 connected peers would no longer be let in: 198.51.100.10/31, 2001:db8::10',
    ]);
  });

  it.each([
    [2083, 'cPanel'],
    [2087, 'WHM'],
    [8443, 'Plesk'],
  ])('on port %i are told to be at a hosting panel', (port, panel) => {
    const after = { ...lockdown, tcpPorts: [port] };
    expect(warnings({ ...nothing, tcpPorts: [port] }, after, peers(port, stranger))).toEqual([
      `TCP port ${port} (${panel}): 1 connected peer would no longer be let in: 198.51.100.10; if one of them is you, name your address under extra in the configuration first`,
    ]);
  });
});

describe('certificates', () => {
  const nobody: Sessions = { own: [], peers: new Map() };
  const told = (before: Access, after: Access): string =>
    judge(before, after, nobody)
      .notices.map(({ level, text }) => `${level}: ${text}`)
      .join();

  it('are warned about when a port is locked, by the challenge that stops', () => {
    expect(told(allow, lockdown)).toMatch(
      /^warning: certificates of names that are not behind Cloudflare .* over HTTP-01 \(port 80\) or TLS-ALPN-01 \(port 443\), /,
    );
    expect(told(allow, { ...lockdown, tcpPorts: [80] })).toContain('over HTTP-01 (port 80), ');
    const one = { ...lockdown, tcpPorts: [443] };
    expect(told(one, lockdown)).toContain('over HTTP-01 (port 80), ');
    expect(told(allow, one)).toContain('over TLS-ALPN-01 (port 443), ');
  });

  it('are not, when nothing of it changes', () => {
    expect(told(lockdown, lockdown)).toBe('');
    expect(told(nothing, allow)).toBe('');
    expect(told(allow, { ...lockdown, tcpPorts: [8443] })).toBe('');
  });
});
