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
import { BackendError, CfsyncError, exit } from '../../src/errors.ts';
import { defaultRouteInterfaces, dockerBridges } from '../../src/host/interfaces.ts';
import {
  mayPass,
  probes,
  publishes,
  walk,
  walkBase,
  type Probe,
} from '../../src/filters/iptables/judge.ts';
import {
  linesOf,
  parseSave,
  targetOf,
  unreadable,
  wordsOf,
  type SavedRule,
  type SavedTable,
} from '../../src/filters/iptables/save.ts';
import { findStrays, type IptStray, type Place } from './strays.ts';
import * as nft from '../../src/filters/nft/judge.ts';
import {
  parseListing,
  type Chain,
  type Listing,
  type Rule,
} from '../../src/filters/nft/listing.ts';
import { bool, checkKeys } from '../../src/plugin/options.ts';
import { merge, none, parseRanges, type Family } from '../../src/prefix.ts';
import {
  defineRenderer,
  type Artifact,
  type Command,
  type Desired,
  type Host,
  type Notice,
  type Observed,
  type Outcome,
  type Owned,
  type Ranges,
  type RunStep,
} from '../../src/renderer.ts';
import { leftAlone, upper } from '../../src/plugin/strays.ts';
import { count, escape, few, firstLines } from '../../src/text.ts';
import { refuseOpen, trustedOption } from '../../src/plugin/trusted.ts';

export interface IptOptions {
  /** Whether the ranges are in ipsets and not one rule each. */
  readonly set: boolean;
  /** Interfaces that lockdown leaves alone, next to lo and Docker's bridges. */
  readonly trusted: readonly string[];
}

type TableName = 'filter' | 'raw';

interface IptChain {
  readonly name: string;
  /** As iptables-save prints them, without `-A CHAIN`. */
  readonly rules: readonly string[];
}

/** A rule of somebody else's chain that leads to ours. */
interface Jump extends Place {
  readonly chain: string;
  readonly rule: string;
}

interface IptTable {
  readonly family: Family;
  readonly name: TableName;
  readonly chains: readonly IptChain[];
  readonly jumps: readonly Jump[];
}

interface IpSet {
  readonly name: string;
  /** `hash:net family inet`, and whatever else a foreign hand gave it. */
  readonly type: string;
  readonly prefixes: readonly string[];
}

export interface IptOwned extends Owned {
  readonly strays?: readonly IptStray[];
  /** IPv4 first, filter before raw. */
  readonly tables: readonly IptTable[];
  readonly sets: readonly IpSet[];
}

interface FamilyAround {
  readonly tables: readonly SavedTable[];
  /** The index of INPUT from which on rules let Cloudflare in that are taken over; -1 stands for none. */
  readonly adoptedAt?: number;
  /** The tables of the variant that `iptables` does not lead to. */
  readonly other: { readonly variant: string; readonly tables: readonly SavedTable[] };
}

export interface IptAround {
  readonly v4: FamilyAround;
  /** Undefined where the kernel has no IPv6. */
  readonly v6: FamilyAround | undefined;
  /** nftables' own base chains and rules, beside iptables. */
  readonly native: { readonly chains: readonly Chain[]; readonly rules: readonly Rule[] };
  /** Docker's bridges without a default route. */
  readonly bridges: readonly string[];
  readonly defaultRoutes: readonly string[];
  /** Sets with our names that rules of the admin's use: refreshed, never destroyed. */
  readonly shared: readonly string[];
  /** Sets with our names and a type that cannot be swapped for ours. */
  readonly mismatches: readonly string[];
  readonly netfilterPersistent: boolean;
  /** The members of the admin's sets that rules of the admin's accept, by name. */
  readonly accepted: ReadonlyMap<string, readonly string[]>;
  /** What is to be said of rules that are taken over, and of those that are not. */
  readonly remarks?: readonly Notice[];
}

/** The tables of iptables, which iptables-nft keeps in nftables under the same names. */
const iptablesNames = ['filter', 'nat', 'mangle', 'raw', 'security'];

const families = ['v4', 'v6'] as const;
const tableNames = ['filter', 'raw'] as const;
const base = { filter: 'INPUT', raw: 'PREROUTING' } as const;

const entry = 'CFSYNC';
const sources = { filter: 'CFSYNC-ALLOW', raw: 'CFSYNC-GUARD' } as const;
const ourChains: Readonly<Record<TableName, readonly string[]>> = {
  filter: [entry, sources.filter],
  raw: [entry, sources.raw],
};
const mark = '-m comment --comment cfsync';
const jumpRule = `${mark} -j ${entry}`;
const local = '-m addrtype --dst-type LOCAL';

const atEnd: Place = { before: null, nth: 0 };

const tool = { v4: 'iptables', v6: 'ip6tables' } as const;
const setName = { v4: 'cfsync4', v6: 'cfsync6' } as const;
/** Broadcast and multicast: no packet may come from there. */
const nobody = { v4: '255.255.255.255/32', v6: 'ff00::/8' } as const;
const setType = { v4: 'hash:net family inet', v6: 'hash:net family inet6' } as const;

/** xt_multiport.h, XT_MULTI_PORTS. */
const mostPorts = 15;

