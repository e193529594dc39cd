/**
 * UFW: ordinary ufw rules with the comment `cfsync`, visible in `ufw status`.
 *
 * The rules files are edited under ufw's own lock. Into the kernel goes what differs, or the whole file where
 * the kernel was not as it says, with `iptables-restore -n`: one transaction for each family, as ufw itself
 * loads after an insert. Measured on ufw 0.36.2: no lost connection and no stranger in 200 changes, either
 * way, where one `ufw reload` lets strangers in for up to 1.2 s.
 * ufw's own commands are never run: they wait for the lock that is held here.
 */
import { isDeepStrictEqual } from 'node:util';
import { BackendError, CfsyncError, errno, exit } from '../../src/errors.ts';
import { digest } from '../../src/digest.ts';
import { defaultRouteInterfaces, dockerBridges } from '../../src/host/interfaces.ts';
import { checkKeys } from '../../src/plugin/options.ts';
import { protocols } from '../../src/plugin/ports.ts';
import { intersect, isEmpty, merge, none, parseRanges, type Family } from '../../src/prefix.ts';
import {
  defineRenderer,
  type Artifact,
  type Command,
  type Desired,
  type Host,
  type Notice,
  type Outcome,
  type Owned,
  type Ranges,
  type Step,
} from '../../src/renderer.ts';
import { count, firstLines } from '../../src/text.ts';
import {
  hinders,
  includesPort,
  isAcceptFrom,
  isOfOurForm,
  meaning,
  parseListing,
  parseRule,
  ruleKey,
  within,
  type ChainRule,
  type Listing,
} from './chains.ts';
import { leftovers, putBack, without, type UfwStray } from './leftovers.ts';
import {
  adminRules,
  block,
  claimsLater,
  claimsOf,
  commandOf,
  edit,
  fileLines,
  identity,
  inputChain,
  isAnywhere,
  ownBlocks,
  parseRules,
  tupleOf,
  type OwnBlocks,
  type RulesFile,
  type Tuple,
} from './rules.ts';

interface FamilyState extends OwnBlocks {
  /** Whether the kernel has what the file says of ours; true where there is nothing to load. */
  readonly loaded: boolean;
  /** The names of all that stood in the file while it had strays. */
  readonly order?: readonly string[];
}

export interface UfwOwned extends Owned {
  readonly strays?: readonly UfwStray[];
  readonly v4: FamilyState;
  readonly v6: FamilyState;
}

interface Perhaps<T> {
  readonly v4: T;
  /** Absent where the kernel has no IPv6. */
  readonly v6?: T;
}

export interface UfwAround {
  /** /etc/ufw/user.rules and user6.rules. */
  readonly texts: Readonly<Record<Family, string>>;
  /** What they say. */
  readonly files: Readonly<Record<Family, RulesFile>>;
  /** The same with ours in the places of what is taken over, where something is. */
  readonly adopted?: Readonly<Partial<Record<Family, RulesFile>>>;
  /** Rules for Cloudflare's ranges that cannot be taken over, as the words after `ufw`. */
  readonly left?: readonly string[];
  /** ENABLED in ufw.conf. */
  readonly enabled: boolean;
  /** Whether UFW looks after IPv6: IPV6 in /etc/default/ufw, and whether the kernel has any. */
  readonly ipv6: 'yes' | 'no' | 'no kernel support';
  /** DEFAULT_INPUT_POLICY in /etc/default/ufw: `accept`, `drop` or `reject`. */
  readonly policy: string;
  /** As `iptables -S` and `ip6tables -S` tell it; absent while UFW is inactive. */
  readonly kernel?: Perhaps<Listing>;
  /** Docker's bridges. */
  readonly docker: readonly string[];
  readonly defaultRoutes: readonly string[];
}

const families = ['v4', 'v6'] as const;
const paths = { v4: '/etc/ufw/user.rules', v6: '/etc/ufw/user6.rules' } as const;
const programs = { v4: 'iptables', v6: 'ip6tables' } as const;
const labels = { v4: 'IPv4', v6: 'IPv6' } as const;

