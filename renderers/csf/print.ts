/** Prints what is ours in CSF's own syntax. */
import type { Artifact } from '../../src/renderer.ts';
import { block } from './block.ts';
import { familyOf, linesIn, times } from './lines.ts';
import { families, names, own, type CsfOwned, type Name } from './state.ts';

export function print(owned: CsfOwned): readonly Artifact[] {
  return [
    ...names.flatMap((name) => [
      ...listArtifact(name, owned),
      ...(owned[name] === null ? [] : [{ path: `csf/cfsync.${name}`, content: owned[name] }]),
    ]),
    ...differences(owned),
  ];
}

/** Ours in csf.allow or csf.ignore, and what is taken over. */
function listArtifact(
  name: Name,
  { blocks, strays = [] }: CsfOwned,
): { readonly path: string; readonly content: string }[] {
  const lines = strays.filter(({ list }) => list === name).map(({ line }) => `${line}\n`);
  const content = lines.join('') + (blocks[name] ? block(own[name]) : '');
  return content === '' ? [] : [{ path: `csf/csf.${name}`, content }];
}

/** Where the running firewall is not what cfsync.allow says. */
function differences(owned: CsfOwned): { readonly path: string; readonly content: string }[] {
  const lines = families.flatMap((family) => {
    const found = owned.loaded[family];
    if (found === null) return [];
    const said = [...linesIn(owned.allow)].flatMap(([line, entry]) =>
      familyOf(entry) === family ? [line] : [],
    );
    const n = times(found);
    return [
      ...said.filter((line) => n(line) === 0).map((line) => `not loaded: ${line}`),
      ...said.filter((line) => n(line) > 1).map((line) => `loaded ${n(line)} times: ${line}`),
    ];
  });
  return lines.length === 0
    ? []
    : [{ path: 'csf/running', content: lines.map((line) => `${line}\n`).join('') }];
}
