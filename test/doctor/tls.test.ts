import { readFileSync } from 'node:fs';
import { createServer as createPlain, type Server } from 'node:net';
import { join } from 'node:path';
import { createServer } from 'node:tls';
import { afterEach, describe, expect, it, vi } from 'vitest';
import tls, { handshake, type End } from '../../src/doctor/checks/tls.ts';
import { doctorContext } from '../helpers/doctor.ts';
import { lines } from '../helpers/web.ts';

const pem = (name: string): string =>
  readFileSync(join(import.meta.dirname, '..', 'fixtures', 'doctor', 'tls', name), 'utf8');

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

async function listening(server: Server): Promise<number> {
  servers.push(server);
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return (server.address() as { port: number }).port;
}

/** What a server with this certificate looks like. */
async function end(cert: string, name?: string): Promise<End> {
  const port = await listening(createServer({ key: pem('key.pem'), cert: pem(cert) }));
  return handshake('127.0.0.1', port, name);
}

const judge = (
  ends: readonly End[],
  {
    http = true,
    complete = true,
    tunnel = false,
    host,
    now = '2026-11-22T12:00:00Z',
  }: { http?: boolean; complete?: boolean; tunnel?: boolean; host?: string; now?: string } = {},
) =>
  tls.judge(
    { ends, http, complete, tunnel },
    doctorContext({ now: new Date(now), values: { host } }),
  );