/** 44 rules cost 0.5 microseconds a packet and 10,000 cost 175 (kernel 6.18); from here on it is worth a set. */
const manyPrefixes = 200;

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
      return [{ family, ...findStrays(family, table, desired, known, around.accepted) }];
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

// ---- wanted ----

function refusePorts(desired: Desired): void {
  for (const [protocol, list] of [
    ['TCP', desired.tcpPorts],
    ['UDP', desired.udpPorts],
  ] as const)
    if (list.length > mostPorts)
      throw new CfsyncError(
        exit.failed,
        `iptables: ${list.length} ${protocol} ports are more than the ${mostPorts} that a rule of iptables takes; nothing was changed; name fewer, or use --backend nftables`,
      );
}

function refuse(desired: Desired, options: IptOptions, around: IptAround): void {
  if (options.set && around.mismatches.length > 0)
    throw new CfsyncError(
      exit.failed,
      `iptables: ${around.mismatches[0]}, which cfsync does not make; nothing was changed; cfsync remove --backend iptables clears the way`,
      { detail: around.mismatches.slice(1) },
    );
  refuseOpen(options.trusted, around.defaultRoutes, 'iptables');
  for (const family of families) {
    const { other } = around[family] ?? {};
    if (other === undefined) continue;
    const command = `${tool[family]}-${other.variant}`;
    if (ownedTables(family, other.tables).length > 0)
      throw new CfsyncError(
        exit.failed,
        `iptables: chain ${entry} is also in the tables of ${command}, from before ${tool[family]} was switched to its other variant; nothing was changed; switch back with update-alternatives, run cfsync remove --backend iptables, and switch again`,
      );
    const filter = other.tables.find((t) => t.name === 'filter');
    const dropped = filter && judge(family, filter, desired, around, walkBase).drops[0];
    if (dropped !== undefined)
      throw new CfsyncError(
        exit.failed,
        `iptables: the tables of ${command} drop the ports (${dropped}), and an accept of ${tool[family]} does not count there; nothing was changed; keep the rules in one variant: ${command}-save shows those of the other`,
      );
  }
}

/** What the rules of a table do to the ports, for messages. */
function judge(
  family: Family,
  table: SavedTable,
  desired: Desired,
  around: IptAround,
  how: typeof walkBase,
): {
  readonly drops: readonly string[];
  readonly open: string | undefined;
  readonly unclear: readonly string[];
} {
  const walks = probes(desired, family, around.defaultRoutes).map((probe) =>
    how(table, base.filter, probe, isOurs('filter')),
  );
  const name = (rule: SavedRule): string => escape(`-A ${rule.chain} ${rule.text}`);
  const unclear = new Set(walks.flatMap((w) => w.unclear).map(name));
  const open = walks.find((w) => w.open !== undefined)?.open;
  return {
    drops: walks
      .filter((w) => w.verdict === 'drop')
      .map((w) => (w.rule === undefined ? `policy of ${base.filter}` : name(w.rule))),
    open: open && name(open),
    unclear: [...unclear],
  };
}

function remarks(desired: Desired, options: IptOptions, around: IptAround): Notice[] {
  const notices: Notice[] = [];
  const note = (text: string): void => void notices.push({ level: 'note', text });
  const warn = (text: string): void => void notices.push({ level: 'warning', text });
  const allow = desired.mode === 'allow';
  if (around.v6 === undefined)
    note('this kernel has no IPv6 (no /proc/sys/net/ipv6), so ip6tables is left alone');
  let dropping = false;
  const published = new Set<number>();
  for (const family of families) {
    const found = around[family];
    if (found === undefined) continue;
    const filter = found.tables.find((t) => t.name === 'filter');
    if (filter !== undefined) {
      const { drops, open, unclear } = judge(family, filter, desired, around, walkBase);
      if (drops.length > 0) dropping = true;
      if (unclear.length > 0)
        note(
          `${tool[family]} may drop the ports on conditions that cfsync cannot judge: ${few(unclear)}`,
        );
      if (open !== undefined && drops.length > 0 && allow)
        note(
          `${tool[family]} accepts a port from everywhere (${open}), so strangers get in as well; delete that rule or use --mode lockdown`,
        );
    }
    const nat = found.tables.find((t) => t.name === 'nat');
    for (const probe of probes(desired, family, around.defaultRoutes))
      if (nat?.rules.some((rule) => publishes(rule, probe))) published.add(probe.port);
    const { variant, tables } = found.other;
    if (tables.some((t) => hasRules(t)))
      note(
        `there are also rules of ${tool[family]}-${variant}; both count, and what either drops is dropped: look with ${tool[family]}-${variant}-save`,
      );
  }
  if (!dropping && allow)
    note(
      'no rule of iptables drops the ports, so mode allow changes nothing today; --mode lockdown keeps everybody but Cloudflare out',
    );
  if (published.size > 0 && allow)
    note(
      `port ${[...published].join(', ')} is sent on by DNAT (published by Docker), which the INPUT chain does not see; --mode lockdown covers it`,
    );
  for (const [label, instead] of nativeDrops(desired, around))
    warn(
      `chain ${label} of nftables drops the ports, and an accept of iptables does not count there; ${instead}`,
    );
  const filter = around.v4.tables.find((t) => t.name === 'filter');
  const has = (chain: string): boolean => filter?.chains.some((c) => c.name === chain) === true;
  if (has('ufw-user-input'))
    note('UFW is active here: --backend ufw keeps the rules where ufw status shows them');
  if (has('INPUT_ZONES') || has('IN_public'))
    note('firewalld manages these chains, and takes the jump away whenever it reloads');
  if (around.netfilterPersistent)
    note(
      'netfilter-persistent is installed: netfilter-persistent save would freeze the rules of today in /etc/iptables; keep them with cfsync apply --persist',
    );
  for (const family of families)
    if (!options.set && desired.ranges[family].length > manyPrefixes)
      note(
        `${count(desired.ranges[family].length, 'rule')} of ${tool[family]} are asked one after another; --ipset makes that one look-up`,
      );
  if (!options.set && around.shared.length > 0)
    warn(
      `${around.shared.join(', ')}: rules that cfsync did not write use this set, and it is no longer refreshed`,
    );
  return [...notices, ...(around.remarks ?? [])];
}

