/** What of the last day does the web server's error log say about Cloudflare's requests? */
import { isIP } from 'node:net';
import { resolve } from 'node:path';
import type { Directive } from '../../../renderers/nginx/configuration.ts';
import { contains } from '../../prefix.ts';
import type { Ranges } from '../../renderer.ts';
import { count, number } from '../../text.ts';
import { lookAtApache } from '../apache.ts';
import { defineCheck, type DoctorHost, type Finding } from '../check.ts';
import { lastDay, logs, type Line, type Log } from '../logs.ts';
import { directiveText } from '../configuration.ts';
import { lookAtNginx, seconds } from '../nginx.ts';
import { unlessMissing } from '../../host/programs.ts';

interface Seen {
  readonly nginx: readonly Log[];
  readonly apache: readonly Log[];
  /** nginx waits for an upstream longer than Cloudflare waits for nginx: the directive that says so. */
  readonly patient: string | null;
}

/** Seconds: "Proxy Read Timeout", https://developers.cloudflare.com/fundamentals/reference/connection-limits/ */
const cloudflareWaits = 120;
/** A few in a day happen on a healthy host. */
const many = 10;

/** What is looked for in the lines. */
interface Kind {
  readonly server: 'nginx' | 'apache';
  readonly pattern: RegExp;
  /** Only lines about a client inside Cloudflare's ranges. */
  readonly cloudflare?: true;
  readonly title: string;
  readonly causes: Finding['causes'];
  /** Never above a note, however many. */
  readonly harmless?: true;
  /** The server says it once, however often it is so. */
  readonly once?: true;
  readonly advice: string;
}

const upstream =
  'Look at the program behind the web server: is it up, and has it enough workers? systemctl status says so.';

