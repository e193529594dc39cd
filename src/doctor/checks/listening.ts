/** Does anything listen on the web ports, where Cloudflare can reach it? */
import type { Host } from '../../renderer.ts';
import { count } from '../../text.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import { isLoopback } from '../../host/proc.ts';
import { pidsOf } from '../../host/programs.ts';
import {
  fronted,
  listeners,
  owned,
  socketStatistics,
  textOf,
  type Listener,
} from '../listeners.ts';
import { surveyOf, tryFilters } from '../survey.ts';
import { hasTunnel, tunnelRuns } from '../tunnel.ts';
import { portsText } from '../words.ts';
import { defineCheck, type DoctorContext, type Finding } from '../check.ts';

interface Seen {
  /** A port may be sent on to another one, or to a container; null where the rules cannot be read. */
  readonly filters: FilterSeen | null;
  readonly listeners: readonly Listener[];
  /** Web servers that have a configuration here, and do not run. */
  readonly stopped: readonly string[];
  /** What `ss -Hltnp` printed; null where there is no ss. */
  readonly ss: string | null;
  /** Whether the host has an IPv6 address that is neither link-local nor of its own site alone. */
  readonly hasIpv6: boolean;
  readonly tunnel: boolean;
}

/** https://developers.cloudflare.com/fundamentals/reference/network-ports/ */
const proxied = [80, 443, 2052, 2053, 2082, 2083, 2086, 2087, 2095, 2096, 8080, 8443, 8880];

export default defineCheck<Seen>({
  name: 'listening',
  title: 'something listens on the web ports, and not on loopback alone',

  async observe(host) {
    return {
      filters: await tryFilters(host),
      listeners: await listeners(host),
      stopped: await stopped(host),
      ss: await socketStatistics(host),
      tunnel: await hasTunnel(host),
      hasIpv6: globalAddress.test((await host.read('/proc/net/if_inet6')) ?? ''),
    };
  },

  judge(seen, context) {
    const strange = context.ports.filter((port) => !proxied.includes(port));
    const asked = {
      ...context,
      ports: context.ports.filter((port) => !isSentOn(seen, port, context)),
    };
    return [
      ...absent(seen, asked),
      ...oneFamily(seen, asked),
      ...behind(seen, asked),
      ...(strange.length === 0 ? [] : [notProxied(strange)]),
    ];
  },
});

/** Whether the rules send a port on to where something listens, or to another host such as a container. */
function isSentOn(
  { filters, listeners: all }: Seen,
  port: number,
  context: DoctorContext,
): boolean {
  if (filters === null) return false;
  const doors = surveyOf(filters, context).doors.filter((door) => door.port === port);
  return doors
    .flatMap(({ cloudflare }) => cloudflare)
    .some(
      ({ packet }) =>
        packet.translated !== undefined &&
        (packet.to !== 'here' || all.some((listener) => listener.port === packet.port)),
    );
}

/** A line of /proc/net/if_inet6 with scope 00, global, that is not of fc00::/7 (RFC 4193). */
const globalAddress = /^(?!f[cd])[\da-f]{32} \S+ \S+ 00 /m;

async function stopped(host: Pick<Host, 'list' | 'read'>): Promise<readonly string[]> {
  const names = ['nginx', 'apache2', 'httpd', 'caddy', 'haproxy', 'lighttpd'];
  const folders = await Promise.all(names.map((name) => host.list(`/etc/${name}`)));
  const running = await Promise.all(names.map((name) => pidsOf(host, [name])));
  return names.filter((_, i) => folders[i] !== undefined && running[i]!.length === 0);
}

function absent(seen: Seen, { ports }: DoctorContext): readonly Finding[] {
  const on = (port: number): readonly Listener[] =>
    seen.listeners.filter((listener) => listener.port === port);
  const loopback = ports.filter(
    (port) => on(port).length > 0 && on(port).every((one) => isLoopback(one.address)),
  );
  const missing = ports.filter((port) => on(port).length === 0);
  const findings: Finding[] = [];
  const gone = loopback.length + missing.length;
  if (gone > 0 && gone === ports.length && seen.tunnel) return [throughTunnel(seen, ports)];
  const weigh = (list: readonly number[]): Pick<Finding, 'level' | 'share'> =>
    gone === ports.length
      ? { level: 'problem', share: 'all' }
      : { level: list.some((port) => port !== 80) ? 'warning' : 'note', share: 'part' };
  if (missing.length > 0)
    findings.push({
      ...weigh(missing),
      causes: [521],
      title: `Nothing listens on ${portsText(missing)}`,
      evidence: [
        'no socket of /proc/net/tcp and tcp6 listens there',
        ...elsewhere(seen, ports, missing),
      ],
      ...(gone === ports.length
        ? whatToStart(seen)
        : {
            advice: `This is right if Cloudflare never connects to ${portsText(missing)}: the mode Flexible uses port 80 alone, Full and Full (strict) use 443 for https. Name the ports that count with --ports.`,
          }),
    });
  if (loopback.length > 0)
    findings.push({
      ...weigh(loopback),
      causes: [521],
      title: `Only loopback is listened on for ${portsText(loopback)}`,
      evidence: loopback.flatMap((port) =>
        on(port).map((one) => `${textOf(one)}${owner(seen, port)}`),
      ),
      advice:
        'Let the web server listen on all addresses (nginx: listen 443 ssl; and listen [::]:443 ssl;), then restart it.',
    });
  return findings;
}

