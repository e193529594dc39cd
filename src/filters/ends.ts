/** Sums up how new connections from Cloudflare end in a chain of the admin's. */

/** How one ends. */
interface End<Rule> {
  readonly verdict: 'drop' | 'accept' | 'continue';
  /** The rule that decides; none for the policy, and at the end of a chain. */
  readonly rule?: Rule;
  /** Rules that may drop it, on conditions that cannot be judged. */
  readonly unclear: readonly Rule[];
  /** A rule that accepts it from everywhere. */
  readonly open?: Rule;
}

export interface Ends<Rule> {
  /** Those that are dropped. */
  readonly drops: readonly End<Rule>[];
  /** Each once. */
  readonly unclear: readonly Rule[];
  readonly open: Rule | undefined;
}

export function summedUp<Rule>(ends: readonly End<Rule>[]): Ends<Rule> {
  return {
    drops: ends.filter((end) => end.verdict === 'drop'),
    unclear: [...new Set(ends.flatMap((end) => end.unclear))],
    open: ends.find((end) => end.open !== undefined)?.open,
  };
}

/**
 * The index of the rule that a jump to ours must stand above, -1 for none: the first rule that drops any of our
 * traffic, so that the admin's earlier rules (bans) still come first. Not below rules that are taken over, because
 * they may have let Cloudflare past a limit or a ban.
 * @param adoptedAt Where the first rule that is taken over stood, -1 for none.
 */
export function jumpLimit<Rule extends object>(
  rules: readonly Rule[],
  ends: readonly End<Rule>[],
  adoptedAt: number,
): number {
  const deciding = ends.flatMap(({ verdict, rule }) =>
    rule === undefined || verdict === 'accept' ? [] : [rule],
  );
  return upper(
    rules.findIndex((rule) => deciding.includes(rule)),
    adoptedAt,
  );
}

/** The upper one of two places in a chain; -1 stands for none. */
function upper(one: number, other: number): number {
  return one < 0 || other < 0 ? Math.max(one, other) : Math.min(one, other);
}

/** Whether a rule at this index stands above the limit; -1 stands for no limit. */
export function isAbove(index: number, limit: number): boolean {
  return limit < 0 || index < limit;
}
