/** Does the web server answer TLS, and with a certificate for which of Cloudflare's modes? */
import { checkServerIdentity, connect, type PeerCertificate, type TLSSocket } from 'node:tls';
import { CfsyncError, errno, exit } from '../../errors.ts';
import { groupBy } from '../../group.ts';
import { few } from '../../text.ts';
import { defineCheck, type DoctorContext, type DoctorHost, type Finding } from '../check.ts';
import { runningServers, type Servers } from '../configuration.ts';
import { sitesOn } from '../sites.ts';
import { hasTunnel, unlessTunnel } from '../tunnel.ts';
import { atMost } from '../words.ts';
import { ownAddresses } from '../../host/interfaces.ts';
import { targetOf } from '../target.ts';
import { isLoopback } from '../../host/proc.ts';
import { listeners, textOf } from '../listeners.ts';

/** How one address answered. */
export interface End {
  /** `127.0.0.1:443`, `[::1]:443`. */
  readonly at: string;
  /** The name that was asked for; null for none. */
  readonly name: string | null;
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
  /** Whether every site that the web servers have TLS for was asked for by a name of its own. */
  readonly complete: boolean;
  /** Whether a tunnel runs: then nobody may ever come to these ports. */
  readonly tunnel: boolean;
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
/** Names of the configuration that are asked for on each address. */
const mostNames = 6;

export default defineCheck<Seen>({
  name: 'tls',
  title: "TLS on the web ports, and which of Cloudflare's modes the certificate is good for",

  async observe(host, { ports, values }) {
    const all = await listeners(host);
    const heard = ports.filter(
      (port) =>
        secure.includes(port) && all.some((one) => one.port === port && !isLoopback(one.address)),
    );
    const given = targetOf(values).host;
    const servers = given === undefined ? await known(host) : { nginx: null, apache: null };
    const asked = heard.map((port) => {
      const { names, complete } = sitesOn(port, servers);
      return given === undefined
        ? { port, names: names.length === 0 ? [undefined] : names.slice(0, mostNames), complete }
        : { port, names: [given], complete: true };
    });
    const ends = await Promise.all(
      asked.flatMap(({ port, names }) =>
        addresses().flatMap((address) => names.map((name) => handshake(address, port, name))),
      ),
    );
    return {
      // Where nothing listens on an address, the sockets tell (check listening).
      ends: ends.filter(({ failed }) => failed !== 'ECONNREFUSED'),
      complete: asked.every(({ complete }) => complete),
      tunnel: await hasTunnel(host),
      http: all.some((one) => one.port === 80 && !isLoopback(one.address)),
    };
  },

  judge(seen, context) {
    const certificates = new Map(
      seen.ends.flatMap(({ certificate }) =>
        certificate === null ? [] : [[certificate.fingerprint, certificate] as const],
      ),
    );
    return unlessTunnel(seen.tunnel, [
      ...noHandshake(seen),
      ...[...certificates.values()].flatMap((one) => certificate(one, seen, context)),
    ]);
  },
});

/** The web servers whose sites can be read; others are asked without a name. */
async function known(host: DoctorHost): Promise<Servers> {
  try {
    return await runningServers(host);
  } catch (error) {
    if (error instanceof CfsyncError) return { nginx: null, apache: null };
    throw error;
  }
}

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
        name: name ?? null,
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

/**
 * What a server that speaks TLS says to who names no site, or none of its own: alerts of RFC 8446, section 6, in
 * OpenSSL's words. nginx has ssl_reject_handshake for it, HAProxy strict-sni; Caddy does so unless told otherwise.
 */
const turnedAway =
  /^(?:tlsv1|sslv3|ssl\/tls).*(?:unrecognized name|internal error|handshake failure|access denied)/;

function noHandshake(seen: Seen): readonly Finding[] {
  const places = groupBy(seen.ends, ({ at }) => at);
  const outside = [...places.keys()].filter((at) => !isLoopback(at));
  // Nobody of Cloudflare's comes to loopback; it is asked for where the host has no other address.
  const counting = outside.length === 0 ? [...places.keys()] : outside;
  const isBad = (at: string): boolean => places.get(at)!.every(({ failed }) => failed !== null);
  const bad = counting.filter(isBad).flatMap((at) => places.get(at)!);
  const every = counting.every(isBad);
  if (bad.length === 0) return namesWithout(seen, counting);
  const evidence = atMost(bad.map(endText), 8);
  if (!seen.complete && bad.every(({ name, failed }) => name === null && turnedAway.test(failed!)))
    return [
      {
        level: 'note',
        share: 'maybe',
        causes: [525],
        title: 'The server turns away who asks for TLS without the name of a site',
        evidence,
        advice:
          'Cloudflare names the site, and which names are served cannot be read here: cfsync doctor --host NAME asks for one.',
      },
    ];
  return [
    {
      level: every ? 'problem' : 'warning',
      share: 'part',
      causes: [525],
      title: `There is no TLS handshake ${every ? 'on the https port' : 'on some addresses'}`,
      evidence: [...evidence, ...(every ? [modes(seen, false, false)] : [])],
      advice:
        'Give the web server a certificate there (nginx: listen 443 ssl; with ssl_certificate and ssl_certificate_key); one of Cloudflare (dashboard: SSL/TLS, Origin Server) is free.',
    },
  ];
}

/** Names that get no handshake anywhere, while others do. */
function namesWithout({ ends }: Seen, counting: readonly string[]): readonly Finding[] {
  const names = groupBy(
    ends.filter(({ at }) => counting.includes(at)),
    ({ name }) => name ?? '',
  );
  const bad = [...names].filter(([, list]) => list.every(({ failed }) => failed !== null));
  if (bad.length === 0) return [];
  return [
    {
      level: 'warning',
      share: 'part',
      causes: [525],
      title: `There is no TLS handshake for ${few(bad.map(([name]) => name))}`,
      evidence: atMost(
        bad.flatMap(([, list]) => list.map(endText)),
        8,
      ),
      advice: 'Give the site a certificate of its own, or let it use the one of the others.',
    },
  ];
}

function endText({ at, name, failed }: End): string {
  return `${at}${name === null ? '' : ` for ${name}`}: ${failed}`;
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
  const names = [...new Set(at.flatMap(({ name }) => name ?? []))];
  const evidence = [
    `${[...new Set(at.map((end) => end.at))].join(', ')}: ${one.subject}`,
    ...(values.host === undefined && names.length > 0 ? [`asked for ${few(names)}`] : []),
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
  // A name of the configuration may be there for others than Cloudflare.
  if (one.wrongName !== null && typeof values.host === 'string')
    found.push({
      ...of,
      level: 'warning',
      title: `The certificate is not for ${values.host}`,
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
