/** Finds where in a chain of the admin's a jump to ours counts: before what keeps Cloudflare out, behind bans. */
import { groupBy } from '../group.ts';
import type { Family } from '../prefix.ts';
import type { Desired } from '../renderer.ts';
import { protocols } from '../plugin/ports.ts';
import { fromPrefixes, size, unionOf, without, type Intervals } from './intervals.ts';
import { firstPacket } from './packet.ts';
import {
  through,
  type Action,
  type Match,
  type Packet,
  type Passage,
  type Rule,
  type Ruleset,
} from './walk.ts';

/** A chain, and how connections come to it. */
export interface Site {
  readonly chain: string;
  readonly families: readonly Family[];
  /** Whether it drops what no rule decides. */
  readonly drops: boolean;
  /** All chains, by name. */
  readonly chains: ReadonlyMap<string, readonly Rule[]>;
  /** Interfaces with a default route. */
  readonly interfaces: readonly string[];
  /** Addresses of this host on those. */
  readonly addresses: Readonly<Record<Family, readonly string[]>>;
  /** Whether limits count as reached. */
  readonly busy?: boolean;
  /** The last words of the names of our own chains. */
  readonly ours: readonly string[];
}

/** What may keep Cloudflare out of a chain. */
export interface Hindrance {
  /** The rule that decides; none for the policy. */
  readonly rule: Rule | undefined;
  /** What of it is not understood; none where it drops for certain. */
  readonly why: string | undefined;
  /** Another program decides there (an IPS for instance), and is asked before ours, as the admin's bans are. */
  readonly stays: boolean;
}

export interface Judged {
  readonly drops: readonly Hindrance[];
  readonly unclear: readonly Hindrance[];
  /** The index of the first rule that a jump to ours must stand before, -1 for none. */
  readonly limit: number;
}

/**
 * What a chain does to new connections from the ranges, past our own rules, and past those that accept on conditions,
 * because the admin may take them away. What drops single addresses or parts of ranges is a ban and hinders nobody.
 */
export function judge(site: Site, desired: Desired): Judged {
  const ruleset = { bases: [], chains: pastAccepts(site) };
  const here = ruleset.chains.get(site.chain) ?? [];
  const places = new Map<string, number>();
  // Two rules of iptables may have one text.
  for (const [at, { id }] of here.entries()) if (!places.has(id)) places.set(id, at);
  const found = new Map<string, Hindrance & { readonly at: number }>();
  for (const packet of packets(site, desired)) {
    const ranges = desired.ranges[packet.family];
    const passages = through(ruleset, here, allOf(ranges), packet);
    const isOut = ({ verdict }: Passage): boolean =>
      verdict !== 'accept' && (verdict !== 'continue' || site.drops);
    const passing = unionOf(passages.filter((p) => !isOut(p)).map(({ sources }) => sources));
    const byTop = groupBy(passages.filter(isOut), ({ top }) => top);
    for (const [top, those] of byTop) {
      const hit = unionOf(those.map(({ sources }) => sources));
      if (top !== undefined && !holdsOne(hit, ranges) && !isForAll(top, packet, ruleset)) continue;
      const at = top === undefined ? -1 : (places.get(top.id) ?? -1);
      for (const { rule, doubts, sources } of those) {
        // Where every way ends in a drop, there is no doubt.
        const [doubt] = without(sources, passing).length > 0 ? [] : doubts;
        const [why, stays] = [doubt?.why, isProgram(doubt?.why)];
        const one = { rule: doubt?.rule ?? rule, why, stays, at };
        found.set(`${at} ${one.rule?.id} ${one.why}`, one);
      }
    }
  }
  const all = [...found.values()];
  const before = all.filter(({ stays, at }) => at >= 0 && !stays).map(({ at }) => at);
  return {
    drops: all.filter(({ why }) => why === undefined),
    unclear: all.filter(({ why }) => why !== undefined),
    limit: before.length === 0 ? -1 : Math.min(...before),
  };
}

/**
 * The upper one of two places in a chain; -1 stands for none. A jump stands above what drops, and not below rules that
 * are taken over, because they may have let Cloudflare past a limit or a ban.
 */
export function upper(one: number, other: number): number {
  return one < 0 || other < 0 ? Math.max(one, other) : Math.min(one, other);
}

/** Whether a rule at this index stands above the limit; -1 stands for no limit. */
export function isAbove(index: number, limit: number): boolean {
  return limit < 0 || index < limit;
}

/** The rule that lets anybody in to one of the ports, where one does. */
export function opening(site: Site, desired: Desired): Rule | undefined {
  const ruleset = { bases: [], chains: withoutOurs(site) };
  const here = ruleset.chains.get(site.chain) ?? [];
  for (const packet of packets(site, desired)) {
    const everybody = sample[packet.family];
    const open = through(ruleset, here, everybody, packet).find(
      ({ verdict, rule, sources, doubts }) =>
        verdict === 'accept' &&
        doubts.length === 0 &&
        rule!.conditions.length > 0 &&
        size(sources) * 2n > size(everybody),
    );
    if (open !== undefined) return open.rule;
  }
  return undefined;
}

