/**
 * CSF (ConfigServer Firewall): own files behind one Include line in csf.allow and csf.ignore, and the same
 * rules in the running firewall.
 *
 * For each range a line for the way in and one for the way out: `csf -d` and lfd do not see advanced filters,
 * so a banned edge address gets a rule in DENYOUT, which drops the answers unless ALLOWOUT comes first
 * (measured with CSF 15.10). csf.ignore keeps lfd from banning them.
 *
 * `csf -r` flushes every table of iptables, fail2ban's and Docker's chains with it, and one bad line leaves the
 * host open to all. So the rules come and go one by one in CSF's own chains, in the form that CSF gives them,
 * and `csf -r` runs only where it is asked for and nothing of others would die.
 *
 * The rules carry no mark, because those that CSF makes at its own restarts have none. Ours are those that
 * cfsync.allow names, as often as the admin's own lines do not. The file therefore names a rule that goes
 * until it is gone from the kernel.
 */
import { BackendError, CfsyncError, errno, exit } from '../../src/errors.ts';
import { addBlock, block, hasBlock, removeBlock } from './block.ts';
import { isOn, opened, parseConf, type Conf } from './conf.ts';
import { leftovers, withLines, withoutLines, type CsfStray } from './leftovers.ts';
import {
  chainOf,
  effectiveLines,
  entriesIn,
  entriesOf,
  familyOf,
  includes,
  lineOf,
  ruleOf,
  type Entry,
  type Style,
} from './lines.ts';
import { digest } from '../../src/digest.ts';
import {
  parseSave,
  wordsOf,
  type SavedRule,
  type SavedTable,
} from '../../src/filters/iptables/save.ts';
import { bool, checkKeys } from '../../src/plugin/options.ts';
import { canonical, merge, none, parseRanges, type Family } from '../../src/prefix.ts';
import {
  defineRenderer,
  type Desired,
  type FileStep,
  type Host,
  type Notice,
  type Observed,
  type Owned,
  type Ranges,
  type Step,
} from '../../src/renderer.ts';
import { count, escape, firstLines } from '../../src/text.ts';

export interface CsfOptions {
  /** Bring the running firewall up to date with `csf -r` and not rule by rule. */
  readonly reload: boolean;
}

export interface CsfOwned extends Owned {
  readonly strays?: readonly CsfStray[];
  /** The texts of csf.allow and csf.ignore that the strays stand in; absent without strays. */
  readonly theirs?: Readonly<Record<Name, string | null>>;
  /** The texts of cfsync.allow and cfsync.ignore, null where there is none. */
  readonly allow: string | null;
  readonly ignore: string | null;
  /** Whether csf.allow and csf.ignore name them. */
  readonly blocks: Readonly<Record<Name, boolean>>;
  /** The lines that are loaded, as often as they are; null: as cfsync.allow says, where CSF filters at all. */
  readonly loaded: Readonly<Record<Family, readonly string[] | null>>;
}

/** The host around it. */
export interface CsfAround {
  readonly conf: Conf;
  /** The texts of csf.allow and csf.ignore. */
  readonly files: Readonly<Record<Name, string | null>>;
  /** The tables of iptables; v6 undefined where CSF does not filter IPv6. */
  readonly kernel: { readonly v4: readonly SavedTable[]; readonly v6?: readonly SavedTable[] };
  /** The lines that load rules in ALLOWIN and ALLOWOUT beside ours, in the form of `lineOf`. */
  readonly others: readonly string[];
  /** Lines for Cloudflare's ranges that cannot be taken over. */
  readonly left?: readonly string[];
  readonly disabled: boolean;
  /** The text of cfsync.allow. */
  readonly own: string | null;
  /** A csf is at work that flushes and loads everything. */
  readonly restarting: boolean;
  /** What csf.error says of the last start. */
  readonly error: string | null;
  /** `stale`: it runs, and read the lists before cfsync.ignore was changed. */
  readonly lfd: 'stopped' | 'current' | 'stale';
  /** Whether the host has IPv6. */
  readonly ipv6: boolean;
  readonly reload: boolean;
  /** What `csf -r` would delete of other programs. */
  readonly foreign: readonly string[];
}

type Name = 'allow' | 'ignore';

const folder = '/etc/csf';
const files = { allow: `${folder}/csf.allow`, ignore: `${folder}/csf.ignore` } as const;
const own = { allow: `${folder}/cfsync.allow`, ignore: `${folder}/cfsync.ignore` } as const;
const lockFile = '/var/lib/csf/csf.lock';
const pidFile = '/run/lfd.pid';
const names = ['allow', 'ignore'] as const;
const families = ['v4', 'v6'] as const;
const directions = ['in', 'out'] as const;

/** The settings that open ports to everybody. */
const openSettings = {
  tcp: { v4: 'TCP_IN', v6: 'TCP6_IN' },
  udp: { v4: 'UDP_IN', v6: 'UDP6_IN' },
} as const;

