/** Makes long lists of prefixes that the gate takes. */

/**
 * Of ten prefixes six are IPv4, and none lies beside another, so that none merge.
 * @param from Prefixes that are left out at the start: two lists have in common what their numbers have.
 */
export function prefixes(size: number, from = 0): { readonly v4: string[]; readonly v6: string[] } {
  const v4: string[] = [];
  const v6: string[] = [];
  for (let i = 2 * from; i < 2 * (from + size); i += 2) {
    const [high, low] = [i >>> 16, i & 0xffff];
    if (i % 20 < 12) v4.push(`${11 + high}.${low >>> 8}.${low & 255}.0/24`);
    else v6.push(`2600:${high.toString(16)}:${low.toString(16)}::/48`);
  }
  return { v4, v6 };
}

/** In another order, the same in every run. */
export function shuffled(list: readonly string[]): string[] {
  const result = [...list];
  let seed = 1;
  for (let i = result.length - 1; i > 0; i--) {
    seed = (seed * 48_271) % 2_147_483_647;
    const j = seed % (i + 1);
    [result[i], result[j]] = [result[j]!, result[i]!];
  }
  return result;
}