/** What the admin has to know of rules that are taken over, and of those that are not. */
function adoptRemarks(found: readonly ReturnType<typeof findStrays>[], rest: IptAround): Notice[] {
  const notices = leftAlone(
    found.flatMap((f) => f.others),
    found.flatMap((f) => f.mixed),
  );
  if (found.every((f) => f.strays.length === 0)) return notices;
  const warn = (text: string): void => void notices.push({ level: 'warning', text });
  warn(
    'a script that wrote these rules, or a file that is loaded at boot (/etc/iptables/rules.v4 and rules.v6), brings them back: take them out there as well',
  );
  const used = families
    .flatMap((family) => [...(rest[family]?.tables ?? []), ...(rest[family]?.other.tables ?? [])])
    .flatMap((table) => table.rules.map((rule) => rule.text));
  for (const name of rest.accepted.keys())
    if (!used.some((text) => text.includes(`-set ${name} `)))
      warn(
        `ipset ${escape(name)} stays, and no rule of iptables uses it then: ipset destroy ${escape(name)}`,
      );
  return notices;
}

function hasRules(table: SavedTable): boolean {
  const where = table.name === 'filter' || table.name === 'raw' ? base[table.name] : undefined;
  return (
    table.rules.some((r) => r.chain === where) ||
    table.chains.some((c) => c.name === where && c.policy === 'DROP')
  );
}

/** Base chains of nftables' own that drop the ports, with what to do about each. */
function nativeDrops(desired: Desired, around: IptAround): (readonly [string, string])[] {
  const { chains, rules } = around.native;
  return chains.flatMap((chain) => {
    const { base, family, table } = chain;
    if (base?.type !== 'filter' || !['input', 'prerouting'].includes(base.hook)) return [];
    const dropped = nft
      .probes(desired, family)
      .some((probe) => nft.walkBase(chain, probe, rules).verdict === 'drop');
    if (!dropped) return [];
    const instead =
      table === 'firewalld'
        ? 'open the ports with firewall-cmd'
        : `use --backend nftables, beside this one with --nft-chain ${family}/${table}/${chain.chain}`;
    return [[`${family} ${table} ${chain.chain}`, instead] as const];
  });
}

function isOurs(table: TableName): (rule: SavedRule) => boolean {
  return (rule) => {
    // Most rules of a long list are told apart without taking them to pieces.
    if (!rule.text.includes(entry)) return false;
    const target = targetOf(wordsOf(rule.text));
    return target !== undefined && ourChains[table].includes(target);
  };
}

function sourceRules(
  family: Family,
  ranges: Ranges,
  options: IptOptions,
  verdict: 'ACCEPT' | 'RETURN',
): string[] {
  if (options.set) return [`-m set --match-set ${setName[family]} src ${mark} -j ${verdict}`];
  return ranges[family].map((prefix) => `-s ${prefix} ${mark} -j ${verdict}`);
}

/** The spelling of iptables-save: one port has no multiport. */
function ports(protocol: 'tcp' | 'udp', list: readonly number[]): string {
  return list.length === 1
    ? `-p ${protocol} -m ${protocol} --dport ${list[0]}`
    : `-p ${protocol} -m multiport --dports ${list.join(',')}`;
}

function portRules(desired: Desired, then: string): string[] {
  return [
    `${ports('tcp', desired.tcpPorts)} ${then}`,
    ...(desired.udpPorts.length === 0 ? [] : [`${ports('udp', desired.udpPorts)} ${then}`]),
  ];
}

function allowTable(
  family: Family,
  desired: Desired,
  ranges: Ranges,
  options: IptOptions,
  around: IptAround | undefined,
): IptTable {
  return {
    family,
    name: 'filter',
    chains: [
      { name: entry, rules: portRules(desired, `-j ${sources.filter}`) },
      { name: sources.filter, rules: sourceRules(family, ranges, options, 'ACCEPT') },
    ],
    jumps: [inputJump(family, desired, around)],
  };
}