describe('tls', () => {
  it('notes a self-signed certificate, and which modes work', async () => {
    const found = judge([await end('self-signed.pem')]);
    expect(lines(found)).toEqual([
      'note part 526: The certificate is self-signed, or of an authority of your own',
    ]);
    expect(found[0]!.evidence.at(-1)).toBe(
      "Cloudflare's modes that work: Flexible, Full; that do not: Full (strict)",
    );
    const [without] = judge([await end('self-signed.pem')], { http: false });
    expect(without!.evidence.at(-1)).toBe(
      "Cloudflare's modes that work: Full; that do not: Flexible, Full (strict)",
    );
  });

  it("has nothing to say of Cloudflare's origin certificate, nor of one that is trusted", async () => {
    const origin = await end('origin.pem');
    expect(origin.certificate).toMatchObject({ isOriginCa: true });
    expect(judge([origin])).toEqual([]);
    const trusted = { ...origin.certificate!, isOriginCa: false, distrust: null };
    expect(judge([{ ...origin, certificate: trusted }])).toEqual([]);
  });

  it('warns of a chain that is not complete', async () => {
    const found = judge([await end('leaf.pem')]);
    expect(lines(found)).toEqual([
      'warning part 526: The certificate cannot be verified: its chain is not complete, or not trusted',
    ]);
    expect(found[0]!.evidence[2]).toContain('UNABLE_TO_VERIFY_LEAF_SIGNATURE');
  });

  it('warns of a certificate before, near and after its end', async () => {
    const one = await end('origin.pem');
    const { to, from } = one.certificate!;
    const day = 86_400_000;
    const at = (text: string, days: number): string =>
      new Date(new Date(text).getTime() + days * day).toISOString();
    expect(lines(judge([one], { now: at(to, 0.01) }))).toEqual([
      'warning part 526: The certificate has expired',
    ]);
    expect(lines(judge([one], { now: at(to, -1.5) }))).toEqual([
      'warning part 526: The certificate expires in 1 day',
    ]);
    expect(lines(judge([one], { now: at(to, -6.9) }))).toHaveLength(1);
    expect(lines(judge([one], { now: at(to, -7.1) }))).toEqual([]);
    expect(lines(judge([one], { now: at(from, -1) }))).toEqual([
      'warning part 526: The certificate is not valid yet',
    ]);
  });

  it('warns of a certificate for another name', async () => {
    expect(
      judge([await end('origin.pem', 'www.example.com')], { host: 'www.example.com' }),
    ).toEqual([]);
    const found = judge([await end('origin.pem', 'example.org')], { host: 'example.org' });
    expect(lines(found)).toEqual(['warning part 526: The certificate is not for example.org']);
  });

  it('finds that there is no handshake', async () => {
    const plain = await listening(
      createPlain((socket) => {
        socket.once('data', () => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
      }),
    );
    const failed = await handshake('127.0.0.1', plain, undefined);
    const found = judge([failed]);
    expect(lines(found)).toEqual(['problem part 525: There is no TLS handshake on the https port']);
    expect(found[0]!.evidence[0]).toMatch(/^127\.0\.0\.1:\d+: wrong version number/);
    expect(lines(judge([failed, await end('origin.pem')]))).toEqual([
      'warning part 525: There is no TLS handshake on some addresses',
    ]);
  });

  /** A server that turns away who names no site but these. */
  const strict = (...names: readonly string[]): Promise<number> =>
    listening(
      createServer({
        key: pem('key.pem'),
        cert: pem('origin.pem'),
        SNICallback: (name, done) =>
          names.includes(name) ? done(null) : done(new Error('no such site')),
      }),
    );

  it('is content where the names of the configuration are answered', async () => {
    const port = await strict('example.com');
    const good = await handshake('127.0.0.1', port, 'example.com');
    const bad = await handshake('127.0.0.1', port, 'old.example');
    expect(bad.failed).not.toBeNull();
    expect(judge([good])).toEqual([]);
    expect(judge([good, bad])).toEqual([
      {
        level: 'warning',
        share: 'part',
        causes: [525],
        title: 'There is no TLS handshake for old.example',
        evidence: [`127.0.0.1:${port} for old.example: ${bad.failed}`],
        advice: expect.any(String) as string,
      },
    ]);
    // One that is answered on one address of several is well: nginx listens on single addresses.
    expect(
      judge([
        good,
        { ...bad, name: 'example.com', at: '127.0.0.1:1' },
        { ...good, at: '127.0.0.1:1' },
      ]),
    ).toEqual([]);
  });

  it('does not count loopback where the host has an address', async () => {
    const good = { ...(await end('origin.pem', 'example.com')), at: '203.0.113.5:443' };
    expect(
      judge([{ ...good, at: '127.0.0.1:443', failed: 'refused', certificate: null }, good]),
    ).toEqual([]);
  });

  it.each([
    ['tlsv1 unrecognized name', false, 'note maybe'],
    ['tlsv1 alert internal error', false, 'note maybe'],
    ['sslv3 alert handshake failure', false, 'note maybe'],
    ['ssl/tls alert handshake failure', false, 'note maybe'],
    ['tlsv1 unrecognized name', true, 'problem part'],
    ['wrong version number', false, 'problem part'],
    ['no answer within 3 s', false, 'problem part'],
  ])('says of %s without a name, all sites known: %s, %s', (failed, complete, weight) => {
    const ends = [{ at: '127.0.0.1:443', name: null, failed, certificate: null }];
    expect(lines(judge(ends, { complete }))[0]).toMatch(new RegExp(`^${weight} 525: `));
    expect(lines(judge(ends, { complete, tunnel: true }))[0]).toMatch(/^note /);
  });

  it('waits for 3 s, and no longer', async () => {
    const silent = await listening(createPlain(() => {}));
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const ended = vi.fn<(found: unknown) => void>();
      void handshake('127.0.0.1', silent, undefined).then(ended);
      await vi.advanceTimersByTimeAsync(2999);
      expect(ended).not.toHaveBeenCalled();
      await vi.advanceTimersByTimeAsync(1);
      expect(ended).toHaveBeenCalledWith(
        expect.objectContaining({ failed: 'no answer within 3 s' }),
      );
    } finally {
      vi.useRealTimers();
    }
  });

  it('tells the same certificate on two addresses once', async () => {
    const one = await end('self-signed.pem');
    const [found, ...more] = judge([one, { ...one, at: '203.0.113.5:443' }]);
    expect(more).toEqual([]);
    expect(found!.evidence[0]).toContain(', 203.0.113.5:443: CN=example.com');
  });
});
