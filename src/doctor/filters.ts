/** Looks at all packet filters of a host at once, and answers what they do to connections from anywhere. */
import { BackendError, CfsyncError, exit } from '../errors.ts';
import { defaultRouteInterfaces, routes, type Route } from '../host/interfaces.ts';
import { parseSave, type SavedTable } from '../filters/iptables/save.ts';
import { at } from '../filters/nft/listing.ts';
import { type Family } from '../prefix.ts';
import type { Command, Ranges } from '../renderer.ts';
import { publicSpace } from '../special-purpose.ts';
import { unlessMissing } from '../host/programs.ts';
import { firstLines } from '../text.ts';
import { onceFor, type DoctorContext, type DoctorHost } from './check.ts';
import { holds } from '../filters/conditions.ts';
import {
  common,
  fromPrefixes,
  size,
  toPrefixes,
  without,
  type Intervals,
} from '../filters/intervals.ts';
import { legacyBases, readTable } from '../filters/iptables/read.ts';
import { IpSets } from '../filters/iptables/ipset.ts';
import { hidesFamily, readNft } from '../filters/nft/read.ts';
import {
  walk,
  type Base,
  type Packet,
  type Result,
  type Rule,
  type Ruleset,
} from '../filters/walk.ts';

/** What iptables-save or ip6tables-save printed. */
interface Save {
  readonly program: string;
  readonly family: Family;
  readonly variant: 'nft' | 'legacy';
  readonly text: string;
}

/** All that the rules are judged by; plain data. */
export interface FilterSeen {
  /** What `nft -j list ruleset` and `nft -a -t list ruleset` printed; null where there is no nft. */
  readonly nft: {
    readonly json: string;
    readonly text: string;
    /** What `nft --debug=netlink list ruleset` printed, where a rule hides its family; else empty. */
    readonly debug?: string;
  } | null;
  readonly saves: readonly Save[];
  /** What `ipset save` printed, where a rule asks a set. */
  readonly ipset: string;
  /** Interfaces with a default route. */
  readonly interfaces: readonly string[];
  /** Addresses of the host that are on those interfaces. */
  readonly addresses: Readonly<Record<Family, readonly string[]>>;
  readonly routes: readonly Route[];
}

/**
 * The same answer for every check that asks.
 * @throws BackendError when what is there cannot be read.
 */
export const observeFilters = onceFor(observe);

/** The same, and null where the rules cannot be read: for checks that have more to look at. */
export async function tryFilters(host: DoctorHost): Promise<FilterSeen | null> {
  try {
    return await observeFilters(host);
  } catch (error) {
    if (error instanceof CfsyncError) return null;
    throw error;
  }
}

async function observe(host: DoctorHost): Promise<FilterSeen> {
  const [json, text, interfaces, links, table] = await Promise.all([
    output(host, ['nft', '-j', 'list', 'ruleset']),
    output(host, ['nft', '-a', '-t', 'list', 'ruleset']),
    defaultRouteInterfaces(host),
    output(host, ['ip', '-j', 'address', 'show']),
    routes(host),
  ]);
  const debug =
    json !== undefined && hidesFamily(json)
      ? await output(host, ['nft', '--debug=netlink', '-t', 'list', 'ruleset'])
      : undefined;
  const nft = json === undefined ? null : { json, text: text ?? '', debug: debug ?? '' };
  const saves = await observeSaves(host, nft?.json);
  const asks = saves.some((save) => save.text.includes('--match-set'));
  const ipset = asks ? await output(host, ['ipset', 'save']) : undefined;
  return {
    nft,
    saves,
    ipset: ipset ?? '',
    interfaces,
    addresses: addressesOn(links ?? '[]', interfaces),
    routes: table,
  };
}

/** The tables of iptables: nft shows only half of what its own variant wrote, and nothing of the legacy one. */
async function observeSaves(host: DoctorHost, json: string | undefined): Promise<readonly Save[]> {
  const wanted: (Omit<Save, 'text'> & { readonly plain: string })[] = [];
  for (const family of ['v4', 'v6'] as const) {
    const tool = family === 'v4' ? 'iptables' : 'ip6tables';
    const add = (variant: Save['variant']): void =>
      void wanted.push({
        program: `${tool}-${variant}-save`,
        plain: `${tool}-save`,
        family,
        variant,
      });
    if (json === undefined || hasKept(json, family === 'v4' ? 'ip' : 'ip6')) add('nft');
    const names = await host.read(`/proc/net/${family === 'v4' ? 'ip' : 'ip6'}_tables_names`);
    if ((names ?? '').trim() !== '') add('legacy');
  }
  const saves = await Promise.all(
    wanted.map(async ({ plain, ...save }): Promise<Save | undefined> => {
      // Where the program of one variant is missing, the plain one is the other's.
      const found = (await output(host, [save.program])) ?? (await output(host, [plain]));
      return found === undefined ? undefined : { ...save, text: found };
    }),
  );
  return saves.filter((save) => save !== undefined);
}