function lockdownTable(
  family: Family,
  desired: Desired,
  ranges: Ranges,
  options: IptOptions,
  around: IptAround | undefined,
): IptTable {
  const closed = desired.tcpPorts.filter((p) => !desired.udpPorts.includes(p));
  const exempt = [...new Set([...(around?.bridges ?? []), ...options.trusted])].sort();
  return {
    family,
    name: 'raw',
    chains: [
      {
        name: entry,
        rules: [
          ...['lo', ...exempt].map((name) => `-i ${name} -j RETURN`),
          ...portRules(desired, `${local} -j ${sources.raw}`),
          // Cloudflare speaks only TCP to origins, so the same ports over UDP are open to nobody.
          ...(closed.length === 0 ? [] : [`${ports('udp', closed)} ${local} ${mark} -j DROP`]),
        ],
      },
      {
        name: sources.raw,
        rules: [...sourceRules(family, ranges, options, 'RETURN'), `${mark} -j DROP`],
      },
    ],
    jumps: [preroutingJump(family, desired, around)],
  };
}

// ---- where a jump stands ----

/** Our jumps in a chain, each with its index and the rule that follows it. */
function jumpsIn(
  table: SavedTable,
  chain: string,
): readonly { readonly jump: Jump; readonly index: number }[] {
  const ours = isOurs(table.name as TableName);
  const rules = table.rules.filter((r) => r.chain === chain);
  return rules.flatMap((rule, index) => {
    if (!ours(rule)) return [];
    const others = rules.slice(0, index).filter((r) => !ours(r));
    const next = rules.slice(index + 1).find((r) => !ours(r));
    return [{ jump: { chain, rule: rule.text, ...placeBefore(next, others) }, index }];
  });
}

/** The place in front of a rule that has these above it. */
function placeBefore(rule: SavedRule | undefined, above: readonly SavedRule[]): Place {
  return {
    before: rule?.text ?? null,
    nth: above.filter((r) => r.text === rule?.text).length,
  };
}

/** A jump above `limit` that stands already stays where it is; -1 stands for no limit. */
function jumpAt(table: SavedTable, chain: string, limit: number, otherwise: number): Jump {
  const rules = table.rules.filter((r) => r.chain === chain);
  const standing = jumpsIn(table, chain).find(
    ({ jump, index }) => jump.rule === jumpRule && (limit < 0 || index < limit),
  );
  if (standing !== undefined) return standing.jump;
  const others = (list: readonly SavedRule[]): SavedRule[] =>
    list.filter((r) => !isOurs(table.name as TableName)(r));
  if (otherwise < 0) return { chain, rule: jumpRule, ...atEnd };
  const [next] = others(rules.slice(otherwise));
  return { chain, rule: jumpRule, ...placeBefore(next, others(rules.slice(0, otherwise))) };
}

function loaded(
  family: Family,
  name: TableName,
  around: IptAround | undefined,
): SavedTable | undefined {
  return around?.[family]?.tables.find((t) => t.name === name);
}

/**
 * Before the first rule that drops any of our traffic, at the end where only the policy drops; but not below
 * rules that are taken over, because they may have let Cloudflare past a limit or a ban.
 */
function inputJump(family: Family, desired: Desired, around: IptAround | undefined): Jump {
  const chain = base.filter;
  const table = loaded(family, 'filter', around);
  if (table === undefined) return { chain, rule: jumpRule, ...atEnd };
  const rules = table.rules.filter((r) => r.chain === chain);
  const deciding = probes(desired, family, around!.defaultRoutes).flatMap((probe) => {
    const end = walk(table, chain, probe, isOurs('filter'));
    return end.rule === undefined || end.verdict === 'accept' ? [] : [end.rule];
  });
  const limit = upper(
    rules.findIndex((r) => deciding.includes(r)),
    around?.[family]?.adoptedAt ?? -1,
  );
  return jumpAt(table, chain, limit, limit);
}

/** At the top, because a rule above it that accepts would let strangers pass; one that stands as well stays. */
function preroutingJump(family: Family, desired: Desired, around: IptAround | undefined): Jump {
  const chain = base.raw;
  const table = loaded(family, 'raw', around);
  if (table === undefined) return { chain, rule: jumpRule, ...atEnd };
  const everyone = strangers(family, desired);
  const ours = isOurs('raw');
  const limit = table.rules
    .filter((r) => r.chain === chain)
    .findIndex((r) => !ours(r) && everyone.some((probe) => mayPass(table, r, probe)));
  return jumpAt(table, chain, limit, 0);
}

/** Probes from anywhere, through any interface: no condition on either is known not to hold. */
function strangers(family: Family, desired: Desired): readonly Probe[] {
  const anywhere = family === 'v4' ? ['0.0.0.0/0'] : ['::/0'];
  const closed = { ...desired, ranges: { ...none, [family]: anywhere } };
  return probes({ ...closed, udpPorts: [...desired.tcpPorts, ...desired.udpPorts] }, family, []);
}

// ---- observe ----

async function ask(host: Host, command: Command): Promise<string> {
  const outcome = await host.query({ timeout: 120_000, ...command });
  if (outcome.code !== 0) throw unusable(command.argv, outcome);
  return outcome.stdout;
}

