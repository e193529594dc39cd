/** What lets Cloudflare in, or keeps the others out: tried on the rules as they are, before a command is named. */
import type { Filters } from '../filters/ask.ts';
import type { Intervals } from '../filters/intervals.ts';
import { walk, type Action, type Packet, type Rule } from '../filters/walk.ts';
import type { Family } from '../prefix.ts';
import type { DoctorContext, Finding } from './check.ts';
import type { Survey } from './survey.ts';

/** What is to be so of one door. */
export interface Wish {
  readonly family: Family;
  readonly port: number;
  readonly sources: Intervals;
}

type Remedy = Pick<Finding, 'command' | 'advice'>;
type Backend = 'ufw' | 'csf' | 'iptables' | 'nftables';

/** The cfsync command that lets Cloudflare in by the backend that has the rules at hand; words where none does. */
export function letIn(
  survey: Survey,
  rule: Rule | undefined,
  wishes: readonly Wish[],
  context: DoctorContext,
): Remedy {
  const backend = backendOf(survey.filters, rule, context);
  if (wishes.every((wish) => ends(survey, backend, 'accept', wish)))
    return { command: applyCommand(backend, context) };
  return { advice: byHand(survey, rule, wishes) };
}

/** The same for lockdown. That of nftables has a table of its own before all others, and holds where UFW refuses. */
export function lockOut(
  survey: Survey,
  rule: Rule | undefined,
  wishes: readonly Wish[],
  context: DoctorContext,
): Remedy {
  const backend = backendOf(survey.filters, rule, context);
  const command = applyCommand(backend, context, 'lockdown');
  const settings = {
    ufw: 'UFW is not locked while a rule or its policy lets others in: ufw status numbered names the rules (what it does not name is in before.rules), ufw delete NUMBER takes one away, and ufw default deny incoming sets the policy',
    csf: 'CSF is not locked while TCP_IN in /etc/csf/csf.conf has the ports: take them out of it (and of TCP6_IN)',
  };
  if (backend === 'ufw' || backend === 'csf')
    return { advice: `${settings[backend]}. Then: ${command}` };
  if (wishes.every((wish) => ends(survey, backend, 'drop', wish))) return { command };
  return {
    advice: `Other rules let them in before those of ${backend} are asked; lockdown of nftables comes before all.`,
    command: nftLockdown(context),
  };
}

/** A table that is asked before those of the host, for what is published too. */
export function nftLockdown(context: DoctorContext): string {
  return `cfsync apply --backend nftables --nft-chain none --mode lockdown${portWords(context, [80, 443])}`;
}

/** As `cfsync apply` by this backend would be called here. */
export function applyCommand(backend: string, context: DoctorContext, mode?: 'lockdown'): string {
  const applied = context.applied.find(({ name }) => name === backend);
  const isLocked = mode === 'lockdown' || applied?.mode === 'lockdown';
  return `cfsync apply --backend ${backend}${isLocked ? ' --mode lockdown' : ''}${portWords(context, applied?.ports ?? [80, 443])}`;
}

function portWords({ ports }: DoctorContext, given: readonly number[]): string {
  return ports.join() === given.join() ? '' : ` --ports ${ports.join(',')}`;
}

/** The backend that has the rules at hand. */
export function backendOf(
  { ruleset: { chains } }: Filters,
  rule: Rule | undefined,
  { applied }: DoctorContext,
): Backend {
  const filters: readonly Backend[] = ['ufw', 'csf', 'iptables', 'nftables'];
  if (rule === undefined)
    return filters.find((name) => applied.some((one) => one.name === name)) ?? 'nftables';
  if (rule.place.startsWith('nft ')) return 'nftables';
  if (named(chains, ufwFirst).length > 0) return 'ufw';
  return isCsfOn(chains) ? 'csf' : 'iptables';
}

/** Chains that are never empty, by which UFW and CSF are known: one without rules is not among the chains. */
const ufwFirst = 'ufw-before-input';
const csfFirst = 'LOCALINPUT';

function named(chains: ReadonlyMap<string, unknown>, chain: string): readonly string[] {
  return [...chains.keys()].filter((name) => name.endsWith(` filter ${chain}`));
}

export function isCsfOn(chains: ReadonlyMap<string, unknown>): boolean {
  return named(chains, csfFirst).length > 0;
}