/** Whether a family has a table that iptables-nft may have written. */
function hasKept(json: string, family: string): boolean {
  return new RegExp(
    `"chain": ?\\{"family": ?"${family}", ?"table": ?"(filter|nat|mangle|raw|security)"`,
  ).test(json);
}

/** What a program printed; undefined where it is not installed. */
async function output(host: DoctorHost, argv: Command['argv']): Promise<string | undefined> {
  const outcome = await unlessMissing(host, argv);
  if (outcome === undefined || outcome.code === 0) return outcome?.stdout;
  const [reason = 'no reason'] = firstLines(outcome.stderr);
  throw new CfsyncError(
    exit.failed,
    `${argv.join(' ')} ended with code ${outcome.code}: ${reason}`,
  );
}

/** From `ip -j address show` (iproute2 6.1). */
function addressesOn(json: string, interfaces: readonly string[]): FilterSeen['addresses'] {
  const found: Record<Family, string[]> = { v4: [], v6: [] };
  for (const link of parsed(json)) {
    if (!interfaces.includes(String(at(link, 'ifname')))) continue;
    const list = at(link, 'addr_info');
    for (const info of Array.isArray(list) ? (list as readonly unknown[]) : []) {
      const local = at(info, 'local');
      if (at(info, 'scope') !== 'global' || typeof local !== 'string') continue;
      found[local.includes(':') ? 'v6' : 'v4'].push(local);
    }
  }
  return found;
}

function parsed(json: string): readonly unknown[] {
  try {
    const links: unknown = JSON.parse(json);
    if (Array.isArray(links)) return links as readonly unknown[];
  } catch {
    // Said below.
  }
  throw new BackendError(
    'broken',
    'what ip -j address printed cannot be read; look at what it says',
  );
}

/** What the packet filters do. */
export interface Filters {
  readonly ruleset: Ruleset;
  /** Families in which the host has a public way in. */
  readonly families: readonly Family[];
  /** Rules that nft wrote into tables of iptables. */
  readonly native: readonly Rule[];
  /** Rules and policies of each variant of iptables: how many chains drop or have rules. */
  readonly variants: Readonly<Record<Save['variant'], readonly string[]>>;
  readonly sets: IpSets;
  /** @param without `nat`: as if no port were published. */
  ask(question: Question): readonly Result[];
}

interface Question {
  readonly family: Family;
  readonly port: number;
  readonly sources: Intervals;
  readonly busy?: boolean;
  readonly without?: 'nat';
}

const known = new WeakMap<FilterSeen, Filters>();

/** @throws BackendError when a listing cannot be read. */
export function filtersOf(seen: FilterSeen): Filters {
  let filters = known.get(seen);
  if (filters === undefined) known.set(seen, (filters = read(seen)));
  return filters;
}

function read(seen: FilterSeen): Filters {
  const sets = new IpSets(seen.ipset);
  const bases: Base[] = [];
  const chains = new Map<string, readonly Rule[]>();
  const kept = new Map<string, readonly Rule[]>();
  const variants: Record<Save['variant'], string[]> = { nft: [], legacy: [] };
  for (const { program, family, variant, text } of seen.saves)
    for (const table of parseSave(text, program)) {
      variants[variant].push(...inForce(table));
      const isKept = variant === 'nft' && seen.nft !== null;
      const prefix = isKept ? 'kept' : family === 'v4' ? 'legacy4' : 'legacy6';
      const rules = readTable(table, prefix, family, sets);
      for (const [name, list] of rules)
        if (isKept) kept.set(`${family === 'v4' ? 'ip' : 'ip6'} ${table.name} ${name}`, list);
        else chains.set(`${prefix} ${table.name} ${name}`, list);
      if (!isKept) bases.push(...legacyBases(table, family));
    }
  const nft =
    seen.nft === null ? undefined : readNft(seen.nft.json, seen.nft.text, kept, seen.nft.debug);
  for (const [name, list] of nft?.chains ?? []) chains.set(name, list);
  const ruleset = { bases: [...(nft?.bases ?? []), ...bases], chains };
  const plain = { ...ruleset, bases: ruleset.bases.filter(({ nat }) => !nat) };
  return {
    ruleset,
    families: (['v4', 'v6'] as const).filter((family) => seen.addresses[family].length > 0),
    native: nft?.native ?? [],
    variants,
    sets,
    ask: ({ family, port, sources, busy = false, without: left }) =>
      walk(left === 'nat' ? plain : ruleset, sources, first(seen, family, port, busy), (address) =>
        reach(seen, address),
      ),
  };
}