function unusable(argv: readonly string[], outcome: Outcome): BackendError {
  const detail = firstLines(outcome.stderr);
  const text = outcome.stderr;
  if (/you must be root|Permission denied|Operation not permitted/.test(text))
    return new BackendError(
      'no permission',
      'iptables: reading the rules needs root (CAP_NET_ADMIN); run it with sudo',
      { detail },
    );
  if (
    /do you need to insmod|not supported by protocol|Protocol not supported|Cannot open session/.test(
      text,
    )
  )
    return new BackendError(
      'not supported',
      `iptables: ${argv[0]} finds no support in this kernel; load its modules, or use --backend nftables`,
      { detail },
    );
  return new BackendError(
    'broken',
    `iptables: ${argv.join(' ')} failed with code ${outcome.code}`,
    { detail },
  );
}

async function lookAround(host: Host): Promise<Omit<IptAround, 'mismatches' | 'accepted'>> {
  const ipv6 = (await host.list('/proc/sys/net/ipv6')) !== undefined;
  const [v4, v6, native, bridges, defaultRoutes, plugins] = await Promise.all([
    familyAround(host, 'v4'),
    ipv6 ? familyAround(host, 'v6') : undefined,
    nativeRules(host),
    dockerBridges(host),
    defaultRouteInterfaces(host),
    host.list('/usr/share/netfilter-persistent/plugins.d'),
  ]);
  return {
    v4,
    v6,
    native,
    bridges: bridges.filter((name) => !defaultRoutes.includes(name)),
    defaultRoutes,
    shared: sharedSets([v4, ...(v6 === undefined ? [] : [v6])]),
    netfilterPersistent: plugins !== undefined,
  };
}

async function familyAround(host: Host, family: Family): Promise<FamilyAround> {
  const program = tool[family];
  const [saved, restores] = await Promise.all([
    // All tables: -t loads the table that it names, where the legacy variant had none.
    ask(host, { argv: [`${program}-save`] }),
    restoreVersion(host, `${program}-restore`),
  ]);
  const saves = versionIn(saved) ?? (await version(host, `${program}-save`));
  const isNft = (version: string): boolean => version.includes('nf_tables');
  if (isNft(restores) !== isNft(saves))
    throw new BackendError(
      'misconfigured',
      `iptables: ${program}-restore and ${program}-save are of different variants, so what the one writes the other does not read; nothing was changed; choose one with update-alternatives`,
      { detail: [restores, saves].flatMap((version) => firstLines(version)) },
    );
  const foreign = /^# Table `(filter|raw)' is incompatible/m.exec(saved)?.[1];
  if (foreign !== undefined)
    throw new BackendError(
      'not supported',
      `iptables: table ${foreign} has rules of nft's own that ${program} cannot read; nothing was changed; use --backend nftables`,
    );
  const variant = isNft(saves) ? 'legacy' : 'nft';
  return {
    tables: parseSave(saved, `${program}-save`),
    other: { variant, tables: await otherTables(host, family, variant) },
  };
}

/** Asked for once in a run: should a variant be switched in the middle of it, `iptables-save` still tells. */
const restoreVersions = new WeakMap<Host, Map<string, string>>();

async function restoreVersion(host: Host, program: string): Promise<string> {
  const known = restoreVersions.get(host) ?? new Map<string, string>();
  restoreVersions.set(host, known);
  const found = known.get(program) ?? (await version(host, program));
  known.set(program, found);
  return found;
}

function version(host: Host, program: string): Promise<string> {
  return ask(host, { argv: [program, '--version'] });
}

/**
 * Only nf_tables names itself in what it saves (1.8.9 does, 1.8.5 did not), and where no table is loaded nothing is
 * saved.
 */
function versionIn(saved: string): string | undefined {
  // The first: a comment of several lines may hold others like it.
  const [, found] = /^# Generated by (.+) on /m.exec(saved) ?? [];
  return found?.includes('(nf_tables)') ? found : undefined;
}

/** Without the kernel's word that legacy tables are loaded it is not asked: most of its commands would load them. */
async function otherTables(
  host: Host,
  family: Family,
  variant: 'legacy' | 'nft',
): Promise<readonly SavedTable[]> {
  if (variant === 'legacy') {
    const file = family === 'v4' ? 'ip_tables_names' : 'ip6_tables_names';
    if (((await host.read(`/proc/net/${file}`)) ?? '') === '') return [];
  }
  const program = `${tool[family]}-${variant}-save`;
  const saved = await optional(host, { argv: [program] });
  return saved === undefined ? [] : parseSave(saved, program);
}

/** The tables of nftables' own, each by itself: those of iptables may be large. */
async function nativeRules(host: Host): Promise<IptAround['native']> {
  const list = async (...words: string[]): Promise<Listing> => {
    const text = await optional(host, { argv: ['nft', '-j', '-t', 'list', ...words] });
    return parseListing(text ?? '{"nftables": []}');
  };
  const { tables } = await list('tables');
  const native = tables.filter(
    ({ family, name }) =>
      (family === 'inet' && name !== 'cfsync') ||
      ((family === 'ip' || family === 'ip6') && !iptablesNames.includes(name)),
  );
  const listings = await Promise.all(native.map((t) => list('table', t.family, t.name)));
  return {
    chains: listings.flatMap((l) => l.chains),
    rules: listings.flatMap((l) => l.rules),
  };
}