const programs = {
  save: { v4: ['IPTABLES_SAVE', 'iptables-save'], v6: ['IP6TABLES_SAVE', 'ip6tables-save'] },
  restore: {
    v4: ['IPTABLES_RESTORE', 'iptables-restore'],
    v6: ['IP6TABLES_RESTORE', 'ip6tables-restore'],
  },
} as const;

/** xt_multiport.h, XT_MULTI_PORTS; one more, and CSF 15.10 fails open. */
const mostPorts = 15;

/** From here on a set, which CSF does not have for ports, is worth it: 10,000 rules cost 175 us a packet. */
const manyPrefixes = 200;

const nothing: CsfOwned = {
  ranges: none,
  allow: null,
  ignore: null,
  blocks: { allow: false, ignore: false },
  loaded: { v4: null, v6: null },
};

export default defineRenderer<CsfOptions, CsfOwned, CsfAround>({
  api: 1,
  name: 'csf',
  kind: 'filter',
  conflicts: {
    iptables: 'CSF flushes every chain of iptables when it restarts',
    ufw: 'both are front ends of the same chains, and CSF flushes those of UFW when it restarts',
  },

  options(raw) {
    checkKeys(raw, ['reload'], 'csf');
    return { reload: bool(raw.reload ?? false, 'csf: reload') };
  },

  // `csf -a` takes it while it writes. `csf -r` waits for it, with all tables flushed (ConfigServer::Slurp), so
  // it is not held over one of ours. csf.lock is never taken: `csf -r`, also the one at boot, does not wait
  // for that and gives up.
  locks({ reload }) {
    return reload ? [] : [{ kind: 'flock', path: files.allow }];
  },

  nothing,

  want(desired, { reload }, around) {
    const ranges = merge(desired.ranges, desired.extra);
    const owned: CsfOwned = {
      ...nothing,
      ranges,
      allow: allowText(entries(desired, ranges).map(lineOf)),
      ignore: ignoreText(desired.ranges),
      blocks: { allow: true, ignore: true },
    };
    if (around === undefined) return { owned, notices: [] };
    refuse(owned, reload, around);
    if (desired.mode === 'lockdown') refuseOpen(desired, around);
    return { owned, notices: remarks(desired, ranges, around) };
  },

  async observe(host, options) {
    try {
      return await look(host, options);
    } catch (error) {
      const code = error instanceof CfsyncError && errno(error.cause);
      if (code !== 'EACCES' && code !== 'EPERM') throw error;
      throw new BackendError(
        'no permission',
        `csf: ${folder} is for root alone; run cfsync as root`,
        { cause: error },
      );
    }
  },

  plan(wanted, observed) {
    const { owned, around } = observed;
    const now = linesIn(owned.allow);
    const then = wanted.allow === owned.allow ? now : linesIn(wanted.allow);
    const kernel = kernelSteps(wanted, observed, now, then);
    const reloads = around.reload && (kernel.length > 0 || isDown(around));
    const meanwhile =
      wanted.allow === null
        ? owned.allow
        : kernel.length === 0 || reloads
          ? wanted.allow
          : withLeaving(wanted.allow, now, then);
    // A line of theirs leaves csf.allow after its rules, which nobody would know otherwise.
    const allow = listText('allow', wanted, observed, kernel.length > 0 && !reloads);
    const lists: Step[] = [
      ...ownFile('allow', owned.allow, meanwhile),
      ...(wanted.ignore === null ? [] : ownFile('ignore', owned.ignore, wanted.ignore)),
      ...listSteps('allow', around.files.allow, allow),
      ...listSteps('ignore', around.files.ignore, listText('ignore', wanted, observed)),
    ];
    const rest: Step[] = [
      ...listSteps('allow', allow, listText('allow', wanted, observed)),
      ...ownFile('allow', meanwhile, wanted.allow),
      ...(wanted.ignore === null ? ownFile('ignore', owned.ignore, null) : []),
    ];
    const forLfd =
      around.lfd === 'stale' ||
      [...lists, ...rest].some((step) => step.kind === 'file' && step.path.endsWith('.ignore'));
    return [
      ...lists,
      ...(reloads ? [reloadStep(around)] : kernel),
      ...rest,
      // After a failed start lfd does not start either, nor does any command of csf but -r.
      ...(forLfd && (reloads || !isDown(around)) ? lfdSteps(around) : []),
    ];
  },

  print(owned) {
    return [
      ...names.flatMap((name) => [
        ...listArtifact(name, owned),
        ...(owned[name] === null ? [] : [{ path: `csf/cfsync.${name}`, content: owned[name] }]),
      ]),
      ...differences(owned),
    ];
  },

  adopt({ owned, around }, desired, known) {
    const sets = isOn(around.conf, 'LF_IPSET');
    const found = names.map((name) =>
      leftovers(name, around.files[name] ?? '', desired, known, sets),
    );
    const left = found.flatMap((one) => one.left);
    const strays = found.flatMap((one) => one.strays);
    if (strays.length === 0) return { owned, around: { ...around, left } };
    return {
      owned: { ...owned, strays: withLoaded(strays, owned, around), theirs: around.files },
      around: { ...around, left },
    };
  },
});