/** One that runs and listens elsewhere listens there after a restart as well. */
function whatToStart({ stopped: servers }: Seen): Pick<Finding, 'advice' | 'command'> {
  const [server, ...more] = servers;
  if (server !== undefined && more.length === 0) return { command: `systemctl restart ${server}` };
  const which = more.length > 0 ? ` (of ${servers.join(', ')} none runs)` : '';
  return {
    advice: `Start the web server that has these ports${which}, let one that runs listen on them, or name the ports that it has with --ports.`,
  };
}

/** Nobody has to come to the ports of a host that fetches its visitors itself. */
function throughTunnel(seen: Seen, ports: readonly number[]): Finding {
  return {
    level: 'note',
    share: 'maybe',
    causes: [],
    title: `A tunnel brings the visitors: nothing that others reach listens on ${portsText(ports)}`,
    evidence: [tunnelRuns, ...ports.flatMap((port) => lines(seen, port))],
    advice: 'This is right unless a name in DNS leads to an address of this host.',
  };
}

/** A web server on loopback is well where another program has the ports. */
function behind({ ss }: Seen, { ports }: DoctorContext): readonly Finding[] {
  return fronted(ss, ports)
    .filter(({ by }) => by.length > 0)
    .map(({ server, on, by }) => ({
      level: 'note',
      share: 'maybe',
      causes: [],
      title: `${by.join(', ')} stands in front of ${server}, which listens on loopback alone`,
      evidence: on.map((one) => `${textOf(one)} (${server})`),
      advice: `Cloudflare speaks to ${by.join(', ')}: how long connections are kept, and who the visitor is, is settled there first.`,
    }));
}

/** Where else something listens that the Internet can reach: the admin may know the web server by it. */
function elsewhere(
  seen: Seen,
  ports: readonly number[],
  missing: readonly number[],
): readonly string[] {
  if (missing.length < ports.length) return [];
  const others = new Map<number, string>();
  for (const listener of seen.listeners)
    if (!isLoopback(listener.address)) others.set(listener.port, owner(seen, listener.port));
  const list = [...others].sort(([a], [b]) => a - b);
  if (list.length === 0) return ['nothing else listens on this host either'];
  const shown = list.slice(0, 8).map(([port, who]) => `${port}${who}`);
  const more = list.length > 8 ? ` and ${count(list.length - 8, 'more', 'more')}` : '';
  return [`listening instead: ${shown.join(', ')}${more}`];
}

function oneFamily(seen: Seen, { ports }: DoctorContext): readonly Finding[] {
  const findings: Finding[] = [];
  const inFamily = (port: number, family: 'v4' | 'v6'): boolean =>
    seen.listeners.some(
      (one) =>
        one.port === port &&
        !isLoopback(one.address) &&
        (one.address.includes(':') === (family === 'v6') ||
          // Without ss nobody knows, and most programs take both.
          (one.address === '::' && (seen.ss === null || isDual(seen.ss, port)))),
    );
  const heard = ports.filter((port) => inFamily(port, 'v4') || inFamily(port, 'v6'));
  const without = (family: 'v4' | 'v6'): readonly number[] =>
    heard.filter((port) => !inFamily(port, family));
  const [v4, v6] = [without('v4'), without('v6')];
  if (v4.length > 0)
    findings.push({
      level: 'warning',
      share: 'part',
      causes: [521],
      title: `Only IPv6 is listened on for ${portsText(v4)}`,
      evidence: v4.flatMap((port) => lines(seen, port)),
      advice:
        'Cloudflare connects over IPv4 to every name with an A record; let the web server listen on 0.0.0.0 as well (nginx: listen 443 ssl; next to listen [::]:443 ssl;).',
    });
  if (v6.length > 0 && seen.hasIpv6)
    findings.push({
      level: 'note',
      share: 'part',
      causes: [521],
      title: `Only IPv4 is listened on for ${portsText(v6)}, and the host has IPv6`,
      evidence: v6.flatMap((port) => lines(seen, port)),
      advice:
        'Cloudflare connects over IPv6 only to names with an AAAA record; have none, or listen on [::] as well.',
    });
  return findings;
}

function notProxied(ports: readonly number[]): Finding {
  return {
    level: 'warning',
    share: 'part',
    causes: [],
    title: `Cloudflare does not proxy to ${portsText(ports)}`,
    evidence: [`it proxies to ${proxied.join(', ')}`],
    advice:
      'Move the web server to one of these ports (443 is usual), or use Spectrum or a tunnel.',
  };
}

function lines(seen: Seen, port: number): readonly string[] {
  return seen.listeners
    .filter((one) => one.port === port)
    .map((one) => `${textOf(one)}${owner(seen, port)}`);
}

function isDual(ss: string, port: number): boolean {
  return ss.split('\n').some((text) => text.split(/\s+/)[3] === `*:${port}`);
}

/** ` (nginx)`, where ss names the program. */
function owner({ ss }: Seen, port: number): string {
  const one = owned(ss).find((socket) => socket.port === port);
  return one === undefined ? '' : ` (${one.program})`;
}
