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
import { BackendError, CfsyncError, exit } from '../../src/errors.ts';
import { checkKeys, oneOf } from '../../src/plugin/options.ts';
import { defaultRouteInterfaces, dockerBridges } from '../../src/host/interfaces.ts';
import { probes, walk, walkBase } from '../../src/filters/nft/judge.ts';
import {
  at as partOf,
  chainName,
  elementTexts,
  isOurJump,
  isWritable,
  managedByIptables,
  parseListing,
  rulesOf,
  same,
  type Chain,
  type ChainName,
  type Expr,
  type Family,
  type Listing,
  type Rule,
} from '../../src/filters/nft/listing.ts';
import {
  findStrays,
  readElement,
  textOfRule,
  uses,
  type AcceptedSet,
  type NftStray,
} from './strays.ts';
import { merge, none, parseRanges, PrefixError } from '../../src/prefix.ts';
import {
  defineRenderer,
  type Artifact,
  type Desired,
  type Host,
  type Notice,
  type Observed,
  type Outcome,
  type Owned,
  type Ranges,
  type RunStep,
  type Step,
} from '../../src/renderer.ts';
import { refuseOpen, trustedOption } from '../../src/plugin/trusted.ts';
import { leftAlone, upper } from '../../src/plugin/strays.ts';
import { firstLines, shown } from '../../src/text.ts';

type SetName = 'cfsync4' | 'cfsync6';

export interface NftOptions {
  /** Where to attach: found by looking (`auto`), nowhere (`none`, lockdown only), or one chain. */
  readonly chain: 'auto' | 'none' | ChainName;
  /** Interfaces that lockdown leaves alone, next to lo and Docker's bridges. */
  readonly trusted: readonly string[];
  /** What `render` writes: a rule set, or the sets alone for an admin's own rule set. */
  readonly file: 'ruleset' | 'sets' | 'define';
}

interface NftChain {
  readonly name: string;
  /** `type filter hook input priority filter; policy accept;` of a base chain. */
  readonly base?: string;
  /** Rules in nft's syntax; one that cfsync did not write is a comment. */
  readonly rules: readonly string[];
}

interface NftTable {
  readonly family: Family;
  readonly name: string;
  /** The table that an admin switched off (`flags dormant`). */
  readonly dormant?: true;
  readonly sets: Readonly<Partial<Record<SetName, readonly string[]>>>;
  readonly chains: readonly NftChain[];
  readonly jumps: readonly Jump[];
}

/** A jump from a chain of the admin's to ours. */
interface Jump {
  readonly chain: string;
  /** The handle of the rule that follows it, `null` at the end of the chain. */
  readonly before: number | null;
}

export interface NftOwned extends Owned {
  readonly strays?: readonly NftStray[];
  readonly file: NftOptions['file'];
  /** Sorted by family and name. */
  readonly tables: readonly NftTable[];
}

/** What stands on the host around ours, and what must not be guessed again from the owned state. */
export interface NftAround {
  /** All rules and chains of the host, ours included, in order. */
  readonly rules: readonly Rule[];
  readonly chains: readonly Chain[];
  /** Tables with `flags owner` and `flags dormant`, as `FAMILY NAME`. */
  readonly owner: readonly string[];
  readonly dormant: readonly string[];
  /** Sets with our names, whoever made them, as `FAMILY TABLE SET`. */
  readonly sets: readonly string[];
  /** Those of them that rules of the admin's use, as `FAMILY TABLE SET`: refreshed, never deleted. */
  readonly shared: readonly string[];
  /** Docker's bridges without a default route. */
  readonly bridges: readonly string[];
  readonly defaultRoutes: readonly string[];
  /** iptables-legacy tables are loaded, which nft cannot show. */
  readonly legacy: boolean;
  /** Our names with a shape that this version does not make. */
  readonly mismatches: readonly string[];
  /** The admin's sets of prefixes from which rules of the admin's accept. */
  readonly accepted: readonly AcceptedSet[];
  /** The base chains in which rules let Cloudflare in that are taken over, and from which of the others on. */
  readonly adopted?: readonly { readonly chain: Chain; readonly at: number }[];
  /** What is to be said of what is taken over, and of what is not. */
  readonly remarks?: readonly Notice[];
}

// What `nft -j` prints (libnftables-json(5), nft 1.0.6); only the members that are read here.

const ownTable = { family: 'inet', name: 'cfsync' } as const;
const mark = 'comment "cfsync"';
const setNames = ['cfsync4', 'cfsync6'] as const;
const setType = { cfsync4: 'ipv4_addr', cfsync6: 'ipv6_addr' } as const;
const jumpRule = `jump ${chainName} ${mark}`;

const bases = {
  input: 'type filter hook input priority filter; policy accept;',
  prerouting: 'type filter hook prerouting priority raw; policy accept;',
} as const;