// ---- wanted ----

/** Checked here once more: one bad port, and CSF leaves the host open at its next start (15.10, FASTSTART). */
function entries(desired: Desired, ranges: Ranges): Entry[] {
  const lists = [
    ['tcp', desired.tcpPorts],
    ['udp', desired.udpPorts],
  ] as const;
  for (const [protocol, ports] of lists) {
    if (ports.length > mostPorts)
      throw new CfsyncError(
        exit.failed,
        `csf: ${ports.length} ${protocol.toUpperCase()} ports are more than the ${mostPorts} that a line of csf.allow takes; nothing was changed; name fewer, or use --backend nftables`,
      );
    const wrong = ports.find((port) => !Number.isInteger(port) || port < 1 || port > 65535);
    if (wrong !== undefined)
      throw new CfsyncError(exit.failed, `csf: ${wrong} is not a port; nothing was changed`);
  }
  const prefixes = [...ranges.v4, ...ranges.v6];
  for (const prefix of prefixes)
    // A width of 0 would be the whole world.
    if (canonical(prefix)?.text !== prefix || prefix.endsWith('/0'))
      throw new CfsyncError(
        exit.failed,
        `csf: ${escape(prefix)} is not a prefix that CSF takes; nothing was changed`,
      );
  return prefixes.flatMap((prefix) =>
    lists.flatMap(([protocol, ports]) =>
      ports.length === 0
        ? []
        : directions.map((direction) => ({ protocol, direction, ports: ports.join(','), prefix })),
    ),
  );
}

function allowText(lines: readonly string[]): string {
  return text('Written by cfsync: who may reach the ports, and where answers may go.', lines);
}

function ignoreText({ v4, v6 }: Ranges): string {
  return text('Written by cfsync: the addresses that lfd must not ban.', [...v4, ...v6]);
}

function text(head: string, lines: readonly string[]): string {
  return [`# ${head}`, '# Do not edit; cfsync remove takes it away.', ...lines, ''].join('\n');
}

function refuse(owned: CsfOwned, reload: boolean, around: CsfAround): void {
  // With the same lines it loads what is wanted, also when it started while cfsync was at work.
  if (around.restarting && around.own !== owned.allow)
    throw new CfsyncError(
      exit.busy,
      `csf: CSF is being restarted by somebody else (${lockFile}); nothing was changed; try again later`,
    );
  if (around.error !== null && !reload)
    throw new CfsyncError(
      exit.failed,
      `csf: the last start of CSF failed, and the host may be open to all (${folder}/csf.error: ${around.error}); nothing was changed; put that right, run csf -r, and run cfsync again`,
    );
  if (reload && isOn(around.conf, 'LFDSTART'))
    throw new CfsyncError(
      exit.failed,
      `csf: LFDSTART = "1" in csf.conf: csf -r would only ask lfd to restart CSF later; nothing was changed; leave out --csf-reload, the running rules are brought up to date without it`,
    );
}

/** Lockdown is CSF's own policy of dropping what nothing opens; cfsync can only see to it that nothing does. */
function refuseOpen(desired: Desired, around: CsfAround): void {
  const { conf, kernel } = around;
  const no = (why: string, instead: string): never => {
    throw new CfsyncError(exit.failed, `csf: lockdown: ${why}; nothing was changed; ${instead}`);
  };
  if (around.restarting) return;
  if (!filters(around, 'v4'))
    no(
      around.disabled ? 'CSF is disabled (csf.disable)' : 'CSF is not running',
      around.disabled ? 'enable it with csf -e' : 'start it with csf -s',
    );
  if (isOn(conf, 'TESTING'))
    no(
      'TESTING = "1" in csf.conf clears the firewall every few minutes',
      'set TESTING = "0" and run csf -r',
    );
  if (!isOn(conf, 'IPV6') && around.ipv6)
    no(
      'IPV6 = "0" in csf.conf, so CSF lets everybody in over IPv6',
      'set IPV6 = "1" and run csf -r, or switch IPv6 off on this host',
    );
  const open = openPorts(desired, around);
  if (open.length > 0)
    no(
      `${open.map(({ name, ports }) => `${name} in csf.conf opens ${ports.join(', ')}`).join('; ')} to everybody`,
      'take that out there, run csf -r, and run cfsync again',
    );
  if (isOn(conf, 'IPV6') && !filters(around, 'v6')) no('CSF is not running for IPv6', 'run csf -r');
  for (const family of families)
    for (const port of closed(desired)) {
      const rule = inputRules(kernel[family]).find((r) => letsIn(r, port));
      if (rule !== undefined)
        no(
          `the running firewall still opens ${port} to everybody (-A INPUT ${escape(rule.text)})`,
          'run csf -r, or delete that rule',
        );
    }
  for (const name of ['CC_ALLOW', 'CC_ALLOW_PORTS'])
    if (isOn(conf, name) && (name === 'CC_ALLOW' || countryPorts(conf, closed(desired))))
      no(
        `${name} = "${escape(conf[name]!)}" in csf.conf lets whole countries in`,
        'take that out there, run csf -r, and run cfsync again',
      );
}