/** `-m multiport` takes 15, and so does ufw. */
const mostPorts = 15;
/** From here on the kernel's walk through the rules costs a new connection more than 20 us (530 ns for 44 rules). */
const manyRules = 1000;

const empty: FamilyState = { at: 0, blocks: [], loaded: true };

export default defineRenderer<null, UfwOwned, UfwAround>({
  api: 1,
  name: 'ufw',
  kind: 'filter',

  options(raw) {
    checkKeys(raw, [], 'ufw');
    return null;
  },

  // ufw 0.36 holds it with lockf(3) while it works; a lock of flock(2) would not keep it out.
  locks: () => [{ kind: 'fcntl', path: '/run/ufw.lock' }],

  // ufw 0.36.2 reads the rules first, and then waits for its lock without end.
  rivals: ['ufw'],

  nothing: { ranges: none, v4: empty, v6: empty },

  want(desired, _options, around) {
    for (const [protocol, ports] of protocols(desired)) refuseManyPorts(protocol, ports);
    const ranges = merge(desired.ranges, desired.extra);
    const blocks = { v4: blocksFor('v4', desired, ranges), v6: blocksFor('v6', desired, ranges) };
    if (around === undefined) {
      const state = (family: Family): FamilyState => ({ ...empty, blocks: blocks[family] });
      return { owned: { ranges, v4: state('v4'), v6: state('v6') }, notices: [] };
    }
    refuseClashes(blocks, around);
    if (desired.mode === 'lockdown') refuseOpenings(desired, ranges, around);
    const state = (family: Family): FamilyState => {
      const file = rulesOf(family, around);
      if (!isUsed(family, around)) return { ...ownBlocks(file), loaded: true };
      const text = edit(file, blocks[family]);
      const settled = text === around.texts[family];
      const then = settled ? around.files[family] : parseRules(text, paths[family]);
      return { ...ownBlocks(then), loaded: true };
    };
    const [v4, v6] = [state('v4'), state('v6')];
    return { owned: { ranges: held(v4, v6), v4, v6 }, notices: remarks(desired, v4, around) };
  },

  async observe(host) {
    const settings = await readSettings(host);
    const enabled = settings.get('enabled') === 'yes';
    const stack = (await host.list('/proc/sys/net/ipv6')) !== undefined;
    const [kernel, [texts, files], docker, defaultRoutes] = await Promise.all([
      enabled ? readKernel(host, stack) : undefined,
      readFiles(host),
      dockerBridges(host),
      defaultRouteInterfaces(host),
    ]);
    const around: UfwAround = {
      texts,
      files,
      enabled,
      ipv6: !stack ? 'no kernel support' : settings.get('ipv6') === 'yes' ? 'yes' : 'no',
      policy: settings.get('default_input_policy') ?? '',
      ...(kernel && { kernel }),
      docker,
      defaultRoutes,
    };
    const [v4, v6] = [observed('v4', around), observed('v6', around)];
    return { owned: { ranges: held(v4, v6), v4, v6 }, around };
  },

  plan(wanted, { owned, around }) {
    const files: Step[] = [];
    const loads: Step[] = [];
    for (const family of families) {
      const text = around.texts[family];
      const { at, blocks, loaded, order = [] } = wanted[family];
      const strays = (wanted.strays ?? []).filter((stray) => stray.family === family);
      // On the way back only those that were taken come back; what was written since then stays.
      const file = wanted.strays === undefined ? rulesOf(family, around) : around.files[family];
      const ours = edit(without(file, strays), blocks, at);
      const next = strays.length === 0 ? ours : putBack(ours, paths[family], strays, order);
      const restore = (stdin: string, ...words: string[]): Command => ({
        argv: [`${programs[family]}-restore`, '-w', '10', '-n', ...words],
        stdin,
      });
      const path = paths[family];
      if (next !== text)
        files.push({
          kind: 'file',
          summary: `ufw: write ${path}: ${count(blocks.length, 'rule')} of cfsync's`,
          path,
          content: next,
          mode: 0o640,
          expect: digest(text),
          // An error in the file would take the whole firewall down at the next `ufw reload` or boot.
          check: restore(next, '--test'),
        });
      if (isRunning(family, around) && (next !== text || (loaded && !owned[family].loaded))) {
        const change = moves(family, next, around);
        loads.push({
          kind: 'run',
          summary: `ufw: load ${change === undefined ? '' : 'the change of '}${path}`,
          command: restore(change ?? next),
        });
      }
    }
    return [...files, ...loads];
  },

  print(owned) {
    return families.flatMap((family) => artifact(family, owned));
  },

  adopt({ owned, around }, desired, known) {
    const ranges = merge(desired.ranges, desired.extra);
    const found = families.flatMap((family) => {
      if (!isUsed(family, around)) return [];
      const ours = (prefix: string): readonly string[] =>
        blocksFor(family, desired, parseRanges(ranges[family].filter((one) => meet(one, prefix))));
      const file = rulesOf(family, around);
      return [[family, leftovers(file, family, desired, known, ours)] as const];
    });
    const left = [...new Set(found.flatMap(([, one]) => one.left))];
    const strays = found.flatMap(([, one]) => one.strays);
    if (strays.length === 0) return { owned, around: { ...around, left } };
    const states = found.map(([family, { rest, order }]) => {
      const { loaded } = owned[family];
      return [family, { ...ownBlocks(rest), loaded, order }] as const;
    });
    const adopted = found.map(([family, { replaced }]) => [family, replaced] as const);
    return {
      owned: { ...owned, ...Object.fromEntries(states), strays },
      around: {
        ...around,
        left,
        adopted: Object.fromEntries(adopted),
        ...(around.kernel && { kernel: withoutStrays(around.kernel, strays) }),
      },
    };
  },
});

