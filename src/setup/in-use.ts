/** Finds the backends that are in use on this host, which is more than that they could be used. */
import { isSwitchedOn, switchFile } from '../../renderers/ufw/switch.ts';
import { BackendError } from '../errors.ts';
import { parseSave, targetOf, wordsOf, type SavedTable } from '../filters/iptables/save.ts';
import { keptByIptables, parseListing, type Listing } from '../filters/nft/listing.ts';
import { pidsOf, unlessMissing } from '../host/programs.ts';
import type { Applied } from '../state/records.ts';
import type { Command, Desired, Host } from '../renderer.ts';
import { unitFolder } from '../host/systemd.ts';
import { count } from '../text.ts';
import { modeText } from '../run/weaker.ts';

/** What was seen; for each what shows that it is in use, in a few words, or undefined. */
export interface Signs {
  readonly csf?: string | undefined;
  readonly ufw?: string | undefined;
  readonly firewalld?: string | undefined;
  readonly nftables?: string | undefined;
  readonly iptables?: string | undefined;
  readonly fail2ban?: string | undefined;
  readonly nginx?: string | undefined;
  /** Programs that could filter packets here, whether they do or not. */
  readonly installed: readonly ('nftables' | 'iptables')[];
}

/** A backend that the configuration is to have. */
export interface Choice {
  readonly name: string;
  /** Why, in a few words. */
  readonly why: string;
  /** Why it cannot be worked on as the configuration begins, in mode allow. */
  readonly later?: string;
  /** Options of its section. */
  readonly options?: Readonly<Record<string, unknown>>;
  /** Of a packet filter that something was applied to: what holds there. */
  readonly desired?: Desired;
}

/** A backend that something was applied to, as it is recorded. */
export interface AppliedBackend extends Applied {
  readonly name: string;
}

/** In the order in which they are believed: the first two write the rules of the others, and would undo changes to them. */
const filters = ['csf', 'ufw', 'firewalld', 'nftables', 'iptables'] as const;
const others = ['fail2ban', 'nginx'] as const;

/**
 * What was applied already, as it was. Else one packet filter, because two that are kept in step would each need the
 * other's consent; and all that do not filter. `besides` says what else was seen.
 */
export function choose(
  signs: Signs,
  applied: readonly AppliedBackend[] = [],
): {
  readonly choices: readonly Choice[];
  readonly besides: readonly string[];
} {
  const isApplied = (name: string): boolean => applied.some((one) => one.name === name);
  const isFiltered = filters.some(isApplied);
  const seen = filters.filter((name) => signs[name] !== undefined && !isApplied(name));
  const [filter] = seen;
  const found = filter === undefined ? unfiltered(signs) : [chosen(filter, signs[filter]!)];
  return {
    choices: [
      ...applied.map(asApplied),
      ...(isFiltered ? [] : found),
      ...others.flatMap((name) => {
        const why = signs[name];
        return why === undefined || isApplied(name) ? [] : [{ name, why }];
      }),
    ],
    besides: (isFiltered ? seen : seen.slice(1)).map(
      (name) => `${name} is in use as well: ${signs[name]}`,
    ),
  };
}

function asApplied({ name, desired, options }: AppliedBackend): Choice {
  // To take over what somebody else has set was said for that time.
  const { 'force-conflicts': _, ...kept } = options;
  if (!(filters as readonly string[]).includes(name))
    return { name, why: 'applied here before', options: kept };
  return { name, why: `applied here before: ${modeText(desired)}`, options: kept, desired };
}

function chosen(name: (typeof filters)[number], why: string): Choice {
  if (name !== 'firewalld') return { name, why };
  return {
    name: 'nftables',
    why,
    options: { chain: 'none' },
    later:
      'the ports are opened with firewall-cmd; this keeps all others off them with mode: lockdown, and has nothing to do before that',
  };
}

/** Where nothing filters there is nothing to open, and still something to close. */
function unfiltered({ installed }: Signs): Choice[] {
  const [name] = installed;
  return name === undefined
    ? []
    : [{ name, why: 'no packet filter is in use, so this does nothing before mode: lockdown' }];
}

/**
 * Looks at the host, and changes nothing.
 * @throws BackendError when it may not look.
 */