/** What a program says that need not be there, or need not work. */
async function optional(host: Host, command: Command): Promise<string | undefined> {
  try {
    const outcome = await host.query({ timeout: 120_000, ...command });
    return outcome.code === 0 ? outcome.stdout : undefined;
  } catch (error) {
    if (error instanceof BackendError) return undefined;
    throw error;
  }
}

function sharedSets(all: readonly FamilyAround[]): string[] {
  const named = all.flatMap(({ tables, other }) =>
    [...tables, ...other.tables].flatMap((table) =>
      table.rules
        .filter((r) => !(isTableName(table.name) && ourChains[table.name].includes(r.chain)))
        .flatMap((r) => [...r.text.matchAll(/(?:--match|--add|--del)-set (cfsync[46]) /g)])
        .map((match) => match[1]!),
    ),
  );
  return [...new Set(named)].sort();
}

function isTableName(name: string): name is TableName {
  return (tableNames as readonly string[]).includes(name);
}

function ownedTables(family: Family, tables: readonly SavedTable[]): IptTable[] {
  return tableNames.flatMap((name): IptTable[] => {
    const table = tables.find((t) => t.name === name);
    const chains = ourChains[name].filter((chain) => table?.chains.some((c) => c.name === chain));
    if (table === undefined || chains.length === 0) return [];
    const others = table.chains.filter((c) => !ourChains[name].includes(c.name));
    return [
      {
        family,
        name,
        chains: chains.map((chain) => ({
          name: chain,
          rules: table.rules.filter((r) => r.chain === chain).map((r) => r.text),
        })),
        jumps: others.flatMap((c) => jumpsIn(table, c.name).map(({ jump }) => jump)),
      },
    ];
  });
}

/** iptables-restore reads no comment of several lines, though iptables takes and saves one (1.8.9). */
function refuseLineEnds(tables: readonly IptTable[]): void {
  for (const { family, name, chains, jumps } of tables) {
    const rules = [
      ...chains.flatMap((c) => c.rules.map((rule) => `-A ${c.name} ${rule}`)),
      ...jumps.map((j) => `-A ${j.chain} ${j.rule}`),
    ];
    const odd = rules.find((rule) => rule.includes('\n'));
    if (odd !== undefined)
      throw new BackendError(
        'not supported',
        `iptables: a rule in table ${name} of ${tool[family]} that belongs to chain ${entry} has a comment of several lines, which ${tool[family]}-restore does not read (${odd}); nothing was changed; delete that rule`,
      );
  }
}

/** Our sets, and what a run that was cut off left of a swap. Nothing is asked that would load the module. */
async function observeSets(host: Host, options: IptOptions): Promise<IpSet[]> {
  if (!options.set && (await host.list('/sys/module/ip_set')) === undefined) return [];
  const list: Command = { argv: ['ipset', 'list', '-n'] };
  const names = options.set ? await ask(host, list) : ((await optional(host, list)) ?? '');
  const ours = names.split('\n').filter((name) => /^cfsync[46](-new)?$/.test(name));
  return Promise.all(
    ours
      .sort()
      .map(async (name) => parseSet(name, await ask(host, { argv: ['ipset', 'save', name] }))),
  );
}

/** ipset 7.17: `create NAME hash:net family inet hashsize 1024 ...`, then `add NAME 192.0.2.0/24` and so on. */
function parseSet(name: string, text: string): IpSet {
  const [create = '', ...added] = linesOf(text, 'ipset save');
  const [, , ...words] = create.split(' ');
  if (!create.startsWith(`create ${name} `)) throw unreadable('ipset save', create);
  const sizes = ['hashsize', 'maxelem', 'bucketsize', 'initval'];
  const type = words.filter((word, i) => !sizes.includes(word) && !sizes.includes(words[i - 1]!));
  const whole: string[] = [];
  let withOptions = false;
  for (const line of added) {
    const [, , member = '', ...options] = line.split(' ');
    if (!line.startsWith(`add ${name} `) || member === '') throw unreadable('ipset save', line);
    // An element with a timeout or `nomatch` is not what we add.
    withOptions ||= options.length > 0;
    if (options.includes('nomatch')) continue;
    whole.push(member.includes('/') ? member : `${member}/${member.includes(':') ? 128 : 32}`);
  }
  if (withOptions) type.push('with options');
  const { v4, v6 } = prefixesIn(whole);
  return { name, type: type.join(' '), prefixes: [...v4, ...v6] };
}

/** The sets, other than ours, from which rules of table filter accept. */
async function acceptedSets(
  host: Host,
  { v4, v6 }: Pick<IptAround, 'v4' | 'v6'>,
): Promise<IptAround['accepted']> {
  const rules = [v4, v6].flatMap((f) => f?.tables.find((t) => t.name === 'filter')?.rules ?? []);
  const names = rules.flatMap(
    ({ text }) => /-m set --match-set (\S+) src .*-j ACCEPT$/.exec(text)?.[1] ?? [],
  );
  const sets = [...new Set(names)].filter((name) => !/^cfsync[46]$/.test(name));
  const members = await Promise.all(
    sets.map(async (name) => {
      const text = await optional(host, { argv: ['ipset', 'save', name] });
      // Of other types it is not the source address alone that is looked up; `nomatch` is an exception.
      const plain =
        text !== undefined && /^create \S+ hash:(net|ip) /.test(text) && !/ nomatch\b/.test(text);
      return plain ? [[name, parseSet(name, text).prefixes] as const] : [];
    }),
  );
  return new Map(members.flat());
}

