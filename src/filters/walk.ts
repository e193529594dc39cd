/**
 * Walks new connections through the packet filters of a host, whatever program wrote the rules: which sources are let
 * in, which are dropped or rejected and by which rule, and which cannot be told and why.
 */
import { groupBy } from '../group.ts';
import type { Family } from '../prefix.ts';
import { common, complement, union, unionOf, without, type Intervals } from './intervals.ts';

export type Protocol = 'tcp' | 'udp';

/** A first packet, from one of a set of sources; what all of them have in common. */
export interface Packet {
  readonly family: Family;
  readonly protocol: Protocol;
  /** As the rules see it: after a translation, the new one. */
  readonly port: number;
  /** As the visitor sent it. */
  readonly originalPort: number;
  /** Where it goes: to this host, or by a translation to another one, through an interface. */
  readonly to: 'here' | { readonly address: string; readonly through: string | undefined };
  /** The rule that translated it. */
  readonly translated: Rule | undefined;
  /** Interfaces with a default route, by which strangers and Cloudflare come in. */
  readonly interfaces: readonly string[];
  /** Addresses of this host, of the packet's family. */
  readonly addresses: readonly string[];
  readonly tracked: boolean;
  /** Its mark and that of its connection; undefined where a rule that was passed has set what is not known. */
  readonly mark: number | undefined;
  readonly connectionMark: number | undefined;
  /** Whether limits count as reached. */
  readonly busy: boolean;
}

/** What is not understood, in the words of the rule. */
export interface Unknown {
  readonly unknown: string;
}

/** Whether a condition holds: for all sources or none, for some, or not to be told. */
export type Match = boolean | Intervals | Unknown;
export type Condition = (packet: Packet) => Match;

export type Action =
  | { readonly kind: 'accept' | 'drop' | 'reject' | 'return' | 'untrack' }
  /** Sets a mark of the packet or its connection, or a zone; without a value, to what is not known. */
  | { readonly kind: 'mark' | 'connectionMark'; readonly value?: number }
  | { readonly kind: 'jump' | 'goto'; readonly chain: string }
  | {
      readonly kind: 'translate';
      /** Absent: to this host. */
      readonly address?: string;
      readonly port?: number;
    }
  | { readonly kind: 'map'; readonly entries: readonly (readonly [Condition, Action])[] }
  /** What happens to the packet is not known: it may be dropped. */
  | { readonly kind: 'unknown'; readonly unknown: string };

export interface Rule {
  /** Names the same rule in both families, and in every walk. */
  readonly id: string;
  /** Where it stands: `nft inet filter input`, `iptables filter INPUT`. */
  readonly place: string;
  /** As its program prints it. */
  readonly text: string;
  readonly conditions: readonly Condition[];
  /** Empty for a rule that only counts, logs or remembers. */
  readonly actions: readonly Action[];
  /** The named sets that it asks for the source. */
  readonly sets: readonly string[];
}

export type Hook = 'ingress' | 'prerouting' | 'input' | 'forward';

export interface Base {
  readonly hook: Hook;
  readonly priority: number;
  readonly families: readonly Family[];
  readonly chain: string;
  readonly nat: boolean;
  /** What happens to what no rule decides. */
  readonly policy: 'accept' | 'drop';
  /** Stands for the policy where a rule is named. */
  readonly end: Rule;
}

export interface Ruleset {
  readonly bases: readonly Base[];
  /** By name, unique across tables and programs. */
  readonly chains: ReadonlyMap<string, readonly Rule[]>;
}

type Verdict = 'accept' | 'drop' | 'reject';

/** What became of some of the sources. */
export interface Result {
  readonly sources: Intervals;
  /** `unclear`: it depends on what is not understood. */
  readonly verdict: Verdict | 'unclear';
  /** Of a drop or reject: the one that decides. Of an accept: those that let it pass a chain; none for policies. */
  readonly rules: readonly Rule[];
  /** What is not understood, and matters. */
  readonly doubts: readonly Doubt[];
  readonly packet: Packet;
}

export interface Doubt {
  readonly rule: Rule;
  readonly why: string;
}

/**
 * Where a condition is not understood, sources go both ways, each with the doubt; so two parcels may have some of
 * their sources in common, and then both have doubts.
 */
interface Parcel {
  readonly sources: Intervals;
  readonly packet: Packet;
  readonly doubts: readonly Doubt[];
  /** Rules that let it pass an earlier base chain. */
  readonly passed: readonly Rule[];
}

interface Ended {
  readonly verdict: Verdict;
  readonly rule: Rule;
  readonly parcel: Parcel;
}

interface Walked {
  readonly ended: readonly Ended[];
  /** What goes on: behind the chain, or to the next rule. */
  readonly left: readonly Parcel[];
}

