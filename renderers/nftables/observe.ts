/** Reads what nft lists. */
import { BackendError } from '../../src/errors.ts';
import {
  chainName,
  elementTexts,
  isWritable,
  parseListing,
  rulesOf,
  type Chain,
  type Family,
  type Listing,
} from '../../src/filters/nft/listing.ts';
import { setsAsked } from '../../src/filters/nft/asked.ts';
import { hidesFamily } from '../../src/filters/nft/read.ts';
import { unusable } from '../../src/filters/unusable.ts';
import { addressesOn, bridgesAndRoutes } from '../../src/host/interfaces.ts';
import { none, parseRanges, PrefixError } from '../../src/prefix.ts';
import type { Host, Ranges } from '../../src/renderer.ts';
import type { NftAround } from './around.ts';
import { jumpsIn } from './jumps.ts';
import { bases, byName, isOwn, isSetName, setNames, setType, type NftTable } from './owned.ts';
import { ruleText } from './rule-text.ts';
import { isInvertedDrop, uses, type AcceptedSet } from './strays.ts';

const unsupported = [
  /Protocol not supported|Unable to initialize Netlink/,
  'this kernel has no nf_tables; load the module nf_tables, or use --backend iptables',
] as const;

export async function ask(host: Host, argv: readonly [string, ...string[]]): Promise<string> {
  const outcome = await host.query({ argv, timeout: 120_000 });
  if (outcome.code !== 0) throw unusable('nftables', argv, outcome, unsupported);
  return outcome.stdout;
}

/** Our own table, and every table that has our chain. Sets alone are the admin's (an included fragment). */
export function isOurs(
  table: { readonly family: string; readonly name: string },
  listing: Listing,
): boolean {
  return (
    isOwn(table) ||
    listing.chains.some(
      (c) => c.family === table.family && c.table === table.name && c.chain === chainName,
    )
  );
}

/** @param json What the listing was read from. */
export async function lookAround(
  host: Host,
  json: string,
  listing: Listing,
): Promise<Omit<NftAround, 'accepted'>> {
  const flagged = await Promise.all(
    // nft 1.0.6 says in JSON that there are flags, and prints garbage for which.
    listing.tables
      .filter((t) => t.flags)
      .map(async (t) => ({
        name: `${t.family} ${t.name}`,
        text: await ask(host, ['nft', '-t', 'list', 'table', t.family, t.name]),
      })),
  );
  const having = (flag: string): string[] =>
    flagged
      .filter((t) => new RegExp(`^\\tflags .*\\b${flag}\\b`, 'm').test(t.text))
      .map((t) => t.name);
  const [debug, elements, ways] = await Promise.all([
    hidesFamily(json) ? ask(host, ['nft', '--debug=netlink', '-t', 'list', 'ruleset']) : '',
    Promise.all(
      setsAsked(listing, false).map((words) => ask(host, ['nft', '-j', 'list', ...words])),
    ),
    bridgesAndRoutes(host),
  ]);
  return {
    rules: listing.rules,
    chains: listing.chains,
    debug,
    elements,
    addresses: await addressesOn(host, ways.defaultRoutes),
    owner: having('owner'),
    dormant: having('dormant'),
    sets: listing.sets
      .filter(({ name }) => isSetName(name))
      .map(({ family, table, name }) => `${family} ${table} ${name}`),
    shared: sharedSets(listing),
    ...ways,
    legacy: /^filter$/m.test((await host.read('/proc/net/ip_tables_names')) ?? ''),
    mismatches: mismatches(listing),
  };
}

/** Read each by itself, as ours are, and only those: a set of banned addresses may be large. */
export async function acceptedSets(host: Host, listing: Listing): Promise<AcceptedSet[]> {
  const accepts = listing.rules.filter(
    (rule) => rule.expr.some((e) => 'accept' in e) || isInvertedDrop(rule),
  );
  const sets = listing.sets.flatMap(({ family, table, name, type, flags }) => {
    const set = { family: family as Family, table, name };
    const plain =
      (type === 'ipv4_addr' || type === 'ipv6_addr') && JSON.stringify(flags) === '["interval"]';
    return plain &&
      !isSetName(name) &&
      [table, name].every(isWritable) &&
      accepts.some((rule) => uses(rule, set))
      ? [set]
      : [];
  });
  return Promise.all(
    sets.map(async (set) => {
      const argv = ['nft', '-j', 'list', 'set', set.family, set.table, set.name] as const;
      const { sets: listed } = parseListing(await ask(host, argv));
      return { ...set, elem: listed[0]?.elem ?? [] };
    }),
  );
}

