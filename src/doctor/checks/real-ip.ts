/** What counts or refuses visitors by their address: does it see the visitor, or Cloudflare? */
import { ignoredIn, jailsIn, logsIn } from '../../../renderers/fail2ban/answers.ts';
import { ofProcess } from '../../host/proc.ts';
import { serversOf, type Directive } from '../../../renderers/nginx/configuration.ts';
import { nearestOf, type Nearest } from '../../../renderers/nginx/real-ip.ts';
import { asPrefix, intersect, isEmpty, none, parseRanges, subtract } from '../../prefix.ts';
import type { Ranges } from '../../renderer.ts';
import { few } from '../../text.ts';
import { defineCheck, type DoctorHost, type Finding } from '../check.ts';
import { directiveText, readable, runningServers, type Servers } from '../configuration.ts';
import { unlessMissing } from '../../host/programs.ts';

interface Jail {
  readonly name: string;
  readonly logs: readonly string[];
  readonly ignored: readonly string[];
}

interface Seen extends Servers {
  /** The text of each list that Apache's configuration names. */
  readonly lists: Readonly<Record<string, string>>;
  readonly jails: readonly Jail[];
}

/** Who is seen at a place of the configuration. */
interface View {
  /** Ranges whose connections keep Cloudflare's address. */
  readonly edge: Ranges;
  /** Why, as a line of evidence. */
  readonly why: string;
}

