import { createServer as createProxy, type IncomingMessage } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import tls from 'node:tls';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  type DownloadOptions,
  type Feed,
  type FeedUrls,
  download,
} from '../../src/feed/download.ts';
import { CfsyncError, exit } from '../../src/errors.ts';
import { parseList } from '../../src/feed/gate.ts';
import { equal, merge } from '../../src/prefix.ts';
import { type FeedServer, listen, play, published, selfSigned, start } from '../helpers/feeds.ts';

const ranges = merge(
  parseList(published.v4, 'v4', 'ips-v4'),
  parseList(published.v6, 'v6', 'ips-v6'),
);
const quick: DownloadOptions = { timeout: 60_000, backoff: 5 };

let server: FeedServer;
beforeEach(async () => {
  for (const name of ['HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY']) {
    vi.stubEnv(name, undefined);
    vi.stubEnv(name.toLowerCase(), undefined);
  }
  server = await start();
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await server.close();
});

const asked = (path: string) => server.requests.filter((one) => one === path).length;

const get = (options: DownloadOptions = {}, urls: FeedUrls = server.urls) =>
  download(urls, { ...quick, ...options });

function errorOf(feed: Feed): CfsyncError {
  if ('ok' in feed) throw new Error('the feed was believed');
  expect(feed.error).toBeInstanceOf(CfsyncError);
  return feed.error;
}

function okOf(feed: Feed) {
  if ('error' in feed) throw feed.error;
  return feed.ok;
}

test('the feeds as published agree', async () => {
  const { text, json } = await get();
  expect(okOf(text)).toEqual(ranges);
  expect(okOf(json)).toEqual(ranges);
  expect([...server.requests].sort()).toEqual(['/client/v4/ips', '/ips-v4', '/ips-v6']);
});

test('no connection is left open, so the process can end at once', async () => {
  await get();
  // By itself undici lets an idle one go after 4 s, and Node's server after 5 s.
  await vi.waitFor(async () => expect(await server.connections()).toBe(0), { timeout: 3500 });
});

test.each([published.v4, `${published.v4}\n`])('the last newline may come and go', async (body) => {
  server.set('/ips-v4', play.list(body));
  expect(okOf((await get()).text)).toEqual(ranges);
});

test('a redirect to a trailing slash is followed', async () => {
  server.set('/ips-v4', play.slash);
  expect(okOf((await get()).text)).toEqual(ranges);
  expect(asked('/ips-v4/')).toBe(1);
});

describe('answers that are not believed', () => {
  test.each([
    ['an HTML page', play.homePage, /an HTML page/],
    ['a bot challenge', play.challenge, /a bot challenge/],
    ['an empty body', play.empty, /empty/],
    ['an endless body', play.endless, /body larger than 1 MiB/],
    ['bytes that are not UTF-8', play.answer(200, Buffer.from([0x31, 0xff, 0x0a])), /not UTF-8/],
    [
      'a byte order mark',
      play.list(`\ufeff${published.v6}`),
      /"\\u\{feff\}2400:cb00::\/32" is not/,
    ],
    [
      'a compressed body',
      play.answer(200, 'x', { 'content-encoding': 'br' }),
      /the body is compressed \(br\), which was not asked for/,
    ],
    [
      'a compressed body that is not said to be',
      play.answer(200, Buffer.from([0x1f, 0x8b, 8])),
      /the body is compressed \(gzip\)/,
    ],
    ['the other family', play.list(published.v4), /IPv4, expected IPv6/],
  ])('%s', async (_, behaviour, message) => {
    server.set('/ips-v6', behaviour);
    const { text, json } = await get();
    const error = errorOf(text);
    expect(error.code).toBe(exit.refused);
    expect(error.message).toMatch(message);
    expect(error.message).toContain(server.urls.ipv6);
    expect(okOf(json)).toEqual(ranges);
    // Asking again would not make it true.
    expect(asked('/ips-v6')).toBe(1);
  });

  test('JSON that is a page of HTML', async () => {
    server.set('/client/v4/ips', play.homePage);
    const { text, json } = await get();
    expect(errorOf(json).code).toBe(exit.refused);
    expect(okOf(text)).toEqual(ranges);
  });

  test('are named before a list that did not come', async () => {
    server.set('/ips-v4', play.badGateway);
    server.set('/ips-v6', play.homePage);
    const error = errorOf((await get()).text);
    expect(error.code).toBe(exit.refused);
    expect(error.message).toContain(server.urls.ipv6);
  });

  test('a body as long as the limit is taken, one byte more is not', async () => {
    const exact = published.v4.length;
    expect(okOf((await get({ maxBytes: exact })).text)).toEqual(ranges);
    const error = errorOf((await get({ maxBytes: exact - 1 })).text);
    expect(error.message).toMatch(/body larger than 229 bytes/);
  });
});