/** Texts of nginx 1.22.1, and of Apache 2.4.71, whose numbers (AH...) are part of its interface. */
const kinds: readonly Kind[] = [
  {
    server: 'nginx',
    pattern: /upstream timed out \(110:/,
    title: 'nginx waited in vain for its upstream: visitors see 504',
    causes: [],
    advice: upstream,
  },
  {
    server: 'nginx',
    pattern: /connect\(\) (?:to \S+ )?failed \(|no live upstreams while connecting/,
    title: 'nginx cannot connect to its upstream: visitors see 502',
    causes: [],
    advice: upstream,
  },
  {
    server: 'nginx',
    pattern:
      /upstream prematurely closed connection|(?:recv|send|readv|writev)\(\) failed \(\d+: .*\) while (?:reading|sending) .*upstream/,
    title: "nginx's upstream ended the connection without an answer: visitors see 502",
    causes: [],
    advice: upstream,
  },
  {
    server: 'nginx',
    pattern: /worker_connections are not enough$/,
    title: 'nginx had no connection left and reset new ones',
    // Measured with nginx 1.22.1: what is accepted is reset.
    causes: [520],
    advice: 'Raise worker_connections in events { }, then: systemctl reload nginx.',
  },
  {
    server: 'nginx',
    pattern: /\(24: (?:Too many open files|No file descriptors available)\)/,
    title: 'nginx had no file descriptor left',
    causes: [520, 522],
    advice: 'Raise worker_rlimit_nofile above worker_connections, then: systemctl reload nginx.',
  },
  {
    server: 'nginx',
    cloudflare: true,
    pattern: /SSL_do_handshake\(\) failed/,
    title: 'TLS handshakes with Cloudflare failed',
    causes: [525],
    advice: 'cfsync doctor --only tls says which protocols and certificates the server offers.',
  },
  {
    server: 'nginx',
    cloudflare: true,
    pattern: / limiting (?:requests|connections)/,
    title: "nginx refused Cloudflare's addresses by limit_req or limit_conn",
    causes: [],
    advice:
      'One address of Cloudflare stands for many visitors; let nginx count visitors: cfsync apply --backend nginx.',
  },
  {
    server: 'nginx',
    cloudflare: true,
    pattern: /access forbidden by rule/,
    title: "nginx refused Cloudflare's addresses by allow and deny: visitors see 403",
    causes: [],
    harmless: true,
    advice: 'cfsync doctor --only real-ip says whether the rules are about visitors or Cloudflare.',
  },
  {
    server: 'apache',
    pattern:
      /\(70007\)The timeout specified has expired: .*AH(?:01102|01075|10293)|AH01075: .*\(polling\)/,
    title: 'Apache waited in vain for its upstream: visitors see 502 or 504',
    causes: [],
    advice: upstream,
  },
  {
    server: 'apache',
    pattern: /AH00957: |AH02454: |AH01079: /,
    title: 'Apache cannot connect to its upstream: visitors see 503',
    causes: [],
    advice: upstream,
  },
  {
    server: 'apache',
    pattern: /(?<!\(70007\)The timeout specified has expired: .*)AH01102: /,
    title: "Apache's upstream ended the connection without an answer: visitors see 502",
    causes: [],
    advice: upstream,
  },
  {
    server: 'apache',
    pattern: /AH(?:00161|00484|10159): |server reached MaxRequestWorkers/,
    once: true,
    title: 'Apache had all its workers busy, and new connections waited',
    causes: [522, 524],
    advice:
      'Raise MaxRequestWorkers as far as memory allows, or find what is slow; then: systemctl reload apache2.',
  },
  {
    server: 'apache',
    cloudflare: true,
    pattern: /\[evasive20:error\] /,
    title: "mod_evasive refused Cloudflare's addresses: visitors see 403",
    causes: [],
    advice:
      'mod_evasive counts connections by their own address, whatever mod_remoteip says; switch it off for what comes through Cloudflare: a2dismod evasive.',
  },
  {
    server: 'apache',
    cloudflare: true,
    pattern: /AH(?:01630|01797): /,
    title: "Apache refused Cloudflare's addresses by Require or Deny: visitors see 403",
    causes: [],
    harmless: true,
    advice: 'cfsync doctor --only real-ip says whether the rules are about visitors or Cloudflare.',
  },
];

export default defineCheck<Seen>({
  name: 'error-log',
  title: "the web server's error log of the last day: upstreams, refusals, no room",

  async observe(host) {
    const [nginx, apache] = await Promise.all([lookAtNginx(host), lookAtApache(host)]);
    const ofNginx = nginx?.running === true ? await nginxLogs(host, nginx.directives) : [];
    const ofApache = apache?.running === true ? apacheLogs(apache.directives) : [];
    return {
      nginx: await logs(host, ofNginx),
      apache: await logs(host, ofApache),
      patient: patience(nginx?.directives ?? []),
    };
  },

  judge(seen, { ranges, now }) {
    const isCloudflare = remembered(ranges);
    const days = {
      nginx: seen.nginx.flatMap((log) => lastDay(log, now).map((line) => ({ ...line, log }))),
      apache: seen.apache.flatMap((log) => lastDay(log, now).map((line) => ({ ...line, log }))),
    };
    return kinds.flatMap((kind) => {
      const found = days[kind.server]
        .filter(({ text }) => kind.pattern.test(text))
        .map((line) => ({ ...line, inside: isCloudflare(line.text) }))
        .filter(({ inside }) => kind.cloudflare !== true || inside);
      return found.length === 0 ? [] : [told(kind, found, seen)];
    });
  },
});

interface Found extends Line {
  readonly log: Log;
  readonly inside: boolean;
}

function told(kind: Kind, found: readonly Found[], { patient }: Seen): Finding {
  const latest = found.at(-1)!;
  const inside = found.filter((one) => one.inside).length;
  const cut = found.some(({ log }) => log.cut) ? ' or more' : '';
  const slow = kind.pattern.source.startsWith('upstream timed out') && patient !== null;
  const clients =
    inside === 0 || kind.cloudflare === true
      ? ''
      : `, ${number(inside)} of them for an address of Cloudflare`;
  return {
    level:
      kind.harmless !== true && (found.length >= many || kind.once === true) ? 'warning' : 'note',
    share: 'part',
    causes: slow ? [524] : kind.causes,
    title: kind.title,
    evidence: [
      `${count(found.length, 'line')}${cut} in the last day${clients}; the latest in ${latest.log.path}:`,
      latest.text.length > 300 ? `${latest.text.slice(0, 300)}...` : latest.text,
      ...(slow ? [`${patient}, and Cloudflare waits for ${cloudflareWaits} s`] : []),
    ],
    advice: kind.advice,
  };
}

/** Whether a line is about a client of Cloudflare's: `client: ADDRESS,` of nginx, `[client ADDRESS:PORT]` of Apache. */
function remembered(ranges: Ranges): (line: string) => boolean {
  const known = new Map<string, boolean>();
  return (line) => {
    const [, nginx, apache] =
      /, client: ([\da-fA-F.:]+),|\[client ([\da-fA-F.:]+):\d+\]/.exec(line) ?? [];
    const address = nginx ?? apache ?? '';
    const before = known.get(address);
    if (before !== undefined) return before;
    const inside = isIP(address) !== 0 && contains(ranges, address);
    known.set(address, inside);
    return inside;
  };
}

// ---- which logs ----

async function nginxLogs(
  host: DoctorHost,
  directives: readonly Directive[],
): Promise<readonly string[]> {
  const named = directives
    .filter(({ words }) => words[0] === 'error_log')
    .map(({ words }) => words[1]!);
  const built = (await unlessMissing(host, ['nginx', '-V']))?.stderr ?? '';
  const option = (name: string): string => new RegExp(`--${name}=(\\S+)`).exec(built)?.[1] ?? '';
  const paths = named.length > 0 ? named : [option('error-log-path')];
  return paths
    .filter((path) => !/^(?:|stderr|\/dev\/\w+|(?:syslog|memory):.*)$/.test(path))
    .map((path) => resolve(option('prefix') || '/', path));
}

function apacheLogs(directives: readonly Directive[]): readonly string[] {
  const named = (name: string): readonly string[] =>
    directives.filter(({ words }) => words[0] === name).map(({ words }) => words[1]!);
  const root = named('ServerRoot')[0] ?? '/etc/httpd';
  return named('ErrorLog')
    .filter((path) => !/^(?:\||syslog(?::|$)|\/dev\/)/.test(path))
    .map((path) => resolve(root, path));
}

/** The first directive by which nginx waits longer for an upstream than Cloudflare for nginx. */
function patience(directives: readonly Directive[]): string | null {
  const found = directives.find(
    ({ words }) =>
      /^(?:proxy|fastcgi|uwsgi|scgi|grpc)_read_timeout$/.test(words[0] ?? '') &&
      (seconds(words[1] ?? '') ?? 0) >= cloudflareWaits,
  );
  return found === undefined ? null : directiveText(found);
}
