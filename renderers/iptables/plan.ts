/** The steps from what is to what is wanted. */
import { sameList, script } from '../../src/filters/lines.ts';
import { movesOf, type Moves } from '../../src/filters/strays.ts';
import type { Family } from '../../src/prefix.ts';
import type { Observed, RunStep } from '../../src/renderer.ts';
import { loaded, type IptAround } from './around.ts';
import { tool, type TableName } from './names.ts';
import type { IptOwned, IptTable } from './owned.ts';
import { placeLines } from './places.ts';
import type { IptStray } from './strays.ts';

/** Broadcast and multicast: no packet may come from there. */
const nobody = { v4: '255.255.255.255/32', v6: 'ff00::/8' } as const;

export function restoreStep(family: Family, lines: readonly string[]): RunStep {
  const program = `${tool[family]}-restore`;
  const stdin = script(lines);
  return {
    kind: 'run',
    summary: `iptables: ${program}`,
    // 1.8.9 and 1.8.10 wait without end for the lock when -w is not given.
    command: { argv: [program, '-w', '10', '--noflush'], stdin, timeout: 120_000 },
    check: {
      argv: [program, '-w', '10', '--noflush', '--test'],
      // A rule with a set that does not exist yet is refused, also by --test. What stands in for it is a
      // condition that nobody meets: a rule without any would be for everybody, were it ever loaded.
      stdin: stdin.replaceAll(/-m set --match-set cfsync[46] src /g, `-s ${nobody[family]} `),
      timeout: 120_000,
    },
  };
}

export function setStep(summary: string, lines: readonly string[]): RunStep {
  return {
    kind: 'run',
    summary: `iptables: ${summary}`,
    command: { argv: ['ipset', 'restore', '-exist'], stdin: script(lines), timeout: 120_000 },
  };
}

/** One table of a restore: our chains, the jumps to them, what other hands wrote, and what goes. */
export function tableLines(
  family: Family,
  name: TableName,
  wanted: IptOwned,
  observed: Observed<IptOwned, IptAround>,
): string[] {
  const here = (t: IptTable): boolean => t.family === family && t.name === name;
  const then = wanted.tables.find(here);
  const now = observed.owned.tables.find(here);
  const chains = (then?.chains ?? []).filter(
    (c) => !sameList(now?.chains.find((d) => d.name === c.name)?.rules, c.rules),
  );
  const gone = (now?.chains ?? []).filter((c) => !then?.chains.some((d) => d.name === c.name));
  const rules = loaded(family, name, observed.around)?.rules ?? [];
  const strays = strayMoves(family, name, wanted, observed);
  const { jumps, back } = placeLines(rules, strays, then?.jumps ?? [], now?.jumps ?? []);
  const go = strays.go.map((s) => `-D ${s.chain} ${s.rule}`);
  if ([chains, gone, jumps, go, back].every((list) => list.length === 0)) return [];
  return [
    `*${name}`,
    // Makes the chain, or empties it; other chains stay, because of --noflush.
    ...chains.map((c) => `:${c.name} - [0:0]`),
    ...chains.flatMap((c) => c.rules.map((rule) => `-A ${c.name} ${rule}`)),
    // A rule that another hand took away in the meantime fails the whole, and nothing is changed.
    ...go,
    ...(jumps.length > 0 ? jumps : (then?.jumps ?? []).map((j) => `-C ${j.chain} ${j.rule}`)),
    ...back,
    ...gone.map((c) => `-F ${c.name}`),
    ...gone.map((c) => `-X ${c.name}`),
    'COMMIT',
  ];
}

function strayMoves(
  family: Family,
  name: TableName,
  wanted: IptOwned,
  observed: Observed<IptOwned, IptAround>,
): Moves<IptStray> {
  const here = (list: readonly IptStray[]): readonly IptStray[] =>
    name === 'filter' ? list.filter((s) => s.family === family) : [];
  const table = loaded(family, name, observed.around);
  const moves = movesOf(
    wanted.strays && here(wanted.strays),
    here(observed.owned.strays ?? []),
    ({ chain, rule }) => `${chain} ${rule}`,
    () => table?.rules.map(({ chain, text }) => `${chain} ${text}`) ?? [],
  );
  const chains = table?.chains.map((c) => c.name) ?? [];
  // Nothing where its chain is gone as well.
  return { ...moves, back: moves.back.filter((s) => chains.includes(s.chain)) };
}