/** What becomes of some of the sources in one chain, and where. */
export interface Passage {
  readonly sources: Intervals;
  /** `continue`: it leaves the chain at its end, or by a return. */
  readonly verdict: Verdict | 'continue';
  /** The rule of that chain in which it was decided, however deep; none at the end. */
  readonly top: Rule | undefined;
  /** The rule that decides; none where it continues. */
  readonly rule: Rule | undefined;
  readonly doubts: readonly Doubt[];
}

/** Follows connections through the rules of one chain, and the chains that they lead to. */
export function through(
  ruleset: Ruleset,
  rules: readonly Rule[],
  sources: Intervals,
  packet: Packet,
): readonly Passage[] {
  const out: Passage[] = [];
  const add = ({ sources: own, doubts }: Parcel, more: Omit<Passage, 'sources' | 'doubts'>): void =>
    void out.push({ sources: own, doubts, ...more });
  const first = { sources, packet, doubts: [], passed: [] };
  const left = new Chains(ruleset, () => 'here').each(rules, [first], 0, (top, asked) => {
    for (const { parcel, verdict, rule } of asked.ended) add(parcel, { verdict, rule, top });
    for (const parcel of asked.returned) add(parcel, { verdict: 'continue', rule: undefined, top });
  });
  for (const parcel of left) add(parcel, { verdict: 'continue', rule: undefined, top: undefined });
  return out;
}

interface Asked extends Walked {
  /** What leaves the chain. */
  readonly returned: readonly Parcel[];
}

/** Where a connection to an address goes on to. */
export type Reach = (address: string) => Packet['to'];

export function walk(
  ruleset: Ruleset,
  sources: Intervals,
  packet: Packet,
  reach: Reach,
): readonly Result[] {
  if (sources.length === 0) return [];
  const ends: Ended[] = [];
  let parcels: readonly Parcel[] = [{ sources, packet, doubts: [], passed: [] }];
  const pass = (hook: Hook, isThere: (parcel: Parcel) => boolean): void => {
    const bases = ruleset.bases
      .filter((base) => base.hook === hook && base.families.includes(packet.family))
      .sort((a, b) => a.priority - b.priority);
    for (const base of bases) {
      // Only a connection that is tracked is translated, and that once.
      const asks = (p: Parcel): boolean =>
        isThere(p) && !(base.nat && (!p.packet.tracked || p.packet.translated !== undefined));
      const chains = new Chains(ruleset, reach);
      const { ended, left } = chains.follow(base.chain, parcels.filter(asks), 0);
      const rest = parcels.filter((p) => !asks(p));
      const decided = [
        ...ended,
        ...left.map((p): Ended => ({ parcel: p, verdict: base.policy, rule: base.end })),
      ];
      ends.push(...decided.filter(({ verdict }) => verdict !== 'accept'));
      const on = decided
        .filter(({ verdict }) => verdict === 'accept')
        .map(({ parcel, rule }) =>
          rule === base.end || base.nat ? parcel : { ...parcel, passed: [...parcel.passed, rule] },
        );
      parcels = together([...rest, ...on]);
    }
  };
  pass('ingress', () => true);
  pass('prerouting', () => true);
  pass('input', (p) => p.packet.to === 'here');
  pass('forward', (p) => p.packet.to !== 'here');
  return settled([
    ...ends.map(({ verdict, rule, parcel }): Result => ({ ...parcel, verdict, rules: [rule] })),
    ...parcels.map((parcel): Result => ({ ...parcel, verdict: 'accept', rules: parcel.passed })),
  ]);
}

/** What every doubt leads to alike is certain; the rest is unclear. */
function settled(results: readonly Result[]): readonly Result[] {
  const certain = results.filter(({ doubts }) => doubts.length === 0);
  const doubtful = results.filter(({ doubts }) => doubts.length > 0);
  if (doubtful.length === 0) return certain;
  const kinds = [...new Set(doubtful.map(({ verdict }) => verdict))];
  const byKind = kinds.map((kind) =>
    unionOf(doubtful.filter(({ verdict }) => verdict === kind).map(({ sources }) => sources)),
  );
  let several: Intervals = [];
  for (const [i, one] of byKind.entries())
    for (const other of byKind.slice(i + 1)) several = union(several, common(one, other));
  const out = [...certain];
  let told: Intervals = several;
  for (const result of doubtful) {
    const own = without(result.sources, told);
    told = union(told, own);
    if (own.length > 0) out.push({ ...result, sources: own, doubts: [] });
  }
  if (several.length === 0) return out;
  const among = doubtful.filter(({ sources }) => common(sources, several).length > 0);
  const bad = among.filter(({ verdict }) => verdict !== 'accept').flatMap(({ rules }) => rules);
  out.push({
    sources: several,
    verdict: 'unclear',
    rules: [...new Set(bad)],
    doubts: unique(among.flatMap(({ doubts }) => doubts)),
    packet: among[0]!.packet,
  });
  return out;
}