describe('answers that do not come', () => {
  test.each([
    ['502', play.badGateway, /502 Bad Gateway \(3 attempts\)$/, 3],
    ['500', play.serverError, /500 Internal Server Error \(3 attempts\)$/, 3],
    ['an error page of 5 kB', play.errorPage, /503 Service Unavailable \(3 attempts\)$/, 3],
    ['403', play.answer(403, 'Forbidden'), /403 Forbidden$/, 1],
    ['404', play.answer(404, published.v4), /404 Not Found$/, 1],
    ['204', play.answer(204, ''), /204 No Content$/, 1],
    ['206', play.answer(206, published.v4), /206 Partial Content$/, 1],
    ['a redirect to nowhere', play.answer(301, published.v4), /301 Moved Permanently$/, 1],
    ['a reset', play.reset, /(ECONNRESET|UND_ERR_SOCKET)\)? \(3 attempts\)$/, 3],
    ['a body cut off', play.cut, /UND_ERR_SOCKET\) \(3 attempts\)$/, 3],
  ])('%s', async (_, behaviour, message, times) => {
    server.set('/ips-v4', behaviour);
    const { text, json } = await get();
    const error = errorOf(text);
    expect(error.code).toBe(exit.failed);
    expect(error.message).toMatch(message);
    expect(error.message.startsWith(`${server.urls.ipv4}: `)).toBe(true);
    expect(asked('/ips-v4')).toBe(times);
    expect(okOf(json)).toEqual(ranges);
  });

  test('a failure that passes is got over', async () => {
    server.set('/ips-v4', play.inTurn(play.badGateway, play.reset, play.list(published.v4)));
    expect(okOf((await get()).text)).toEqual(ranges);
    expect(asked('/ips-v4')).toBe(3);
  });

  test.each([
    ['silence', play.silence],
    ['a byte a second', play.drip],
  ])('%s: the timeout is for everything', async (_, behaviour) => {
    server.set('/client/v4/ips', behaviour);
    const { text, json } = await get({ timeout: 3000 });
    expect(okOf(text)).toEqual(ranges);
    expect(errorOf(json).message).toMatch(/: no answer within 3 s$/);
    expect(asked('/client/v4/ips')).toBe(1);
    expect(errorOf(json).code).toBe(exit.failed);
  });

  test('the timeout ends the pause before another try, and the failure is still named', async () => {
    server.set('/ips-v4', play.badGateway);
    // The pause is longer than a test may take.
    const error = errorOf((await get({ timeout: 3000, backoff: 600_000 })).text);
    expect(error.message).toMatch(/502 Bad Gateway$/);
    expect(asked('/ips-v4')).toBe(1);
  });

  test('nobody listens', async () => {
    const { urls } = server;
    await server.close();
    const { text, json } = await get({}, urls);
    expect(errorOf(text).message).toMatch(/ECONNREFUSED.* \(3 attempts\)$/);
    expect(errorOf(json).code).toBe(exit.failed);
    server = await start();
  });

  test('foreign text in a message cannot steer the terminal', async () => {
    const urls = { ...server.urls, api: 'https://\u001b[2J' };
    expect(errorOf((await get({}, urls)).json).message).toBe('https://\\u001b[2J: not a URL');
  });
});