// ---- wanted ----

function refuseManyPorts(protocol: string, ports: readonly number[]): void {
  if (ports.length <= mostPorts) return;
  throw new CfsyncError(
    exit.failed,
    `ufw: ${ports.length} ${protocol} ports, and a ufw rule takes ${mostPorts}; nothing was changed; name fewer, or use --backend nftables`,
  );
}

function blocksFor(family: Family, desired: Desired, ranges: Ranges): readonly string[] {
  return protocols(desired)
    .filter(([, ports]) => ports.length > 0)
    .flatMap(([protocol, ports]) =>
      ranges[family].map((prefix) => block(family, protocol, ports.join(','), prefix)),
    )
    .sort();
}

function meet(one: string, other: string): boolean {
  return !isEmpty(intersect(parseRanges([one]), parseRanges([other])));
}

/** What our blocks hold in addresses. */
function held(v4: FamilyState, v6: FamilyState): Ranges {
  return parseRanges(claimsOf([...v4.blocks, ...v6.blocks]).flatMap((claim) => claim.sources));
}

/** ufw knows a rule by its ports and addresses; with two of them it would change or delete the first. */
function refuseClashes(
  blocks: Readonly<Record<Family, readonly string[]>>,
  around: UfwAround,
): void {
  const clashes = used(around).flatMap((family) => {
    const ours = new Set(blocks[family].map((text) => identity(tupleOf(text))));
    return rulesIn(family, around).filter((rule) => {
      const id = identity(rule);
      return id !== undefined && ours.has(id);
    });
  });
  if (clashes.length === 0) return;
  throw new CfsyncError(
    exit.failed,
    `ufw: ${count(clashes.length, 'rule')} without the comment cfsync ${clashes.length === 1 ? 'has' : 'have'} the ports and the source of one of ours, and ufw takes the two for one; nothing was changed; cfsync adopt takes over those that allow, or run what stands below, then cfsync again`,
    { detail: clashes.map((rule) => `ufw ${commandOf(rule)}: ${wayOut(rule)}`) },
  );
}

