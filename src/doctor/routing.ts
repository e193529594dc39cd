/** Asks the kernel which way answers to Cloudflare take. */
import { CfsyncError, exit } from '../errors.ts';
import {
  bounds,
  canonical,
  families,
  familyOf,
  fromBounds,
  intersect,
  isEmpty,
  parseRanges,
  withLength,
  withoutLength,
  type Family,
} from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import { firstLines } from '../text.ts';
import type { DoctorContext, DoctorHost } from './check.ts';

/** As `ip -j route` (iproute2 6.1) prints it; `type` is there where it is not unicast, `table` where it is not main. */
export interface Route {
  readonly type?: string;
  readonly dst: string;
  readonly gateway?: string;
  readonly via?: unknown;
  readonly nexthops?: unknown;
  readonly dev?: string;
  readonly table?: string;
  readonly metric?: number;
}

/** One of the tables. */
export interface Entry extends Route {
  readonly family: Family;
}

/** As `ip -j rule` prints it: what it does not ask for is not there. */
export interface Rule {
  readonly priority: number;
  readonly family: Family;
  readonly not?: unknown;
  /** `all`, or an address. */
  readonly src?: string;
  readonly srclen?: number;
  readonly dst?: string;
  readonly dstlen?: number;
  readonly fwmark?: string;
  readonly ipproto?: string;
  readonly sport?: unknown;
  readonly l3mdev?: unknown;
  /** Where it is not to look into a table. */
  readonly action?: string;
}

/** An interface, of `ip -j address`. */
export interface Link {
  readonly ifname: string;
  readonly flags: readonly string[];
  readonly addresses: readonly string[];
  /** Of rp_filter in ip-sysctl of the kernel: what holds there, the greater one of `all` and its own. */
  readonly strict: boolean;
  readonly bridge: boolean;
}

interface Question {
  readonly to: string;
  /** An address of this host, to which Cloudflare connects. */
  readonly from: string;
  /** Where rules ask for it, the port that answers come from. */
  readonly port: number | undefined;
}

export interface Answer extends Question {
  /** The route that matched; null where there is none, for this reason. */
  readonly route: Route | null;
  readonly failed: string;
}

export interface Routing {
  readonly rules: readonly Rule[];
  readonly routes: readonly Entry[];
  readonly links: readonly Link[];
  readonly answers: readonly Answer[];
}

/** Addresses of one family that are asked for. */
const mostTargets = 256;
/** Addresses of the host, of one family, from which they are asked for. */
const mostSources = 4;

/** @throws CfsyncError where `ip` is missing, or is another program's. */
export async function observeRouting(host: DoctorHost, context: DoctorContext): Promise<Routing> {
  const list = async (...words: readonly string[]): Promise<readonly unknown[]> => {
    const { code, stdout, stderr } = await host.query({ argv: ['ip', '-j', ...words] });
    const lists = code === 0 ? jsonLines(stdout) : undefined;
    if (lists !== undefined) return lists.flat();
    const [said = 'no reason'] = firstLines(stderr);
    throw new CfsyncError(
      exit.failed,
      `ip -j ${words.join(' ')} ended with code ${code}, or cannot be read: ${said}`,
    );
  };
  /** Without a family it prints routes of both, and of "default" not which. */
  const each = async <T extends { readonly family: Family }>(
    ...words: readonly string[]
  ): Promise<readonly T[]> => {
    const lists = await Promise.all(
      families.map(async (family) =>
        (await list(family === 'v4' ? '-4' : '-6', ...words)).map((one): T => ({
          ...(one as T),
          family,
        })),
      ),
    );
    return lists.flat();
  };
  const [shown, routes, rules] = await Promise.all([
    list('address', 'show'),
    each<Entry>('route', 'show', 'table', 'all'),
    each<Rule>('rule', 'show'),
  ]);
  const links = await Promise.all(shown.map((one) => link(host, one)));
  const seen = { rules, routes, links };
  return { ...seen, answers: await ask(host, questions(seen, context)) };
}

async function link(host: DoctorHost, shown: unknown): Promise<Link> {
  const {
    ifname,
    flags = [],
    addr_info: list = [],
  } = shown as {
    readonly ifname: string;
    readonly flags?: readonly string[];
    readonly addr_info?: readonly Readonly<Record<string, unknown>>[];
  };
  const setting = async (name: string): Promise<number> =>
    Number((await host.read(`/proc/sys/net/ipv4/conf/${name}/rp_filter`)) ?? 0);
  const [all, own, bridge] = await Promise.all([
    setting('all'),
    setting(ifname),
    host.list(`/sys/class/net/${ifname}/bridge`),
  ]);
  const usable = list.filter(
    (info) =>
      info.scope === 'global' &&
      info.tentative !== true &&
      info.deprecated !== true &&
      info.temporary !== true,
  );
  return {
    ifname,
    flags,
    addresses: usable.map(({ local }) => String(local)),
    strict: Math.max(all, own) === 1,
    bridge: bridge !== undefined,
  };
}

/** One process for all of them: 88 take 13 ms. What fails is told by its number on standard error. */
async function ask(host: DoctorHost, list: readonly Question[]): Promise<readonly Answer[]> {
  if (list.length === 0) return [];
  const stdin = list
    .map(({ to, from, port }) => {
      const more = port === undefined ? '' : ` ipproto tcp sport ${port}`;
      return `route get fibmatch ${to} from ${from}${more}\n`;
    })
    .join('');
  const argv = ['ip', '-j', '-force', '-batch', '-'] as const;
  const { stdout, stderr } = await host.query({ argv, stdin });
  const failed = new Map(
    [
      ...stderr.matchAll(/^(?:RTNETLINK answers|Error): (.+)\n(?:.*\n)*?Command failed -:(\d+)$/gm),
    ].map(([, why = '', number]) => [Number(number), why]),
  );
  const routes = jsonLines(stdout);
  if (routes === undefined || routes.length + failed.size !== list.length)
    throw new CfsyncError(
      exit.failed,
      `ip route get answers in a way that is not understood: ${firstLines(stderr)[0] ?? firstLines(stdout)[0] ?? 'nothing'}`,
    );
  let next = 0;
  return list.map((question, i) => {
    const why = failed.get(i + 1);
    if (why !== undefined) return { ...question, route: null, failed: why };
    const [route] = routes[next++] as readonly Route[];
    return { ...question, route: route!, failed: '' };
  });
}

