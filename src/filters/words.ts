/** Puts what filters do into words. */
import { familyNames, withoutLength, type Family } from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import { fromPrefixes, toPrefixes, without, type Intervals } from './intervals.ts';
import type { Rule } from './walk.ts';

/** Which ranges these sources are, for evidence: `15 of 15 IPv4 ranges`, or the very addresses. */
export function described(sources: Intervals, ranges: Ranges, family: Family): string {
  const name = familyNames[family];
  const all = ranges[family];
  const isIn = (prefix: string): boolean => without(fromPrefixes([prefix]), sources).length === 0;
  const whole = all.filter(isIn);
  const rest = toPrefixes(without(sources, fromPrefixes(whole)), family);
  const parts: string[] = [];
  if (whole.length > 3 || whole.length === all.length)
    parts.push(`${whole.length} of ${all.length} ${name} ranges`);
  else parts.push(...whole);
  if (rest.length > 0) {
    const single = rest.map(withoutLength);
    const more = rest.length > 4 ? ` and ${rest.length - 4} more` : '';
    parts.push(`${single.slice(0, 4).join(', ')}${more}`);
  }
  return parts.join(', ');
}

/** As it stands in evidence. */
export function line({ place, text }: Rule): string {
  return `${place}: ${text}`;
}
