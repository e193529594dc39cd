import { describe, expect, it } from 'vitest';
import dns from '../../src/doctor/checks/dns.ts';
import { targetOf } from '../../src/doctor/target.ts';
import { exit } from '../../src/errors.ts';
import { doctorContext } from '../helpers/doctor.ts';
import { recorded } from '../helpers/host.ts';
import { lines } from '../helpers/web.ts';

const cloudflare = ['104.16.1.1', '2606:4700::1'];
const own = ['8.8.4.4', '2001:4860:4860::8844'];

const judge = (
  seen: {
    name?: string;
    resolved?: readonly string[];
    unanswered?: string;
    own?: readonly string[];
  },
  originIp?: string,
) =>
  dns.judge(
    { name: null, resolved: [], unanswered: null, own, ...seen },
    doctorContext({ values: { 'origin-ip': originIp } }),
  );
const name = 'www.example.com';

describe('the name', () => {
  it.each([
    ['Cloudflare', cloudflare, undefined, []],
    ['nowhere', [], undefined, ['warning all -: There is no address for www.example.com in DNS']],
    [
      'this host',
      ['8.8.4.4'],
      undefined,
      ['warning part -: www.example.com leads straight to this host, and not through Cloudflare'],
    ],
    [
      'this host over IPv6',
      [...cloudflare, '2001:4860:4860:0::8844'],
      undefined,
      ['warning part -: www.example.com leads straight to this host, and not through Cloudflare'],
    ],
    [
      'another host',
      ['9.9.9.9'],
      undefined,
      ['warning all -: www.example.com leads neither to Cloudflare nor to this host'],
    ],
  ])('leads to %s', (_where, resolved, origin, expected) => {
    expect(lines(judge({ name, resolved }, origin))).toEqual(expected);
  });

  it('leads to this host, which is behind NAT', () => {
    const [found] = judge({ name, resolved: ['9.9.9.9'], own: [] }, '9.9.9.9');
    expect(found!.title).toContain('leads straight to this host');
    expect(found!.evidence).toEqual(['www.example.com resolves to 9.9.9.9']);
  });

  it('is not guessed at where no resolver answers', () => {
    expect(() => judge({ name, unanswered: 'ETIMEOUT' })).toThrow('no resolver answers (ETIMEOUT)');
  });

  it.each(['a b', '203.0.113.5', '', 'a..b', 'x;y', '*.example.com'])('%j is none', (host) => {
    expect(() => targetOf({ host })).toThrow(expect.objectContaining({ code: exit.usage }));
  });

  it('that was not given is not asked for', async () => {
    expect(await dns.observe(recorded({}), doctorContext())).toMatchObject({
      name: null,
      resolved: [],
      unanswered: null,
    });
  });
});

describe('the origin address', () => {
  it.each([
    ['8.8.4.4', []],
    ['2001:4860:4860:0:0:0:0:8844', []],
    [
      '9.9.9.9',
      [
        'problem all 521,522,523: Cloudflare connects to 9.9.9.9, which is not an address of this host',
      ],
    ],
    ['10.0.0.1', ['problem all 523: The origin address is not one that the Internet can reach']],
    ['fe80::1', ['problem all 523: The origin address is not one that the Internet can reach']],
    [
      '104.16.1.1',
      [
        "problem all -: The origin address is one of Cloudflare's own: the record leads in a circle (error 1000)",
      ],
    ],
  ])('%s', (address, expected) => {
    expect(lines(judge({}, address))).toEqual(expected);
  });

  it('cannot be compared behind NAT', () => {
    expect(judge({ own: [] }, '9.9.9.9')).toMatchObject([{ level: 'note' }]);
    expect(judge({ own: [own[0]!] }, '2001:4860:4860::1')).toMatchObject([{ level: 'note' }]);
  });

  it('that is none is refused', () => {
    expect(() => targetOf({ 'origin-ip': 'example.com' })).toThrow(
      '--origin-ip: example.com is not an IP address',
    );
  });
});
