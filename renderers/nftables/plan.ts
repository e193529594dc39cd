/** The lines of the transactions that lead from what is to what is wanted. */
import { isAbove } from '../../src/filters/place.ts';
import { sameList } from '../../src/filters/lines.ts';
import { rulesOf } from '../../src/filters/nft/listing.ts';
import type { Observed, RunStep } from '../../src/renderer.ts';
import type { NftAround } from './around.ts';
import { jumpsIn } from './jumps.ts';
import {
  at,
  isOwn,
  jumpRule,
  setNames,
  type Jump,
  type NftChain,
  type NftOwned,
  type NftTable,
} from './owned.ts';
import { addChain, addSet, elementLines } from './statements.ts';

export function load(text: string): RunStep['command'] {
  return { argv: ['nft', '-f', '-'], stdin: text, timeout: 120_000 };
}

/**
 * Elements are of one shape, and the transaction takes all of them or none: the check asks for the first of each
 * set. To ask for 100,000 takes as long as to load them (1.2 s, nft 1.0.6).
 */
export const mostChecked = 1000;

/** @param most Elements of each set; what is left out makes no difference to the other lines. */
export function refreshLines(
  wanted: NftOwned,
  { owned, around }: Observed<NftOwned, NftAround>,
  most = Infinity,
): string[] {
  return wanted.tables.flatMap((table) => {
    const now = find(owned.tables, table);
    return [
      ...(isOwn(table) && (now === undefined || now.dormant) ? [`add table ${at(table)}`] : []),
      ...setLines(table, now, around, most),
      ...chainLines(
        table,
        now,
        table.chains.filter((c) => c.base === undefined),
      ),
    ];
  });
}

function setLines(
  table: NftTable,
  now: NftTable | undefined,
  around: NftAround,
  most: number,
): string[] {
  return setNames.flatMap((name) => {
    const wanted = table.sets[name];
    const held = now?.sets[name];
    if (wanted === undefined || sameList(held, wanted)) return [];
    // What is added to a new set in a statement of its own, nft 1.0.6 sends twice (100,000: 1.0 s of CPU in place of
    // 0.8), and to flush one costs 15 ms in the kernel (6.18), an empty one too. `create` leaves the elements out and
    // says nothing; where there is a set by now, what it holds comes out when it is read back.
    if (!around.sets.includes(`${at(table)} ${name}`))
      return addSet(table, name, wanted.slice(0, most));
    return [
      ...(held === undefined ? addSet(table, name) : []),
      `flush set ${at(table)} ${name}`,
      ...elementLines(table, name, wanted.slice(0, most)),
    ];
  });
}

function chainLines(
  table: NftTable,
  now: NftTable | undefined,
  chains: readonly NftChain[],
): string[] {
  const changed = chains.filter((chain) => {
    const old = now?.chains.find((c) => c.name === chain.name);
    if (old?.base !== chain.base) return true;
    // A rule that cannot be written is none to lack, and none to repair where it was there before.
    return !sameList(old?.rules, writable(chain)) && !sameList(old?.rules, chain.rules);
  });
  return [
    ...changed.map((c) => addChain(table, c)),
    ...changed.flatMap((c) => ruleLines(table, c)),
  ];
}

function ruleLines(table: NftTable, chain: NftChain): string[] {
  return [
    `flush chain ${at(table)} ${chain.name}`,
    ...writable(chain).map((rule) => `add rule ${at(table)} ${chain.name} ${rule}`),
  ];
}

export function hookLines(wanted: NftOwned, observed: Observed<NftOwned, NftAround>): string[] {
  return wanted.tables.flatMap((table) => {
    const now = find(observed.owned.tables, table);
    return [
      ...chainLines(
        table,
        now,
        table.chains.filter((c) => c.base !== undefined),
      ),
      // One to a chain: a second one is another hand's doing, and not put back.
      ...table.jumps
        .filter((jump, i) => table.jumps.findIndex((j) => j.chain === jump.chain) === i)
        .flatMap((jump) => jumpLines(table, jump, observed.around)),
    ];
  });
}

function jumpLines(table: NftTable, jump: Jump, around: NftAround): string[] {
  const name = { family: table.family, table: table.name, chain: jump.chain };
  const standing = jumpsIn(name, around);
  const limit = rulesOf(around.rules, name).findIndex((r) => r.handle === jump.before);
  // On the way back it is not moved down: an admin may have added a drop there, or deleted what it stood before.
  const keep =
    standing.find((j) => j.before === jump.before) ?? standing.find((j) => isAbove(j.index, limit));
  const extra = standing
    .filter((j) => j !== keep)
    .map((j) => `delete rule ${at(table)} ${jump.chain} handle ${j.handle}`);
  if (keep !== undefined) return extra;
  const chain = `${at(table)} ${jump.chain}`;
  if (jump.before === null) return [`add rule ${chain} ${jumpRule}`, ...extra];
  // The rule it stood before is gone: the top is the place where no drop comes first.
  return [`insert rule ${chain}${limit < 0 ? '' : ` handle ${jump.before}`} ${jumpRule}`, ...extra];
}

export function unhookLines(wanted: NftOwned, observed: Observed<NftOwned, NftAround>): string[] {
  return observed.owned.tables.flatMap((table) => {
    const then = find(wanted.tables, table);
    const chains = table.jumps
      .map((j) => j.chain)
      .filter((chain) => !then?.jumps.some((j) => j.chain === chain));
    return [
      ...[...new Set(chains)].flatMap((chain) =>
        jumpsIn({ family: table.family, table: table.name, chain }, observed.around).map(
          (j) => `delete rule ${at(table)} ${chain} handle ${j.handle}`,
        ),
      ),
      ...gone(table, then)
        .filter((c) => c.base !== undefined)
        .flatMap((c) => deleteChain(table, c)),
    ];
  });
}

export function sweepLines(wanted: NftOwned, observed: Observed<NftOwned, NftAround>): string[] {
  return observed.owned.tables.flatMap((table) => {
    const then = find(wanted.tables, table);
    if (then === undefined && isOwn(table)) return [`delete table ${at(table)}`];
    const chains = gone(table, then).filter((c) => c.base === undefined);
    return [
      // All are emptied before the first is deleted: they may jump to each other.
      ...chains.map((c) => `flush chain ${at(table)} ${c.name}`),
      ...chains.map((c) => `delete chain ${at(table)} ${c.name}`),
      ...setNames
        .filter((name) => table.sets[name] !== undefined && then?.sets[name] === undefined)
        .filter((name) => !observed.around.shared.includes(`${at(table)} ${name}`))
        .map((name) => `delete set ${at(table)} ${name}`),
    ];
  });
}

function gone(table: NftTable, then: NftTable | undefined): readonly NftChain[] {
  return table.chains.filter((c) => !then?.chains.some((d) => d.name === c.name));
}

function deleteChain(table: NftTable, chain: NftChain): string[] {
  return [`flush chain ${at(table)} ${chain.name}`, `delete chain ${at(table)} ${chain.name}`];
}

function find(tables: readonly NftTable[], table: NftTable): NftTable | undefined {
  return tables.find((t) => t.family === table.family && t.name === table.name);
}

/** The rules that this version can write; a foreign one is never put back. */
function writable(chain: NftChain): readonly string[] {
  return chain.rules.filter((rule) => !rule.startsWith('#'));
}