export async function lookForBackends(host: Host): Promise<Signs> {
  const [nft, iptables, ip6tables] = await Promise.all([
    ask(host, ['nft', '-j', '-t', 'list', 'ruleset']),
    ask(host, ['iptables-save']),
    ask(host, ['ip6tables-save']),
  ]);
  const csf = await csfSign(host);
  const ufw = await ufwSign(host);
  const enabled = await enabledUnits(host);
  const saves = [iptables, ip6tables].flatMap((text) =>
    text === undefined ? [] : parseSave(text, 'iptables-save'),
  );
  return {
    csf,
    ufw,
    firewalld: (await pidsOf(host, ['firewalld'])).length > 0 ? 'firewalld runs' : undefined,
    nftables:
      (nft === undefined ? undefined : nftSign(parseListing(nft))) ??
      (nft !== undefined && enabled.has('nftables.service')
        ? 'nftables.service is enabled'
        : undefined),
    // CSF writes to INPUT itself, without chains of its own everywhere.
    iptables: csf === undefined ? iptablesSign(saves, ufw !== undefined) : undefined,
    fail2ban:
      (await ask(host, ['fail2ban-client', 'ping'])) !== undefined
        ? 'its server answers'
        : await bootSign(host, enabled, 'fail2ban', '/usr/bin/fail2ban-server'),
    nginx:
      (await pidsOf(host, ['nginx'])).length > 0
        ? 'it runs'
        : await bootSign(host, enabled, 'nginx', '/usr/sbin/nginx'),
    installed: [
      ...(nft === undefined ? [] : (['nftables'] as const)),
      ...(iptables === undefined ? [] : (['iptables'] as const)),
    ],
  };
}

/** Tables of programs that let Cloudflare in or not by other means; rules that cfsync adds there would be lost. */
const foreignTables = /^(firewalld|f2b-table|crowdsec6?|docker-bridges|netavark|libvirt_network)$/;

/** A table that filters what comes in, and is neither of iptables nor of a program that fills it by itself. */
export function nftSign({ tables, chains }: Listing): string | undefined {
  const kept = keptByIptables(chains);
  const own = tables.find(
    ({ family, name, flags }) =>
      !flags &&
      !foreignTables.test(name) &&
      !kept.has(`${family} ${name}`) &&
      chains.some(
        (chain) =>
          chain.family === family &&
          chain.table === name &&
          chain.base?.type === 'filter' &&
          ['input', 'prerouting'].includes(chain.base.hook),
      ),
  );
  return own === undefined ? undefined : `table ${own.family} ${own.name} filters what comes in`;
}

/** Chains that other programs jump to from INPUT: these are not the admin's rules. */
const foreignChains =
  /^(ufw6?-|f2b-|fail2ban-|DOCKER|LIBVIRT_|KUBE-|cali-|CILIUM_|NETAVARK|FORWARD_|INPUT_|IN_|ts-|sshguard|CROWDSEC)/;

/** Rules in INPUT that nobody but the admin would have written, or a policy that drops. UFW sets the policy as well. */
export function iptablesSign(tables: readonly SavedTable[], ufw: boolean): string | undefined {
  const filter = tables.filter(({ name }) => name === 'filter');
  const rules = filter
    .flatMap((table) => table.rules)
    .filter(({ chain }) => chain === 'INPUT')
    .filter(({ text }) => !foreignChains.test(targetOf(wordsOf(text)) ?? ''));
  if (rules.length > 0) return `INPUT has ${count(rules.length, 'rule')}`;
  const drops = filter.some(({ chains }) =>
    chains.some(({ name, policy }) => name === 'INPUT' && policy === 'DROP'),
  );
  return drops && !ufw ? 'the policy of INPUT is DROP' : undefined;
}

async function csfSign(host: Host): Promise<string | undefined> {
  const names = await host.list('/etc/csf');
  return names?.includes('csf.conf') === true && !names.includes('csf.disable')
    ? 'CSF is installed and enabled'
    : undefined;
}

/** A package that was removed and not purged leaves its configuration behind. */
async function ufwSign(host: Host): Promise<string | undefined> {
  const isEnabled = isSwitchedOn(await host.read(switchFile));
  return isEnabled && (await host.list('/usr/sbin'))?.includes('ufw') === true
    ? 'UFW is enabled (/etc/ufw/ufw.conf)'
    : undefined;
}

async function bootSign(
  host: Host,
  enabled: ReadonlySet<string>,
  name: string,
  program: string,
): Promise<string | undefined> {
  const slash = program.lastIndexOf('/');
  const isThere = (await host.list(program.slice(0, slash)))?.includes(program.slice(slash + 1));
  return isThere === true && enabled.has(`${name}.service`)
    ? `${name}.service is enabled`
    : undefined;
}

/** Units that another one wants: what `systemctl enable` makes. */
async function enabledUnits(host: Host): Promise<ReadonlySet<string>> {
  const folders = ((await host.list(unitFolder)) ?? []).filter((name) => name.endsWith('.wants'));
  const lists = await Promise.all(folders.map((name) => host.list(`${unitFolder}/${name}`)));
  return new Set(lists.flatMap((list) => list ?? []));
}

/** What a program prints; undefined when it is not installed, or has nothing to answer. */
async function ask(host: Host, argv: Command['argv']): Promise<string | undefined> {
  const outcome = await unlessMissing(host, argv);
  if (outcome === undefined || outcome.code === 0) return outcome?.stdout;
  if (/not permitted|permission denied|must be root/i.test(outcome.stderr))
    throw new BackendError(
      'no permission',
      `cannot see what is in use here: ${argv[0]} is for root alone; nothing was changed; run cfsync init as root`,
    );
  return undefined;
}
