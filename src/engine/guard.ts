/** Refuses changes that are too large to be believed, measured in address space against what a backend holds. */
import {
  addresses,
  families,
  familyNames,
  intersect,
  isEmpty,
  merge,
  subtract,
} from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import { number } from '../text.ts';

/** Largest loss and growth of a family's address space that needs no confirmation, in percent. */
const mostLoss = 25n;
const mostGrowth = 50n;

export interface GuardInput {
  /** What the backend holds now. */
  readonly held: Ranges;
  /** What was last applied to it, if anything: repairing drift back to that is no growth. */
  readonly applied?: { readonly ranges: Ranges; readonly extra: Ranges } | undefined;
  /** What the source says. */
  readonly ranges: Ranges;
  /** The admin's own prefixes; they are neither growth nor loss. */
  readonly extra: Ranges;
  /** False for a fallback or an unconfirmed answer: it adds, and never takes a range away. */
  readonly mayRemove: boolean;
  /** Everything that was ever accepted here, if known; what is held and not in it is drift, not a range. */
  readonly known?: Ranges | undefined;
  readonly acceptLargeChange: boolean;
}

export type Verdict =
  /** `ranges` are to be applied; `kept` are those among them that only the backend still has. */
  | { readonly kind: 'go'; readonly ranges: Ranges; readonly kept: Ranges }
  /** Only the additions are applied, the loss is refused. */
  | { readonly kind: 'no loss'; readonly ranges: Ranges; readonly why: string }
  | { readonly kind: 'no change'; readonly why: string };

export function guard(input: GuardInput): Verdict {
  const own = input.applied ? merge(input.extra, input.applied.extra) : input.extra;
  // The admin's own prefixes lie in the same sets; what they share with a range still counts as a range.
  const held = subtract(input.held, subtract(own, input.ranges));
  const believed = input.applied ? merge(held, input.applied.ranges) : held;
  if (!input.acceptLargeChange) {
    const growth = share(subtract(input.ranges, believed), believed, mostGrowth);
    if (growth !== undefined) return { kind: 'no change', why: `${growth} would be added` };
  }
  const loss = subtract(held, input.ranges);
  if (!input.mayRemove) {
    const kept = input.known ? intersect(loss, input.known) : loss;
    return { kind: 'go', ranges: merge(input.ranges, kept), kept };
  }
  if (!input.acceptLargeChange) {
    const lost = largeLoss(held, input.ranges);
    if (lost !== undefined)
      return {
        kind: 'no loss',
        ranges: merge(input.ranges, loss),
        why: `${lost} would be taken away`,
      };
  }
  return { kind: 'go', ranges: input.ranges, kept: { v4: [], v6: [] } };
}

/** Says how much of what is held would be lost where that is too much to be believed. */
export function largeLoss(held: Ranges, ranges: Ranges): string | undefined {
  return share(subtract(held, ranges), held, mostLoss);
}

/** Says how much of `whole` the part is where that is above the limit; an empty family has no limit. */
function share(part: Ranges, whole: Ranges, limit: bigint): string | undefined {
  if (isEmpty(part)) return undefined;
  for (const family of families) {
    const all = addresses(whole[family]);
    const some = addresses(part[family]);
    if (all > 0n && some * 100n > all * limit)
      return `${number(some)} ${familyNames[family]} addresses (${(some * 100n) / all} % of what is held; ${limit} % is the limit)`;
  }
  return undefined;
}