/** A JSON list on each line. */
function jsonLines(text: string): readonly (readonly unknown[])[] | undefined {
  try {
    const lists = text
      .split('\n')
      .filter((line) => line.trim() !== '')
      .map((line): unknown => JSON.parse(line));
    return lists.every((list) => Array.isArray(list)) ? lists : undefined;
  } catch {
    return undefined;
  }
}

// ---- what is asked ----

type Table = Pick<Routing, 'rules' | 'routes' | 'links'>;

function questions(table: Table, { ranges, ports, values }: DoctorContext): readonly Question[] {
  return families.flatMap((family) => {
    const rules = table.rules.filter((rule) => rule.family === family);
    const asked = rules.some(({ sport, ipproto }) => sport !== undefined || ipproto !== undefined)
      ? ports
      : [undefined];
    const own = sources(table, family, ranges);
    const named = own.filter((address) => address === values['origin-ip']);
    const to = targets({ ...table, rules }, ranges[family]);
    return (named.length > 0 ? named : own).flatMap((from) =>
      asked.flatMap((port) => to.map((address) => ({ to: address, from, port }))),
    );
  });
}

/** RFC 1918, 6598, 3927 and 4193: a translation in front of the host sends Cloudflare's connections there. */
const inner = parseRanges([
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '100.64.0.0/10',
  '169.254.0.0/16',
  'fc00::/7',
]);

/** The addresses of the host to which Cloudflare may connect: the public ones, else those beside a default route. */
function sources(
  { links, routes, rules }: Table,
  family: Family,
  ranges: Ranges,
): readonly string[] {
  const isIn = (address: string, list: Ranges): boolean =>
    !isEmpty(intersect(parseRanges([withLength(address)]), list));
  const leading = new Set(
    routes.filter((route) => route.family === family && isDefault(route)).map(({ dev }) => dev),
  );
  // What is in a VRF is asked in another way.
  const hasVrf = rules.some((rule) => 'l3mdev' in rule);
  const own = links
    .filter(isWayIn)
    .filter(({ bridge, ifname }) => leading.has(ifname) || (!bridge && !hasVrf))
    .flatMap((one) =>
      one.addresses
        .filter((address) => familyOf(address) === family && !isIn(address, ranges))
        .map((address) => ({ address, link: one })),
    );
  const outside = own.filter(({ address }) => !isIn(address, inner));
  const behind = own.filter(({ link: { flags } }) => !flags.includes('POINTOPOINT'));
  const beside = behind.filter(({ link: { ifname } }) => leading.has(ifname));
  // A site's own IPv6 addresses are reached by nobody from outside.
  const rest = family === 'v6' ? [] : beside.length > 0 ? beside : behind;
  const chosen = outside.length > 0 ? outside : rest;
  return chosen.map(({ address }) => address).slice(0, mostSources);
}

/** Not loopback, nor what only holds addresses: interfaces of the kinds dummy and vrf have no ARP. */
function isWayIn({ flags }: Link): boolean {
  const isEmptyKind = flags.includes('NOARP') && !flags.includes('POINTOPOINT');
  return flags.includes('UP') && !flags.includes('LOOPBACK') && !isEmptyKind;
}

/** Of each range the first address and one in its middle, and one of whatever the tables single out in it. */
function targets({ routes, rules }: Table, ranges: readonly string[]): readonly string[] {
  const found = new Set<string>();
  const add = (family: Family, value: bigint): void => {
    found.add(withoutLength(fromBounds(family, value, value)[0]!));
  };
  const special = [
    ...routes.filter(({ type }) => type !== 'broadcast' && type !== 'anycast').map(prefixOf),
    ...rules.map(({ dst, dstlen }) => (dst === undefined ? '' : prefixText(dst, dstlen))),
  ].filter((prefix) => canonical(prefix) !== undefined);
  for (const range of ranges) {
    const family = familyOf(range);
    const [first, last] = bounds(range);
    add(family, first + 1n);
    add(family, first + (last - first) / 2n + 1n);
    for (const prefix of special) {
      if (found.size >= mostTargets) break;
      if (familyOf(prefix) !== family) continue;
      const [from, to] = bounds(prefix);
      if (from > last || to < first || (from <= first && to >= last)) continue;
      const [start, end] = [from > first ? from : first, to < last ? to : last];
      add(family, start + (end - start) / 2n);
    }
  }
  return [...found];
}

/** Of a rule, where a length that is left out is that of one address. */
export function prefixText(address: string, length: number | undefined): string {
  return length === undefined ? withLength(address) : `${address}/${length}`;
}

/** The prefix of a route, with its length. */
export function prefixOf({ dst }: Route): string {
  return dst === 'default' ? '' : withLength(dst);
}

/** VPNs set a default route in two halves, and 2000::/3 for IPv6. */
export function isDefault({ dst, type = 'unicast' }: Route): boolean {
  const length = dst === 'default' ? 0 : Number(dst.split('/')[1] ?? 128);
  return type === 'unicast' && length <= (dst.includes(':') ? 3 : 1);
}
