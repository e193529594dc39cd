/** Tells what of UFW's rules is in force in the kernel. */
import type { Family } from '../../src/prefix.ts';
import {
  hinders,
  isOfOurForm,
  parseRule,
  ruleKey,
  type ChainRule,
  type Listing,
} from './chains.ts';
import { claimsLater, fileLines, inputChain, ownBlocks } from './rules.ts';
import { families, type FamilyState, type UfwAround } from './state.ts';

/** Whether UFW looks after a family at all. */
export function isUsed(family: Family, around: UfwAround): boolean {
  return family === 'v4' || around.ipv6 === 'yes';
}

export function used(around: UfwAround): readonly Family[] {
  return families.filter((family) => isUsed(family, around));
}

export function listings({ kernel }: UfwAround): readonly (readonly [Family, Listing])[] {
  return families.flatMap((family) => {
    const listing = kernel?.[family];
    return listing === undefined ? [] : [[family, listing] as const];
  });
}

/** Whether there is a chain to load into. `ufw status` says inactive where it is missing. */
export function isRunning(family: Family, around: UfwAround): boolean {
  return isUsed(family, around) && around.kernel?.[family]?.chains.has(inputChain(family)) === true;
}

/** What is missing on the way of a packet to the rules, in words. */
export function missingLink(family: Family, { chains, rules }: Listing): string | undefined {
  const chain = inputChain(family);
  if (!chains.has(chain)) return `the kernel has no chain ${chain}`;
  const before = chain.replace('user', 'before');
  const gap = [
    ['INPUT', before],
    [before, chain],
  ].find(([from, to]) => !rules.some((rule) => rule.chain === from && rule.target === to));
  return gap && `no rule leads from ${gap[0]} to ${gap[1]}`;
}

export function observed(family: Family, around: UfwAround): FamilyState {
  const file = around.files[family];
  const own = ownBlocks(file);
  if (!isRunning(family, around)) return { ...own, loaded: true };
  const { rules } = around.kernel![family]!;
  const chain = inputChain(family);
  const live = rules.filter((rule) => rule.chain === chain);
  return { ...own, loaded: isLoaded(own.blocks, fileLines(file), live, chain) };
}

/**
 * Whether the kernel's chain has our rules, before what would make them worthless, and none of our form
 * that the file does not have. The kernel knows no comments, so a rule there is ours by its form.
 */
function isLoaded(
  blocks: readonly string[],
  lines: readonly string[],
  live: readonly ChainRule[],
  chain: string,
): boolean {
  const keys = keysOf(lines, chain);
  const filed = new Set(keys.values());
  const own = blocks.flatMap((text) => text.split('\n'));
  const ours = new Set(own.map((line) => keys.get(line)));
  ours.delete(undefined);
  const claims = claimsLater(blocks);
  let hindered = false;
  for (const rule of live) {
    if (!isOfOurForm(rule)) {
      hindered ||= hinders(rule, claims) === 'whole';
      continue;
    }
    const key = ruleKey(rule);
    if (!filed.has(key)) return false;
    if (!hindered) ours.delete(key);
  }
  return ours.size === 0;
}

/** Of the rules of our form among lines of a file, by line. */
function keysOf(lines: readonly string[], chain: string): ReadonlyMap<string, string> {
  const keys = new Map<string, string>();
  for (const line of lines) {
    const rule = parseRule(line);
    if (rule?.chain === chain && isOfOurForm(rule)) keys.set(line, ruleKey(rule));
  }
  return keys;
}