/** ufw changes the comment of an allow rule in place, so that nobody is locked out meanwhile. */
function wayOut(rule: Tuple): string {
  return rule.action === 'allow' && rule.log === ''
    ? `make it cfsync's with: ufw ${commandOf(rule)} comment 'cfsync'`
    : `delete it with: ufw delete ${commandOf(rule)}`;
}

function rulesIn(family: Family, around: UfwAround): readonly Tuple[] {
  return adminRules(rulesOf(family, around));
}

function rulesOf(family: Family, { adopted, files }: UfwAround): RulesFile {
  return adopted?.[family] ?? files[family];
}

// ---- who else gets in ----

/** Lockdown is what UFW does by itself, where nothing opens the ports. */
function refuseOpenings(desired: Desired, ranges: Ranges, around: UfwAround): void {
  const refuse = (why: string, detail: readonly string[] = []): never => {
    throw new CfsyncError(exit.failed, `ufw: mode lockdown does not hold: ${why}`, { detail });
  };
  if (!around.enabled)
    refuse(
      'UFW is inactive, everybody gets in; nothing was changed; apply with --mode allow first, then run ufw enable',
    );
  if (around.policy === 'accept')
    refuse(
      'UFW lets in whatever no rule forbids; nothing was changed; run ufw default deny incoming',
    );
  const rules = used(around).flatMap((family) => openingRules(family, desired, ranges, around));
  if (rules.length > 0)
    refuse(
      `${count(rules.length, 'rule')} of UFW ${rules.length === 1 ? 'lets' : 'let'} others than Cloudflare in; nothing was changed; delete what stands below, or name the source under extra in the configuration`,
      [...new Set(rules.map((rule) => `delete it with: ufw delete ${commandOf(rule)}`))],
    );
  for (const [family, listing] of listings(around)) {
    const policy = listing.policies.get('INPUT');
    if (policy !== 'DROP')
      refuse(
        `the kernel's policy for incoming ${labels[family]} is ${policy}, not UFW's; nothing was changed; ufw disable and ufw enable set it, with the firewall open for about a second`,
      );
    const opening = openingLines(family, listing, desired, ranges, around);
    if (opening.length > 0)
      refuse(
        `${labels[family]} rules in the kernel that are not in ${paths[family]} let others than Cloudflare in; nothing was changed; delete them where they come from (/etc/ufw/before.rules and before6.rules, scripts)`,
        opening.map((rule) => `${programs[family]} ${rule.text}`),
      );
  }
}

/** The admin's rules that let somebody who is not in the ranges reach one of the ports. */
function openingRules(
  family: Family,
  desired: Desired,
  ranges: Ranges,
  around: UfwAround,
): readonly Tuple[] {
  return rulesIn(family, around).filter(
    (rule) =>
      /^(allow|limit)$/.test(rule.action) &&
      !rule.route &&
      rule.direction === 'in' &&
      isPublic(rule.input, around) &&
      opens(
        {
          protocol: rule.protocol,
          ports: rule.ports,
          source: isAnywhere(rule.from) ? undefined : rule.from,
        },
        desired,
        ranges,
      ),
  );
}

/**
 * Rules in the kernel that do the same, in the chains that every incoming packet passes. Those of our
 * own form in UFW's chain are drift, which the next load takes away.
 */
function openingLines(
  family: Family,
  { rules }: Listing,
  desired: Desired,
  ranges: Ranges,
  around: UfwAround,
): readonly ChainRule[] {
  return rules.filter(
    (rule) =>
      /^(INPUT|ufw6?-(before|user|after)-input)$/.test(rule.chain) &&
      rule.target === 'ACCEPT' &&
      rule.conditions.length === 0 &&
      !(isRunning(family, around) && rule.chain === inputChain(family) && isOfOurForm(rule)) &&
      isPublic(rule.input ?? '', around) &&
      opens(rule, desired, ranges),
  );
}

/** A rule for one interface opens nothing where strangers do not come in: lo, VPNs, bridges. */
function isPublic(name: string, around: UfwAround): boolean {
  return name === '' || around.defaultRoutes.includes(name);
}

