/**
 * iptables and ip6tables: one renderer for both families, and both variants (nf_tables and legacy).
 *
 * `allow`: chain CFSYNC in table filter, with one jump from INPUT, which stands before the first rule that
 * drops the ports, so that the admin's earlier rules (bans) still come first; at the end where only the
 * policy drops. `lockdown`: the same, and chain CFSYNC in table raw that drops what is not Cloudflare's,
 * before Docker's DNAT, so that published ports are covered under the number that the client sees.
 *
 * One `iptables-restore --noflush` per family: each table changes at once, without a gap (measured on 1.8.9,
 * both variants). With `set: true` the ranges are in two ipsets, refreshed by swap, also without a gap.
 *
 * What stays after `remove` is empty tables where there were none: iptables has no command to delete one.
 */
import { bool, checkKeys } from '../../src/plugin/options.ts';
import { trustedOption } from '../../src/filters/trusted.ts';
import { merge, none } from '../../src/prefix.ts';
import { defineRenderer, type Notice } from '../../src/renderer.ts';
import { adoptRemarks, alwaysOn } from './adopt.ts';
import { loaded, type IptAround } from './around.ts';
import { families, setName, setType, tableNames } from './names.ts';
import { heldRanges, lookAround, ownedTables, refuseLineEnds } from './observe.ts';
import type { IptOptions } from './options.ts';
import type { IpSet, IptOwned } from './owned.ts';
import { restoreStep, setStep, tableLines } from './plan.ts';
import { artifact, rulesText, setsText } from './print.ts';
import { refuse, refusePorts } from './refuse.ts';
import { remarks } from './remarks.ts';
import { acceptedSets, mismatches, observeSets, refreshSets, sweepSets } from './sets.ts';
import { findStrays } from './strays.ts';
import { allowTable, lockdownTable } from './tables.ts';

export default defineRenderer<IptOptions, IptOwned, IptAround>({
  api: 1,
  name: 'iptables',
  kind: 'filter',

  options(raw) {
    checkKeys(raw, ['set', 'trusted'], 'iptables');
    const set = bool(raw.set ?? false, 'iptables: set');
    return { set, trusted: trustedOption(raw.trusted, 'iptables') };
  },

  nothing: { ranges: none, tables: [], sets: [] },

  want(desired, options, around) {
    refusePorts(desired);
    const notices: Notice[] = [];
    if (around !== undefined) {
      refuse(desired, options, around);
      notices.push(...remarks(desired, options, around));
    }
    const all = merge(desired.ranges, desired.extra);
    const present = families.filter((f) => around === undefined || around[f] !== undefined);
    const ranges = { ...none, ...Object.fromEntries(present.map((f) => [f, all[f]])) };
    const tables = present.flatMap((family) => [
      allowTable(family, desired, ranges, options, around),
      ...(desired.mode === 'lockdown'
        ? [lockdownTable(family, desired, ranges, options, around)]
        : []),
    ]);
    const sets = options.set
      ? present.map((f): IpSet => ({ name: setName[f], type: setType[f], prefixes: ranges[f] }))
      : [];
    return { owned: { ranges, tables, sets }, notices };
  },

  async observe(host, options) {
    const [found, sets] = await Promise.all([lookAround(host), observeSets(host, options)]);
    const around = { ...found, accepted: await acceptedSets(host, found) };
    const tables = families.flatMap((family) => ownedTables(family, around[family]?.tables ?? []));
    refuseLineEnds(tables);
    return {
      owned: { ranges: heldRanges(tables, sets), tables, sets },
      around: { ...around, mismatches: mismatches(sets) },
    };
  },

  plan(wanted, observed) {
    const refresh = refreshSets(wanted, observed.owned);
    const sweep = sweepSets(wanted, observed);
    return [
      ...(refresh.length === 0 ? [] : [setStep('fill the sets', refresh)]),
      ...families.flatMap((family) => {
        const lines = tableNames.flatMap((name) => tableLines(family, name, wanted, observed));
        return lines.length === 0 ? [] : [restoreStep(family, lines)];
      }),
      ...(sweep.length === 0 ? [] : [setStep('destroy sets that are no longer wanted', sweep)]),
    ];
  },

  adopt({ owned, around }, desired, known) {
    const found = families.flatMap((family) => {
      const table = loaded(family, 'filter', around);
      if (table === undefined) return [];
      return [
        {
          family,
          ...findStrays(
            family,
            table,
            desired,
            known,
            around.accepted,
            alwaysOn(family, around, desired),
          ),
        },
      ];
    });
    // Nothing may be placed by a rule that goes.
    const rest = { ...around };
    for (const { family, rest: filter, first } of found) {
      const { tables, other } = around[family]!;
      const others = tables.map((t) => (t.name === 'filter' ? filter : t));
      rest[family] = { tables: others, other, adoptedAt: first };
    }
    return {
      owned: {
        ...owned,
        tables: families.flatMap((family) => ownedTables(family, rest[family]?.tables ?? [])),
        strays: found.flatMap(({ strays }) => strays),
      },
      around: { ...rest, remarks: adoptRemarks(found, rest) },
    };
  },

  print(owned) {
    return [
      ...(owned.sets.length === 0 ? [] : [artifact('ipset', setsText(owned.sets))]),
      ...families.flatMap((family) => {
        const tables = owned.tables.filter((t) => t.family === family);
        return tables.length === 0 ? [] : [artifact(family, rulesText(family, tables))];
      }),
    ];
  },
});
