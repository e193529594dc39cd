/** Looks at all packet filters of a host at once. */
import { BackendError, CfsyncError, exit } from '../errors.ts';
import { defaultRouteInterfaces, routes, type Route } from '../host/interfaces.ts';
import { unlessMissing } from '../host/programs.ts';
import { families, familyOf, type Family } from '../prefix.ts';
import type { Command, Host } from '../renderer.ts';
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
}

/** @throws BackendError when what is there cannot be read. */
export async function observeFilters(host: Host): Promise<FilterSeen> {
  const [json, text, interfaces, links, table] = await Promise.all([
    output(host, ['nft', '-j', '-t', 'list', 'ruleset']),
    output(host, ['nft', '-a', '-t', 'list', 'ruleset']),
    defaultRouteInterfaces(host),
    output(host, ['ip', '-j', 'address', 'show']),
    routes(host),
  ]);
  const listing = json === undefined ? undefined : parseListing(json);
  const elements = listing && (await elementsOf(host, listing));
  const debug =
    json !== undefined && hidesFamily(json)
      ? await output(host, ['nft', '--debug=netlink', '-t', 'list', 'ruleset'])
      : undefined;
  const nft = json === undefined ? null : { json, text: text ?? '', elements, debug: debug ?? '' };
  const saves = await observeSaves(host, listing);
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

/** More are read at one go: a program for each costs more than to read them all. */
const mostSets = 16;

/** The elements of the sets and maps that a rule on the way asks: 100,000 take nft 1.0.6 1.5 s. */
async function elementsOf(host: Host, listing: Listing): Promise<readonly string[]> {
  const asked = setsAsked(listing, true);
  const read = async (words: readonly string[]): Promise<string[]> => {
    // One that is gone by now is not known.
    const outcome = await unlessMissing(host, ['nft', '-j', 'list', ...words]);
    return outcome?.code === 0 ? [outcome.stdout] : [];
  };
  if (asked.length > mostSets) return read(['ruleset']);
  return (await Promise.all(asked.map(read))).flat();
}

/** The tables of iptables: nft shows only half of what its own variant wrote, and nothing of the legacy one. */
async function observeSaves(host: Host, listing: Listing | undefined): Promise<readonly Save[]> {
  const kept = listing === undefined ? [] : [...keptByIptables(listing.chains)];
  const wanted: (Omit<Save, 'text'> & { readonly plain: string })[] = [];
  for (const family of families) {
    const tool = family === 'v4' ? 'iptables' : 'ip6tables';
    const add = (variant: Save['variant']): void =>
      void wanted.push({
        program: `${tool}-${variant}-save`,
        plain: `${tool}-save`,
        family,
        variant,
      });
    const own = family === 'v4' ? 'ip ' : 'ip6 ';
    if (listing === undefined || kept.some((table) => table.startsWith(own))) add('nft');
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