function countryPorts(conf: Conf, ports: readonly number[]): boolean {
  return ['CC_ALLOW_PORTS_TCP', 'CC_ALLOW_PORTS_UDP'].some(
    (name) => opened(conf, name, ports).length > 0,
  );
}

/** What is to be open to nobody else, over TCP and UDP. */
function closed({ tcpPorts, udpPorts }: Desired): number[] {
  return [...new Set([...tcpPorts, ...udpPorts])].sort((a, b) => a - b);
}

function openPorts(
  desired: Desired,
  { conf }: CsfAround,
): { readonly name: string; readonly ports: readonly number[] }[] {
  const ports =
    desired.mode === 'lockdown'
      ? { tcp: closed(desired), udp: closed(desired) }
      : { tcp: desired.tcpPorts, udp: desired.udpPorts };
  return (['tcp', 'udp'] as const).flatMap((protocol) =>
    families.flatMap((family) => {
      if (family === 'v6' && !isOn(conf, 'IPV6')) return [];
      const name = openSettings[protocol][family];
      const found = opened(conf, name, ports[protocol]);
      return found.length === 0 ? [] : [{ name, ports: found }];
    }),
  );
}

function inputRules(tables: readonly SavedTable[] | undefined): readonly SavedRule[] {
  return table(tables, 'filter')?.rules.filter((rule) => rule.chain === 'INPUT') ?? [];
}

/** A rule of the kind that TCP_IN becomes: a port, and any source. */
function letsIn({ text }: SavedRule, port: number): boolean {
  const words = wordsOf(text);
  const [option = '', list = '', jump, target = ''] = words.slice(-4);
  return (
    /^--dports?$/.test(option) &&
    jump === '-j' &&
    /^(LOG)?ACCEPT$/.test(target) &&
    !words.includes('-s') &&
    ['tcp', 'udp'].includes(words[words.indexOf('-p') + 1] ?? '') &&
    opened({ list }, 'list', [port]).length > 0
  );
}

function remarks(desired: Desired, ranges: Ranges, around: CsfAround): Notice[] {
  const notices: Notice[] = [];
  const note = (text: string): void => void notices.push({ level: 'note', text });
  const warn = (text: string): void => void notices.push({ level: 'warning', text });
  const { conf } = around;
  if (around.restarting)
    warn('CSF is being restarted, and loads the lines of cfsync.allow by itself');
  else if (around.disabled)
    warn('CSF is disabled (csf.disable), so only its files are kept; csf -e enables it');
  else if (!filters(around, 'v4'))
    warn('CSF is not running, so only its files are kept; csf -s starts it');
  else if (isOn(conf, 'IPV6') && !filters(around, 'v6'))
    warn('CSF is not running for IPv6, though csf.conf says IPV6 = "1"; csf -r starts it');
  if (isOn(conf, 'TESTING'))
    warn(
      'TESTING = "1" in csf.conf: CSF clears the firewall every few minutes and lfd does not start; set it to "0" and run csf -r',
    );
  if (!isOn(conf, 'IPV6') && around.ipv6)
    note(
      'IPV6 = "0" in csf.conf: CSF leaves IPv6 open and skips the IPv6 lines of cfsync.allow; set it to "1" and run csf -r',
    );
  if (desired.mode === 'allow')
    for (const { name, ports } of openPorts(desired, around))
      note(
        `${name} in csf.conf opens ${ports.join(', ')} to everybody, so mode allow restricts nothing there; take that out and run csf -r, then only Cloudflare gets in`,
      );
  if (around.left?.length)
    warn(
      `left alone in ${files.allow}, though for Cloudflare's ranges, because of other ports${isOn(conf, 'LF_IPSET') ? ' or because LF_IPSET keeps them in sets' : ''}: ${around.left.map(escape).join('; ')}`,
    );
  const published = closed(desired).filter((port) =>
    families.some((family) =>
      table(around.kernel[family], 'nat')?.rules.some(
        ({ text }) => text.includes(` --dport ${port} `) && text.includes('-j DNAT'),
      ),
    ),
  );
  if (published.length > 0)
    warn(
      `port ${published.join(', ')} is sent on by DNAT (published by Docker), where CSF does not filter it; --backend nftables --mode lockdown covers it`,
    );
  const prefixes = ranges.v4.length + ranges.v6.length;
  if (prefixes > manyPrefixes)
    note(
      `${count(prefixes, 'prefix', 'prefixes')} are as many rules, which every packet passes one by one; --backend nftables takes them as a set`,
    );
  return notices;
}