/** Whether a rule of a chain may let somebody past what stands below it, on some port that is to be closed. */
export function mayPass(site: Site, rule: Rule, desired: Desired): boolean {
  const closed = { ...desired, udpPorts: [...desired.tcpPorts, ...desired.udpPorts] };
  return [...packets(site, closed)].some((packet) => {
    const seen = new Set<string>();
    const passes = ({ conditions, actions }: Rule, depth: number): boolean =>
      conditions.every((condition) => isPossible(condition(packet))) &&
      actions.some((action) => {
        if (action.kind === 'map')
          return action.entries.some(([entry, then]) =>
            passes({ ...rule, conditions: [entry], actions: [then] }, depth),
          );
        if (action.kind === 'return') return depth === 0;
        if (action.kind === 'goto') return true;
        if (action.kind !== 'jump') return action.kind === 'accept' || action.kind === 'unknown';
        if (seen.has(action.chain)) return false;
        seen.add(action.chain);
        return (site.chains.get(action.chain) ?? []).some((inner) => passes(inner, depth + 1));
      });
    return passes(rule, 0);
  });
}

/** The ports that a rule of any of the chains sends on to an address. */
export function translated(site: Site, desired: Desired): readonly number[] {
  const rules = [...site.chains.values()].flat();
  const ports = [...packets(site, desired)].flatMap((packet) => {
    const isSentOn = rules.some(
      ({ conditions, actions }) =>
        actions.some((action) => action.kind === 'translate' && action.address !== undefined) &&
        conditions.every((condition) => isPossible(condition(packet))),
    );
    return isSentOn ? [packet.port] : [];
  });
  return [...new Set(ports)];
}

/** First packets to each of the ports, of each family. */
export function* packets(
  {
    families,
    interfaces,
    addresses,
    busy = false,
  }: Pick<Site, 'families' | 'interfaces' | 'addresses' | 'busy'>,
  desired: Desired,
): Generator<Packet> {
  for (const family of families)
    for (const [protocol, ports] of protocols(desired))
      for (const port of ports)
        yield firstPacket({
          family,
          protocol,
          port,
          interfaces,
          addresses: addresses[family],
          busy,
        });
}

/** Up to 100,000 prefixes are asked for at every port. */
const known = new WeakMap<readonly string[], Intervals>();

function allOf(ranges: readonly string[]): Intervals {
  let found = known.get(ranges);
  if (found === undefined) known.set(ranges, (found = fromPrefixes(ranges)));
  return found;
}

/** Whether one of the ranges is in it as a whole. */
function holdsOne(set: Intervals, ranges: readonly string[]): boolean {
  return (
    size(set) === size(allOf(ranges)) ||
    ranges.some((range) => without(fromPrefixes([range]), set).length === 0)
  );
}

/** Single addresses all over the public space: what is true of most of them is no matter of the source. */
const sample: Readonly<Record<Family, Intervals>> = {
  v4: fromPrefixes(Array.from({ length: 64 }, (_, i) => `${16 + 3 * i}.91.7.13/32`)),
  v6: fromPrefixes(
    Array.from({ length: 64 }, (_, i) => `${(0x2400 + 8 * i).toString(16)}:5b::d/128`),
  ),
};

/** Whether a rule keeps out more than what it names: a good part of everybody. */
function isForAll(rule: Rule, packet: Packet, ruleset: Ruleset): boolean {
  const out = through(ruleset, [rule], sample[packet.family], packet)
    .filter(({ verdict, top }) => verdict !== 'accept' && top !== undefined)
    .map(({ sources }) => sources);
  return size(unionOf(out)) * 4n > size(sample[packet.family]);
}

/** Queues of user space. */
function isProgram(why: string | undefined): boolean {
  return why !== undefined && /^(queue|NFQUEUE|QUEUE|synproxy|SYNPROXY)$/.test(why);
}

function isPossible(match: Match): boolean {
  return match !== false && !(Array.isArray(match) && match.length === 0);
}

function leadsToOurs({ actions }: Rule, { ours }: Site): boolean {
  return actions.some(
    (action) =>
      (action.kind === 'jump' || action.kind === 'goto') &&
      ours.includes(action.chain.replace(/^.* /, '')),
  );
}

const pastAccepts = changing((rule, site) => {
  if (leadsToOurs(rule, site)) return [];
  const isBare = rule.conditions.length === 0 && rule.actions.every(({ kind }) => kind !== 'map');
  return isBare ? rule.actions : rule.actions.map(past);
});

function past(action: Action): Action {
  if (action.kind === 'accept') return { kind: 'map', entries: [] };
  if (action.kind !== 'map') return action;
  return { ...action, entries: action.entries.map(([entry, then]) => [entry, past(then)]) };
}

const withoutOurs = changing((rule, site) => (leadsToOurs(rule, site) ? [] : rule.actions));

/** The chains with other actions; once for all of a host, which may have thousands. */
function changing(
  actionsOf: (rule: Rule, site: Site) => readonly Action[],
): (site: Site) => Ruleset['chains'] {
  const made = new WeakMap<Site['chains'], Ruleset['chains']>();
  return (site) => {
    let chains = made.get(site.chains);
    if (chains === undefined) {
      const change = (rule: Rule): Rule => ({ ...rule, actions: actionsOf(rule, site) });
      chains = new Map([...site.chains].map(([name, rules]) => [name, rules.map(change)]));
      made.set(site.chains, chains);
    }
    return chains;
  };
}