const priorities: Readonly<Record<number, string>> = { [-300]: 'raw', [0]: 'filter' };

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
    if (around !== undefined) refuse(options, around);
    const places = attachTo(desired, options, around, notices);
    if (around !== undefined) refuseElsewhere(places, desired, around);
    notices.push(...(around?.remarks ?? []));
    const tables = places.map((place) => attachment(place, desired, ranges, around));
    if (desired.mode === 'lockdown') {
      const own = tables.findIndex(isOwn);
      const guard = restriction(desired, ranges, [...(around?.bridges ?? []), ...options.trusted]);
      if (own < 0) tables.push(guard);
      else tables[own] = { ...guard, chains: byName([...guard.chains, ...tables[own]!.chains]) };
    }
    return { owned: { ranges, file: 'ruleset', tables: sorted(tables) }, notices };
  },

  async observe(host) {
    const listing = parseListing(await ask(host, ['nft', '-j', '-t', 'list', 'ruleset']));
    const around = {
      ...(await lookAround(host, listing)),
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
    const found = findStrays(bases, around.rules, around.accepted, desired, known);
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

// ---- wanted ----

function chainOption(value: unknown): NftOptions['chain'] {
  if (value === 'auto' || value === 'none') return value;
  const match =
    typeof value === 'string' &&
    /^(ip|ip6|inet)\/([A-Za-z_][A-Za-z0-9_.-]{0,63})\/([A-Za-z_][A-Za-z0-9_.-]{0,63})$/.exec(value);
  if (!match)
    throw new CfsyncError(
      exit.usage,
      `nftables: chain: ${shown(value)} is not FAMILY/TABLE/CHAIN (inet/filter/input), auto or none`,
    );
  return { family: match[1] as Family, table: match[2]!, chain: match[3]! };
}

function refuse(options: NftOptions, around: NftAround): void {
  if (around.mismatches.length > 0)
    throw new CfsyncError(
      exit.failed,
      `nftables: ${around.mismatches[0]}, which cfsync does not make; nothing was changed; cfsync remove --backend nftables clears the way`,
      { detail: around.mismatches.slice(1) },
    );
  refuseOpen(options.trusted, around.defaultRoutes, 'nftables');
}

/** The chains to attach to; `inet cfsync` stands for the own base chain. */
function attachTo(
  desired: Desired,
  options: NftOptions,
  around: NftAround | undefined,
  notices: Notice[],
): readonly (ChainName | typeof ownTable)[] {
  if (options.chain === 'none') {
    if (desired.mode === 'lockdown') return [];
    throw new CfsyncError(exit.usage, 'nftables: chain: none leaves nothing to do in mode allow');
  }
  if (options.chain !== 'auto') {
    if (around !== undefined) checkNamed(options.chain, around);
    return [options.chain];
  }
  if (around === undefined) return [ownTable];
  const places = droppingChains(desired, around, notices);
  if (places.length === 0 && desired.mode === 'allow')
    notices.push({
      level: 'note',
      text: 'no nftables rule on this host drops the ports, so mode allow changes nothing today; --mode lockdown keeps everybody but Cloudflare out',
    });
  const whole =
    places.some((p) => p.family === 'inet') || new Set(places.map((p) => p.family)).size === 2;
  return whole ? places : [...places, ownTable];
}

function checkNamed(name: ChainName, around: NftAround): void {
  const label = `${name.family} ${name.table} ${name.chain}`;
  const chain = around.chains.find((c) => same(c, name));
  if (chain === undefined)
    throw new CfsyncError(
      exit.failed,
      `nftables: there is no chain ${label}; nothing was changed; nft list chains shows what there is`,
    );
  refuseForeign(chain, around);
}

/** Tables in which a rule of ours would be lost, widened or refused. */
function refuseForeign(name: ChainName, around: NftAround): void {
  const table = `${name.family} ${name.table}`;
  const instead = (text: string): never => {
    throw new CfsyncError(exit.failed, `nftables: ${text}`);
  };
  if (managedByIptables(name, around.chains))
    instead(
      `table ${table} drops the ports and belongs to iptables; rules that nft adds there lose their ports at the next iptables-save; nothing was changed; use --backend ufw where UFW runs, else --backend iptables`,
    );
  if (name.table === 'firewalld')
    instead(
      `table ${table} drops the ports and belongs to firewalld, which takes foreign rules away; nothing was changed; open the ports with firewall-cmd, and use --nft-chain none with --mode lockdown`,
    );
  if (!isWritable(name.table) || !isWritable(name.chain))
    instead(
      `chain ${table} ${name.chain} drops the ports, and nft reads no rule for a table or chain of that name; nothing was changed; open the ports there, and use --nft-chain none with --mode lockdown`,
    );
  if (around.owner.includes(table))
    instead(
      `table ${table} drops the ports and belongs to a running program (flags owner) that lets nobody else change it; nothing was changed; open the ports there, and use --nft-chain none with --mode lockdown`,
    );
}

/** Chains whose rules may be taken over: those where rules of ours can stand in their place. */
function isAdoptable(chain: Chain, around: NftAround): boolean {
  const table = `${chain.family} ${chain.table}`;
  return (
    chain.base?.type === 'filter' &&
    chain.base.hook === 'input' &&
    ['ip', 'ip6', 'inet'].includes(chain.family) &&
    !isOwn({ family: chain.family, name: chain.table }) &&
    !managedByIptables(chain, around.chains) &&
    chain.table !== 'firewalld' &&
    !around.owner.includes(table) &&
    !around.dormant.includes(table)
  );
}

/** Where theirs go and ours do not stand, the chain must not drop the ports, whatever its conditions. */
function refuseElsewhere(
  places: readonly (ChainName | typeof ownTable)[],
  desired: Desired,
  around: NftAround,
): void {
  for (const { chain } of around.adopted ?? []) {
    if (places.some((place) => 'table' in place && same(place, chain))) continue;
    const walks = probes(desired, chain.family).map((probe) =>
      walkBase(chain, probe, around.rules),
    );
    if (walks.every((w) => w.verdict !== 'drop' && w.unclear.length === 0)) continue;
    const name = `${chain.family}/${chain.table}/${chain.chain}`;
    throw new CfsyncError(
      exit.failed,
      `nftables: chain ${name} has rules for Cloudflare's ranges in front of others that may drop the ports, and cfsync would not attach there; nothing was changed; take it over by itself with --nft-chain ${name}`,
    );
  }
}

/** What the admin has to know of what is taken over, and of what is not. */
function remarks({ strays, others, mixed }: ReturnType<typeof findStrays>): Notice[] {
  const left = leftAlone(others, mixed);
  if (strays.length === 0) return left;
  const text =
    'a script that wrote these rules, or a file that is loaded at boot (/etc/nftables.conf), brings them back: take them out there as well';
  return [...left, { level: 'warning', text }];
}

function ownSets(ranges: Ranges): NftTable {
  return { ...ownTable, sets: setsFor('inet', ranges), chains: [], jumps: [] };
}

function setsFor(family: Family, ranges: Ranges): NftTable['sets'] {
  return {
    ...(family === 'ip6' ? {} : { cfsync4: ranges.v4 }),
    ...(family === 'ip' ? {} : { cfsync6: ranges.v6 }),
  };
}

function attachment(
  place: ChainName | typeof ownTable,
  desired: Desired,
  ranges: Ranges,
  around: NftAround | undefined,
): NftTable {
  const name = 'table' in place ? place.table : place.name;
  const rules: string[] = [];
  for (const [protocol, list] of [
    ['tcp', desired.tcpPorts],
    ['udp', desired.udpPorts],
  ] as const) {
    if (list.length === 0) continue;
    for (const [set, source] of [
      ['cfsync4', 'ip'],
      ['cfsync6', 'ip6'],
    ] as const)
      if (place.family === 'inet' || place.family === source)
        rules.push(
          `${protocol} dport ${ports(list)} ${source} saddr @${set} counter accept ${mark}`,
        );
  }
  const accepts: NftChain = { name: chainName, rules };
  return {
    family: place.family,
    name,
    sets: setsFor(place.family, ranges),
    chains:
      'table' in place
        ? [accepts]
        : byName([accepts, { name: 'input', base: bases.input, rules: [jumpRule] }]),
    jumps: 'table' in place ? [jumpFor(place, desired, around)] : [],
  };
}

function restriction(desired: Desired, ranges: Ranges, exempt: readonly string[]): NftTable {
  const closed = desired.tcpPorts.filter((p) => !desired.udpPorts.includes(p));
  const local = 'fib daddr type local';
  const rules = [
    ...['lo', ...[...new Set(exempt)].sort()].map((name) => `iifname "${name}" return`),
    `tcp dport ${ports(desired.tcpPorts)} ${local} jump guard`,
    ...(desired.udpPorts.length > 0
      ? [`udp dport ${ports(desired.udpPorts)} ${local} jump guard`]
      : []),
    // Cloudflare speaks only TCP to origins, so the same ports over UDP are open to nobody.
    ...(closed.length > 0 ? [`udp dport ${ports(closed)} ${local} counter drop ${mark}`] : []),
  ];
  return {
    ...ownTable,
    sets: setsFor('inet', ranges),
    chains: byName([
      { name: 'prerouting', base: bases.prerouting, rules },
      {
        name: 'guard',
        rules: ['ip saddr @cfsync4 return', 'ip6 saddr @cfsync6 return', `counter drop ${mark}`],
      },
    ]),
    jumps: [],
  };
}

function ports(list: readonly number[]): string {
  return list.length === 1 ? String(list[0]) : `{ ${list.join(', ')} }`;
}

// ---- the admin's chains ----

/** The input base chains that drop the ports, refusing those where cfsync cannot attach. */
function droppingChains(desired: Desired, around: NftAround, notices: Notice[]): readonly Chain[] {
  const found: Chain[] = [];
  for (const chain of around.chains) {
    const label = `${chain.family} ${chain.table} ${chain.chain}`;
    if (chain.base?.type !== 'filter' || isOwn({ family: chain.family, name: chain.table }))
      continue;
    if (!['input', 'prerouting'].includes(chain.base.hook)) continue;
    if (around.dormant.includes(`${chain.family} ${chain.table}`)) continue;
    const walks = probes(desired, chain.family).map((probe) =>
      walkBase(chain, probe, around.rules),
    );
    const drops = walks.filter((w) => w.verdict === 'drop');
    const unclear = [...new Set(walks.flatMap((w) => w.unclear))];
    const open = walks.find((w) => w.open !== undefined)?.open;
    if (unclear.length > 0)
      notices.push({
        level: 'note',
        text: `chain ${label} may drop the ports on conditions that cfsync cannot judge (${unclear.map(where).join(', ')}); look with: nft -a list chain ${label}`,
      });
    if (drops.length === 0) continue;
    if (chain.base.hook === 'prerouting') {
      notices.push({
        level: 'warning',
        text: `chain ${label} drops the ports before any input chain is asked, and cfsync does not attach there; look with: nft -a list chain ${label}`,
      });
      continue;
    }
    refuseForeign(chain, around);
    if (open !== undefined && desired.mode === 'allow')
      notices.push({
        level: 'note',
        text: `chain ${label} accepts a port from everywhere (${where(open)}), so strangers get in as well; delete that rule or use --mode lockdown`,
      });
    found.push(chain);
  }
  if (around.legacy && desired.mode === 'allow')
    notices.push({
      level: 'note',
      text: 'iptables-legacy tables are loaded, which nft cannot see; they may drop the ports as well: look with iptables-legacy-save',
    });
  return found;
}

function where(rule: Rule): string {
  return `${rule.chain} handle ${rule.handle}`;
}

// ---- where the jump stands ----

/** Our jumps in a chain, each with the handle of the next rule that is not ours. */
function jumpsIn(
  name: ChainName,
  around: Pick<NftAround, 'rules'>,
): readonly (Jump & { readonly handle: number; readonly index: number })[] {
  const found: (Jump & { readonly handle: number; readonly index: number })[] = [];
  let before: number | null = null;
  const rules = rulesOf(around.rules, name);
  for (let index = rules.length - 1; index >= 0; index--) {
    const { handle } = rules[index]!;
    if (isOurJump(rules[index]!)) found.push({ chain: name.chain, handle, index, before });
    else before = handle;
  }
  return found.reverse();
}

/**
 * Before the first rule that drops any of our traffic, so that the admin's earlier rules (bans) still
 * come first; at the end where only the policy drops. Not below rules that are taken over, because they may
 * have let Cloudflare past a limit or a ban. A jump that already stands well stays.
 */
function jumpFor(name: ChainName, desired: Desired, around: NftAround | undefined): Jump {
  if (around === undefined) return { chain: name.chain, before: null };
  const deciding = probes(desired, name.family).flatMap((probe) => {
    const end = walk(name, probe, around.rules);
    return end.rule === undefined || end.verdict === 'accept' ? [] : [end.rule.handle];
  });
  const rules = rulesOf(around.rules, name);
  const limit = upper(
    rules.findIndex((r) => deciding.includes(r.handle)),
    around.adopted?.find(({ chain }) => same(chain, name))?.at ?? -1,
  );
  const standing = jumpsIn(name, around).find((j) => limit < 0 || j.index < limit);
  if (standing !== undefined) return { chain: name.chain, before: standing.before };
  const next = limit < 0 ? undefined : rules.slice(limit).find((r) => !isOurJump(r));
  return { chain: name.chain, before: next?.handle ?? null };
}

// ---- observe ----

async function ask(host: Host, argv: readonly [string, ...string[]]): Promise<string> {
  const outcome = await host.query({ argv, timeout: 120_000 });
  if (outcome.code !== 0) throw unusable(argv, outcome);
  return outcome.stdout;
}

function unusable(argv: readonly string[], outcome: Outcome): BackendError {
  const detail = firstLines(outcome.stderr);
  const text = outcome.stderr;
  if (/Operation not permitted|Permission denied/.test(text))
    return new BackendError(
      'no permission',
      'nftables: reading the rules needs root (CAP_NET_ADMIN); run it with sudo',
      { detail },
    );
  if (/Protocol not supported|Unable to initialize Netlink/.test(text))
    return new BackendError(
      'not supported',
      'nftables: this kernel has no nf_tables; load the module nf_tables, or use --backend iptables',
      { detail },
    );
  return new BackendError(
    'broken',
    `nftables: ${argv.join(' ')} failed with code ${outcome.code}`,
    { detail },
  );
}

function isOwn(table: { readonly family: string; readonly name: string }): boolean {
  return table.family === ownTable.family && table.name === ownTable.name;
}

/** Our own table, and every table that has our chain. Sets alone are the admin's (an included fragment). */
function isOurs(
  table: { readonly family: string; readonly name: string },
  listing: Listing,
): boolean {
  return (
    isOwn(table) ||
    listing.chains.some(
      (c) => c.family === table.family && c.table === table.name && c.chain === chainName,
    )
  );
}

async function lookAround(host: Host, listing: Listing): Promise<Omit<NftAround, 'accepted'>> {
  const flagged = await Promise.all(
    // nft 1.0.6 says in JSON that there are flags, and prints garbage for which.
    listing.tables
      .filter((t) => t.flags)
      .map(async (t) => ({
        name: `${t.family} ${t.name}`,
        text: await ask(host, ['nft', '-t', 'list', 'table', t.family, t.name]),
      })),
  );
  const having = (flag: string): string[] =>
    flagged
      .filter((t) => new RegExp(`^\\tflags .*\\b${flag}\\b`, 'm').test(t.text))
      .map((t) => t.name);
  const defaultRoutes = await defaultRouteInterfaces(host);
  return {
    rules: listing.rules,
    chains: listing.chains,
    owner: having('owner'),
    dormant: having('dormant'),
    sets: listing.sets
      .filter(({ name }) => isSetName(name))
      .map(({ family, table, name }) => `${family} ${table} ${name}`),
    shared: sharedSets(listing),
    bridges: (await dockerBridges(host)).filter((name) => !defaultRoutes.includes(name)),
    defaultRoutes,
    legacy: /^filter$/m.test((await host.read('/proc/net/ip_tables_names')) ?? ''),
    mismatches: mismatches(listing),
  };
}

/** Read each by itself, as ours are, and only those: a set of banned addresses may be large. */
async function acceptedSets(host: Host, listing: Listing): Promise<AcceptedSet[]> {
  const accepts = listing.rules.filter((rule) => rule.expr.some((e) => 'accept' in e));
  const sets = listing.sets.flatMap(({ family, table, name, type, flags }) => {
    const set = { family: family as Family, table, name };
    const plain =
      (type === 'ipv4_addr' || type === 'ipv6_addr') && JSON.stringify(flags) === '["interval"]';
    return plain &&
      !isSetName(name) &&
      [table, name].every(isWritable) &&
      accepts.some((rule) => uses(rule, set))
      ? [set]
      : [];
  });
  return Promise.all(
    sets.map(async (set) => {
      const argv = ['nft', '-j', 'list', 'set', set.family, set.table, set.name] as const;
      const { sets: listed } = parseListing(await ask(host, argv));
      return { ...set, elem: listed[0]?.elem ?? [] };
    }),
  );
}

function sharedSets(listing: Listing): string[] {
  return listing.rules.flatMap((rule) =>
    rule.chain === chainName || isOwn({ family: rule.family, name: rule.table })
      ? []
      : setNames
          .filter((name) => JSON.stringify(rule.expr).includes(`"@${name}"`))
          .map((name) => `${rule.family} ${rule.table} ${name}`),
  );
}

function mismatches(listing: Listing): string[] {
  const found: string[] = [];
  for (const set of listing.sets) {
    if (!isSetName(set.name) || !isOurs({ family: set.family, name: set.table }, listing)) continue;
    const [type, flags] = [JSON.stringify(set.type), JSON.stringify(set.flags)];
    if (!isSetOfOurs(set))
      found.push(`set ${set.family} ${set.table} ${set.name} has type ${type} and flags ${flags}`);
  }
  for (const chain of listing.chains) {
    if (!isOwn({ family: chain.family, name: chain.table })) continue;
    const wanted = (bases as Readonly<Record<string, string>>)[chain.chain];
    const base = chain.base && baseText(chain.base);
    // Another policy is put right in place; another hook or priority cannot be.
    const fixed = (text?: string): string => text?.replace(/ policy .*/, '') ?? 'no hook';
    if (wanted !== undefined ? fixed(base) !== fixed(wanted) : chain.base !== undefined)
      found.push(`chain inet cfsync ${chain.chain} has ${fixed(base)}`);
  }
  return found;
}

/** Whether a set has the type and flags that cfsync gives to the one of its name. */
function isSetOfOurs({ name, type, flags }: Listing['sets'][number]): boolean {
  return isSetName(name) && type === setType[name] && JSON.stringify(flags) === '["interval"]';
}

function isSetName(name: string): name is SetName {
  return (setNames as readonly string[]).includes(name);
}

function baseText(base: NonNullable<Chain['base']>): string {
  return `type ${base.type} hook ${base.hook} priority ${priorities[base.prio] ?? base.prio}; policy ${base.policy};`;
}

/** Undefined when an element is no address. */
function rangesOf(elem: readonly unknown[]): Ranges | undefined {
  const texts = elementTexts(elem);
  try {
    return texts && parseRanges(texts);
  } catch (error) {
    if (error instanceof PrefixError) return undefined;
    throw error;
  }
}

async function ownedTable(
  host: Host,
  table: { readonly family: string; readonly name: string },
  listing: Listing,
  around: Omit<NftAround, 'accepted'>,
): Promise<NftTable> {
  const { family, name } = table as { family: Family; name: string };
  const inTable = (item: { readonly family: string; readonly table: string }): boolean =>
    item.family === family && item.table === name;
  // Every set by itself: the whole table of an admin may hold large sets of other programs.
  const sets = await Promise.all(
    listing.sets
      .filter((s) => inTable(s) && isSetName(s.name))
      .map(async (s) => {
        const argv = ['nft', '-j', 'list', 'set', family, name, s.name] as const;
        const listed = parseListing(await ask(host, argv)).sets[0];
        const ranges = listed && rangesOf(listed.elem);
        // What another type of set holds is no prefix, and `mismatches` has it.
        if (ranges === undefined && (listed === undefined || isSetOfOurs(listed)))
          throw new BackendError(
            'broken',
            `nftables: what ${argv.join(' ')} printed cannot be read: an element is no address; nothing was changed; delete that element, or the set`,
          );
        const { v4, v6 } = ranges ?? none;
        return [s.name, s.name === 'cfsync4' ? v4 : v6] as const;
      }),
  );
  const ours = listing.chains.filter((c) => inTable(c) && (isOwn(table) || c.chain === chainName));
  const others = listing.chains.filter((c) => inTable(c) && !ours.includes(c));
  const jumps = others.flatMap((c) => jumpsIn(c, around));
  const odd = [name, ...[...ours, ...jumps].map((c) => c.chain)].find((n) => !isWritable(n));
  if (odd !== undefined)
    throw new BackendError(
      'not supported',
      `nftables: table ${family} ${name} holds rules of cfsync's, and nft reads no rule for the name ${odd} in it; nothing was changed; delete it by its handle (nft -a list ruleset shows it)`,
    );
  return {
    family,
    name,
    ...(isOwn(table) && around.dormant.includes(`${family} ${name}`)
      ? { dormant: true as const }
      : {}),
    sets: Object.fromEntries(sets),
    chains: byName(
      ours.map((c) => ({
        name: c.chain,
        ...(c.base === undefined ? {} : { base: baseText(c.base) }),
        rules: rulesOf(listing.rules, c).map(ruleText),
      })),
    ),
    jumps: jumps.map(({ chain, before }) => ({ chain, before })),
  };
}

/** A rule in the syntax that `want` writes; anything else becomes a comment, and so differs from it. */
function ruleText(rule: Rule): string {
  const words = rule.expr.map(exprText);
  if (rule.comment !== undefined)
    words.push(/^[ !#-~]*$/.test(rule.comment) ? `comment "${rule.comment}"` : undefined);
  return words.includes(undefined)
    ? `# a rule that cfsync did not write, handle ${rule.handle}`
    : words.join(' ');
}

function exprText(e: Expr): string | undefined {
  if ('counter' in e) return 'counter';
  for (const verdict of ['accept', 'drop', 'return']) if (verdict in e) return verdict;
  if ('jump' in e) {
    const target = partOf(e, 'jump', 'target');
    return typeof target === 'string' && isWritable(target) ? `jump ${target}` : undefined;
  }
  const left = partOf(e, 'match', 'left');
  const right = partOf(e, 'match', 'right');
  if (partOf(e, 'match', 'op') !== '==') return undefined;
  const protocol = partOf(left, 'payload', 'protocol');
  const field = partOf(left, 'payload', 'field');
  if (field === 'dport' && (protocol === 'tcp' || protocol === 'udp')) {
    const list = typeof right === 'number' ? [right] : partOf(right, 'set');
    return Array.isArray(list) && list.length > 0 && list.every(isPort)
      ? `${protocol} dport ${ports(list)}`
      : undefined;
  }
  if (typeof right !== 'string') return undefined;
  if (field === 'saddr' && (protocol === 'ip' || protocol === 'ip6'))
    return right.startsWith('@') && isWritable(right.slice(1))
      ? `${protocol} saddr ${right}`
      : undefined;
  if (partOf(left, 'meta', 'key') === 'iifname')
    return /^[\w.@+*-]+$/.test(right) ? `iifname "${right}"` : undefined;
  if (JSON.stringify(left) === '{"fib":{"result":"type","flags":["daddr"]}}' && right === 'local')
    return 'fib daddr type local';
  return undefined;
}

function isPort(value: unknown): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 65_535;
}

// ---- plan ----

function load(text: string): RunStep['command'] {
  return { argv: ['nft', '-f', '-'], stdin: text, timeout: 120_000 };
}

function script(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join('');
}

function find(tables: readonly NftTable[], table: NftTable): NftTable | undefined {
  return tables.find((t) => t.family === table.family && t.name === table.name);
}

/** The rules that this version can write; a foreign one is never put back. */
function writable(chain: NftChain): readonly string[] {
  return chain.rules.filter((rule) => !rule.startsWith('#'));
}

function equalLists(a: readonly string[] | undefined, b: readonly string[]): boolean {
  return a !== undefined && a.length === b.length && a.every((value, i) => value === b[i]);
}

/**
 * Elements are of one shape, and the transaction takes all of them or none: the check asks for the first of each
 * set. To ask for 100,000 takes as long as to load them (1.2 s, nft 1.0.6).
 */
const mostChecked = 1000;

/** @param most Elements of each set; what is left out makes no difference to the other lines. */
function refreshLines(
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

function at(table: NftTable): string {
  return `${table.family} ${table.name}`;
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
    if (wanted === undefined || equalLists(held, wanted)) return [];
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

function addSet(table: NftTable, name: SetName, prefixes: readonly string[] = []): string[] {
  const head = `add set ${at(table)} ${name} { type ${setType[name]}; flags interval;`;
  return prefixes.length === 0 ? [`${head} }`] : [`${head} elements = {`, listed(prefixes), '}; }'];
}

function elementLines(table: NftTable, name: SetName, prefixes: readonly string[]): string[] {
  if (prefixes.length === 0) return [];
  return [`add element ${at(table)} ${name} {`, listed(prefixes), '}'];
}

function chainLines(
  table: NftTable,
  now: NftTable | undefined,
  chains: readonly NftChain[],
): string[] {
  const changed = chains.filter((chain) => {
    const old = now?.chains.find((c) => c.name === chain.name);
    return old?.base !== chain.base || !equalLists(old?.rules, writable(chain));
  });
  return [
    ...changed.map((c) => addChain(table, c)),
    ...changed.flatMap((c) => ruleLines(table, c)),
  ];
}

function addChain(table: NftTable, chain: NftChain): string {
  return `add chain ${at(table)} ${chain.name}${chain.base === undefined ? '' : ` { ${chain.base} }`}`;
}

function ruleLines(table: NftTable, chain: NftChain): string[] {
  return [
    `flush chain ${at(table)} ${chain.name}`,
    ...writable(chain).map((rule) => `add rule ${at(table)} ${chain.name} ${rule}`),
  ];
}

function hookLines(wanted: NftOwned, observed: Observed<NftOwned, NftAround>): string[] {
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
    standing.find((j) => j.before === jump.before) ??
    standing.find((j) => limit < 0 || j.index < limit);
  const extra = standing
    .filter((j) => j !== keep)
    .map((j) => `delete rule ${at(table)} ${jump.chain} handle ${j.handle}`);
  if (keep !== undefined) return extra;
  const chain = `${at(table)} ${jump.chain}`;
  if (jump.before === null) return [`add rule ${chain} ${jumpRule}`, ...extra];
  // The rule it stood before is gone: the top is the place where no drop comes first.
  return [`insert rule ${chain}${limit < 0 ? '' : ` handle ${jump.before}`} ${jumpRule}`, ...extra];
}

/** What other hands wrote: the lines by which it goes, and by which it is put back. */
function strayLines(
  wanted: NftOwned,
  { owned, around }: Observed<NftOwned, NftAround>,
): { readonly go: readonly string[]; readonly back: readonly string[] } {
  const now = owned.strays ?? [];
  if (wanted.strays === undefined) return { go: now.map(deleteLine), back: [] };
  const then = wanted.strays;
  // On the way back none of theirs goes: what was written since then stays.
  if (then.length === 0) return { go: [], back: [] };
  // What is there already is not put back, whether it was looked for or not.
  const there = [
    ...now.map(strayKey),
    ...around.rules.map((rule) => strayKey({ ...rule, rule: textOfRule(rule) ?? '' })),
    ...around.accepted.flatMap(({ family, table, name: set, elem }) =>
      elem.map((one) => strayKey({ family, table, set, element: readElement(one).element })),
    ),
  ];
  return { go: [], back: without(then, there).flatMap((stray) => putBack(stray, around)) };
}

type StrayName =
  | Pick<Extract<NftStray, { rule: string }>, 'family' | 'table' | 'chain' | 'rule'>
  | Pick<Extract<NftStray, { set: string }>, 'family' | 'table' | 'set' | 'element'>;

function strayKey(stray: StrayName): string {
  const { family, table } = stray;
  return JSON.stringify(
    'rule' in stray
      ? [family, table, stray.chain, stray.rule]
      : [family, table, `@${stray.set}`, stray.element],
  );
}

/** Each key takes one away. */
function without(strays: readonly NftStray[], keys: readonly string[]): NftStray[] {
  const left = new Map<string, number>();
  for (const key of keys) left.set(key, (left.get(key) ?? 0) + 1);
  return strays.filter((stray) => {
    const count = left.get(strayKey(stray)) ?? 0;
    left.set(strayKey(stray), count - 1);
    return count <= 0;
  });
}

function deleteLine(stray: NftStray): string {
  const table = `${stray.family} ${stray.table}`;
  return 'rule' in stray
    ? `delete rule ${table} ${stray.chain} handle ${stray.handle}`
    : `delete element ${table} ${stray.set} { ${stray.element} }`;
}

/** Nothing where its chain is gone, or no rule accepts from its set any more. */
function putBack(stray: NftStray, around: NftAround): string[] {
  const table = `${stray.family} ${stray.table}`;
  if (!('rule' in stray)) {
    const { set, element, comment } = stray;
    const text = comment === undefined ? element : `${element} comment "${comment}"`;
    return around.accepted.some((s) => `${s.family} ${s.table} ${s.name}` === `${table} ${set}`)
      ? [`add element ${table} ${set} { ${text} }`]
      : [];
  }
  if (!around.chains.some((chain) => same(chain, stray))) return [];
  const chain = `${table} ${stray.chain}`;
  if (stray.below.length === 0) return [`add rule ${chain} ${stray.rule}`];
  const there = rulesOf(around.rules, stray).map((rule) => rule.handle);
  const next = stray.below.find((handle) => there.includes(handle));
  // As with a jump: where its place is gone, the top is the one where no drop comes first.
  return [`insert rule ${chain} ${next === undefined ? '' : `handle ${next} `}${stray.rule}`];
}

function unhookLines(wanted: NftOwned, observed: Observed<NftOwned, NftAround>): string[] {
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

function gone(table: NftTable, then: NftTable | undefined): readonly NftChain[] {
  return table.chains.filter((c) => !then?.chains.some((d) => d.name === c.name));
}

function deleteChain(table: NftTable, chain: NftChain): string[] {
  return [`flush chain ${at(table)} ${chain.name}`, `delete chain ${at(table)} ${chain.name}`];
}

function sweepLines(wanted: NftOwned, observed: Observed<NftOwned, NftAround>): string[] {
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

// ---- print ----

function artifact(name: string, lines: readonly string[]): Artifact {
  return { path: `nftables/${name}`, content: script(lines) };
}

function rulesetText(owned: NftOwned): string[] {
  const lines = [
    '# Written by cfsync. Load it with nft -f, again and again: it refreshes itself in place.',
  ];
  for (const table of owned.tables) {
    lines.push('');
    if (isOwn(table)) lines.push(`add table ${at(table)}`);
    if (table.dormant) lines.push('# switched off by flags dormant');
    if (table.chains.some((c) => c.base === bases.input && isOwn(table)))
      lines.push(
        '# Its own base chain: an accept here is not final, another base chain may still drop.',
        '# --nft-chain FAMILY/TABLE/CHAIN attaches to the chain that decides.',
      );
    const sets = setNames.filter((name) => table.sets[name] !== undefined);
    lines.push(...sets.flatMap((name) => addSet(table, name)));
    lines.push(...table.chains.map((c) => addChain(table, c)));
    for (const name of sets)
      lines.push(`flush set ${at(table)} ${name}`, ...elementLines(table, name, table.sets[name]!));
    for (const chain of table.chains)
      lines.push(
        `flush chain ${at(table)} ${chain.name}`,
        ...chain.rules.map((r) =>
          r.startsWith('#') ? r : `add rule ${at(table)} ${chain.name} ${r}`,
        ),
      );
    for (const jump of table.jumps)
      lines.push(
        '# Not loaded from here, or every load would add one. Wanted once, before the first drop:',
        `# insert rule ${at(table)} ${jump.chain}${jump.before === null ? '' : ` handle ${jump.before}`} ${jumpRule}`,
      );
  }
  return lines;
}

function setsText(owned: NftOwned): string[] {
  return [
    '# Written by cfsync. Include it inside a table block; then: ip saddr @cfsync4, ip6 saddr @cfsync6',
    ...owned.tables.flatMap((table) =>
      setNames.flatMap((name) => [
        `set ${name} {`,
        `\ttype ${setType[name]}`,
        '\tflags interval',
        ...braces('\telements = {', table.sets[name] ?? []),
        '}',
      ]),
    ),
  ];
}

function defineText(owned: NftOwned): string[] {
  return [
    '# Written by cfsync. Include it before its use; then: ip saddr $CFSYNC4, ip6 saddr $CFSYNC6',
    ...braces('define CFSYNC4 = {', owned.ranges.v4),
    ...braces('define CFSYNC6 = {', owned.ranges.v6),
  ];
}

/** nft refuses `elements = { }`, so an empty list leaves the whole statement out. */
function braces(head: string, prefixes: readonly string[]): string[] {
  return prefixes.length === 0 ? [] : [head, listed(prefixes), '}'];
}

/** A line for each, in one text: a text for each of 100,000 takes ten times as long. */
function listed(prefixes: readonly string[]): string {
  return `\t${prefixes.join(',\n\t')},`;
}

// ---- small things ----

function byName(chains: readonly NftChain[]): NftChain[] {
  return [...chains].sort((a, b) => (a.name < b.name ? -1 : 1));
}

function sorted(tables: readonly NftTable[]): NftTable[] {
  return [...tables].sort((a, b) => (at(a) < at(b) ? -1 : 1));
}