/** What of a table has an effect: rules, and policies that drop. */
function inForce({ name, chains, rules }: SavedTable): readonly string[] {
  return [
    ...chains
      .filter(({ policy }) => policy === 'DROP')
      .map((chain) => `${name}: -P ${chain.name} DROP`),
    ...rules.map(({ chain, text }) => `${name}: -A ${chain} ${text}`),
  ];
}

function first(seen: FilterSeen, family: Family, port: number, busy: boolean): Packet {
  return {
    family,
    port,
    originalPort: port,
    to: 'here',
    translated: undefined,
    interfaces: seen.interfaces,
    addresses: seen.addresses[family],
    tracked: true,
    mark: 0,
    connectionMark: 0,
    busy,
  };
}

function reach({ addresses, routes: table }: FilterSeen, address: string): Packet['to'] {
  if (/^127\.|^::1$/.test(address) || [...addresses.v4, ...addresses.v6].includes(address))
    return 'here';
  const isV6 = address.includes(':');
  const ways = table
    .filter(({ prefix }) => prefix.includes(':') === isV6)
    .filter(({ prefix, length }) => holds(fromPrefixes([`${prefix}/${length}`]), address))
    .sort((a, b) => b.length - a.length);
  return { address, through: ways[0]?.name };
}

/** Public addresses that are not Cloudflare's. */
export function strangers(ranges: Ranges): Readonly<Record<Family, Intervals>> {
  const { v4, v6 } = publicSpace;
  return {
    v4: without(fromPrefixes(v4), fromPrefixes(ranges.v4)),
    v6: without(fromPrefixes(v6), fromPrefixes(ranges.v6)),
  };
}

/** Whether these are most of all strangers: more than somebody's own addresses. */
export function isEverybody(sources: Intervals, all: Intervals): boolean {
  return size(sources) * 2n > size(all);
}

/** The sources that a rule names, where it names some and not all but some. */
export function namedBy(rule: Rule, packet: Packet): Intervals | undefined {
  let found: Intervals | undefined;
  for (const condition of rule.conditions) {
    const match = condition(packet);
    if (typeof match === 'boolean' || 'unknown' in match) continue;
    found = found === undefined ? match : common(found, match);
  }
  const whole = 1n << (packet.family === 'v4' ? 32n : 128n);
  return found !== undefined && size(found) * 4n < whole ? found : undefined;
}

/** Which ranges these sources are, for evidence: `15 of 15 IPv4 ranges`, or the very addresses. */
export function described(sources: Intervals, ranges: Ranges, family: Family): string {
  const name = family === 'v4' ? 'IPv4' : 'IPv6';
  const all = ranges[family];
  const isIn = (prefix: string): boolean => without(fromPrefixes([prefix]), sources).length === 0;
  const whole = all.filter(isIn);
  const rest = toPrefixes(without(sources, fromPrefixes(whole)), family);
  const parts: string[] = [];
  if (whole.length > 3 || whole.length === all.length)
    parts.push(`${whole.length} of ${all.length} ${name} ranges`);
  else parts.push(...whole);
  if (rest.length > 0) {
    const single = rest.map((prefix) => prefix.replace(/\/(32|128)$/, ''));
    const more = rest.length > 4 ? ` and ${rest.length - 4} more` : '';
    parts.push(`${single.slice(0, 4).join(', ')}${more}`);
  }
  return parts.join(', ');
}

/** As it stands in evidence. */
export function line({ place, text }: Rule): string {
  return `${place}: ${text}`;
}

/** The cfsync command that lets Cloudflare in by the backend that has the rules at hand. */
export function applyCommand(
  { ruleset }: Filters,
  rule: Rule | undefined,
  context: DoctorContext,
  mode?: 'lockdown',
): string {
  const backend = backendOf(ruleset, rule, context);
  const applied = context.applied.find(({ name }) => name === backend);
  const words = ['cfsync apply --backend', backend];
  if (mode === 'lockdown' || applied?.mode === 'lockdown') words.push('--mode lockdown');
  const ports = context.ports.join(',');
  if (ports !== (applied?.ports.join(',') ?? '80,443')) words.push(`--ports ${ports}`);
  return words.join(' ');
}

function backendOf(
  { chains }: Ruleset,
  rule: Rule | undefined,
  { applied }: DoctorContext,
): string {
  const filters = ['ufw', 'csf', 'iptables', 'nftables'];
  if (rule === undefined)
    return applied.find(({ name }) => filters.includes(name))?.name ?? 'nftables';
  if (rule.place.startsWith('nft ')) return 'nftables';
  const has = (chain: string): boolean =>
    [...chains.keys()].some((name) => name.endsWith(` filter ${chain}`));
  if (has('ufw-user-input')) return 'ufw';
  return has('LOCALINPUT') && has('ALLOWIN') ? 'csf' : 'iptables';
}