/** Deeper than any: the kernel allows 16 nested jumps (NFT_JUMP_STACK_SIZE) and refuses loops. */
const deepest = 64;

const nothing: Asked = { ended: [], left: [], returned: [] };

class Chains {
  readonly #ruleset: Ruleset;
  readonly #reach: Reach;
  readonly #known = new WeakMap<Intervals, Map<string, Walked>>();

  constructor(ruleset: Ruleset, reach: Reach) {
    this.#ruleset = ruleset;
    this.#reach = reach;
  }

  follow(chain: string, parcels: readonly Parcel[], depth: number): Walked {
    const ended: Ended[] = [];
    const left: Parcel[] = [];
    const rules = this.#ruleset.chains.get(chain) ?? [];
    const rest = this.each(rules, parcels, depth, (_, asked) => {
      ended.push(...asked.ended);
      left.push(...asked.returned);
    });
    return { ended: togetherEnded(ended), left: together([...left, ...rest]) };
  }

  /** Rule by rule; answers what reaches the end. */
  each(
    rules: readonly Rule[],
    parcels: readonly Parcel[],
    depth: number,
    told: (rule: Rule, asked: Asked) => void,
  ): readonly Parcel[] {
    let here = parcels;
    for (const rule of rules) {
      if (here.length === 0) break;
      const all = here.map((parcel) => this.#ask(rule, parcel, depth));
      for (const asked of all) told(rule, asked);
      here = together(all.flatMap((asked) => asked.left));
    }
    return here;
  }

  /** The same parcel goes the same way, however many jumps lead to a chain. */
  #into(chain: string, parcel: Parcel, depth: number): Walked {
    const key = `${chain}\n${state(parcel)}`;
    const known = this.#known.get(parcel.sources) ?? new Map<string, Walked>();
    this.#known.set(parcel.sources, known);
    const found = known.get(key) ?? this.follow(chain, [parcel], depth);
    known.set(key, found);
    return found;
  }

