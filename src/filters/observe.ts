/** Looks at all packet filters of a host at once. */
import { digest } from '../digest.ts';
import { BackendError, CfsyncError, exit } from '../errors.ts';
import { defaultRouteInterfaces, routes, type Route } from '../host/interfaces.ts';
import { unlessMissing } from '../host/programs.ts';
import { families, familyOf, type Family } from '../prefix.ts';
import type { Command, Host } from '../renderer.ts';
import type { Asked } from '../state/judged.ts';
import { firstLines } from '../text.ts';
import { setsAsked } from './nft/asked.ts';
import { at, keptByIptables, parseListing, type Listing } from './nft/listing.ts';
import { hidesFamily } from './nft/read.ts';

/** What iptables-save or ip6tables-save printed. */
export interface Save {
  readonly program: string;
  readonly family: Family;
  readonly variant: 'nft' | 'legacy';
  readonly text: string;
}

/** All that the rules are judged by; plain data. */
export interface FilterSeen {
  /** What `nft -j -t list ruleset` and `nft -a -t list ruleset` printed; null where there is no nft. */
  readonly nft: {
    readonly json: string;
    readonly text: string;
    /** What `nft -j list set` and `list map` printed, of those that a rule on the way asks; absent without `-t`. */
    readonly elements?: readonly string[] | undefined;
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
  /** What else was asked for; absent in what was recorded by earlier releases. */
  readonly asked?: Asked;
}

/** The same rules as text, each with its handle, which another rule in its place does not have. */
const asText = ['nft', '-a', '-t', 'list', 'ruleset'] as const;

/** @throws BackendError when what is there cannot be read. */
export async function observeFilters(host: Host): Promise<FilterSeen> {
  const [json, text, about] = await Promise.all([
    output(host, ['nft', '-j', '-t', 'list', 'ruleset']),
    output(host, asText),
    observeAround(host),
  ]);
  const listing = json === undefined ? undefined : parseListing(json);
  const sets = listing === undefined ? [] : setsAsked(listing, true);
  const elements = listing && (await elementsOf(host, sets));
  const debug =
    json !== undefined && hidesFamily(json)
      ? await output(host, ['nft', '--debug=netlink', '-t', 'list', 'ruleset'])
      : undefined;
  const nft = json === undefined ? null : { json, text: text ?? '', elements, debug: debug ?? '' };
  const tables = await savedTables(host, listing);
  const saves = await readSaves(host, tables);
  const asks = saves.some((save) => save.text.includes('--match-set'));
  const ipset = asks ? await output(host, ['ipset', 'save']) : undefined;
  return {
    nft,
    saves,
    ipset: ipset ?? '',
    ...about,
    asked: { sets, saves: tables, ipset: asks },
  };
}

async function observeAround(
  host: Host,
): Promise<Pick<FilterSeen, 'interfaces' | 'addresses' | 'routes'>> {
  const [interfaces, links, table] = await Promise.all([
    defaultRouteInterfaces(host),
    output(host, ['ip', '-j', 'address', 'show']),
    routes(host),
  ]);
  return { interfaces, addresses: addressesOn(links ?? '[]', interfaces), routes: table };
}

/**
 * The digest of all that a verdict follows from, by a look that leaves out the costliest: the rules as JSON, which are
 * those of the text. Undefined where that cannot be had so.
 */
export async function glance(host: Host, asked: Asked): Promise<string | undefined> {
  if (asked.sets.length > mostSets) return undefined;
  const [text, about, elements, saves, legacy] = await Promise.all([
    output(host, asText),
    observeAround(host),
    elementsOf(host, asked.sets),
    readSaves(host, asked.saves),
    legacyFamilies(host),
  ]);
  // What tables nft keeps for iptables, its text shows.
  const had = asked.saves.filter(({ variant }) => variant === 'legacy').map(({ family }) => family);
  if (text === undefined || legacy.join() !== had.join()) return undefined;
  const ipset = asked.ipset ? await output(host, ['ipset', 'save']) : '';
  return glanceOf({ nft: { json: '', text, elements }, saves, ipset: ipset ?? '', ...about });
}

/** The same digest, of a whole look. */
export function glanceOf({ nft, ...seen }: Omit<FilterSeen, 'asked'>): string {
  const { saves, ipset, interfaces, addresses, routes: table } = seen;
  const all = [nft?.text, nft?.elements, saves, ipset, interfaces, addresses, table];
  return digest(
    JSON.stringify(all, (_, value: unknown) =>
      typeof value === 'string' ? value.replaceAll(counts, '') : value,
    ),
  );
}

/** What counts packets, in what nft and iptables-save print. */
const counts =
  /"packets": ?\d+, ?"bytes": ?\d+|counter packets \d+ bytes \d+|(?<=^:\S+ \S+ )\[\d+:\d+\]|^# (?:Generated|Completed) .*$/gm;

/** More are read at one go: a program for each costs more than to read them all. */
const mostSets = 16;

/** The elements of the sets and maps that a rule on the way asks: 100,000 take nft 1.0.6 1.5 s. */
async function elementsOf(
  host: Host,
  asked: readonly (readonly string[])[],
): Promise<readonly string[]> {
  const read = async (words: readonly string[]): Promise<string[]> => {
    // One that is gone by now is not known.
    const outcome = await unlessMissing(host, ['nft', '-j', 'list', ...words]);
    return outcome?.code === 0 ? [outcome.stdout] : [];
  };
  if (asked.length > mostSets) return read(['ruleset']);
  return (await Promise.all(asked.map(read))).flat();
}

/** Where iptables has tables: nft shows only half of what its own variant wrote, and nothing of the legacy one. */
async function savedTables(
  host: Host,
  listing: Listing | undefined,
): Promise<readonly Pick<Save, 'family' | 'variant'>[]> {
  const kept = listing === undefined ? [] : [...keptByIptables(listing.chains)];
  const legacy = await legacyFamilies(host);
  return families.flatMap((family) => {
    const own = family === 'v4' ? 'ip ' : 'ip6 ';
    const isNft = listing === undefined || kept.some((table) => table.startsWith(own));
    return [
      ...(isNft ? [{ family, variant: 'nft' as const }] : []),
      ...(legacy.includes(family) ? [{ family, variant: 'legacy' as const }] : []),
    ];
  });
}

async function legacyFamilies(host: Host): Promise<readonly Family[]> {
  const names = await Promise.all(
    families.map((family) => host.read(`/proc/net/${family === 'v4' ? 'ip' : 'ip6'}_tables_names`)),
  );
  return families.filter((_, i) => (names[i] ?? '').trim() !== '');
}

async function readSaves(
  host: Host,
  tables: readonly Pick<Save, 'family' | 'variant'>[],
): Promise<readonly Save[]> {
  const saves = await Promise.all(
    tables.map(async ({ family, variant }): Promise<Save | undefined> => {
      const tool = family === 'v4' ? 'iptables' : 'ip6tables';
      const program = `${tool}-${variant}-save`;
      // Where the program of one variant is missing, the plain one is the other's.
      const found = (await output(host, [program])) ?? (await output(host, [`${tool}-save`]));
      return found === undefined ? undefined : { program, family, variant, text: found };
    }),
  );
  return saves.filter((save) => save !== undefined);
}

/** What a program printed; undefined where it is not installed. */
async function output(host: Host, argv: Command['argv']): Promise<string | undefined> {
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
      found[familyOf(local)].push(local);
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