// ---- observed ----

async function look(host: Host, { reload }: CsfOptions): Promise<Observed<CsfOwned, CsfAround>> {
  if ((await host.list(folder)) === undefined)
    throw new BackendError(
      'not installed',
      `csf: there is no ${folder}; install CSF, or use --backend nftables`,
    );
  const config = await host.read(`${folder}/csf.conf`);
  if (config === undefined)
    throw new BackendError(
      'misconfigured',
      `csf: there is no ${folder}/csf.conf; install CSF again, which keeps the other files`,
    );
  const conf = parseConf(config);
  const read = async (path: string): Promise<string | null> => (await host.read(path)) ?? null;
  const [allow, ignore, ownAllow, ownIgnore] = [
    await read(files.allow),
    await read(files.ignore),
    await read(own.allow),
    await read(own.ignore),
  ];
  const error = await read(`${folder}/csf.error`);
  const kernel = {
    v4: await saved(host, conf, 'v4'),
    ...(isOn(conf, 'IPV6') ? { v6: await saved(host, conf, 'v6') } : {}),
  };
  const around: CsfAround = {
    conf,
    files: { allow, ignore },
    kernel,
    others: await otherLines(host, allow),
    disabled: (await read(`${folder}/csf.disable`)) !== null,
    own: ownAllow,
    restarting: await isRestarting(host),
    error: error === null ? null : (firstLines(error, 1)[0] ?? 'no reason given'),
    lfd: await lfdState(host),
    ipv6: await hasIpv6(host),
    reload,
    foreign: reload ? await foreign(host, conf, kernel) : [],
  };
  const held = linesIn(ownAllow);
  const owned: CsfOwned = {
    ranges: parseRanges([...held.values()].map((entry) => entry.prefix)),
    allow: ownAllow,
    ignore: ownIgnore,
    blocks: {
      allow: hasBlock(allow ?? '', own.allow),
      ignore: hasBlock(ignore ?? '', own.ignore),
    },
    loaded: { v4: loaded(held, around, 'v4'), v6: loaded(held, around, 'v6') },
  };
  return { owned, around };
}

/** With the programs that csf.conf names: where both variants of iptables are installed, only one is CSF's. */
function program(conf: Conf, kind: keyof typeof programs, family: Family): string {
  const [setting, name] = programs[kind][family];
  return conf[setting]?.startsWith('/') ? conf[setting] : name;
}

async function saved(host: Host, conf: Conf, family: Family): Promise<readonly SavedTable[]> {
  const name = program(conf, 'save', family);
  const { code, stdout, stderr } = await host.query({ argv: [name], timeout: 120_000 });
  if (code === 0) return parseSave(stdout, name);
  throw new BackendError(
    'broken',
    `csf: ${escape(name)} ended with code ${code}; look at what it says, csf.conf names it`,
    { detail: firstLines(stderr) },
  );
}

/** Lines of csf.allow, of the files that it names, and of `csf -ta`. */
async function otherLines(host: Host, allow: string | null): Promise<string[]> {
  const lines: string[] = [];
  const seen = new Set<string>([own.allow]);
  const texts = [allow ?? ''];
  for (const text of texts) {
    for (const line of effectiveLines(text)) lines.push(line);
    for (const path of includes(text)) {
      if (seen.has(path)) continue;
      seen.add(path);
      texts.push((await host.read(path)) ?? '');
    }
  }
  const temporary = (await host.read('/var/lib/csf/csf.tempallow')) ?? '';
  for (const line of temporary.split('\n')) {
    const [, address = '', ports = '', direction = ''] = line.split('|');
    if (!direction.includes('in')) continue;
    for (const [port, protocol = 'tcp'] of ports.split(',').map((p) => p.split(';')))
      lines.push(`${protocol}|in|d=${port}|s=${address}`);
  }
  return lines.flatMap((line) => {
    return entriesIn(line).map(lineOf);
  });
}

/** Looked up and not tried: a csf that starts in that moment would give up. */
async function isRestarting(host: Host): Promise<boolean> {
  const { code, stdout } = await host.query({ argv: ['stat', '-c', '%i', lockFile] });
  const locks = (await host.read('/proc/locks')) ?? '';
  return code === 0 && locks.includes(`:${stdout.trim()} 0 EOF`);
}

