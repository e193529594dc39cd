/** Where a jump to our chain stands. */
import { isAbove, judge, upper } from '../../src/filters/place.ts';
import { isOurJump, rulesOf, same, type ChainName } from '../../src/filters/nft/listing.ts';
import { siteOf } from '../../src/filters/nft/site.ts';
import type { Desired } from '../../src/renderer.ts';
import type { NftAround } from './around.ts';
import type { Jump } from './owned.ts';

/** Our jumps in a chain, each with the handle of the next rule that is not ours. */
export function jumpsIn(
  name: ChainName,
  around: Pick<NftAround, 'rules'>,
): readonly (Jump & { readonly handle: number; readonly index: number })[] {
  const found: (Jump & { readonly handle: number; readonly index: number })[] = [];
  let before: number | null = null;
  const rules = rulesOf(around.rules, name);
  for (let index = rules.length - 1; index >= 0; index--) {
    const { handle } = rules[index]!;
    if (isOurJump(rules[index]!)) found.push({ chain: name.chain, handle, index, before });
    else before = handle;
  }
  return found.reverse();
}

/** At the end where only the policy drops. A jump that already stands well stays. */
export function jumpFor(name: ChainName, desired: Desired, around: NftAround | undefined): Jump {
  if (around === undefined) return { chain: name.chain, before: null };
  const rules = rulesOf(around.rules, name);
  const limit = upper(
    judge(siteOf(name, around), desired).limit,
    around.adopted?.find(({ chain }) => same(chain, name))?.at ?? -1,
  );
  const standing = jumpsIn(name, around).find((j) => isAbove(j.index, limit));
  if (standing !== undefined) return { chain: name.chain, before: standing.before };
  const next = limit < 0 ? undefined : rules.slice(limit).find((r) => !isOurJump(r));
  return { chain: name.chain, before: next?.handle ?? null };
}
