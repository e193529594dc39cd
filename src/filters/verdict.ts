/** Judges the packet filters of a host as a whole: whether Cloudflare gets in where it is to, and others do not. */
import type { Family } from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import type { Filters } from './ask.ts';
import {
  common,
  fromPrefixes,
  size,
  union,
  unionOf,
  without,
  type Intervals,
} from './intervals.ts';
import { isEverybody, strangers } from './strangers.ts';
import type { Protocol, Result, Rule } from './walk.ts';

/** What is to be so. */
export interface Wish {
  readonly ranges: Ranges;
  /** The admin's own prefixes, which are no strangers. */
  readonly extra: Ranges;
  /** Where Cloudflare is to get in. */
  readonly open: readonly Door[];
  /** Where nobody else is to get in. */
  readonly locked: readonly Door[];
}

export interface Door {
  readonly protocol: Protocol;
  readonly port: number;
}

/** What is not as it is to be, by one rule or policy. */
export interface Finding {
  /** `out`: ranges are kept out; `others`: strangers get in; `unclear`: that ranges get in is not known. */
  readonly kind: 'out' | 'others' | 'unclear';
  /** A few addresses, as a ban keeps out, are no more than worth knowing. */
  readonly small: boolean;
  readonly doors: readonly Door[];
  /** Whom it concerns. */
  readonly sources: Readonly<Record<Family, Intervals>>;
  /** That decides; undefined for others who get in because nothing keeps them out. */
  readonly rule: Rule | undefined;
  /** Of what is unclear: what of the rule is not understood. */
  readonly why?: string;
}

/** How much of one range may be missing before it counts: a /24, or a /48 of IPv6. */
const few: Readonly<Record<Family, bigint>> = { v4: 1n << 8n, v6: 1n << 80n };

/**
 * @param ignored Places whose rules do not count, as `placeOf` has them.
 * @returns What is found, the weightiest first; limits count as not reached.
 */
export function findingsOf(
  filters: Filters,
  { ranges, extra, open, locked }: Wish,
  ignored: readonly string[],
): readonly Finding[] {
  const found: Finding[] = [];
  const everybody = strangers(ranges);
  for (const family of filters.families) {
    const cloudflare = fromPrefixes(ranges[family]);
    const own = fromPrefixes(extra[family]);
    for (const door of open) {
      const results = filters.ask({ family, ...door, sources: cloudflare });
      const counted = results.filter(({ rules: [rule] }) => !isIgnored(rule, ignored));
      const out = counted.filter(({ verdict }) => verdict === 'drop' || verdict === 'reject');
      const unclear = counted.filter(({ verdict }) => verdict === 'unclear');
      for (const [kind, these] of [
        ['out', out],
        ['unclear', unclear],
      ] as const) {
        // As a rule nothing is found, and the ranges may be 100,000.
        if (these.length === 0) continue;
        const small = !isMuch(unionOfSources(these), ranges[family], family);
        for (const { sources, rules, doubts } of these)
          found.push({
            kind,
            small,
            doors: [door],
            sources: only(family, sources),
            rule: kind === 'out' ? rules[0] : doubts[0]?.rule,
            ...(doubts[0] !== undefined && { why: doubts[0].why }),
          });
      }
    }
    const others = without(everybody[family], own);
    for (const door of locked) {
      const results = filters.ask({ family, ...door, sources: others });
      const all = unionOfSources(results);
      const accepted = results.filter(({ verdict }) => verdict === 'accept');
      if (!isEverybody(unionOfSources(accepted), all)) continue;
      const most = accepted.reduce((a, b) => (size(b.sources) > size(a.sources) ? b : a));
      const rule = most.rules.at(-1);
      if (isIgnored(rule, ignored)) continue;
      found.push({
        kind: 'others',
        small: false,
        doors: [door],
        sources: only(family, all),
        rule,
      });
    }
  }
  return together(found);
}

/** As in `judge-ignore` of the configuration: `inet filter input`, `iptables filter INPUT`. */
export function placeOf({ place }: Rule): string {
  return place.replace(/^nft /, '');
}

function isIgnored(rule: Rule | undefined, ignored: readonly string[]): boolean {
  return rule !== undefined && ignored.includes(placeOf(rule));
}

function unionOfSources(results: readonly Result[]): Intervals {
  return unionOf(results.map(({ sources }) => sources));
}

/** Whether more than a few addresses of a range are missing. */
export function isMuch(sources: Intervals, ranges: readonly string[], family: Family): boolean {
  return ranges.some((range) => size(common(sources, fromPrefixes([range]))) > few[family]);
}

function only(family: Family, sources: Intervals): Finding['sources'] {
  return { v4: [], v6: [], [family]: sources };
}

/** One for each rule, with all doors at which it concerns the same sources. */
function together(findings: readonly Finding[]): readonly Finding[] {
  // Both families of a door first: of another door, other sources would be said to be concerned.
  const doors = joined(findings, ({ doors: [door] }) => `${door!.protocol} ${door!.port}`);
  const all = joined(doors, ({ sources: { v4, v6 } }) => `${v4.join(' ')} ${v6.join(' ')}`);
  const weight = ({ kind, small }: Finding): number =>
    ['out', 'others', 'unclear'].indexOf(kind) + (small ? 3 : 0);
  return [...all].sort((a, b) => weight(a) - weight(b));
}

/** Joins findings of the same kind and rule that are alike in one more way. */
function joined(
  findings: readonly Finding[],
  alike: (finding: Finding) => string,
): readonly Finding[] {
  const by = new Map<string, Finding>();
  for (const finding of findings) {
    const { kind, rule, small } = finding;
    const key = `${kind} ${small} ${rule?.id ?? ''} ${alike(finding)}`;
    const before = by.get(key);
    by.set(key, before === undefined ? finding : both(before, finding));
  }
  return [...by.values()];
}

function both(a: Finding, b: Finding): Finding {
  const has = (door: Door): boolean =>
    a.doors.some(({ protocol, port }) => protocol === door.protocol && port === door.port);
  return {
    ...a,
    doors: [...a.doors, ...b.doors.filter((door) => !has(door))],
    sources: {
      v4: union(a.sources.v4, b.sources.v4),
      v6: union(a.sources.v6, b.sources.v6),
    },
  };
}

/** What of the sources of findings came in by other filters: of rules as they were before. */
export function cameIn(before: Filters, findings: readonly Finding[]): boolean {
  return findings.some(
    ({ kind, small, sources, doors }) =>
      kind === 'out' &&
      !small &&
      before.families.some((family) =>
        doors.some((door) => {
          const results = before.ask({ family, ...door, sources: sources[family] });
          const accepted = results.filter(({ verdict }) => verdict === 'accept');
          return size(unionOfSources(accepted)) > few[family];
        }),
      ),
  );
}
