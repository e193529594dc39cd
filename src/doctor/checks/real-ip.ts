/** What counts or refuses visitors by their address: does it see the visitor, or Cloudflare? */
import { ignoredIn, jailsIn, logsIn } from '../../../renderers/fail2ban/answers.ts';
import { ofProcess } from '../../host/proc.ts';
import { singling } from '../../../renderers/nginx/by-address.ts';
import { isHttp, serversOf, type Directive } from '../../../renderers/nginx/configuration.ts';
import { chainOf, decisions } from '../../../renderers/nginx/decisions.ts';
import { mendOf, placesIn } from '../../../renderers/nginx/shut-out.ts';
import { nearestOf, type Nearest } from '../../../renderers/nginx/real-ip.ts';
import { isEmpty, parseRanges, subtract } from '../../prefix.ts';
import type { Ranges } from '../../renderer.ts';
import { few } from '../../text.ts';
import { defineCheck, type DoctorHost, type Finding } from '../check.ts';
import { directiveText, readable, runningServers, type Servers } from '../configuration.ts';
import { accessList, headers, prefixes, type View } from '../access-list.ts';
import { lookAtHtaccess } from '../htaccess.ts';
import { allows, apacheView, evasive, requires, type Lists } from '../apache-access.ts';
import { unlessMissing } from '../../host/programs.ts';

interface Jail {
  readonly name: string;
  readonly logs: readonly string[];
  readonly ignored: readonly string[];
}

interface Seen extends Servers {
  readonly lists: Lists;
  /** What .htaccess files say. */
  readonly htaccess: readonly Directive[];
  readonly jails: readonly Jail[];
}

export default defineCheck<Seen>({
  name: 'real-ip',
  title: "what counts, bans or refuses by address sees the visitor's address, and not Cloudflare's",

  async observe(host) {
    const servers = await runningServers(host);
    const paths = (servers.apache?.directives ?? [])
      .filter(({ words }) => /^RemoteIP(?:Trusted|Internal)ProxyList$/i.test(words[0]!))
      .map(({ words }) => words[1] ?? '');
    const texts = await Promise.all(
      paths.map(async (path) => [path, (await ofProcess(host.read(path))) ?? ''] as const),
    );
    return {
      ...servers,
      lists: Object.fromEntries(texts),
      htaccess: await lookAtHtaccess(host, servers.apache?.directives ?? []),
      jails: await jails(host),
    };
  },

  judge(seen, { ranges }) {
    const nginx = seen.nginx === null ? [] : readable('nginx', seen.nginx);
    const apache = seen.apache === null ? [] : readable('Apache', seen.apache);
    return [
      ...accessLists(nginx, ranges),
      ...decided(nginx, ranges),
      ...requires([...apache, ...seen.htaccess], seen.lists, ranges),
      ...allows([...apache, ...seen.htaccess], seen.lists, ranges),
      ...seen.jails.flatMap((jail) => banning(jail, nginx, apache, seen.lists, ranges)),
      ...evasive(apache, ranges),
      ...limits(nginx, ranges),
    ];
  },
});

// ---- observed ----

async function jails(host: DoctorHost): Promise<readonly Jail[]> {
  const status = await unlessMissing(host, ['fail2ban-client', 'status']);
  // No server answers, or not to this user.
  if (status === undefined || status.code !== 0) return [];
  return Promise.all(
    jailsIn(status.stdout).map(async (name) => {
      const get = async (
        what: string,
        read: (text: string, jail: string) => readonly string[],
      ): Promise<readonly string[]> => {
        const { code, stdout } = await host.query({ argv: ['fail2ban-client', 'get', name, what] });
        return code === 0 ? read(stdout, name) : [];
      };
      return {
        name,
        logs: await get('logpath', logsIn),
        ignored: await get('ignoreip', ignoredIn),
      };
    }),
  );
}

// ---- nginx ----

