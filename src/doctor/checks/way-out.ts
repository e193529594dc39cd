/** Do answers to Cloudflare leave this host, and by the interface on which its connections come in? */
import { groupBy } from '../../group.ts';
import {
  contains,
  familyNames,
  familyOf,
  parseRanges,
  withoutLength,
  type Family,
} from '../../prefix.ts';
import { few } from '../../text.ts';
import { defineCheck, type DoctorContext, type Finding } from '../check.ts';
import { listeners } from '../listeners.ts';
import { isLoopback } from '../../host/proc.ts';
import {
  isDefault,
  observeRouting,
  prefixOf,
  prefixText,
  type Answer,
  type Entry,
  type Link,
  type Route,
  type Routing,
  type Rule,
} from '../routing.ts';
import { atMost, portsText } from '../words.ts';

interface Seen extends Routing {
  /** Whether IPv6 is listened on, on the ports. */
  readonly ipv6: boolean;
}

export default defineCheck<Seen>({
  name: 'way-out',
  title: 'local prefixes, routes and policy rules that keep answers to Cloudflare from leaving',

  async observe(host, context) {
    const [routing, heard] = await Promise.all([observeRouting(host, context), listeners(host)]);
    const ipv6 = heard.some(
      ({ address, port }) =>
        address.includes(':') && !isLoopback(address) && context.ports.includes(port),
    );
    return { ...routing, ipv6 };
  },

  judge(seen, context) {
    const answers = seen.answers.filter(({ to }) => seen.ipv6 || familyOf(to) === 'v4');
    const kinds = groupBy(answers, (answer) => keyOf(answer, seen));
    return [...kinds].flatMap(([key, list]) =>
      key === '' ? [] : [finding(list as [Answer, ...Answer[]], seen, context)],
    );
  },
});

/** What becomes of an answer. */
type Fate =
  | { readonly kind: 'leaves' | 'nowhere' }
  | { readonly kind: 'route'; readonly route: Route }
  | { readonly kind: 'rule'; readonly rule: Rule }
  | { readonly kind: 'taken'; readonly route: Route }
  | { readonly kind: 'elsewhere'; readonly route: Route; readonly home: Link };

function fateOf({ to, from, route, failed }: Answer, { routes, rules, links }: Routing): Fate {
  const family = familyOf(to);
  if (route === null) {
    const [own] = routes
      .filter((one) => one.family === family && refusing.includes(one.type ?? ''))
      .filter(({ dst }) => dst === 'default' || holds(prefixOf({ dst }), to))
      .sort((a, b) => lengthOf(b) - lengthOf(a));
    if (own !== undefined) return { kind: 'route', route: own };
    const rule = rules.find(
      (one) =>
        one.family === family && refusing.includes(one.action ?? '') && isFor(one, { to, from }),
    );
    return rule === undefined || failed === '' ? { kind: 'nowhere' } : { kind: 'rule', rule };
  }
  const out = links.find(({ ifname }) => ifname === route.dev);
  const home = links.find(({ addresses }) => addresses.includes(from));
  const hasNext = route.gateway ?? route.via ?? route.nexthops;
  const isTunnel = out?.flags.includes('POINTOPOINT') === true;
  if (route.type === 'local') return { kind: 'taken', route };
  if (!isDefault(route) && hasNext === undefined && !isTunnel) return { kind: 'taken', route };
  return home === undefined || out === undefined || out === home || route.nexthops !== undefined
    ? { kind: 'leaves' }
    : { kind: 'elsewhere', route, home };
}

/** Types of routes, and actions of rules, in the words of ip-route(8) and ip-rule(8). */
const refusing = ['blackhole', 'unreachable', 'prohibit'];

function holds(prefix: string, address: string): boolean {
  return contains(parseRanges([prefix]), address);
}

function lengthOf({ dst }: Route): number {
  return dst === 'default' ? 0 : Number(prefixOf({ dst }).split('/')[1]);
}

/** Whether a rule is for these addresses; what else it asks for is not looked at. */
function isFor(
  { src, srclen, dst, dstlen }: Rule,
  { to, from }: Pick<Answer, 'to' | 'from'>,
): boolean {
  const has = (address: string | undefined, length: number | undefined, one: string): boolean =>
    address === undefined || address === 'all' || holds(prefixText(address, length), one);
  return has(dst, dstlen, to) && has(src, srclen, from);
}

