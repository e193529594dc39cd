/** Who else there is but Cloudflare, as the sources of connections. */
import type { Family } from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import { publicSpace } from '../special-purpose.ts';
import { fromPrefixes, size, without, type Intervals } from './intervals.ts';

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
