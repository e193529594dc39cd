/** Asks the packet filters about Cloudflare and about strangers, once for all checks that judge them. */
import { CfsyncError } from '../errors.ts';
import type { Family } from '../prefix.ts';
import { onceFor, type DoctorContext, type DoctorHost, type Finding } from './check.ts';
import { filtersOf, type Filters } from '../filters/ask.ts';
import { namedBy } from '../filters/conditions.ts';
import {
  common,
  fromPrefixes,
  size,
  union,
  unionOf,
  without,
  type Intervals,
} from '../filters/intervals.ts';
import { observeFilters as observe, type FilterSeen } from '../filters/observe.ts';
import { isEverybody, strangers } from '../filters/strangers.ts';
import type { Packet, Result, Rule } from '../filters/walk.ts';

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

/** What comes in at one door. */
export interface Door {
  readonly family: Family;
  readonly port: number;
  /** Of Cloudflare's ranges. */
  readonly cloudflare: readonly Result[];
  /** Of everybody else. */
  readonly strangers: readonly Result[];
  /** Rules that let in or pass on Cloudflare's ranges by name. */
  readonly allowing: readonly Rule[];
}

export interface Survey {
  readonly filters: Filters;
  readonly doors: readonly Door[];
}

const known = new WeakMap<
  FilterSeen,
  { readonly context: DoctorContext; readonly survey: Survey }
>();

/** @throws BackendError when a listing cannot be read. */
export function surveyOf(seen: FilterSeen, context: DoctorContext): Survey {
  const before = known.get(seen);
  if (before?.context === context) return before.survey;
  const survey = make(seen, context);
  known.set(seen, { context, survey });
  return survey;
}

function make(seen: FilterSeen, { ranges, ports }: DoctorContext): Survey {
  const filters = filtersOf(seen);
  const others = strangers(ranges);
  const doors = filters.families.flatMap((family) => {
    const ours = fromPrefixes(ranges[family]);
    return ports.map((port): Door => {
      const cloudflare = filters.ask({ family, protocol: 'tcp', port, sources: ours });
      return {
        family,
        port,
        cloudflare,
        strangers: filters.ask({ family, protocol: 'tcp', port, sources: others[family] }),
        allowing:
          cloudflare[0] === undefined
            ? []
            : allowing(filters, cloudflare[0].packet, ranges[family]),
      };
    });
  });
  return { filters, doors };
}

/** Rules that let in ranges of Cloudflare's by name; those of one chain may be one for each range. */
function allowing(
  { ruleset }: Filters,
  packet: Packet,
  ranges: readonly string[],
): readonly Rule[] {
  const ours = fromPrefixes(ranges);
  const rules = [...ruleset.chains.values()]
    .flat()
    .filter(({ actions }) =>
      actions.some(({ kind }) => kind === 'accept' || kind === 'return' || kind === 'jump'),
    );
  const named = rules.flatMap((rule) => {
    if (rule.conditions.some((condition) => condition(packet) === false)) return [];
    const sources = namedBy(rule, packet);
    const own = sources === undefined ? [] : common(sources, ours);
    // One address of Cloudflare's may be let in for another reason.
    return own.length > 0 && sources !== undefined && size(own) * 2n >= size(sources)
      ? [{ rule, own }]
      : [];
  });
  const all = unionOf(named.map(({ own }) => own));
  const isWhole = ranges.some((range) => without(fromPrefixes([range]), all).length === 0);
  return isWhole ? named.map(({ rule }) => rule) : [];
}

export function sourcesOf(results: readonly Result[], verdict: Result['verdict']): Intervals {
  return allOf(results.filter((result) => result.verdict === verdict));
}

/** What visitors see of it. */
export function errorsOf(verdicts: Iterable<Result['verdict']>): Finding['causes'] {
  const all = new Set(verdicts);
  return [
    ...(all.has('reject') ? ([521] as const) : []),
    ...(all.has('drop') ? ([522] as const) : []),
  ];
}

/** What is kept out for certain. */
export function keptOut(results: readonly Result[]): Intervals {
  return union(sourcesOf(results, 'drop'), sourcesOf(results, 'reject'));
}

/** Whether most of all strangers come in. */
export function isOpen({ strangers: results }: Door): boolean {
  return isEverybody(sourcesOf(results, 'accept'), allOf(results));
}

/** Whether most of all strangers are kept out. */
export function isClosed({ strangers: results }: Door): boolean {
  return isEverybody(keptOut(results), allOf(results));
}

function allOf(results: readonly Result[]): Intervals {
  return unionOf(results.map(({ sources }) => sources));
}

/** Published ranges of which nothing comes in. */
export function rangesOut(
  results: readonly Result[],
  ranges: readonly string[],
): readonly string[] {
  const out = keptOut(results);
  return ranges.filter((range) => without(fromPrefixes([range]), out).length === 0);
}

/**
 * Whether a rule keeps out what it names, or parts of published ranges alone, as bans do; a policy or a rule at the
 * end keeps out what nobody let in before.
 */
export function isBan({ sources, rules, packet }: Result, ranges: readonly string[]): boolean {
  const [rule] = rules;
  if (rule !== undefined && namedBy(rule, packet) !== undefined) return true;
  return ranges.every((range) => without(fromPrefixes([range]), sources).length > 0);
}