/** Cloudflare speaks only TCP to origins, so lockdown closes the ports over UDP too unless they are named. */
function opens(
  rule: {
    readonly protocol?: string;
    readonly ports?: string;
    readonly source?: string | undefined;
  },
  { mode, tcpPorts, udpPorts }: Desired,
  ranges: Ranges,
): boolean {
  const over = {
    tcp: tcpPorts,
    udp: mode === 'lockdown' ? [...tcpPorts, ...udpPorts] : udpPorts,
  };
  return (
    (['tcp', 'udp'] as const).some(
      (protocol) =>
        [undefined, 'any', protocol].includes(rule.protocol) &&
        over[protocol].some((port) => includesPort(rule.ports, port)),
    ) && !within(rule.source, ranges)
  );
}

// ---- what is said ----

function remarks(desired: Desired, v4: FamilyState, around: UfwAround): Notice[] {
  const notices: Notice[] = [];
  const say = (level: Notice['level'], text: string): void => void notices.push({ level, text });
  if (around.ipv6 === 'no kernel support')
    say('note', 'the kernel has no IPv6, so the IPv6 ranges are left out');
  else if (around.ipv6 === 'no')
    say(
      'note',
      'UFW leaves IPv6 alone (IPV6 in /etc/default/ufw is not yes), so the IPv6 ranges are left out',
    );
  if (!around.enabled)
    say('note', 'UFW is inactive: the rules are in its files and take effect with ufw enable');
  for (const [family, listing] of listings(around)) {
    if (!isUsed(family, around)) continue;
    const missing = missingLink(family, listing);
    if (missing !== undefined)
      say(
        'warning',
        `UFW is enabled, but its ${labels[family]} rules are not in force (${missing}); ufw disable and ufw enable load them, with the firewall open for about a second`,
      );
  }
  if (desired.mode === 'allow') {
    const open = used(around)
      .flatMap((family) => openingRules(family, desired, none, around))
      .filter((rule) => isAnywhere(rule.from))
      .map((rule) => `ufw ${commandOf(rule)}`);
    if (open.length > 0)
      say(
        'note',
        `the ports are open to everybody (${[...new Set(open)].join(', ')}), so mode allow changes nothing today; delete what opens them, then use --mode lockdown`,
      );
    else if (around.enabled && around.policy === 'accept')
      say(
        'note',
        'UFW lets in whatever no rule forbids, so mode allow changes nothing today; ufw default deny incoming closes what is not allowed',
      );
  }
  if (around.left?.length)
    say(
      'warning',
      `left alone, though for Cloudflare's ranges, because of other ports or more conditions: ${around.left.map((words) => `ufw ${words}`).join('; ')}; ufw delete and the same words take one away`,
    );
  if (around.docker.length > 0)
    say(
      desired.mode === 'lockdown' ? 'warning' : 'note',
      `ports that Docker publishes (${around.docker.join(', ')}) bypass UFW, strangers reach them; --backend nftables --mode lockdown covers them`,
    );
  if (v4.blocks.length > manyRules)
    say(
      'note',
      `${count(v4.blocks.length, 'rule')} are walked one by one for every new connection; --backend nftables looks a large list up at once`,
    );
  return notices;
}

// ---- what is in force ----

/** Whether UFW looks after a family at all. */
function isUsed(family: Family, around: UfwAround): boolean {
  return family === 'v4' || around.ipv6 === 'yes';
}

function used(around: UfwAround): readonly Family[] {
  return families.filter((family) => isUsed(family, around));
}

function listings({ kernel }: UfwAround): readonly (readonly [Family, Listing])[] {
  return families.flatMap((family) => {
    const listing = kernel?.[family];
    return listing === undefined ? [] : [[family, listing] as const];
  });
}

/** Whether there is a chain to load into. `ufw status` says inactive where it is missing. */
function isRunning(family: Family, around: UfwAround): boolean {
  return isUsed(family, around) && around.kernel?.[family]?.chains.has(inputChain(family)) === true;
}