async function lfdState(host: Host): Promise<CsfAround['lfd']> {
  const pid = (await host.read(pidFile))?.trim() ?? '';
  const command = /^\d+$/.test(pid) ? await host.read(`/proc/${pid}/cmdline`) : undefined;
  if (!command?.includes('lfd')) return 'stopped';
  // lfd writes its number before it reads the lists, both once, when it starts.
  const newer = await host.query({ argv: ['test', own.ignore, '-nt', pidFile] });
  return newer.code === 0 ? 'stale' : 'current';
}

async function hasIpv6(host: Host): Promise<boolean> {
  const off = await host.read('/proc/sys/net/ipv6/conf/all/disable_ipv6');
  return off !== undefined && off.trim() === '0';
}

function table(tables: readonly SavedTable[] | undefined, name: string): SavedTable | undefined {
  return tables?.find((t) => t.name === name);
}

/** Whether CSF's chains are there, and nobody is about to fill them. */
function filters({ kernel, restarting }: CsfAround, family: Family): boolean {
  if (restarting) return false;
  const chains = table(kernel[family], 'filter')?.chains.map((chain) => chain.name) ?? [];
  return directions.every((direction) => chains.includes(chainOf[direction]));
}

/** How the rules of the running CSF look; csf.conf may have changed since it started. */
function styleOf({ kernel }: CsfAround, family: Family): Style {
  // CSF gives advanced filters of both families the interface of IPv4 (ETH_DEVICE).
  const device = (chain: string, target: string, otherwise: string): string =>
    table(kernel.v4, 'filter')
      ?.rules.filter((rule) => rule.chain === chain)
      .map(({ text }) => new RegExp(`^(.*) -j ${target}$`).exec(text)?.[1])
      .find((words) => words !== undefined) ?? otherwise;
  const watched = table(kernel[family], 'filter')?.chains.some((c) => c.name === 'LOGACCEPT');
  return {
    in: device('LOCALINPUT', chainOf.in, '! -i lo'),
    out: device('LOCALOUTPUT', chainOf.out, '! -o lo'),
    accept: watched ? 'LOGACCEPT' : 'ACCEPT',
  };
}

/** How often each rule is in the chains of CSF. */
function counter(around: CsfAround, family: Family): (entry: Entry) => number {
  const rules = new Map<string, number>();
  for (const { chain, text } of table(around.kernel[family], 'filter')?.rules ?? []) {
    const key = `${chain} ${text}`;
    rules.set(key, (rules.get(key) ?? 0) + 1);
  }
  const style = styleOf(around, family);
  return (entry) => rules.get(`${chainOf[entry.direction]} ${ruleOf(entry, style)}`) ?? 0;
}

function times(lines: readonly string[]): (line: string) => number {
  const found = new Map<string, number>();
  for (const line of lines) found.set(line, (found.get(line) ?? 0) + 1);
  return (line) => found.get(line) ?? 0;
}

/** What of the entries is loaded; null when that is exactly what the file says, or nothing can be. */
function loaded(held: Lines, around: CsfAround, family: Family): readonly string[] | null {
  if (!filters(around, family)) return null;
  const inKernel = counter(around, family);
  const others = times(around.others);
  const all = [...held].filter(([, entry]) => familyOf(entry) === family);
  const found = all.flatMap(([line, entry]) => {
    const n = inKernel(entry);
    return n === 0 ? [] : Array<string>(Math.max(1, n - others(line))).fill(line);
  });
  return found.join() === all.map(([line]) => line).join() ? null : found;
}

/** The chains and rules of other programs, all of which `csf -r` deletes. */
async function foreign(
  host: Host,
  conf: Conf,
  kernel: CsfAround['kernel'],
): Promise<readonly string[]> {
  const lists = effectiveLines((await host.read(`${folder}/csf.blocklists`)) ?? '').map((line) =>
    line.split('|')[0]!.toUpperCase().slice(0, 25),
  );
  const redirects = effectiveLines((await host.read(`${folder}/csf.redirect`)) ?? '').length > 0;
  const forwards = redirects || isOn(conf, 'DOCKER');
  const translates = forwards || ['MESSENGER', 'SMTP_REDIRECT'].some((name) => isOn(conf, name));
  const found = families.flatMap((family) =>
    (kernel[family] ?? []).flatMap((t) => {
      const where = `table ${t.name} of ${family === 'v4' ? 'iptables' : 'ip6tables'}`;
      const chains = t.chains.filter(({ name, policy }) => {
        if (policy !== null || csfChain.test(name) || lists.includes(name)) return false;
        const empty = !t.rules.some((rule) => rule.chain === name);
        return !(name === 'DOCKER' && isOn(conf, 'DOCKER') && empty);
      });
      const rules = t.rules.filter(({ chain, text }) => {
        if (t.chains.find((c) => c.name === chain)?.policy === null) return false;
        if (t.name === 'filter') return chain === 'FORWARD' && !forwards;
        if (t.name === 'nat') return !translates;
        return !text.includes('-j CT --helper ftp');
      });
      return [
        ...chains.map(({ name }) => `chain ${escape(name)} in ${where}`),
        ...rules.map((rule) => `rule -A ${rule.chain} ${escape(rule.text)} in ${where}`),
      ];
    }),
  );
  if (!isOn(conf, 'LF_IPSET')) return found;
  // With LF_IPSET csf -r also flushes and destroys every set on the host.
  const ipset = conf.IPSET?.startsWith('/') ? conf.IPSET : 'ipset';
  const { stdout } = await host.query({ argv: [ipset, 'list', '-n'] });
  const sets = stdout.split('\n').filter((name) => name !== '' && !csfSet.test(name));
  return [...found, ...sets.map((name) => `ipset ${escape(name)}`)];
}