/** ngx_http_realip_module: believed are those of set_real_ip_from, in the header of real_ip_header. */
function nginxView(nearest: Nearest, blocks: readonly string[], ranges: Ranges): View {
  const from = nearest('set_real_ip_from', blocks);
  if (from.length === 0) return { edge: ranges, why: 'no set_real_ip_from counts there' };
  const [header] = nearest('real_ip_header', blocks);
  const name = header?.words[1] ?? 'X-Real-IP';
  if (!headers.includes(name.toLowerCase()))
    return {
      edge: ranges,
      why: `real_ip_header is ${name}${header === undefined ? ' by default' : ` (${header.at})`}, which Cloudflare does not send`,
    };
  const edge = subtract(ranges, prefixes(from.map(({ words }) => words[1] ?? '')));
  const missing = [...edge.v4, ...edge.v6];
  return { edge, why: `set_real_ip_from lacks ${few(missing)} of Cloudflare's ranges` };
}

function accessLists(directives: readonly Directive[], ranges: Ranges): readonly Finding[] {
  const rules = directives.filter(
    ({ words, blocks }) =>
      ['allow', 'deny'].includes(words[0]!) && blocks[0]?.startsWith('http#') === true,
  );
  const places = [...new Set(rules.map(({ blocks }) => blocks.join()))];
  const nearest = nearestOf(directives);
  return places.flatMap((place) => {
    const here = rules.filter(({ blocks }) => blocks.join() === place);
    const { blocks } = here[0]!;
    if (isLocal(directives, blocks)) return [];
    const view = nginxView(nearest, blocks, ranges);
    const share = blocks.length <= 2 ? 'all' : 'part';
    return accessList(
      here.map((one) => ({
        allow: one.words[0] === 'allow',
        what: one.words[1] ?? '',
        line: directiveText(one),
      })),
      view,
      ranges,
      share,
      'nginx',
    );
  });
}

/** What decides by an address that it no longer sees. */
function decided(directives: readonly Directive[], ranges: Ranges): readonly Finding[] {
  const http = directives.filter(({ blocks }) => blocks[0]?.startsWith('http#') === true);
  const all = decisions(http);
  if (all.length === 0) return [];
  const around = { servers: serversOf(http), directives: http };
  const nearest = nearestOf(http);
  const singled = singling(ranges);
  return all.flatMap((decision): readonly Finding[] => {
    const { directive } = decision;
    const [named = [], ...read] = chainOf(decision).map((one) => singled(one).ranges);
    if (named.length === 0 || read.some((one) => one.length > 0)) return [];
    const places = isHttp(directive.blocks)
      ? placesIn(around, directive.blocks)
      : [directive.blocks];
    const seeing = places.filter((blocks) => {
      const { edge } = nginxView(nearest, blocks, ranges);
      return !isLocal(http, blocks) && !isEmpty(subtract(parseRanges(named), edge));
    });
    if (seeing.length === 0) return [];
    const result = directive.words.at(-1)!;
    const gate = http.find(({ words }) => words[0] === 'if' && words.join(' ').includes(result));
    const refuses = directive.words[0] === 'if' || gate !== undefined;
    return [
      {
        level: refuses ? 'problem' : 'warning',
        share: directive.blocks.length <= 2 ? 'all' : 'part',
        causes: [],
        title: `nginx singles out Cloudflare's addresses, and sees the visitors': every visitor gets what strangers get`,
        evidence: [
          directiveText(directive),
          `it names ${few(named)}`,
          ...(gate === undefined ? [] : [directiveText(gate)]),
        ],
        advice: `In place of that, ${mendOf(decision)}, which is the address of the connection.`,
      },
    ];
  });
}

