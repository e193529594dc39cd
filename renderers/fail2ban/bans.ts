/** Finds the bans that are on Cloudflare's ranges. */
import { intersect, isEmpty, subtract } from '../../src/prefix.ts';
import type { Ranges } from '../../src/renderer.ts';
import { count } from '../../src/text.ts';
import { prefixesOf } from './ignoreip.ts';
import type { Fail2banAround } from './state.ts';

interface Ban {
  readonly jail: string;
  readonly entry: string;
}

/** The bans that lie inside the ranges, and those that reach beyond them. */
export function bansOn(
  ranges: Ranges,
  { server }: Fail2banAround,
): { inside: Ban[]; wider: Ban[] } {
  const bans = (server ?? []).flatMap(({ name, bans }) =>
    bans.map((entry) => ({ jail: name, entry })),
  );
  const inside: Ban[] = [];
  const wider: Ban[] = [];
  if (isEmpty(intersect(prefixesOf(bans.map((ban) => ban.entry)), ranges)))
    return { inside, wider };
  for (const ban of bans) {
    const prefix = prefixesOf([ban.entry]);
    if (isEmpty(intersect(prefix, ranges))) continue;
    (isEmpty(subtract(prefix, ranges)) ? inside : wider).push(ban);
  }
  return { inside, wider };
}

export function list(bans: readonly Ban[]): string {
  const some = bans.slice(0, 5).map(({ jail, entry }) => `${entry} (jail ${jail})`);
  const rest = bans.length > 5 ? ` and ${bans.length - 5} more` : '';
  return `${count(bans.length, 'ban')}: ${some.join(', ')}${rest}`;
}
