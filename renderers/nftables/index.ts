/**
 * nftables: sets of prefixes, refreshed in place.
 *
 * `allow` attaches to the input base chains that would drop the ports: two sets, a chain `cfsync`
 * and one jump, in the admin's own table, because an accept in another table is not final. Where
 * nothing drops, the table `inet cfsync` gets a base chain of its own and the jump goes there.
 * `lockdown` is the same, and a raw prerouting chain in `inet cfsync` that drops what no set holds.
 *
 * Nothing is deleted and made anew: measured on nft 1.0.6 to 1.1.3, delete + recreate in one
 * transaction loses packets for some microseconds, flush + add in place loses none.
 */
import { CfsyncError, exit } from '../../src/errors.ts';
import { refuseMismatches } from '../../src/filters/notices.ts';
import { script } from '../../src/filters/lines.ts';
import { parseListing } from '../../src/filters/nft/listing.ts';
import { checkKeys, oneOf } from '../../src/plugin/options.ts';
import { exempt, refuseOpen, trustedOption } from '../../src/filters/trusted.ts';
import { merge } from '../../src/prefix.ts';
import { defineRenderer, type Notice, type RunStep, type Step } from '../../src/renderer.ts';
import { alwaysOn, isAdoptable, remarks } from './adopt.ts';
import type { NftAround } from './around.ts';
import { attachTo, refuseElsewhere } from './attach.ts';
import { acceptedSets, ask, isOurs, lookAround, ownedTable } from './observe.ts';
import { chainOption, type NftOptions } from './options.ts';
import { byName, isOwn, sorted, type NftOwned } from './owned.ts';
import { hookLines, load, mostChecked, refreshLines, sweepLines, unhookLines } from './plan.ts';
import { artifact, defineText, rulesetText, setsText } from './print.ts';
import { strayLines } from './put-back.ts';
import { findStrays } from './strays.ts';
import { attachment, ownSets, restriction } from './tables.ts';

export default defineRenderer<NftOptions, NftOwned, NftAround>({
  api: 1,
  name: 'nftables',
  kind: 'filter',

  options(raw) {
    checkKeys(raw, ['chain', 'trusted', 'file'], 'nftables');
    return {
      chain: chainOption(raw.chain ?? 'auto'),
      trusted: trustedOption(raw.trusted, 'nftables'),
      file: oneOf(raw.file ?? 'ruleset', ['ruleset', 'sets', 'define'], 'nftables: file'),
    };
  },

  nothing: { ranges: { v4: [], v6: [] }, file: 'ruleset', tables: [] },

  want(desired, options, around) {
    const ranges = merge(desired.ranges, desired.extra);
    if (options.file !== 'ruleset') {
      if (around !== undefined)
        throw new CfsyncError(
          exit.usage,
          `nftables: file: ${options.file} is for render and diff --dir only; nothing was changed; leave it out`,
        );
      return { owned: { ranges, file: options.file, tables: [ownSets(ranges)] }, notices: [] };
    }
    const notices: Notice[] = [];
    if (around !== undefined) {
      refuseMismatches(around.mismatches, 'nftables');
      refuseOpen(options.trusted, around.defaultRoutes, 'nftables');
    }
    const places = attachTo(desired, options, around, notices);
    if (around !== undefined) refuseElsewhere(places, desired, around);
    notices.push(...(around?.remarks ?? []));
    const tables = places.map((place) => attachment(place, desired, ranges, around));
    if (desired.mode === 'lockdown') {
      const own = tables.findIndex(isOwn);
      const guard = restriction(desired, ranges, exempt(options.trusted, around?.bridges));
      if (own < 0) tables.push(guard);
      else tables[own] = { ...guard, chains: byName([...guard.chains, ...tables[own]!.chains]) };
    }
    return { owned: { ranges, file: 'ruleset', tables: sorted(tables) }, notices };
  },

  async observe(host) {
    const json = await ask(host, ['nft', '-j', '-t', 'list', 'ruleset']);
    const listing = parseListing(json);
    const around = {
      ...(await lookAround(host, json, listing)),
      accepted: await acceptedSets(host, listing),
    };
    const tables = await Promise.all(
      listing.tables
        .filter((t) => isOurs(t, listing))
        .map((t) => ownedTable(host, t, listing, around)),
    );
    const held = tables.flatMap((t) => Object.entries(t.sets));
    const ranges = merge(
      ...held.map(([name, list]) =>
        name === 'cfsync4' ? { v4: list, v6: [] } : { v4: [], v6: list },
      ),
    );
    return { owned: { ranges, file: 'ruleset', tables: sorted(tables) }, around };
  },

  plan(wanted, observed) {
    const strays = strayLines(wanted, observed);
    const stages: readonly (readonly [string, readonly string[]])[] = [
      ['sets and chains', refreshLines(wanted, observed)],
      // The kernel shows new rules a moment before new elements, so hooks come in a transaction of their own.
      ['hooks', [...strays.back, ...hookLines(wanted, observed)]],
      // An element that goes is gone a moment before its transaction's new rules count: so theirs go after.
      ['unhook what is no longer wanted', [...strays.go, ...unhookLines(wanted, observed)]],
      ['delete what is no longer wanted', sweepLines(wanted, observed)],
    ];
    const filled = stages.filter(([, lines]) => lines.length > 0);
    if (filled.length === 0) return [];
    const all = script([
      ...refreshLines(wanted, observed, mostChecked),
      ...stages.slice(1).flatMap(([, lines]) => lines),
    ]);
    return filled.map(([summary, lines], i): Step => {
      const step: RunStep = {
        kind: 'run',
        summary: `nftables: ${summary}`,
        command: load(script(lines)),
      };
      // Later transactions build on earlier ones, so all are checked as one.
      return i === 0
        ? { ...step, check: { argv: ['nft', '-c', '-f', '-'], stdin: all, timeout: 120_000 } }
        : step;
    });
  },

  adopt({ owned, around }, desired, known) {
    const bases = around.chains.filter((chain) => isAdoptable(chain, around));
    const found = findStrays(
      bases,
      around.rules,
      around.accepted,
      desired,
      known,
      alwaysOn(around, desired),
    );
    // Nothing may be placed by a rule that goes.
    const rest = { ...around, rules: found.rest, adopted: found.places, remarks: remarks(found) };
    return { owned: { ...owned, strays: found.strays }, around: rest };
  },

  print(owned) {
    if (owned.file === 'define') return [artifact('cfsync-define.nft', defineText(owned))];
    if (owned.file === 'sets') return [artifact('cfsync-sets.nft', setsText(owned))];
    return owned.tables.length === 0 ? [] : [artifact('cfsync.nft', rulesetText(owned))];
  },
});