/** Swap wants the same kind and family; what else differs is put right by it. */
function mismatches(sets: readonly IpSet[]): string[] {
  return families.flatMap((family) =>
    sets
      .filter((s) => s.name === setName[family] && !`${s.type} `.startsWith(`${setType[family]} `))
      .map((s) => `ipset ${s.name} is of type ${escape(s.type)}`),
  );
}

/** The prefixes among words that a foreign hand may have written. */
function prefixesIn(words: readonly string[]): Ranges {
  try {
    return parseRanges(words);
  } catch {
    return parseRanges(
      words.filter((word) => {
        try {
          parseRanges([word]);
          return true;
        } catch {
          return false;
        }
      }),
    );
  }
}

function heldRanges(tables: readonly IptTable[], sets: readonly IpSet[]): Ranges {
  const ofRules = tables.flatMap((table) =>
    table.chains
      .filter((c) => c.name === sources[table.name])
      .flatMap((c) => c.rules.map((rule) => /^-s (\S+) .*-j (?:ACCEPT|RETURN)$/.exec(rule)?.[1]))
      .filter((word) => word !== undefined),
  );
  const ofSets = sets.filter((s) => !s.name.endsWith('-new')).flatMap((s) => s.prefixes);
  return prefixesIn([...ofRules, ...ofSets]);
}

// ---- plan ----