function sharedSets(listing: Listing): string[] {
  return listing.rules.flatMap((rule) =>
    rule.chain === chainName || isOwn({ family: rule.family, name: rule.table })
      ? []
      : setNames
          .filter((name) => JSON.stringify(rule.expr).includes(`"@${name}"`))
          .map((name) => `${rule.family} ${rule.table} ${name}`),
  );
}

function mismatches(listing: Listing): string[] {
  const found: string[] = [];
  for (const set of listing.sets) {
    if (!isSetName(set.name) || !isOurs({ family: set.family, name: set.table }, listing)) continue;
    const [type, flags] = [JSON.stringify(set.type), JSON.stringify(set.flags)];
    if (!isSetOfOurs(set))
      found.push(`set ${set.family} ${set.table} ${set.name} has type ${type} and flags ${flags}`);
  }
  for (const chain of listing.chains) {
    if (!isOwn({ family: chain.family, name: chain.table })) continue;
    const wanted = (bases as Readonly<Record<string, string>>)[chain.chain];
    const base = chain.base && baseText(chain.base);
    // Another policy is put right in place; another hook or priority cannot be.
    const fixed = (text?: string): string => text?.replace(/ policy .*/, '') ?? 'no hook';
    if (wanted !== undefined ? fixed(base) !== fixed(wanted) : chain.base !== undefined)
      found.push(`chain inet cfsync ${chain.chain} has ${fixed(base)}`);
  }
  return found;
}

/** Whether a set has the type and flags that cfsync gives to the one of its name. */
function isSetOfOurs({ name, type, flags }: Listing['sets'][number]): boolean {
  return isSetName(name) && type === setType[name] && JSON.stringify(flags) === '["interval"]';
}

function baseText(base: NonNullable<Chain['base']>): string {
  return `type ${base.type} hook ${base.hook} priority ${priorities[base.prio] ?? base.prio}; policy ${base.policy};`;
}

const priorities: Readonly<Record<number, string>> = { [-300]: 'raw', [0]: 'filter' };

/** Undefined when an element is no address. */
function rangesOf(elem: readonly unknown[]): Ranges | undefined {
  const texts = elementTexts(elem);
  try {
    return texts && parseRanges(texts);
  } catch (error) {
    if (error instanceof PrefixError) return undefined;
    throw error;
  }
}

export async function ownedTable(
  host: Host,
  table: { readonly family: string; readonly name: string },
  listing: Listing,
  around: Omit<NftAround, 'accepted'>,
): Promise<NftTable> {
  const { family, name } = table as { family: Family; name: string };
  const inTable = (item: { readonly family: string; readonly table: string }): boolean =>
    item.family === family && item.table === name;
  // Every set by itself: the whole table of an admin may hold large sets of other programs.
  const sets = await Promise.all(
    listing.sets
      .filter((s) => inTable(s) && isSetName(s.name))
      .map(async (s) => {
        const argv = ['nft', '-j', 'list', 'set', family, name, s.name] as const;
        const listed = parseListing(await ask(host, argv)).sets[0];
        const ranges = listed && rangesOf(listed.elem);
        // What another type of set holds is no prefix, and `mismatches` has it.
        if (ranges === undefined && (listed === undefined || isSetOfOurs(listed)))
          throw new BackendError(
            'broken',
            `nftables: what ${argv.join(' ')} printed cannot be read: an element is no address; nothing was changed; delete that element, or the set`,
          );
        const { v4, v6 } = ranges ?? none;
        return [s.name, s.name === 'cfsync4' ? v4 : v6] as const;
      }),
  );
  const ours = listing.chains.filter((c) => inTable(c) && (isOwn(table) || c.chain === chainName));
  const others = listing.chains.filter((c) => inTable(c) && !ours.includes(c));
  const jumps = others.flatMap((c) => jumpsIn(c, around));
  const odd = [name, ...[...ours, ...jumps].map((c) => c.chain)].find((n) => !isWritable(n));
  if (odd !== undefined)
    throw new BackendError(
      'not supported',
      `nftables: table ${family} ${name} holds rules of cfsync's, and nft reads no rule for the name ${odd} in it; nothing was changed; delete it by its handle (nft -a list ruleset shows it)`,
    );
  return {
    family,
    name,
    ...(isOwn(table) && around.dormant.includes(`${family} ${name}`)
      ? { dormant: true as const }
      : {}),
    sets: Object.fromEntries(sets),
    chains: byName(
      ours.map((c) => ({
        name: c.chain,
        ...(c.base === undefined ? {} : { base: baseText(c.base) }),
        rules: rulesOf(listing.rules, c).map(ruleText),
      })),
    ),
    jumps: jumps.map(({ chain, before }) => ({ chain, before })),
  };
}
