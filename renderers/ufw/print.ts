/** Prints our rules, in the form of UFW's files. */
import type { Family } from '../../src/prefix.ts';
import type { Artifact } from '../../src/renderer.ts';
import { count } from '../../src/text.ts';
import { inputChain } from './rules.ts';
import { families, paths, type UfwOwned } from './state.ts';

export function print(owned: UfwOwned): readonly Artifact[] {
  return families.flatMap((family) => artifact(family, owned));
}

function artifact(family: Family, owned: UfwOwned): Artifact[] {
  const { at, blocks, loaded } = owned[family];
  const strays = (owned.strays ?? []).filter((stray) => stray.family === family);
  if (blocks.length + strays.length === 0 && loaded) return [];
  const lines = [
    `# Written by cfsync. Belongs into ${paths[family]}, below the line ### RULES ###.`,
    ...(at > 0 ? [`# Stands behind ${count(at, 'rule')} of the admin's.`] : []),
    ...(loaded ? [] : [`# The kernel's chain ${inputChain(family)} differs from these rules.`]),
  ];
  const path = family === 'v4' ? 'ufw/user.rules' : 'ufw/user6.rules';
  const rules = [...blocks.map((text) => `\n${text}`), ...strays.map(({ part }) => part)];
  return [{ path, content: `${lines.join('\n')}\n${rules.join('')}` }];
}