function restoreStep(family: Family, lines: readonly string[]): RunStep {
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

function setStep(summary: string, lines: readonly string[]): RunStep {
  return {
    kind: 'run',
    summary: `iptables: ${summary}`,
    command: { argv: ['ipset', 'restore', '-exist'], stdin: script(lines), timeout: 120_000 },
  };
}

function script(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join('');
}

function sameList(a: readonly string[] | undefined, b: readonly string[]): boolean {
  return a !== undefined && a.length === b.length && a.every((value, i) => value === b[i]);
}

/** One table of a restore: our chains, the jumps to them, what other hands wrote, and what goes. */
function tableLines(
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

interface StrayMoves {
  readonly go: readonly IptStray[];
  readonly stay: readonly IptStray[];
  readonly back: readonly IptStray[];
}

/** A rule that is there already is not put back, whether it was looked for or not. */
function strayMoves(
  family: Family,
  name: TableName,
  wanted: IptOwned,
  observed: Observed<IptOwned, IptAround>,
): StrayMoves {
  const here = (list: readonly IptStray[] = []): readonly IptStray[] =>
    name === 'filter' ? list.filter((s) => s.family === family) : [];
  const then = here(wanted.strays);
  const now = here(observed.owned.strays);
  // On the way back none of theirs goes: what was written since then stays.
  const [stay, go] = wanted.strays === undefined ? [[], now] : [now, []];
  const others = then.length === 0 ? [] : (loaded(family, name, observed.around)?.rules ?? []);
  const [, gone] = split(then, [...now, ...others.map((r) => ({ chain: r.chain, rule: r.text }))]);
  const chains = loaded(family, name, observed.around)?.chains.map((c) => c.name) ?? [];
  // Nothing where its chain is gone as well.
  return { go, stay, back: gone.filter((s) => chains.includes(s.chain)) };
}

/** Those that are also in the other list, as often as there, and those that are not. */
function split(
  list: readonly IptStray[],
  other: readonly Pick<IptStray, 'chain' | 'rule'>[],
): readonly [IptStray[], IptStray[]] {
  const left = [...other];
  const both: IptStray[] = [];
  const rest = list.filter((stray) => {
    const at = left.findIndex((o) => o.chain === stray.chain && o.rule === stray.rule);
    if (at < 0) return true;
    left.splice(at, 1);
    both.push(stray);
    return false;
  });
  return [both, rest];
}

/**
 * The lines that move jumps and put strays back, each with the number of the place where it belongs once the
 * lines before it are carried out.
 * @param rules What is there; strays only where nobody looked for them.
 */
function placeLines(
  rules: readonly SavedRule[],
  strays: StrayMoves,
  wanted: readonly Jump[],
  observed: readonly Jump[],
): { readonly jumps: readonly string[]; readonly back: readonly string[] } {
  const lists = new Map<string, string[]>();
  /** Its rules without strays. */
  const textsOf = (chain: string): string[] =>
    rules.filter((r) => r.chain === chain).map((r) => r.text);
  const listOf = (chain: string): string[] => {
    const list = lists.get(chain) ?? withStays(chain, textsOf(chain));
    lists.set(chain, list);
    return list;
  };
  const withStays = (chain: string, list: string[]): string[] => {
    for (const stray of strays.stay)
      if (stray.chain === chain) list.splice(placeOf(stray, list), 0, stray.rule);
    return list;
  };
  const put = (chain: string, rule: string, place: Place): string => {
    const list = listOf(chain);
    const at = placeOf(place, list);
    list.splice(at, 0, rule);
    return at === list.length - 1 ? `-A ${chain} ${rule}` : `-I ${chain} ${at + 1} ${rule}`;
  };
  const then = wanted.map((jump) => notMovedDown(jump, observed, textsOf(jump.chain)));
  const jumps = [...new Set([...observed, ...then].map((j) => j.chain))].flatMap((chain) => {
    const here = (list: readonly Jump[]): readonly Jump[] => list.filter((j) => j.chain === chain);
    const there = textsOf(chain);
    const bare = [...there];
    for (const { rule } of here(observed)) bare.splice(bare.indexOf(rule), 1);
    // Whether one stands above or below a stray says nothing.
    const settled = [...bare];
    for (const jump of here(then)) settled.splice(placeOf(jump, settled), 0, jump.rule);
    if (sameList(there, settled)) return [];
    lists.set(chain, withStays(chain, bare));
    return [
      ...here(observed).map(({ rule }) => `-D ${chain} ${rule}`),
      ...here(then).map((jump) => put(chain, jump.rule, jump)),
    ];
  });
  const back = strays.back.map((stray) => put(stray.chain, stray.rule, stray));
  return { jumps, back };
}

/** On the way back an admin may have added a drop above, or deleted what the jump stood before: it stays where it is. */
function notMovedDown(jump: Jump, observed: readonly Jump[], list: readonly string[]): Jump {
  const place = (j: Jump): number =>
    j.before !== null && !list.includes(j.before) ? -1 : placeOf(j, list);
  const limit = place(jump);
  const same = observed.filter((j) => j.chain === jump.chain && j.rule === jump.rule);
  const exact = same.find((j) => j.before === jump.before && j.nth === jump.nth);
  return exact ?? same.find((j) => limit < 0 || place(j) < limit) ?? jump;
}

/** The rule it stood before may be gone: the top is the place where no drop comes first. */
function placeOf({ before, nth }: Place, list: readonly string[]): number {
  if (before === null) return list.length;
  const same = [...list.keys()].filter((i) => list[i] === before);
  return same[nth] ?? same.at(-1) ?? 0;
}

function createSet({ name, type, prefixes }: IpSet): string {
  return `create ${name} ${type} hashsize 1024 maxelem ${Math.max(65_536, prefixes.length * 2)}`;
}

function refreshSets(wanted: IptOwned, observed: IptOwned): string[] {
  return wanted.sets.flatMap((set) => {
    const now = observed.sets.find((s) => s.name === set.name);
    if (now?.type === set.type && sameList(now.prefixes, set.prefixes)) return [];
    const fill = (name: string): string[] => set.prefixes.map((p) => `add ${name} ${p}`);
    if (now === undefined) return [createSet(set), ...fill(set.name)];
    const next = `${set.name}-new`;
    return [
      ...(observed.sets.some((s) => s.name === next) ? [`destroy ${next}`] : []),
      createSet({ ...set, name: next }),
      ...fill(next),
      `swap ${next} ${set.name}`,
      `destroy ${next}`,
    ];
  });
}

function sweepSets(wanted: IptOwned, observed: Observed<IptOwned, IptAround>): string[] {
  const swapped = refreshSets(wanted, observed.owned);
  return observed.owned.sets
    .map((s) => s.name)
    .filter((name) => !wanted.sets.some((s) => s.name === name))
    .filter((name) => !observed.around.shared.includes(name))
    .map((name) => `destroy ${name}`)
    .filter((line) => !swapped.includes(line));
}

// ---- print ----

function artifact(ending: string, lines: readonly string[]): Artifact {
  return { path: `iptables/cfsync.${ending}`, content: script(lines) };
}

function rulesText(family: Family, tables: readonly IptTable[]): string[] {
  const lines = [
    `# Written by cfsync. Load it with ${tool[family]}-restore -w 10 --noflush, again and again;`,
    '# without --noflush every other rule would go.',
  ];
  for (const { name, chains, jumps } of tables) {
    lines.push(
      `*${name}`,
      ...chains.map((c) => `:${c.name} - [0:0]`),
      ...chains.flatMap((c) => c.rules.map((rule) => `-A ${c.name} ${rule}`)),
    );
    for (const { chain, rule, before } of jumps)
      lines.push(
        '# Not loaded from here, or every load would add one. Wanted once, before the first rule that decides:',
        `# -I ${chain} ${rule}`,
        ...(before === null ? [] : [`# in front of: -A ${chain} ${escape(before)}`]),
      );
    lines.push('COMMIT');
  }
  return lines;
}

function setsText(sets: readonly IpSet[]): string[] {
  return [
    '# Written by cfsync. Load it with ipset restore -exist -file, again and again, before the rules.',
    ...sets.flatMap((set) => {
      const next = { ...set, name: `${set.name}-new` };
      return [
        createSet(set),
        createSet(next),
        `flush ${next.name}`,
        ...set.prefixes.map((p) => `add ${next.name} ${p}`),
        `swap ${next.name} ${set.name}`,
        `destroy ${next.name}`,
      ];
    }),
  ];
}
