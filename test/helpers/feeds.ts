/** A loopback server that plays Cloudflare's feeds, and each way in which they were seen to fail. */

import { generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Server } from 'node:net';

const read = (name: string) => readFileSync(new URL(`../../data/${name}`, import.meta.url), 'utf8');

/** As published: no newline after the last line. */
export const published = { v4: read('ips-v4'), v6: read('ips-v6') };

export type Behaviour = RequestListener;

const answer =
  (status: number, body: string | Uint8Array, headers: Record<string, string> = {}): Behaviour =>
  (_, response) => {
    response.writeHead(status, { 'content-type': 'text/plain', ...headers }).end(body);
  };

const page = (status: number, title: string, size = 0): Behaviour => {
  const body = `<!DOCTYPE html>\n<html><head><title>${title}</title></head><body>${title}</body></html>`;
  return answer(status, body.padEnd(size), { 'content-type': 'text/html' });
};

/** Writes pieces without end, as fast as they are taken or at an interval in milliseconds. */
const stream =
  (piece: string, interval: number): Behaviour =>
  (_, response) => {
    response.writeHead(200);
    const timer = setInterval(() => response.write(piece), interval);
    response.on('close', () => clearInterval(timer));
  };

/** The JSON feed, from the text of the two lists. */
const json = (v4: string, v6: string): Behaviour => {
  const [ipv4_cidrs, ipv6_cidrs] = [v4, v6].map((text) => text.trim().split('\n'));
  const feed = {
    result: { ipv4_cidrs, ipv6_cidrs, etag: '38f79d050aa027e3be3865e495dcc9bc' },
    success: true,
    errors: [],
    messages: [],
  };
  return answer(200, JSON.stringify(feed), { 'content-type': 'application/json' });
};

export const play = {
  answer,
  json,
  list: (body: string) => answer(200, body),
  empty: answer(200, ''),
  /** The home page with status 200, as it came for an hour. */
  homePage: page(200, 'Cloudflare - The Web Performance & Security Company'),
  badGateway: page(502, '502 Bad Gateway'),
  serverError: page(500, '500 Internal Server Error'),
  errorPage: page(503, 'Service Unavailable', 5000),
  challenge: page(200, 'Just a moment...'),
  /** 301 to the same path with a slash at its end, where the list is. */
  slash: ((request, response) => {
    response.writeHead(301, { location: `${request.url}/` }).end();
  }) satisfies Behaviour,
  redirect: (location: string) => answer(302, '', { location }),
  drip: stream('1', 1000),
  endless: stream('1.2.3.0/24\n'.repeat(1000), 0),
  silence: (() => {}) satisfies Behaviour,
  reset: ((request) => {
    request.socket.resetAndDestroy();
  }) satisfies Behaviour,
  /** Breaks off in the middle of the body. */
  cut: ((request, response) => {
    response.writeHead(200, { 'content-length': '230' }).write('173.245.48.0/20\n');
    setTimeout(() => request.socket.destroy(), 10);
  }) satisfies Behaviour,
  /** One behaviour for each request; the last one stays. */
  inTurn: (...behaviours: [Behaviour, ...Behaviour[]]): Behaviour => {
    let next = 0;
    return (request, response) =>
      behaviours.at(Math.min(next++, behaviours.length - 1))!(request, response);
  },
};

export interface FeedServer {
  readonly port: number;
  readonly urls: { readonly ipv4: string; readonly ipv6: string; readonly api: string };
  /** The paths that were asked for, in order. */
  readonly requests: readonly string[];
  set(path: string, behaviour: Behaviour): void;
  connections(): Promise<number>;
  close(): Promise<void>;
}

/** Starts a server that answers as published; with a certificate it speaks TLS. */
export async function start(tls?: Certificate): Promise<FeedServer> {
  const routes = new Map<string, Behaviour>([
    ['/ips-v4', play.list(published.v4)],
    ['/ips-v4/', play.list(published.v4)],
    ['/ips-v6', play.list(published.v6)],
    ['/ips-v6/', play.list(published.v6)],
    ['/client/v4/ips', json(published.v4, published.v6)],
  ]);
  const requests: string[] = [];
  const listener: RequestListener = (request, response) => {
    const path = request.url ?? '';
    requests.push(path);
    (routes.get(path) ?? answer(404, 'no such feed'))(request, response);
  };
  const server = tls ? createTlsServer(tls, listener) : createServer(listener);
  // A client that refuses the certificate is no error of the server.
  server.on('tlsClientError', () => {});
  const port = await listen(server);
  const base = `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
  return {
    port,
    urls: { ipv4: `${base}/ips-v4`, ipv6: `${base}/ips-v6`, api: `${base}/client/v4/ips` },
    requests,
    set: (path, behaviour) => void routes.set(path, behaviour),
    connections: () =>
      new Promise((resolve, reject) =>
        server.getConnections((error, count) => (error ? reject(error) : resolve(count))),
      ),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Listens on a free port of 127.0.0.1 and answers its number. */
export async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

export interface Certificate {
  readonly key: string;
  readonly cert: string;
}

/** One element of ASN.1 in DER. */
function der(tag: number, ...parts: Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  const length = body.length < 128 ? [body.length] : [0x82, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
}

/** A self-signed certificate, written out by hand: node:crypto can read them but not make them. */
export function selfSigned(dnsName: string): Certificate {
  const sequence = (...parts: Uint8Array[]) => der(0x30, ...parts);
  const oid = (hex: string) => der(0x06, Buffer.from(hex, 'hex'));
  const integer = (value: number) => der(0x02, Buffer.from([value]));

  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const ecdsaWithSha256 = sequence(oid('2a8648ce3d040302'));
  const commonName = sequence(oid('550403'), der(0x0c, Buffer.from(dnsName)));
  const name = sequence(der(0x31, commonName));
  const valid = ['200101000000Z', '491231235959Z'].map((time) => der(0x17, Buffer.from(time)));
  const alternativeNames = sequence(
    der(0x82, Buffer.from(dnsName)),
    der(0x87, Buffer.from([127, 0, 0, 1])),
  );
  const extensions = sequence(sequence(oid('551d11'), der(0x04, alternativeNames)));
  const body = sequence(
    der(0xa0, integer(2)),
    integer(1),
    ecdsaWithSha256,
    name,
    sequence(...valid),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, extensions),
  );
  const signature = der(0x03, Buffer.from([0]), sign('sha256', body, privateKey));
  const base64 = sequence(body, ecdsaWithSha256, signature).toString('base64');
  return {
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    cert: `-----BEGIN CERTIFICATE-----\n${base64}\n-----END CERTIFICATE-----\n`,
  };
}
