/** Does the web server answer TLS, and with a certificate for which of Cloudflare's modes? */
import { checkServerIdentity, connect, type PeerCertificate, type TLSSocket } from 'node:tls';
import { CfsyncError, errno, exit } from '../../errors.ts';
import { defineCheck, type DoctorContext, type Finding } from '../check.ts';
import { ownAddresses } from '../../host/interfaces.ts';
import { targetOf } from '../target.ts';
import { isLoopback } from '../../host/proc.ts';
import { listeners, textOf } from '../listeners.ts';

/** How one address answered. */
export interface End {
  /** `127.0.0.1:443`, `[::1]:443`. */
  readonly at: string;
  /** Why there was no handshake; null when there was one. */
  readonly failed: string | null;
  readonly certificate: Certificate | null;
}

interface Certificate {
  readonly fingerprint: string;
  readonly subject: string;
  readonly issuer: string;
  /** Times as OpenSSL prints them. */
  readonly from: string;
  readonly to: string;
  readonly isOriginCa: boolean;
  /** Why the roots that come with Node do not vouch for it, as a code of OpenSSL's; null when they do. */
  readonly distrust: string | null;
  /** Why it is not for the name that was asked for; null when it is, or no name is known. */
  readonly wrongName: string | null;
}

interface Seen {
  readonly ends: readonly End[];
  /** Whether something that others can reach listens on port 80. */
  readonly http: boolean;
}

/** Proxied HTTPS ports: https://developers.cloudflare.com/fundamentals/reference/network-ports/ */
const secure = [443, 2053, 2083, 2087, 2096, 8443];
/** Milliseconds; a handshake with this host itself takes some ten. */
const limit = 3000;
/** Certificates of 90 days are renewed 30 days before their end. */
const soonDays = 7;
const mostAddresses = 4;

export default defineCheck<Seen>({
  name: 'tls',
  title: "TLS on the web ports, and which of Cloudflare's modes the certificate is good for",

  async observe(host, { ports, values }) {
    const all = await listeners(host);
    const heard = ports.filter(
      (port) =>
        secure.includes(port) && all.some((one) => one.port === port && !isLoopback(one.address)),
    );
    const name = targetOf(values).host;
    const ends = await Promise.all(
      heard.flatMap((port) => addresses().map((address) => handshake(address, port, name))),
    );
    return {
      // Where nothing listens on an address, the sockets tell (check listening).
      ends: ends.filter(({ failed }) => failed !== 'ECONNREFUSED'),
      http: all.some((one) => one.port === 80 && !isLoopback(one.address)),
    };
  },

  judge(seen, context) {
    const bad = seen.ends.filter(({ failed }) => failed !== null);
    const certificates = new Map(
      seen.ends.flatMap(({ certificate }) =>
        certificate === null ? [] : [[certificate.fingerprint, certificate] as const],
      ),
    );
    return [
      ...(bad.length === 0 ? [] : [noHandshake(bad, seen)]),
      ...[...certificates.values()].flatMap((one) => certificate(one, seen, context)),
    ];
  },
});

/** Loopback and the host's own, each of which a server may treat differently. */
function addresses(): readonly string[] {
  const own = ownAddresses()
    .filter(({ scopeid = 0 }) => scopeid === 0)
    .map(({ address }) => address);
  return ['127.0.0.1', ...own].slice(0, mostAddresses);
}

/** One TLS handshake, with the name as SNI where one is known, as Cloudflare does; nothing is sent in it. */
export function handshake(address: string, port: number, name: string | undefined): Promise<End> {
  const at = textOf({ address, port });
  return new Promise((resolve) => {
    const done = (socket: TLSSocket | undefined, failed: string | null): void => {
      clearTimeout(timer);
      const seen = failed === null && socket !== undefined ? read(socket, name) : null;
      resolve({
        at,
        failed: failed ?? (seen === null ? 'no certificate' : null),
        certificate: seen,
      });
      socket?.destroy();
    };
    const socket = connect({
      host: address,
      port,
      // What is wrong with it is to be seen.
      rejectUnauthorized: false,
      ...(name !== undefined && { servername: name }),
    });
    const timer = setTimeout(() => done(socket, `no answer within ${limit / 1000} s`), limit);
    socket.once('secureConnect', () => done(socket, null));
    socket.on('error', (error) => done(socket, reason(error)));
  });
}

function reason(error: Error): string {
  if (errno(error) === 'ECONNREFUSED') return 'ECONNREFUSED';
  const { reason: said } = error as { reason?: unknown };
  return typeof said === 'string' ? said : error.message;
}