/** The chains that CSF makes itself (csf.pl, 14 and 15), beside those named after block lists. */
const csfChain =
  /^(?:LOGACCEPT|CC_ALLOW(?:F|P|PORTS)?|CC_DENY(?:P|PORTS)?|(?:BLOCK|CC|INV)DROP|INVALID|G?(?:ALLOW|DENY)(?:IN|OUT)|(?:ALLOWDYN|GDYN)(?:IN|OUT)|SYNFLOOD|PORTFLOOD|UDPFLOOD|CONNLIMIT|LOGDROP(?:IN|OUT)|LOCAL(?:INPUT|OUTPUT)|SMTPOUTPUT|PK_\d+_S\d+_IN|X_CXS_\w+)$/;
const csfSet = /^(?:chain_|cc_|bl_|MESSENGER)/;

// ---- plan ----

type Lines = ReadonlyMap<string, Entry>;

/** The lines of a text that name rules, in order. */
function linesIn(text: string | null): Lines {
  return new Map(entriesOf(text).map((entry) => [lineOf(entry), entry]));
}

/** A rule that cfsync.allow does not name is nobody's: what goes stays in the file until it is gone. */
function withLeaving(text: string, now: Lines, then: Lines): string {
  const leaving = [...now.keys()].filter((line) => !then.has(line)).map((line) => `${line}\n`);
  return [text.endsWith('\n') ? text : `${text}\n`, ...leaving].join('');
}

/** CSF failed at its last start and left nothing in place. */
function isDown({ error, disabled, restarting }: CsfAround): boolean {
  return error !== null && !disabled && !restarting;
}

function fileStep(path: string, now: string | null, then: string | null): FileStep[] {
  if (now === then) return [];
  const verb = then === null ? 'delete' : now === null ? 'write' : 'rewrite';
  return [
    {
      kind: 'file',
      summary: `csf: ${verb} ${path}`,
      path,
      content: then,
      mode: 0o600,
      expect: now === null ? null : digest(now),
    },
  ];
}

function ownFile(name: Name, now: string | null, then: string | null): FileStep[] {
  return fileStep(own[name], now, then);
}

/** What is to stand in csf.allow or csf.ignore; with `keep`, what goes of theirs still does. */
function listText(
  name: Name,
  wanted: CsfOwned,
  { around, owned }: Observed<CsfOwned, CsfAround>,
  keep = false,
): string | null {
  const now = around.files[name];
  const path = own[name];
  const lines = (strays: readonly CsfStray[] = []): string[] =>
    strays.filter((stray) => stray.list === name).map((stray) => stray.line);
  const before = wanted.theirs?.[name];
  let text = now;
  if (now !== null && wanted.strays !== undefined) {
    text = withLines(now, path, lines(wanted.strays), before ?? undefined);
    if (text === before) return text;
  } else if (now !== null && !keep) text = withoutLines(now, path, new Set(lines(owned.strays)));
  if (!wanted.blocks[name]) return text && removeBlock(text, path);
  return owned.blocks[name] ? text : addBlock(text ?? '', path);
}

function listSteps(name: Name, now: string | null, then: string | null): Step[] {
  if (then !== now && now?.includes('\ufffd'))
    throw new CfsyncError(
      exit.failed,
      `csf: ${files[name]} has bytes that are not UTF-8, which a change would lose; nothing was changed; convert it, for instance with iconv -f latin1`,
    );
  return fileStep(files[name], now, then);
}

function withLoaded(
  strays: readonly Omit<CsfStray, 'loaded'>[],
  owned: CsfOwned,
  around: CsfAround,
): readonly CsfStray[] {
  const names = strays.flatMap((stray) => entryNames(stray));
  const beside = times([...without(around.others, names), ...linesIn(owned.allow).keys()]);
  const counters = { v4: counter(around, 'v4'), v6: counter(around, 'v6') };
  const counted = new Map<string, number>();
  return strays.map((stray) => ({
    ...stray,
    loaded: strayEntries(stray).flatMap((entry) => {
      const line = lineOf(entry);
      const n = counted.get(line) ?? beside(line);
      counted.set(line, n + 1);
      return counters[familyOf(entry)](entry) > n ? [line] : [];
    }),
  }));
}