  #ask(rule: Rule, parcel: Parcel, depth: number): Asked {
    let matched = parcel.sources;
    let why: string | undefined;
    for (const condition of rule.conditions) {
      const match = condition(parcel.packet);
      if (match === true) continue;
      if (match === false) matched = [];
      else if ('unknown' in match) why ??= match.unknown;
      else matched = common(matched, match);
      if (matched.length === 0) break;
    }
    if (matched.length === 0 || rule.actions.length === 0) return { ...nothing, left: [parcel] };
    const rest = without(parcel.sources, matched);
    const others = rest.length === 0 ? [] : [{ ...parcel, sources: rest }];
    const own = { ...parcel, sources: matched };
    const asked =
      why === undefined ? this.#act(rule, own, depth) : this.#doubt(rule, why, own, depth);
    return { ...asked, left: [...asked.left, ...others] };
  }

  /** Both ways: as if the rule matched, and as if not. Where both are the same, there is no doubt. */
  #doubt(rule: Rule, why: string, own: Parcel, depth: number): Asked {
    const asked = this.#act(rule, own, depth);
    const before = state(own);
    const same = asked.left.filter((p) => state(p) === before);
    const equal = unionOf(same.map(({ sources }) => sources));
    const differ = without(own.sources, equal);
    const doubted = (p: Parcel): Parcel => ({ ...p, doubts: unique([...p.doubts, { rule, why }]) });
    return {
      ended: asked.ended.map((end) => ({ ...end, parcel: doubted(end.parcel) })),
      returned: asked.returned.map(doubted),
      left: [
        ...same,
        ...asked.left.filter((p) => !same.includes(p)).map(doubted),
        ...(differ.length === 0 ? [] : [doubted({ ...own, sources: differ })]),
      ],
    };
  }

  #act(rule: Rule, parcel: Parcel, depth: number): Asked {
    let here: readonly Parcel[] = [parcel];
    const ended: Ended[] = [];
    const returned: Parcel[] = [];
    for (const action of rule.actions) {
      const all = here.map((p) => this.#one(rule, action, p, depth));
      ended.push(...all.flatMap((asked) => asked.ended));
      returned.push(...all.flatMap((asked) => asked.returned));
      here = all.flatMap((asked) => asked.left);
    }
    return { ended, left: here, returned };
  }

  #one(rule: Rule, action: Action, parcel: Parcel, depth: number): Asked {
    const { packet } = parcel;
    switch (action.kind) {
      case 'accept':
      case 'drop':
      case 'reject':
        return { ...nothing, ended: [{ verdict: action.kind, rule, parcel }] };
      case 'return':
        return { ...nothing, returned: [parcel] };
      case 'mark':
        return {
          ...nothing,
          left: [{ ...parcel, packet: { ...packet, mark: action.value } }],
        };
      case 'connectionMark':
        return {
          ...nothing,
          left: [{ ...parcel, packet: { ...packet, connectionMark: action.value } }],
        };
      case 'untrack':
        return { ...nothing, left: [{ ...parcel, packet: { ...packet, tracked: false } }] };
      case 'translate': {
        const { address, port = packet.port } = action;
        const to = address === undefined ? ('here' as const) : this.#reach(address);
        const moved = { ...parcel, packet: { ...packet, to, port, translated: rule } };
        return { ...nothing, ended: [{ verdict: 'accept', rule, parcel: moved }] };
      }
      case 'unknown': {
        const doubts = unique([...parcel.doubts, { rule, why: action.unknown }]);
        const doubted = { ...parcel, doubts };
        const verdicts = ['drop', 'accept'] as const;
        return {
          ended: verdicts.map((verdict) => ({ verdict, rule, parcel: doubted })),
          left: [doubted],
          returned: [],
        };
      }
      case 'jump':
      case 'goto': {
        if (depth > deepest) return { ...nothing, left: [parcel] };
        const { ended, left } = this.#into(action.chain, parcel, depth + 1);
        return action.kind === 'jump'
          ? { ended, left, returned: [] }
          : { ended, left: [], returned: left };
      }
      case 'map':
        break;
    }
    return this.#look(rule, action.entries, parcel, depth);
  }

  /** A verdict map: the first entry that has it decides; without one the rule goes by. */
  #look(
    rule: Rule,
    entries: readonly (readonly [Condition, Action])[],
    parcel: Parcel,
    depth: number,
  ): Asked {
    const ended: Ended[] = [];
    const returned: Parcel[] = [];
    const left: Parcel[] = [];
    let rest: readonly Parcel[] = [parcel];
    for (const [condition, then] of entries) {
      const next: Parcel[] = [];
      for (const p of rest) {
        const entry = { ...rule, conditions: [], actions: [then] };
        const match = condition(p.packet);
        if (typeof match === 'object' && 'unknown' in match) {
          const asked = this.#doubt(entry, match.unknown, p, depth);
          ended.push(...asked.ended);
          returned.push(...asked.returned);
          next.push(...asked.left);
          continue;
        }
        const own = match === false ? [] : match === true ? p.sources : common(p.sources, match);
        const others = without(p.sources, own);
        if (others.length > 0) next.push({ ...p, sources: others });
        if (own.length === 0) continue;
        const asked = this.#act(entry, { ...p, sources: own }, depth);
        ended.push(...asked.ended);
        returned.push(...asked.returned);
        left.push(...asked.left);
      }
      rest = next;
    }
    return { ended, returned, left: together([...left, ...rest]) };
  }
}

/** Somebody who reads of so many looks at the rules himself; and each makes the walk longer. */
const mostDoubts = 8;

function unique(doubts: readonly Doubt[]): readonly Doubt[] {
  const seen = new Map(doubts.map((doubt) => [`${doubt.rule.id} ${doubt.why}`, doubt]));
  return [...seen.values()].slice(0, mostDoubts);
}

/** All of a parcel but its sources. */
function state({ packet, doubts, passed }: Parcel): string {
  const { port, to, translated, tracked, mark, connectionMark } = packet;
  return JSON.stringify([
    [port, to, translated?.id, tracked, mark ?? '?', connectionMark ?? '?'],
    doubts.map(({ rule, why }) => [rule.id, why]),
    passed.map(({ id }) => id),
  ]);
}

/** Parcels that differ in nothing but their sources become one. */
function together(parcels: readonly Parcel[]): readonly Parcel[] {
  if (parcels.length < 2) return parcels;
  return [...groupBy(parcels, state).values()].map(joined);
}

/** The same of those that have ended. */
function togetherEnded(ended: readonly Ended[]): readonly Ended[] {
  if (ended.length < 2) return ended;
  const groups = groupBy(ended, (end) => `${end.verdict} ${end.rule.id} ${state(end.parcel)}`);
  return [...groups.values()].map((same) => ({
    ...same[0]!,
    parcel: joined(same.map(({ parcel }) => parcel)),
  }));
}

function joined(parcels: readonly Parcel[]): Parcel {
  const [first, ...more] = parcels as readonly [Parcel, ...Parcel[]];
  return more.length === 0
    ? first
    : { ...first, sources: unionOf(parcels.map(({ sources }) => sources)) };
}

/** The opposite of a match. */
export function not(match: Match, family: Family): Match {
  if (typeof match === 'boolean') return !match;
  return 'unknown' in match ? match : complement(match, family);
}
