/** Answers what the packet filters of a host do to connections from anywhere. */
import { isLoopback } from '../host/proc.ts';
import { families, familyOf, type Family } from '../prefix.ts';
import { holds } from './conditions.ts';
import { fromPrefixes, type Intervals } from './intervals.ts';
import { IpSets } from './iptables/ipset.ts';
import { legacyBases, readTable } from './iptables/read.ts';
import { parseSave, type SavedTable } from './iptables/save.ts';
import { readNft } from './nft/read.ts';
import type { FilterSeen, Save } from './observe.ts';
import { firstPacket } from './packet.ts';
import {
  walk,
  type Base,
  type Packet,
  type Protocol,
  type Result,
  type Rule,
  type Ruleset,
} from './walk.ts';

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
  readonly protocol: Protocol;
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
  const nft = seen.nft === null ? undefined : readNft(seen.nft.json, { ...seen.nft, kept });
  for (const [name, list] of nft?.chains ?? []) chains.set(name, list);
  const ruleset = { bases: [...(nft?.bases ?? []), ...bases], chains };
  const plain = { ...ruleset, bases: ruleset.bases.filter(({ nat }) => !nat) };
  return {
    ruleset,
    families: families.filter((family) => seen.addresses[family].length > 0),
    native: nft?.native ?? [],
    variants,
    sets,
    ask: ({ sources, without: left, busy = false, ...question }) => {
      const { interfaces, addresses } = seen;
      const own = addresses[question.family];
      const packet = firstPacket({ ...question, busy, interfaces, addresses: own });
      const rules = left === 'nat' ? plain : ruleset;
      return walk(rules, sources, packet, (address) => reach(seen, address));
    },
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

function reach({ addresses, routes: table }: FilterSeen, address: string): Packet['to'] {
  if (isLoopback(address) || [...addresses.v4, ...addresses.v6].includes(address)) return 'here';
  const ways = table
    .filter(({ prefix }) => familyOf(prefix) === familyOf(address))
    .filter(({ prefix }) => holds(fromPrefixes([prefix]), address))
    .sort((a, b) => b.length - a.length);
  return { address, through: ways[0]?.name };
}
