/**
 * Address sets as sorted intervals. The prefixes of src/prefix.ts are text and kept minimal, which costs the whole
 * list for each change; the doctor takes addresses out of one set a thousand times (a rule for each ban).
 */
import { bounds, fromBounds, type Family } from '../prefix.ts';

type Interval = readonly [first: bigint, last: bigint];

/** Sorted, disjoint, of one family. */
export type Intervals = readonly Interval[];

export const bits: Readonly<Record<Family, bigint>> = { v4: 32n, v6: 128n };

/** @throws PrefixError when one is not a prefix. */
export function fromPrefixes(prefixes: readonly string[]): Intervals {
  return normal(prefixes.map(bounds));
}

export function toPrefixes(set: Intervals, family: Family): string[] {
  return set.flatMap(([first, last]) => fromBounds(family, first, last));
}

function normal(list: Interval[]): Intervals {
  const sorted = list.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  const out: [bigint, bigint][] = [];
  for (const [first, last] of sorted) {
    const before = out.at(-1);
    if (before !== undefined && first <= before[1] + 1n) {
      if (last > before[1]) before[1] = last;
    } else out.push([first, last]);
  }
  return out;
}

export function union(a: Intervals, b: Intervals): Intervals {
  if (a.length === 0) return b;
  return b.length === 0 ? a : normal([...a, ...b]);
}

export function unionOf(sets: readonly Intervals[]): Intervals {
  return normal(sets.flat());
}

export function common(a: Intervals, b: Intervals): Intervals {
  const [few, many] = a.length < b.length ? [a, b] : [b, a];
  const out: Interval[] = [];
  for (const [first, last] of few)
    for (let i = firstFrom(many, first); i < many.length && many[i]![0] <= last; i++) {
      const [low, high] = many[i]!;
      out.push([low < first ? first : low, high > last ? last : high]);
    }
  return out;
}

export function without(a: Intervals, b: Intervals): Intervals {
  if (b.length === 0 || a.length === 0) return a;
  const out: Interval[] = [];
  let next = 0;
  for (const whole of a) {
    let [first] = whole;
    const last = whole[1];
    while (next < b.length && b[next]![1] < first) next++;
    for (let i = next; i < b.length && b[i]![0] <= last; i++) {
      const [low, high] = b[i]!;
      if (low > first) out.push([first, low - 1n]);
      first = high + 1n;
    }
    if (first <= last) out.push([first, last]);
  }
  return out;
}

/** The first interval that ends at `value` or behind it. */
function firstFrom(set: Intervals, value: bigint): number {
  let [low, high] = [0, set.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (set[middle]![1] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** How many addresses. */
export function size(set: Intervals): bigint {
  return set.reduce((sum, [first, last]) => sum + last - first + 1n, 0n);
}

/** All addresses of a family but these. */
export function complement(set: Intervals, family: Family): Intervals {
  return without([[0n, (1n << bits[family]) - 1n]], set);
}