function limits(directives: readonly Directive[], ranges: Ranges): readonly Finding[] {
  const nearest = nearestOf(directives);
  const keys = new Map<string, Directive>();
  for (const directive of directives) {
    const [name, ...words] = directive.words;
    const zone = words
      .find((word) => word.startsWith('zone='))
      ?.slice(5)
      .split(':')[0];
    if (zone !== undefined && /^limit_(?:req|conn)_zone$/.test(name!)) keys.set(zone, directive);
  }
  return directives.flatMap((directive): readonly Finding[] => {
    const [name, first = '', ...more] = directive.words;
    if (name !== 'limit_req' && name !== 'limit_conn') return [];
    const { blocks } = directive;
    const zone =
      name === 'limit_conn' ? first : [first, ...more].join(' ').replace(/^.*?zone=/, '');
    const declared = keys.get(zone.split(' ')[0]!);
    const key = declared?.words[1] ?? '';
    const view = nginxView(nearest, blocks, ranges);
    if (isLocal(directives, blocks) || isEmpty(view.edge)) return [];
    const evidence = [
      directiveText(directive),
      ...(declared === undefined ? [] : [directiveText(declared)]),
    ];
    if (/\$(?:binary_)?remote_addr\b/.test(key))
      return [
        {
          level: 'warning',
          share: blocks.length <= 2 ? 'all' : 'part',
          causes: [],
          title: `${name} counts all visitors behind one address of Cloudflare as one: they get 503`,
          evidence: [...evidence, view.why],
          command: 'cfsync apply --backend nginx',
        },
      ];
    const own = /\$(?:http_cf_connecting_ip|server_name|host|http_host|realip_remote_addr)\b/;
    if (own.test(key) || !key.includes('$')) return [];
    return [
      {
        level: 'note',
        share: 'maybe',
        causes: [],
        title: `What ${name} counts by, ${key}, is not understood; is it the visitor?`,
        evidence: [...evidence, view.why],
      },
    ];
  });
}

/** Whether only this host itself can reach the server: all its listen directives are loopback or a socket file. */
function isLocal(directives: readonly Directive[], blocks: readonly string[]): boolean {
  const server = blocks[1];
  const listens = directives.filter(
    ({ words, blocks: around }) =>
      words[0] === 'listen' && server !== undefined && around[1] === server,
  );
  return (
    listens.length > 0 &&
    listens.every(({ words }) => /^(?:127\.|\[::1\]|localhost|unix:)/.test(words[1] ?? ''))
  );
}

// ---- fail2ban ----

function banning(
  jail: Jail,
  nginx: readonly Directive[],
  apache: readonly Directive[],
  lists: Lists,
  ranges: Ranges,
): readonly Finding[] {
  const nginxLog = jail.logs.find((log) => log.includes('/nginx/') || names(nginx, log));
  const apacheLog = jail.logs.find(
    (log) => /\/(?:apache2|httpd)\//.test(log) || names(apache, log),
  );
  const views = [
    ...(nginxLog === undefined ? [] : nginxViews(nginx, ranges)),
    ...(apacheLog === undefined || apache.length === 0 ? [] : [apacheView(apache, lists, ranges)]),
  ];
  const view = views.find(({ edge }) => !isEmpty(edge));
  if (view === undefined) return [];
  const risked = subtract(view.edge, prefixes(jail.ignored));
  const log = nginxLog ?? apacheLog!;
  if (isEmpty(risked))
    return [
      {
        level: 'note',
        share: 'maybe',
        causes: [],
        title: `The jail ${jail.name} of fail2ban sees Cloudflare's addresses, which it ignores: it bans nobody behind them`,
        evidence: [`it reads ${log}`, view.why],
        advice: "Let the log have the visitor's address: cfsync apply --backend nginx.",
      },
    ];
  return [
    {
      level: 'warning',
      share: 'part',
      causes: [521, 522],
      title: `The jail ${jail.name} of fail2ban will ban addresses of Cloudflare's for what their visitors do`,
      evidence: [
        `it reads ${log}`,
        view.why,
        `its ignoreip lacks ${few([...risked.v4, ...risked.v6])}`,
      ],
      command: 'cfsync apply --backend nginx --backend fail2ban',
    },
  ];
}

function names(directives: readonly Directive[], log: string): boolean {
  return directives.some(
    ({ words }) =>
      /^(?:access_log|error_log|CustomLog|ErrorLog)$/.test(words[0]!) && words[1] === log,
  );
}

/** How each server that others can reach sees them. */
function nginxViews(directives: readonly Directive[], ranges: Ranges): readonly View[] {
  const nearest = nearestOf(directives);
  return serversOf(directives)
    .map((server) => server.split(','))
    .filter((blocks) => !isLocal(directives, blocks))
    .map((blocks) => nginxView(nearest, blocks, ranges));
}