/** What a line of theirs loads; csf.ignore loads nothing. */
function strayEntries({ list, line }: Pick<CsfStray, 'list' | 'line'>): readonly Entry[] {
  return list === 'allow' ? entriesIn(line) : [];
}

function entryNames(stray: Pick<CsfStray, 'list' | 'line'>): readonly string[] {
  return strayEntries(stray).map(lineOf);
}

/** The list less each of these once. */
function without(list: readonly string[], gone: readonly string[]): readonly string[] {
  const left = times(gone);
  const seen = new Map<string, number>();
  return list.filter((one) => {
    const n = (seen.get(one) ?? 0) + 1;
    seen.set(one, n);
    return n > left(one);
  });
}

/** One restore per family: everything changes at once, and what comes is there before what goes is gone. */
function kernelSteps(
  wanted: CsfOwned,
  { owned, around }: Observed<CsfOwned, CsfAround>,
  now: Lines,
  then: Lines,
): Step[] {
  const strays = wanted.strays ?? owned.strays ?? [];
  const listed = new Set((around.files.allow ?? '').split(/\r?\n/));
  const others = times(
    without(
      around.others,
      strays.filter(({ line }) => listed.has(line)).flatMap((stray) => entryNames(stray)),
    ),
  );
  const loadedOf = times(strays.flatMap((stray) => stray.loaded));
  const theirs = new Map(strays.flatMap(strayEntries).map((entry) => [lineOf(entry), entry]));
  return families.flatMap((family): Step[] => {
    if (around.disabled || !filters(around, family)) return [];
    const inKernel = counter(around, family);
    const style = styleOf(around, family);
    const given = wanted.loaded[family];
    const stay: { has(line: string): boolean } = given === null ? then : new Set(given);
    const insert: string[] = [];
    const remove: string[] = [];
    for (const [line, entry] of new Map([...then, ...now, ...theirs])) {
      if (familyOf(entry) !== family) continue;
      const n = inKernel(entry);
      const kept = stay.has(line) ? 1 : 0;
      const back = wanted.strays === undefined ? 0 : loadedOf(line);
      const most = others(line) + kept + back;
      const rule = `${chainOf[entry.direction]} ${ruleOf(entry, style)}`;
      const least = back > 0 ? most : kept;
      for (let i = n; i < least; i++) insert.push(`-I ${rule}`);
      // Of a rule that no line of ours names, only as many as theirs do.
      const isOurs = then.has(line) || now.has(line);
      const mayGo = isOurs ? n : wanted.strays === undefined ? loadedOf(line) : 0;
      const surplus = Math.min(n - most, mayGo);
      for (let i = 0; i < surplus; i++) remove.push(`-D ${rule}`);
    }
    if (insert.length + remove.length === 0) return [];
    const name = program(around.conf, 'restore', family);
    // Each `-I` puts a rule at the top, so the last is found first: with 20,000 of them, in the order of the
    // file iptables 1.8.9 searched for minutes.
    const argv = [name, '-w', '10', '--noflush'] as const;
    const stdin = ['*filter', ...insert, ...remove.reverse(), 'COMMIT', ''].join('\n');
    return [
      {
        kind: 'run',
        summary: `csf: ${family === 'v4' ? 'iptables' : 'ip6tables'}, ALLOWIN and ALLOWOUT: ${count(insert.length, 'rule')} come, ${remove.length} go`,
        command: { argv, stdin, timeout: 120_000 },
        check: { argv: [...argv, '--test'], stdin, timeout: 120_000 },
      },
    ];
  });
}

function reloadStep(around: CsfAround): Step {
  if (around.foreign.length > 0 && !isDown(around))
    throw new CfsyncError(
      exit.failed,
      `csf: csf -r would delete what belongs to other programs: ${around.foreign.slice(0, 5).join('; ')}; nothing was changed; leave out --csf-reload, the running rules are brought up to date without it`,
      { detail: around.foreign.slice(5) },
    );
  const why = around.error === null ? '' : ` (its last start failed: ${around.error})`;
  return {
    kind: 'run',
    summary: `csf: csf -r${why}`,
    // Cut off in the middle it would leave the firewall half built.
    command: { argv: ['csf', '-r'], timeout: 600_000 },
  };
}

function lfdSteps({ lfd, disabled }: CsfAround): Step[] {
  if (lfd === 'stopped' || disabled) return [];
  return [
    {
      kind: 'run',
      summary: 'csf: csf --lfd restart',
      command: { argv: ['csf', '--lfd', 'restart'], timeout: 120_000 },
    },
  ];
}

// ---- print ----

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