/** https://developers.cloudflare.com/fundamentals/reference/http-headers/ */
const headers = ['cf-connecting-ip', 'true-client-ip', 'x-forwarded-for', 'cf-connecting-ipv6'];

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
      jails: await jails(host),
    };
  },

  judge(seen, { ranges }) {
    const nginx = seen.nginx === null ? [] : readable('nginx', seen.nginx);
    const apache = seen.apache === null ? [] : readable('Apache', seen.apache);
    return [
      ...accessLists(nginx, ranges),
      ...requires(apache, seen.lists, ranges),
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

interface Rule {
  readonly allow: boolean;
  /** `all`, an address or a prefix. */
  readonly what: string;
  readonly line: string;
}

/** One list of allow and deny. */
function accessList(
  rules: readonly Rule[],
  view: View,
  ranges: Ranges,
  share: 'all' | 'part',
  server: 'nginx' | 'Apache',
): readonly Finding[] {
  const shut = rules.find(({ allow, what }) => !allow && what === 'all');
  const allowed = rules.filter(({ allow, what }) => allow && what !== 'all');
  const denied = rules.filter(({ allow, what }) => !allow && what !== 'all');
  const allowedRanges = prefixes(allowed.map(({ what }) => what));
  const ofCloudflare = intersect(allowedRanges, ranges);
  const seesVisitors = isEmpty(view.edge);
  const everybody = rules.some(({ allow, what }) => allow && what === 'all');
  if (everybody) return [];
  if (seesVisitors) {
    const lines = allowed.filter(({ what }) => !isEmpty(intersect(prefixes([what]), ranges)));
    if (shut === undefined || isEmpty(ofCloudflare) || isWide(allowedRanges)) return [];
    return [
      {
        level: 'problem',
        share,
        causes: [],
        title: `${server} lets in Cloudflare's addresses alone, and sees the visitors': every visitor gets 403`,
        evidence: [...lines.slice(0, 3).map((rule) => rule.line), shut.line],
        advice:
          server === 'nginx'
            ? 'Say "if ($from_cloudflare = 0) { return 403; }" there instead, with the variable of cfsync apply --backend nginx, which is about the connection; or lock the ports with cfsync apply --mode lockdown.'
            : 'Say Require expr "%{CONN_REMOTE_ADDR} -ipmatch \'173.245.48.0/20\'", a range each, in <RequireAny> instead, which is about the connection; or lock the ports with cfsync apply --mode lockdown.',
      },
    ];
  }
  const mend =
    server === 'nginx'
      ? { command: 'cfsync apply --backend nginx' }
      : { advice: 'Let mod_remoteip take the visitor from CF-Connecting-IP (a2enmod remoteip).' };
  if (shut !== undefined && !isEmpty(subtract(allowedRanges, local)) && isEmpty(ofCloudflare))
    return [
      {
        level: share === 'all' ? 'problem' : 'warning',
        share,
        causes: [],
        title: `${server} lets in a few addresses, and sees Cloudflare's: everybody who comes through it gets 403`,
        evidence: [...allowed.slice(0, 3).map((rule) => rule.line), shut.line, view.why],
        ...mend,
      },
    ];
  const out = denied.filter(({ what }) => !isEmpty(intersect(prefixes([what]), view.edge)));
  if (out.length > 0)
    return [
      {
        level: 'warning',
        share: 'part',
        causes: [],
        title: `${server} refuses addresses of Cloudflare's: the visitors behind them get 403`,
        evidence: [...out.slice(0, 3).map((rule) => rule.line), view.why],
        ...mend,
      },
    ];
  if (denied.length === 0 || shut !== undefined) return [];
  return [
    {
      level: 'note',
      share: 'maybe',
      causes: [],
      title: `${server} refuses addresses that it never sees through Cloudflare`,
      evidence: [...denied.slice(0, 3).map((rule) => rule.line), view.why],
      ...mend,
    },
  ];
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

// ---- Apache ----

function apacheView(directives: readonly Directive[], lists: Seen['lists'], ranges: Ranges): View {
  const named = (pattern: RegExp): readonly Directive[] =>
    directives.filter(({ words }) => pattern.test(words[0]!));
  const header = named(/^RemoteIPHeader$/i).at(-1);
  if (header === undefined) return { edge: ranges, why: 'there is no RemoteIPHeader' };
  if (!headers.includes((header.words[1] ?? '').toLowerCase()))
    return { edge: ranges, why: `${directiveText(header)}, which Cloudflare does not send` };
  const proxies = named(/^RemoteIP(?:Trusted|Internal)Proxy$/i).flatMap(({ words }) =>
    words.slice(1),
  );
  const files = named(/^RemoteIP(?:Trusted|Internal)ProxyList$/i).map(({ words }) => words[1]!);
  // Then every sender is believed.
  if (proxies.length + files.length === 0) return { edge: none, why: '' };
  const listed = files.flatMap((path) =>
    (lists[path] ?? '').split('\n').map((text) => text.replace(/#.*/, '').trim()),
  );
  const edge = subtract(ranges, prefixes([...proxies, ...listed]));
  return { edge, why: `mod_remoteip believes all but ${few([...edge.v4, ...edge.v6])}` };
}

function requires(
  directives: readonly Directive[],
  lists: Seen['lists'],
  ranges: Ranges,
): readonly Finding[] {
  const all = directives.filter(({ words }) => words[0]!.toLowerCase() === 'require');
  const byAddress = all.filter(
    ({ words }) => words[1] === 'ip' || words.slice(1, 3).join() === 'not,ip',
  );
  const places = [...new Set(byAddress.map(({ blocks }) => blocks.join()))];
  const view = apacheView(directives, lists, ranges);
  return places.flatMap((place) => {
    const here = byAddress.filter(({ blocks }) => blocks.join() === place);
    const { blocks } = here[0]!;
    const mixed =
      blocks.some((block) => /^Require(?:Any|All|None)#/i.test(block)) ||
      all.some((one) => one.blocks.join() === place && !here.includes(one)) ||
      here.some(({ words }) => words[1] === 'not');
    if (mixed)
      return [
        {
          level: 'note',
          share: 'maybe',
          causes: [],
          title: 'A list of Require directives is not understood; is it about visitors?',
          evidence: here.slice(0, 3).map(directiveText),
        },
      ];
    const rules = here.flatMap((one) =>
      one.words.slice(2).map((what) => ({ allow: true, what, line: directiveText(one) })),
    );
    const shut = { allow: false, what: 'all', line: 'and nothing else is let in there' };
    const share = blocks.some((block) => /^(?:Location|Directory|Files)/i.test(block))
      ? ('part' as const)
      : ('all' as const);
    return accessList([...rules, shut], view, ranges, share, 'Apache');
  });
}

/** mod_evasive 1.10.1 counts by the address of the connection, with mod_remoteip as well; it knows no prefixes. */
function evasive(directives: readonly Directive[], ranges: Ranges): readonly Finding[] {
  const [first] = directives.filter(({ words }) => /^DOS(?!Whitelist$)/i.test(words[0]!));
  if (first === undefined) return [];
  const spared = directives
    .filter(({ words }) => words[0]!.toLowerCase() === 'doswhitelist')
    .flatMap(({ words }) => words.slice(1))
    .flatMap((word) => {
      const [, fixed, stars] = /^((?:\d+\.)*?\d+)((?:\.\*)*)$/.exec(word) ?? [];
      const bytes = fixed?.split('.') ?? [];
      const wild = (stars?.length ?? 0) / 2;
      // What is not four octets matches nothing in mod_evasive, and is no prefix here.
      return [`${[...bytes, ...Array<string>(wild).fill('0')].join('.')}/${bytes.length * 8}`];
    });
  const counted = subtract({ v4: ranges.v4, v6: [] }, prefixes(spared));
  if (isEmpty(counted)) return [];
  return [
    {
      level: 'warning',
      share: 'all',
      causes: [],
      title:
        'mod_evasive counts all visitors behind one address of Cloudflare as one: they get 403',
      evidence: [
        directiveText(first),
        `no DOSWhitelist spares ${few(counted.v4)}; it takes addresses and 173.245.48.*, no prefixes`,
      ],
      command: 'a2dismod evasive && systemctl reload apache2',
    },
  ];
}

// ---- fail2ban ----

function banning(
  jail: Jail,
  nginx: readonly Directive[],
  apache: readonly Directive[],
  lists: Seen['lists'],
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

// ---- helpers ----

/** What no visitor from the Internet has (RFC 6890): such a list is for this host or its network on purpose. */
const local = parseRanges([
  '127.0.0.0/8',
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '::1/128',
  'fc00::/7',
]);

/** Addresses and prefixes; what is neither, or has host bits, is left out. */
function prefixes(words: readonly string[]): Ranges {
  return parseRanges(words.flatMap((word) => asPrefix(word)?.text ?? []));
}

/** Whether nearly everybody is in it. */
function isWide({ v4, v6 }: Ranges): boolean {
  return [...v4, ...v6].some((prefix) => /\/[0-4]$/.test(prefix));
}