function read(socket: TLSSocket, name: string | undefined): Certificate | null {
  const peer = socket.getPeerCertificate();
  // An empty object where there is none.
  if (!('fingerprint256' in peer)) return null;
  const distrust = socket.authorizationError as unknown as Error | string | null;
  return {
    fingerprint: peer.fingerprint256,
    subject: printed(peer.subject),
    issuer: printed(peer.issuer),
    from: peer.valid_from,
    to: peer.valid_to,
    isOriginCa:
      String(peer.issuer.O).toLowerCase() === 'cloudflare, inc.' &&
      /origin/i.test(String(peer.issuer.OU)),
    distrust: socket.authorized ? null : String(distrust),
    wrongName: name === undefined ? null : (checkServerIdentity(name, peer)?.message ?? null),
  };
}

function printed(name: PeerCertificate['subject']): string {
  return Object.entries(name)
    .map(([key, value]) => `${key}=${String(value)}`)
    .join(', ');
}

function noHandshake(bad: readonly End[], seen: Seen): Finding {
  const every = bad.length === seen.ends.length;
  return {
    level: every ? 'problem' : 'warning',
    share: 'part',
    causes: [525],
    title: `There is no TLS handshake ${every ? 'on the https port' : 'on some addresses'}`,
    evidence: [
      ...bad.map(({ at, failed }) => `${at}: ${failed}`),
      ...(every ? [modes(seen, false, false)] : []),
    ],
    advice:
      'Give the web server a certificate there (nginx: listen 443 ssl; with ssl_certificate and ssl_certificate_key); one of Cloudflare (dashboard: SSL/TLS, Origin Server) is free.',
  };
}

/** Verification results that mean no more than "nobody whom Node knows has signed it". */
const unknownIssuer: readonly string[] = [
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
];

function certificate(
  one: Certificate,
  seen: Seen,
  { now, values }: DoctorContext,
): readonly Finding[] {
  const [from, to] = [new Date(one.from), new Date(one.to)];
  if (Number.isNaN(from.getTime()) || Number.isNaN(to.getTime()))
    throw new CfsyncError(exit.failed, `the times ${one.from} and ${one.to} are not understood`);
  const at = seen.ends.filter((end) => end.certificate?.fingerprint === one.fingerprint);
  const evidence = [
    `${at.map((end) => end.at).join(', ')}: ${one.subject}`,
    `issued by ${one.issuer}; valid from ${one.from} to ${one.to}`,
  ];
  const of = { share: 'part', causes: [526] } as const;
  const strict = modes(seen, true, false);
  const renew = 'Renew it (certbot renew, or what made it), then reload the web server.';
  if (now > to)
    return [
      {
        ...of,
        level: 'warning',
        title: 'The certificate has expired',
        evidence: [...evidence, strict],
        advice: renew,
      },
    ];
  if (now < from)
    return [
      {
        ...of,
        level: 'warning',
        title: 'The certificate is not valid yet',
        evidence: [...evidence, strict],
        advice: 'Wait, or look at the clock of this host: timedatectl.',
      },
    ];
  const found: Finding[] = [];
  if (one.wrongName !== null)
    found.push({
      ...of,
      level: 'warning',
      title: `The certificate is not for ${String(values.host)}`,
      evidence: [...evidence, one.wrongName, strict],
      advice: 'Have one made for that name as well, and let the server use it for it.',
    });
  const days = Math.floor((to.getTime() - now.getTime()) / 86_400_000);
  if (days < soonDays)
    found.push({
      ...of,
      level: 'warning',
      title: `The certificate expires in ${days === 1 ? '1 day' : `${days} days`}`,
      evidence,
      advice: renew,
    });
  if (one.isOriginCa || one.distrust === null) return found;
  const known = unknownIssuer.includes(one.distrust);
  found.push({
    ...of,
    level: known ? 'note' : 'warning',
    title: known
      ? 'The certificate is self-signed, or of an authority of your own'
      : 'The certificate cannot be verified: its chain is not complete, or not trusted',
    evidence: [...evidence, one.distrust, strict],
    advice: known
      ? 'Full works with it. For Full (strict) have one of Cloudflare (dashboard: SSL/TLS, Origin Server) or of a public authority.'
      : 'Give the server the whole chain (nginx: ssl_certificate fullchain.pem).',
  });
  return found;
}

/** https://developers.cloudflare.com/ssl/origin-configuration/ssl-modes/ */
function modes({ http }: Seen, full: boolean, strict: boolean): string {
  const all = { Flexible: http, Full: full, 'Full (strict)': strict };
  const named = (works: boolean): string =>
    Object.entries(all)
      .filter(([, value]) => value === works)
      .map(([mode]) => mode)
      .join(', ') || 'none';
  return `Cloudflare's modes that work: ${named(true)}; that do not: ${named(false)}`;
}
