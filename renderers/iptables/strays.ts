/** Finds the rules of iptables that other hands wrote to let Cloudflare in. */
import type { Family } from '../../src/prefix.ts';
import { namesAny, namesOnly } from '../../src/feed/published.ts';
import type { Desired, Ranges, Stray } from '../../src/renderer.ts';
import { beyondOf, opens, type Asks } from '../../src/filters/strays.ts';
import { portRanges, type PortRange } from '../../src/plugin/ports.ts';
import {
  targetOf,
  wordsOf,
  type SavedRule,
  type SavedTable,
} from '../../src/filters/iptables/save.ts';
import { tool } from './names.ts';

/** Where a rule stands, by the one that follows it: numbers would change with every rule of the admin's. */
export interface Place {
  /** The text of the next rule that is not of the same kind, null at the end of the chain. */
  readonly before: string | null;
  /** How many rules of the chain with that same text stand above that one. */
  readonly nth: number;
}

/** A rule of table filter. */
export interface IptStray extends Stray, Place {
  readonly family: Family;
  readonly chain: string;
  /** As iptables-save prints it, without `-A CHAIN`. */
  readonly rule: string;
}

interface Found {
  /** In order, chain by chain. */
  readonly strays: readonly IptStray[];
  /** The table without them. */
  readonly rest: SavedTable;
  /** Where the first of them counted: an index of INPUT without them. */
  readonly first: number;
  /** Rules for Cloudflare's ranges that open other ports, alone or as well: they are left alone. */
  readonly others: readonly string[];
  /** Rules that ask a set which has such ranges and others as well: they are left alone. */
  readonly mixed: readonly string[];
}

/** Chains by which UFW, CSF and firewalld are known: what stands in chains of theirs, they would write again. */
const managers = ['ufw-user-input', 'ufw6-user-input', 'LOCALINPUT', 'INPUT_ZONES', 'IN_public'];

/**
 * Rules of INPUT, and of chains that only INPUT jumps to, which accept new connections from ranges inside of
 * `known` on the desired ports, or on all of them. Any other condition makes a rule the admin's own.
 * @param sets The members of the sets that such rules ask, by name.
 */
export function findStrays(
  family: Family,
  table: SavedTable,
  desired: Desired,
  known: Ranges,
  sets: ReadonlyMap<string, readonly string[]>,
): Found {
  const strays: IptStray[] = [];
  const others: string[] = [];
  const mixed: string[] = [];
  const rest = new Set(table.rules);
  for (const [chain, ways] of waysIn(table)) {
    const seen = new Map<string, number>();
    const waiting: Omit<IptStray, 'before' | 'nth'>[] = [];
    const settle = (before: string | null, nth: number): void => {
      strays.push(...waiting.splice(0).map((stray) => ({ ...stray, before, nth })));
    };
    for (const rule of table.rules) {
      if (rule.chain !== chain) continue;
      const text = `${tool[family]} -A ${chain} ${rule.text}`;
      // A comment with a line end cannot be given back to iptables-restore.
      const isRule = rule.text.endsWith('-j ACCEPT') && !rule.text.includes('\n');
      const asks = isRule ? read(rule.text) : undefined;
      const prefixes = asks?.source ?? sets.get(asks?.set ?? '') ?? [];
      if (!namesOnly(known, prefixes)) {
        if (namesAny(known, prefixes)) mixed.push(text);
      } else if (asks !== undefined) {
        const all = ways.map((way) => opens(desired, way, asks));
        if (!all.includes('others')) {
          const beyond = beyondOf(all);
          const stray = { text, prefixes, family, chain, rule: rule.text };
          waiting.push(beyond === undefined ? stray : { ...stray, beyond });
          rest.delete(rule);
          continue;
        }
        others.push(text);
      }
      // Our jump may go elsewhere, and marks no place.
      if (rule.text.endsWith(' -j CFSYNC')) continue;
      const nth = seen.get(rule.text) ?? 0;
      seen.set(rule.text, nth + 1);
      settle(rule.text, nth);
    }
    settle(null, 0);
  }
  const input = table.rules.filter((rule) => rule.chain === 'INPUT');
  const chains = strays.map((stray) => stray.chain);
  const first = input.findIndex(
    (rule) => !rest.has(rule) || chains.includes(targetOf(wordsOf(rule.text)) ?? ''),
  );
  return { strays, rest: { ...table, rules: [...rest] }, first, others, mixed };
}

interface IptAsks extends Asks {
  readonly source?: readonly string[];
  readonly set?: string;
}

/** The chains to look at, each with what is asked on every way from INPUT to there. */
function waysIn(table: SavedTable): ReadonlyMap<string, readonly Asks[]> {
  const ways = new Map<string, readonly Asks[]>([['INPUT', [{ ports: [] }]]]);
  if (table.chains.some((chain) => managers.includes(chain.name))) return ways;
  const jumps = new Map<string, SavedRule[]>();
  for (const rule of table.rules) {
    const target = targetOf(wordsOf(rule.text)) ?? '';
    const same = jumps.get(target);
    if (same === undefined) jumps.set(target, [rule]);
    else same.push(rule);
  }
  for (const { name, policy } of table.chains) {
    if (policy !== null || name.startsWith('CFSYNC')) continue;
    const asked = (jumps.get(name) ?? []).map((rule) =>
      rule.chain === 'INPUT' ? read(rule.text) : undefined,
    );
    const all = asked.filter((asks) => asks !== undefined);
    if (all.length > 0 && all.length === asked.length) ways.set(name, all);
  }
  return ways;
}

/** Undefined when a rule asks for anything else, or is not for new connections. */
function read(text: string): IptAsks | undefined {
  const words = wordsOf(text);
  const asks: { source?: string[]; set?: string; protocol?: 'tcp' | 'udp'; ports: PortRange[][] } =
    { ports: [] };
  for (let i = 0; i < words.length; i += 2) {
    const [option, value = ''] = words.slice(i, i + 2);
    if (option === '-j' || option === '-g') return asks;
    if (option === '-s') asks.source = [value];
    else if (option === '-p' && (value === 'tcp' || value === 'udp')) asks.protocol = value;
    else if (option === '--dport' || option === '--dports') asks.ports.push(portRanges(value));
    else if (option === '--ctstate' || option === '--state') {
      if (!value.split(',').includes('NEW')) return undefined;
    } else if (option === '--match-set' && words[i + 2] === 'src') {
      asks.set = value;
      i++;
    } else if (option !== '-m' && option !== '--comment') return undefined;
  }
  return undefined;
}