describe('redirects', () => {
  test('at most three', async () => {
    server.set('/a', play.redirect('/b'));
    server.set('/b', play.redirect('/ips-v4/'));
    server.set('/ips-v4', play.redirect('/a'));
    expect(okOf((await get()).text)).toEqual(ranges);
    server.set('/b', play.redirect('/c'));
    server.set('/c', play.redirect('/ips-v4/'));
    expect(errorOf((await get()).text).message).toMatch(/more than 3 redirects$/);
  });

  test('in a circle', async () => {
    server.set('/ips-v4', play.redirect('/ips-v4'));
    expect(errorOf((await get()).text).message).toMatch(/more than 3 redirects$/);
    expect(asked('/ips-v4')).toBe(4);
  });

  test.each([
    ['http://example.com/ips-v4', /redirect to http:\/\/example.com\/ips-v4; only https is taken/],
    ['ftp://127.0.0.1/ips-v4', /redirect to ftp:.*only https is taken/],
    ['file:///etc/passwd', /redirect to file:.*only https is taken/],
    ['http://[', /redirect to http:\/\/\[, which is not a URL/],
  ])('to %s is refused', async (location, message) => {
    server.set('/ips-v4', play.redirect(location));
    const error = errorOf((await get()).text);
    expect(error.message).toMatch(message);
    expect(error.code).toBe(exit.failed);
    expect(asked('/ips-v4')).toBe(1);
  });

  test('the message names where it led', async () => {
    server.set('/ips-v4', play.redirect('/elsewhere'));
    expect(errorOf((await get()).text).message).toBe(
      `${server.urls.ipv4}, redirected to http://127.0.0.1:${server.port}/elsewhere: 404 Not Found`,
    );
  });
});

test.each([
  'http://www.cloudflare.com/ips-v4',
  'http://127.0.0.1.example.com/ips-v4',
  'http://[::ffff:7f00:1]/ips-v4',
  'ftp://127.0.0.1/ips-v4',
])('%s is not asked', async (ipv4) => {
  const error = errorOf((await get({}, { ...server.urls, ipv4 })).text);
  expect(error.message).toBe(`${ipv4}: only https is taken, and http from a loopback host`);
});

test('a name or password in a URL is refused and not shown, and neither is a query', async () => {
  const ipv4 = `http://bob:s3cret@127.0.0.1:${server.port}/ips-v4`;
  server.set('/client/v4/ips', play.badGateway);
  const api = `${server.urls.api}?token=tok1`;
  server.set('/client/v4/ips?token=tok1', play.redirect('/gone?key=tok2'));
  const { text, json } = await get({}, { ...server.urls, ipv4, api });
  expect(errorOf(text).message).toBe(
    `http://...@127.0.0.1:${server.port}/ips-v4: no name or password is taken in a URL`,
  );
  expect(errorOf(json).message).toBe(
    `${server.urls.api}?..., redirected to http://127.0.0.1:${server.port}/gone?...: 404 Not Found`,
  );
  expect(asked('/ips-v4')).toBe(0);
});

test.each(['localhost', '127.1', '127.0.0.1'])('http from %s is', async (host) => {
  const ipv4 = `http://${host}:${server.port}/ips-v4`;
  expect(okOf((await get({}, { ...server.urls, ipv4 })).text)).toEqual(ranges);
});

describe('TLS', () => {
  const certificate = selfSigned('feeds.test');
  // Node 20 has no call that adds a root certificate; this is the function tls.connect looks up.
  const trust = () => {
    const original = tls.createSecureContext;
    vi.spyOn(tls, 'createSecureContext').mockImplementation((options) =>
      original({ ...options, ca: certificate.cert }),
    );
  };
  let secure: FeedServer;
  beforeEach(async () => {
    secure = await start(certificate);
  });
  afterEach(async () => {
    vi.restoreAllMocks();
    await secure.close();
  });

  test('a certificate that is trusted', async () => {
    trust();
    const { text, json } = await get({}, secure.urls);
    expect(okOf(text)).toEqual(ranges);
    expect(okOf(json)).toEqual(ranges);
  });

  test.each([undefined, '0'])(
    'a self-signed certificate, NODE_TLS_REJECT_UNAUTHORIZED=%s',
    async (value) => {
      vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', value);
      const { text, json } = await get({}, secure.urls);
      for (const feed of [text, json]) {
        expect(errorOf(feed).message).toMatch(
          /self-signed certificate.*DEPTH_ZERO_SELF_SIGNED_CERT/,
        );
        expect(errorOf(feed).message).not.toContain('attempts');
        expect(errorOf(feed).code).toBe(exit.failed);
      }
      expect(secure.requests).toEqual([]);
    },
  );

  test('a redirect from https to http is refused, even on loopback', async () => {
    trust();
    secure.set('/ips-v4', play.redirect(server.urls.ipv4));
    expect(errorOf((await get({}, secure.urls)).text).message).toBe(
      `${secure.urls.ipv4}: redirect from https to ${server.urls.ipv4}`,
    );
    expect(server.requests).toEqual([]);
  });

  describe('through a proxy', () => {
    const host = 'https://feeds.test';
    const urls = { ipv4: `${host}/ips-v4`, ipv6: `${host}/ips-v6`, api: `${host}/client/v4/ips` };
    const tunnels: string[] = [];
    const proxy = createProxy();
    let address: string;
    beforeEach(async () => {
      tunnels.length = 0;
      proxy.removeAllListeners('connect');
      proxy.on('connect', (request: IncomingMessage, client: Socket) => {
        tunnels.push(request.url ?? '');
        const upstream = connect(secure.port, '127.0.0.1', () => {
          client.write('HTTP/1.1 200 OK\r\n\r\n');
          upstream.pipe(client).pipe(upstream);
        });
        for (const socket of [client, upstream]) socket.on('error', () => upstream.destroy());
      });
      address = `http://127.0.0.1:${await listen(proxy)}`;
    });
    afterEach(async () => {
      await new Promise((resolve) => proxy.close(resolve));
    });

    test.each(['HTTPS_PROXY', 'https_proxy'])('%s', async (name) => {
      vi.stubEnv(name, address);
      trust();
      const { text, json } = await get({}, urls);
      expect(okOf(text)).toEqual(ranges);
      expect(okOf(json)).toEqual(ranges);
      expect(new Set(tunnels)).toEqual(new Set(['feeds.test:443']));
    });

    test.each([undefined, '0'])(
      'the certificate is verified, NODE_TLS_REJECT_UNAUTHORIZED=%s',
      async (value) => {
        vi.stubEnv('HTTPS_PROXY', address);
        vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', value);
        const { text } = await get({}, urls);
        expect(errorOf(text).message).toMatch(/DEPTH_ZERO_SELF_SIGNED_CERT/);
        expect(tunnels.length).toBeGreaterThan(0);
        expect(secure.requests).toEqual([]);
      },
    );

    test('a certificate for another name', async () => {
      vi.stubEnv('HTTPS_PROXY', address);
      trust();
      const other = { ...urls, api: 'https://other.test/client/v4/ips' };
      const { text, json } = await get({}, other);
      expect(okOf(text)).toEqual(ranges);
      expect(errorOf(json).message).toMatch(/does not match certificate's altnames.*other\.test/);
    });

    test.each([
      ['127.0.0.2,0.0.0.0', []],
      ['127.0.0.2', ['0.0.0.0']],
    ])('NO_PROXY=%s', async (value, through) => {
      vi.stubEnv('HTTPS_PROXY', address);
      vi.stubEnv('NO_PROXY', value);
      // On Linux this is the machine itself, and it is not in 127.0.0.0/8.
      const api = `https://0.0.0.0:${secure.port}/client/v4/ips`;
      const { json } = await get({}, { ...server.urls, api });
      expect(errorOf(json).message).toMatch(/DEPTH_ZERO_SELF_SIGNED_CERT/);
      expect(tunnels).toEqual(through.map((host) => `${host}:${secure.port}`));
    });

    test('loopback is never asked through a proxy', async () => {
      vi.stubEnv('HTTP_PROXY', address);
      vi.stubEnv('HTTPS_PROXY', address);
      expect(okOf((await get()).text)).toEqual(ranges);
      expect(tunnels).toEqual([]);
    });

    test('a proxy that refuses', async () => {
      vi.stubEnv('HTTPS_PROXY', address);
      proxy.removeAllListeners('connect');
      proxy.on('connect', (_, client: Socket) => client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n'));
      expect(errorOf((await get({}, urls)).json).message).toMatch(/502.*\(3 attempts\)$/);
    });

    test('a proxy that wants a password is asked once, and is said to', async () => {
      vi.stubEnv('HTTPS_PROXY', address);
      proxy.removeAllListeners('connect');
      proxy.on('connect', (request: IncomingMessage, client: Socket) => {
        tunnels.push(request.url ?? '');
        client.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
      });
      const { json } = await get({}, urls);
      expect(errorOf(json).message).toBe(
        `${urls.api}: the proxy answered 407 Proxy Authentication Required; give it the name and password that it asks for`,
      );
      expect(tunnels).toHaveLength(3); // one for each feed
    });

    test('a proxy that is down is called the proxy, without its password', async () => {
      const closed = createServer();
      const port = await listen(closed);
      await new Promise((resolve) => closed.close(resolve));
      vi.stubEnv('HTTPS_PROXY', `http://bob:s3cret@127.0.0.1:${port}`);
      const { message } = errorOf((await get({}, urls)).json);
      expect(message).toMatch(
        new RegExp(`: the proxy 127\\.0\\.0\\.1:${port}: .*ECONNREFUSED.* \\(3 attempts\\)$`),
      );
      expect(message).not.toContain('s3cret');
    });

    test('a proxy without a scheme is taken as curl takes it', async () => {
      vi.stubEnv('HTTPS_PROXY', address.replace('http://', ''));
      trust();
      expect(okOf((await get({}, urls)).json)).toEqual(ranges);
      expect(tunnels.length).toBeGreaterThan(0);
    });

    test('a proxy that is not a URL', async () => {
      vi.stubEnv('HTTPS_PROXY', 'user:secret@:::');
      const error = errorOf((await get({}, urls)).json);
      expect(error.message).toMatch(/the proxy in the environment .* is not a URL$/);
      expect(error.message).not.toContain('secret');
    });
  });
});

test('text and JSON feeds that disagree are both handed on', async () => {
  server.set('/client/v4/ips', play.json('104.16.0.0/13', published.v6));
  const { text, json } = await get();
  expect(equal(okOf(text), okOf(json))).toBe(false);
  expect(okOf(json).v4).toEqual(['104.16.0.0/13']);
});

test('all addresses of a host refuse', async () => {
  const closed = createServer();
  const port = await listen(closed);
  await new Promise((resolve) => closed.close(resolve));
  const urls = { ...server.urls, api: `http://localhost:${port}/` };
  expect(errorOf((await get({}, urls)).json).message).toMatch(/ECONNREFUSED/);
});