/** What is missing on the way of a packet to the rules, in words. */
function missingLink(family: Family, { chains, rules }: Listing): string | undefined {
  const chain = inputChain(family);
  if (!chains.has(chain)) return `the kernel has no chain ${chain}`;
  const before = chain.replace('user', 'before');
  const gap = [
    ['INPUT', before],
    [before, chain],
  ].find(([from, to]) => !rules.some((rule) => rule.chain === from && rule.target === to));
  return gap && `no rule leads from ${gap[0]} to ${gap[1]}`;
}

function observed(family: Family, around: UfwAround): FamilyState {
  const file = around.files[family];
  const own = ownBlocks(file);
  if (!isRunning(family, around)) return { ...own, loaded: true };
  const { rules } = around.kernel![family]!;
  const chain = inputChain(family);
  const live = rules.filter((rule) => rule.chain === chain);
  return { ...own, loaded: isLoaded(own.blocks, fileLines(file), live, chain) };
}

/**
 * Whether the kernel's chain has our rules, before what would make them worthless, and none of our form
 * that the file does not have. The kernel knows no comments, so a rule there is ours by its form.
 */
function isLoaded(
  blocks: readonly string[],
  lines: readonly string[],
  live: readonly ChainRule[],
  chain: string,
): boolean {
  const keys = keysOf(lines, chain);
  const filed = new Set(keys.values());
  const own = blocks.flatMap((text) => text.split('\n'));
  const ours = new Set(own.map((line) => keys.get(line)));
  ours.delete(undefined);
  const claims = claimsLater(blocks);
  let hindered = false;
  for (const rule of live) {
    if (!isOfOurForm(rule)) {
      hindered ||= hinders(rule, claims) === 'whole';
      continue;
    }
    const key = ruleKey(rule);
    if (!filed.has(key)) return false;
    if (!hindered) ours.delete(key);
  }
  return ours.size === 0;
}

/** Of the rules of our form among lines of a file, by line. */
function keysOf(lines: readonly string[], chain: string): ReadonlyMap<string, string> {
  const keys = new Map<string, string>();
  for (const line of lines) {
    const rule = parseRule(line);
    if (rule?.chain === chain && isOfOurForm(rule)) keys.set(line, ruleKey(rule));
  }
  return keys;
}

/** What the kernel has without the rules that go. */
function withoutStrays(
  { v4, v6 }: Perhaps<Listing>,
  strays: readonly UfwStray[],
): Perhaps<Listing> {
  const strip = (family: Family, listing: Listing): Listing => {
    const keyOf = (rule: ChainRule | undefined): string | undefined =>
      rule?.chain === inputChain(family) && isAcceptFrom(rule) ? ruleKey(rule) : undefined;
    const theirs = strays.filter((stray) => stray.family === family);
    const lines = theirs.flatMap(({ part }) => part.split('\n'));
    const gone = new Set(lines.map((line) => keyOf(parseRule(line))));
    gone.delete(undefined);
    return { ...listing, rules: listing.rules.filter((rule) => !gone.has(keyOf(rule))) };
  };
  return { v4: strip('v4', v4), ...(v6 && { v6: strip('v6', v6) }) };
}

// ---- observe ----

/** /etc/default/ufw and ufw.conf, as `_get_defaults` of ufw 0.36.2 reads them. */
async function readSettings(host: Host): Promise<ReadonlyMap<string, string>> {
  const settings = new Map<string, string>();
  for (const path of ['/etc/default/ufw', '/etc/ufw/ufw.conf']) {
    const text = await host.read(path);
    if (text === undefined)
      throw new BackendError(
        'not installed',
        `ufw is not installed (there is no ${path}); install it (Debian: apt-get install ufw)`,
      );
    for (const line of text.split('\n')) {
      const match = /^(\w+)="?(\w+)"?/.exec(line);
      if (match !== null) settings.set(match[1]!.toLowerCase(), match[2]!.toLowerCase());
    }
  }
  // A package that was removed and not purged leaves its configuration behind.
  if ((await host.read('/usr/sbin/ufw')) === undefined)
    await host.query({ argv: ['ufw', '--version'] });
  return settings;
}