/** Whether all of it ends so, once the backend's rules stand in the chains in which it puts them. */
function ends(survey: Survey, backend: Backend, end: 'accept' | 'drop', wish: Wish): boolean {
  const packet = untouched(survey, wish);
  // Behind a translation the rules for the host itself are not asked, or for another port.
  if (packet === undefined) return false;
  const { ruleset } = survey.filters;
  const own: Rule = {
    id: 'cfsync',
    place: 'cfsync',
    text: '',
    conditions: [],
    actions: [{ kind: end } satisfies Action],
    sets: [],
  };
  const chains = new Map(ruleset.chains);
  // What UFW denies by rules of its own comes before what is added.
  const isLast = backend === 'ufw';
  for (const name of homes(survey.filters, backend)) {
    const there = chains.get(name) ?? [];
    chains.set(name, isLast ? [...there, own] : [own, ...there]);
  }
  return walk({ ...ruleset, chains }, wish.sources, packet, () => 'here').every(
    ({ verdict }) => verdict === end,
  );
}

/** The packet as it comes to the door; undefined where it is translated, or nothing is known of it. */
function untouched({ doors }: Survey, { family, port }: Wish): Packet | undefined {
  const door = doors.find((one) => one.family === family && one.port === port);
  const packets = [...(door?.cloudflare ?? []), ...(door?.strangers ?? [])].map(
    ({ packet }) => packet,
  );
  if (packets.some(({ translated }) => translated !== undefined)) return undefined;
  return packets[0];
}

function homes({ ruleset: { bases, chains } }: Filters, backend: Backend): readonly string[] {
  const beside = (known: string, own: string): readonly string[] =>
    named(chains, known).map((name) => name.replace(known, own));
  const inputs = bases.filter(({ hook, nat }) => hook === 'input' && !nat);
  const of = (isOne: (place: string) => boolean): readonly string[] =>
    inputs.filter(({ end }) => isOne(end.place)).map(({ chain }) => chain);
  if (backend === 'ufw')
    return [
      ...beside(ufwFirst, 'ufw-user-input'),
      ...beside('ufw6-before-input', 'ufw6-user-input'),
    ];
  if (backend === 'csf') return beside(csfFirst, 'ALLOWIN');
  if (backend === 'iptables')
    return isFirewalld(chains) ? [] : of((place) => place === 'iptables filter INPUT');
  return of((place) => place.startsWith('nft ') && !place.startsWith('nft inet firewalld '));
}

/** With iptables behind it, firewalld is known by its chains. */
function isFirewalld(chains: ReadonlyMap<string, unknown>): boolean {
  return [...chains.keys()].some((name) => name.endsWith(' filter INPUT_ZONES'));
}

// ---- in words ----

function byHand(
  { filters, doors }: Survey,
  rule: Rule | undefined,
  wishes: readonly Wish[],
): string {
  const place = rule?.place ?? '';
  const ports = [...new Set(wishes.map(({ port }) => port))];
  if (place.startsWith('nft inet firewalld ') || isFirewalld(filters.ruleset.chains))
    return `firewalld keeps these rules, and takes others away: ${ports
      .map((port) => `firewall-cmd --permanent --add-port=${port}/tcp`)
      .join(', ')}, each in the zone of the public interface, then firewall-cmd --reload.`;
  if (/ ufw6?-before-/.test(place))
    return "This is a rule of /etc/ufw/before.rules (IPv6: before6.rules), which is asked before all that ufw allow writes: except Cloudflare's ranges there, or take it out, then: ufw reload.";
  if (/ ufw6?-user-/.test(place))
    return 'UFW asks this rule before those that are added for Cloudflare: ufw status numbered names it, and ufw delete NUMBER takes it away.';
  const isAway = doors.some(
    ({ family, port, cloudflare }) =>
      wishes.some((wish) => wish.family === family && wish.port === port) &&
      cloudflare.some(({ packet }) => packet.translated !== undefined),
  );
  if (isAway)
    return "The port is published: its packets are translated, and pass the rules for forwarding or for another port. Let Cloudflare's ranges in there (Docker: at the top of chain DOCKER-USER; ufw-docker: ufw route allow proto tcp from RANGE to any port PORT).";
  return "No rule of cfsync's would come before this one: except Cloudflare's ranges there, or take it out where it is set.";
}
