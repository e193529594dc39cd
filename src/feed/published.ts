/** Every range that Cloudflare is known to have published: what a rule of an old script may name. */
import { familyOf, isEmpty, merge, none, PrefixError, parseRanges, subtract } from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import type { Answer } from './source.ts';
import { replacedRanges } from '../state/store.ts';

/** What left Cloudflare's lists, by the updates named on https://www.cloudflare.com/ips. */
const left: Ranges = parseRanges([
  '199.27.128.0/21', // removed in June 2017
  '104.16.0.0/12', // 2021-04-08: replaced by 104.16.0.0/13 and 104.24.0.0/14
  '2405:b500::/32', // removed on 2022-05-09, back on 2023-09-28
]);

/**
 * No longer published, whatever list is used. 104.28.0.0/14, which the change of 2021 left out, serves
 * Cloudflare's VPN and, as it announced then, "may carry traffic from untrusted sources".
 */
export const retired: Ranges = parseRanges(['199.27.128.0/21', '104.28.0.0/14']);

/**
 * Nothing longer is announced on the Internet, so no list of Cloudflare's has it: an address that is allowed
 * by itself is somebody's own, for instance behind that VPN.
 */
const longest = { v4: 24, v6: 48 } as const;

/** What the source says, the snapshots that were kept, and what is known of the time before them. */
export async function everPublished(
  { ranges, mayRemove, snapshot }: Pick<Answer, 'ranges' | 'mayRemove' | 'snapshot'>,
  stateDir: string,
): Promise<Ranges> {
  const last = snapshot?.ranges ?? none;
  // An answer that takes nothing away cannot say of a range in the snapshot that it is gone.
  if (!mayRemove) return merge(ranges, subtract(left, last));
  return merge(ranges, left, last, ...(await replacedRanges(stateDir)));
}

/** Whether these are ranges of Cloudflare's and nothing else: at least one, all inside of `known`. */
export function namesOnly(known: Ranges, prefixes: readonly string[]): boolean {
  const isLong = (prefix: string): boolean =>
    Number(prefix.split('/')[1]) > longest[familyOf(prefix)];
  if (prefixes.length === 0 || prefixes.some(isLong)) return false;
  try {
    return isEmpty(subtract(parseRanges(prefixes), known));
  } catch (error) {
    if (error instanceof PrefixError) return false; // a name, a mask with gaps, host bits
    throw error;
  }
}

export function namesAny(known: Ranges, prefixes: readonly string[]): boolean {
  return prefixes.some((prefix) => namesOnly(known, [prefix]));
}