async function readRules(host: Host, path: string): Promise<string> {
  let text: string | undefined;
  try {
    text = await host.read(path);
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    if (errno(cause) !== 'EACCES') throw error;
    throw new BackendError('no permission', `ufw: reading ${path} needs root; run it with sudo`, {
      cause: error,
    });
  }
  if (text !== undefined) return text;
  throw new BackendError(
    'misconfigured',
    `ufw: there is no ${path}, without which no ufw command works; nothing was changed; install the package ufw again`,
  );
}

/** Read and parsed while programs run. */
async function readFiles(host: Host): Promise<readonly [UfwAround['texts'], UfwAround['files']]> {
  const texts = { v4: await readRules(host, paths.v4), v6: await readRules(host, paths.v6) };
  return [texts, { v4: parseRules(texts.v4, paths.v4), v6: parseRules(texts.v6, paths.v6) }];
}

async function readKernel(host: Host, stack: boolean): Promise<Perhaps<Listing>> {
  const [v4, v6] = await Promise.all([ask(host, 'v4'), stack ? ask(host, 'v6') : undefined]);
  return { v4, ...(v6 && { v6 }) };
}

async function ask(host: Host, family: Family): Promise<Listing> {
  const argv = [programs[family], '-w', '10', '-S'] as const;
  const outcome = await host.query({ argv });
  if (outcome.code !== 0) throw unusable(argv, outcome);
  return parseListing(outcome.stdout, `${programs[family]} -S`);
}

function unusable(argv: readonly string[], { code, stderr }: Outcome): BackendError {
  const detail = firstLines(stderr);
  if (/Permission denied|Operation not permitted/.test(stderr))
    return new BackendError(
      'no permission',
      'ufw: reading the rules needs root (CAP_NET_ADMIN); run it with sudo',
      { detail },
    );
  return new BackendError(
    'broken',
    `ufw: ${argv.join(' ')} failed with code ${code}; nothing was changed; ufw itself cannot work before that does`,
    { detail },
  );
}

// ---- plan ----

/**
 * What takes the kernel to another text of the file and leaves every other rule alone, its counters included.
 * Undefined where the kernel's chain is not as the file says, or where there is more to do than to delete and
 * insert in it: then the file is loaded.
 */
function moves(family: Family, to: string, { texts, kernel }: UfwAround): string | undefined {
  const chain = inputChain(family);
  const isHere = (line: string): boolean => line.startsWith(`-A ${chain} `);
  const before = ruleLines(texts[family]);
  const after = ruleLines(to);
  const filed = before.filter(isHere).map((line) => parseRule(line)!);
  const live = kernel![family]!.rules.filter((rule) => rule.chain === chain);
  if (!isDeepStrictEqual(filed.map(meaning), live.map(meaning))) return undefined;
  const [old, wanted] = [new Set(before), new Set(after)];
  const gone = before.filter((line) => !wanted.has(line));
  const added = after.filter((line) => !old.has(line));
  const stay = before.filter((line) => wanted.has(line));
  const stayed = after.filter((line) => old.has(line));
  const differing = [...gone, ...added];
  if (differing.length === 0 || !differing.every(isHere) || !isDeepStrictEqual(stay, stayed))
    return undefined;
  // For each number the chain is walked: 10,000 take 600 ms, and 200 to load them (1.8.9, nf_tables).
  if (differing.length > manyRules) return undefined;
  const deletions = gone.map((line) => line.replace('-A', '-D'));
  const insertions = after
    .filter(isHere)
    .flatMap((line, i) => (old.has(line) ? [] : [line.replace(/^-A \S+/, `-I ${chain} ${i + 1}`)]));
  return ['*filter', ...deletions, ...insertions, 'COMMIT\n'].join('\n');
}

function ruleLines(text: string): readonly string[] {
  return text.split('\n').filter((line) => line.startsWith('-A '));
}

// ---- print ----

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