function keyOf(answer: Answer, seen: Seen): string {
  const fate = fateOf(answer, seen);
  if (fate.kind === 'leaves') return '';
  if (fate.kind === 'nowhere') return `nowhere ${familyOf(answer.to)}`;
  if (fate.kind === 'route') return `route ${fate.route.type ?? ''}`;
  if (fate.kind === 'rule') return `rule ${fate.rule.family} ${fate.rule.priority}`;
  if (fate.kind === 'taken') return `taken ${fate.route.dev ?? ''}`;
  return `elsewhere ${answer.from}`;
}

function finding(
  list: readonly [Answer, ...Answer[]],
  seen: Seen,
  context: DoctorContext,
): Finding {
  const fates = list.map((answer) => fateOf(answer, seen));
  const fate = fates[0]!;
  const family = familyOf(list[0].to);
  const all = seen.answers.filter(({ to }) => familyOf(to) === family);
  const base = {
    level: 'problem',
    share: family === 'v4' && all.length === list.length ? 'all' : 'part',
    causes: [522],
  } as const;
  const concerned = `concerned: ${concern(list, context)}`;
  switch (fate.kind) {
    case 'route':
      return byRoutes(
        base,
        fates.flatMap((one) => (one.kind === 'route' ? [one.route as Entry] : [])),
        concerned,
      );
    case 'rule':
      return byRule(base, fate.rule, concerned);
    case 'taken':
      return {
        ...base,
        title: `${fate.route.dev ?? 'This host'} takes addresses of Cloudflare's for its own: answers to them never leave`,
        evidence: [...routesOf(fates), concerned],
        advice:
          "Give that network a prefix of RFC 1918 (a network of Docker: docker network create --subnet, or default-address-pools in /etc/docker/daemon.json). A prefix of Cloudflare's is nobody else's.",
      };
    case 'elsewhere':
      return asymmetric(base, list, { ...fate, routes: routesOf(fates) }, seen);
    case 'nowhere':
    case 'leaves':
      break;
  }
  return {
    ...base,
    level: family === 'v4' ? 'problem' : 'warning',
    title: `There is no route to Cloudflare over ${familyNames[family]}: answers on ${portsText(context.ports)} have no way out`,
    evidence: [`ip route get ${list[0].to} from ${list[0].from}: ${list[0].failed}`, concerned],
    advice: `Give the host its default route again (ip ${family === 'v6' ? '-6 ' : ''}route add default via GATEWAY dev INTERFACE), and the settings of its network, which the next boot reads.`,
  };
}

type Base = Pick<Finding, 'level' | 'share' | 'causes'>;

/** Whole ranges, or the addresses that were asked for. */
function concern(list: readonly Answer[], { ranges }: DoctorContext): string {
  const family = familyOf(list[0]!.to);
  const to = [...new Set(list.map((answer) => answer.to))];
  const inside = ranges[family].filter((range) => to.some((address) => holds(range, address)));
  const many = inside.length === ranges[family].length && inside.length > 1;
  return many
    ? `all ${inside.length} ${familyNames[family]} ranges`
    : `${few(to)}, of ${few(inside)}`;
}

/** As `ip route` prints it, and takes it after `del`. */
function text({ type, dst, gateway, dev, table }: Route): string {
  return [
    type === undefined || type === 'unicast' ? '' : `${type} `,
    dst,
    gateway === undefined ? '' : ` via ${gateway}`,
    // The kernel puts those of IPv6 that lead nowhere on lo.
    dev === undefined || refusing.includes(type ?? '') ? '' : ` dev ${dev}`,
    table === undefined ? '' : ` table ${table}`,
  ].join('');
}

function routesOf(fates: readonly Fate[]): readonly string[] {
  const routes = fates.flatMap((fate) =>
    'route' in fate ? [`ip route: ${text(fate.route)}`] : [],
  );
  return atMost([...new Set(routes)], 5);
}

