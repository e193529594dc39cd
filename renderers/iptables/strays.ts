/** Finds the rules of iptables that other hands wrote to let Cloudflare in. */
import type { Family } from '../../src/prefix.ts';
import { namesAny, namesOnly } from '../../src/feed/published.ts';
import type { Desired, Ranges, Stray } from '../../src/renderer.ts';
import { beyondOf, opens, type Asks, type Left, type Other } from '../../src/filters/strays.ts';
import { portRanges, type PortRange } from '../../src/plugin/ports.ts';
import {
  optionsOf,
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

interface Found extends Left {
  /** In order, chain by chain. */
  readonly strays: readonly IptStray[];
  /** The table without them. */
  readonly rest: SavedTable;
  /** Where the first of them counted: an index of INPUT without them. */
  readonly first: number;
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
  isAlways: (besides: string) => boolean,
): Found {
  const strays: IptStray[] = [];
  const others: Other[] = [];
  const mixed: string[] = [];
  const conditional: string[] = [];
  const inverted: string[] = [];
  const rest = new Set(table.rules);
  for (const [chain, ways] of waysIn(table, isAlways)) {
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
      const said = isRule ? read(rule.text) : undefined;
      const asks = said !== undefined && isAlways(said.besides) ? said : undefined;
      const named = namedIn(rule.text, sets);
      if (asks === undefined && namesOnly(known, named.prefixes)) {
        if (named.isInverted && /-j (DROP|REJECT)\b/.test(rule.text)) inverted.push(text);
        else if (isRule && !named.isInverted && named.isForNew) conditional.push(text);
      }
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
        others.push({ text, protocol: asks.protocol ?? ways[0]!.protocol });
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
  return {
    strays,
    rest: { ...table, rules: [...rest] },
    first,
    others,
    mixed,
    conditional,
    inverted,
  };
}

interface IptAsks extends Asks {
  readonly source?: readonly string[];
  readonly set?: string;
  /** What else it asks for, which may hold for every connection: options, as they are saved. */
  readonly besides: string;
}

/** The chains to look at, each with what is asked on every way from INPUT to there. */
function waysIn(
  table: SavedTable,
  isAlways: (besides: string) => boolean,
): ReadonlyMap<string, readonly Asks[]> {
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
    const asked = (jumps.get(name) ?? []).map((rule) => {
      const asks = rule.chain === 'INPUT' ? read(rule.text) : undefined;
      return asks !== undefined && isAlways(asks.besides) ? asks : undefined;
    });
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
  const besides: string[] = [];
  if (targetOf(words) === undefined) return undefined;
  for (const { option, values, negated } of optionsOf(words)) {
    const [value = '', more] = values;
    if (option === '-m' || option === '--comment') continue;
    if (/^(-i|-d|--tcp-flags)$/.test(option))
      besides.push(...(negated ? ['!'] : []), option, ...values);
    else if (negated) return undefined;
    else if (option === '-s') asks.source = [value];
    else if (option === '-p' && (value === 'tcp' || value === 'udp')) asks.protocol = value;
    else if (option === '--dport' || option === '--dports') asks.ports.push(portRanges(value));
    else if (option === '--ctstate' || option === '--state') {
      if (!value.split(',').includes('NEW')) return undefined;
    } else if (option === '--match-set' && more === 'src') asks.set = value;
    else return undefined;
  }
  return { ...asks, besides: besides.join(' ') };
}

/** What any rule names as sources, whether it is for all others, and whether it may be about new connections. */
function namedIn(
  text: string,
  sets: ReadonlyMap<string, readonly string[]>,
): {
  readonly prefixes: readonly string[];
  readonly isInverted: boolean;
  readonly isForNew: boolean;
} {
  let [prefixes, isInverted, isForNew]: [readonly string[], boolean, boolean] = [[], false, true];
  for (const { option, values, negated } of optionsOf(wordsOf(text))) {
    const isSet = option === '--match-set' && values[1] === 'src';
    if (isSet || option === '-s') {
      isInverted = negated;
      prefixes = isSet ? (sets.get(values[0] ?? '') ?? []) : values;
    }
    if (/^--(ct)?state$/.test(option) && !values.join().split(',').includes('NEW'))
      isForNew = negated;
  }
  return { prefixes, isInverted, isForNew };
}