function byRoutes(base: Base, routes: readonly Entry[], concerned: string): Finding {
  const own = [...new Map(routes.map((route) => [text(route), route])).values()];
  const commands = own.map(
    (route) => `ip ${route.family === 'v6' ? '-6 ' : ''}route del ${text(route)}`,
  );
  const isFew = commands.length <= 3;
  return {
    ...base,
    title: `${own.length === 1 ? 'A route keeps' : `${own.length} routes keep`} answers to Cloudflare from leaving`,
    evidence: [
      ...atMost(
        own.map((route) => `ip route: ${text(route)}`),
        5,
      ),
      concerned,
    ],
    advice: `${isFew ? '' : `Take each of them away, as with: ${commands[0]}. `}What set it, a ban list for instance, sets it again: take it out there first.`,
    ...(isFew && { command: commands.join(' && ') }),
    ...(own.length === 1 && { effect: `route ${own[0]!.dst}` }),
  };
}

/** What a rule may ask for besides, which `ip rule del` would have to be told. */
const plainKeys = ['priority', 'family', 'src', 'srclen', 'dst', 'dstlen', 'action'];

function byRule(base: Base, rule: Rule, concerned: string): Finding {
  const words = [
    ...(rule.src === 'all' || rule.src === undefined
      ? []
      : [`from ${withoutLength(prefixText(rule.src, rule.srclen))}`]),
    ...(rule.dst === undefined ? [] : [`to ${withoutLength(prefixText(rule.dst, rule.dstlen))}`]),
    rule.action ?? '',
  ].join(' ');
  const isPlain = Object.keys(rule).every((key) => plainKeys.includes(key));
  return {
    ...base,
    title: 'A policy rule keeps answers to Cloudflare from leaving',
    evidence: [`ip rule: ${rule.priority}: ${words}`, concerned],
    advice: `What set it sets it again at the next boot: take it out there as well.${isPlain ? '' : ` Then: ip rule del pref ${rule.priority}.`}`,
    ...(isPlain && {
      command: `ip ${rule.family === 'v6' ? '-6 ' : ''}rule del ${words} pref ${rule.priority}`,
    }),
  };
}

/** Answers take another way than the connections. */
function asymmetric(
  base: Base,
  list: readonly [Answer, ...Answer[]],
  { route, home, routes }: { route: Route; home: Link; routes: readonly string[] },
  seen: Seen,
): Finding {
  const { from } = list[0];
  const family = familyOf(from);
  const isTunnel = seen.links.some(
    ({ ifname, flags }) => ifname === route.dev && flags.includes('POINTOPOINT'),
  );
  // Connections that are marked may find back by their mark, which nobody sees who asks for the route.
  const hasMarks = seen.rules.some(
    (rule) => rule.family === family && 'fwmark' in rule && !('not' in rule),
  );
  const isLeading = seen.routes.some(
    (one) => one.family === family && one.dev === home.ifname && isDefault(one),
  );
  const isDropped = family === 'v4' && home.strict;
  const isOnly = seen.answers.every(
    (answer) => familyOf(answer.to) !== family || answer.from === from,
  );
  const level =
    hasMarks || (!isDropped && !(isTunnel && isLeading))
      ? 'note'
      : isDropped && isOnly
        ? 'problem'
        : 'warning';
  return {
    ...base,
    level,
    share: isOnly ? base.share : 'maybe',
    title: isDropped
      ? `rp_filter drops what Cloudflare sends to ${from}: answers leave by ${route.dev!}, not by ${home.ifname}`
      : `Answers to Cloudflare from ${from} leave by ${route.dev!}, not by ${home.ifname} which has that address`,
    evidence: [
      ...routes,
      ...(isDropped ? [`rp_filter of ${home.ifname} is 1, strict`] : []),
      `concerned: ${few([...new Set(list.map(({ to }) => to))])}`,
    ],
    ...mend(from, home, seen, family),
  };
}

/** One rule does, where table main leads out by the right interface; a VPN puts a table of its own before it. */
function mend(from: string, home: Link, { routes }: Seen, family: Family): Partial<Finding> {
  const main = routes
    .filter((route) => route.family === family && route.table === undefined && isDefault(route))
    .sort((a, b) => lengthOf(b) - lengthOf(a) || (a.metric ?? 0) - (b.metric ?? 0));
  if (main[0]?.dev === home.ifname)
    return {
      advice: 'For it to stay, the settings of the network need the same rule.',
      command: `ip ${family === 'v6' ? '-6 ' : ''}rule add from ${from} lookup main pref 100`,
    };
  return {
    advice: `Let answers leave by ${home.ifname}: a table of its own with that interface's gateway (ip route add default via GATEWAY dev ${home.ifname} table 100), and a rule for it (ip rule add from ${from} lookup 100).`,
  };
}
