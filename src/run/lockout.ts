/** Refuses a change that could cut the session it runs in, and names who else it would cut off. */
import { bridgesAndRoutes, reachedThrough } from '../host/interfaces.ts';
import type { Plan } from '../engine/plan.ts';
import { exit, type ExitCode } from '../errors.ts';
import { host } from '../host/host.ts';
import type { Context } from './context.ts';
import {
  addresses,
  contains,
  intersect,
  isEmpty,
  merge,
  none,
  parseRanges,
  subtract,
  withLength,
  withoutLength,
} from '../prefix.ts';
import { readKnown, type Applied } from '../state/records.ts';
import type { Desired, Notice, Owned, Ranges, Stray } from '../renderer.ts';
import { observeSessions, type Session, type Sessions } from './sessions.ts';
import { count, number } from '../text.ts';

/** Whom a backend lets in, before a change or after it. */
export interface Access {
  /** Whether it keeps everybody else off the ports. */
  readonly lockdown: boolean;
  readonly tcpPorts: readonly number[];
  /** Cloudflare's and the admin's own. */
  readonly ranges: Ranges;
  /** What is let in on every TCP port, by rules that are taken over. */
  readonly everywhere?: Ranges;
}

/** What a command is about to do to the backends that it has planned. */
export interface Course {
  /** What is desired of a backend when that is done; undefined when nothing of cfsync's is left. */
  readonly after: (plan: Plan) => Desired | undefined;
  /** How to do it all the same. */
  readonly advice: string;
}

const onward: Course = {
  after: ({ desired }) => desired,
  advice:
    'name the address under extra in the configuration, or go on with --allow-lockout, best with --confirm 120',
};

/** Advice for the ways back, which no configuration changes. */
export const elsewhere = 'go on with --allow-lockout, from a session that stays';

interface Judgement {
  /** The sessions that this process runs in and that would be cut. */
  readonly own: readonly Session[];
  readonly notices: readonly Notice[];
}

/** TCP ports on which people administer a host with their browser, among those that Cloudflare proxies. */
const panels: Readonly<Record<number, string>> = {
  2082: 'cPanel',
  2083: 'cPanel',
  2086: 'WHM',
  2087: 'WHM',
  2095: 'cPanel webmail',
  2096: 'cPanel webmail',
  8443: 'Plesk',
  8880: 'Plesk',
};

/** How many addresses a message names. */
const most = 5;

/**
 * Only what changes counts: whoever was kept out before as well came by a way that the backend does not see.
 * @param spared Addresses that come in through interfaces which lockdown leaves alone.
 */
export function judge(
  before: Access,
  after: Access,
  sessions: Sessions,
  spared: Ranges = none,
): Judgement {
  const own: Session[] = [];
  const notices: Notice[] = [];
  const others = before.everywhere === undefined ? [] : sessions.own.map(({ port }) => port);
  const all = [...before.tcpPorts, ...after.tcpPorts, ...others];
  const ports = [...new Set(all)].sort((a, b) => a - b);
  for (const port of ports) {
    const mine = sessions.own.filter((session) => session.port === port);
    const peers = single(sessions.peers.get(port) ?? []);
    const self = single(mine.map(({ peer }) => peer));
    const cut = cutOff(port, merge(peers, self), before, after, spared);
    own.push(...mine.filter(({ peer }) => contains(cut, peer)));
    const rest = subtract(cut, self);
    if (!isEmpty(rest)) notices.push({ level: 'warning', text: named(port, rest) });
  }
  const challenges = stopped(before, after);
  if (challenges.length > 0)
    notices.push({
      level: 'warning',
      text: `certificates of names that are not behind Cloudflare can no longer be renewed over ${challenges.join(' or ')}, because lockdown keeps the certificate authority out as well; DNS-01 goes on working`,
    });
  return { own, notices };
}

/** Whether a change may keep anybody out at all, whoever is connected. */
export function mayCut(before: Access, after: Access): boolean {
  return (
    after.lockdown ||
    before.everywhere !== undefined ||
    before.tcpPorts.some((port) => !after.tcpPorts.includes(port)) ||
    !isEmpty(subtract(before.ranges, after.ranges))
  );
}

/** Those of the peers that come in before the change and not after it. */
function cutOff(
  port: number,
  peers: Ranges,
  before: Access,
  after: Access,
  spared: Ranges,
): Ranges {
  if (isEmpty(peers)) return none;
  const letIn = ({ tcpPorts, ranges, everywhere = none }: Access): Ranges =>
    intersect(peers, tcpPorts.includes(port) ? merge(ranges, everywhere) : everywhere);
  const [then, now] = [letIn(before), letIn(after)];
  const keptOut = (access: Access, inside: Ranges): Ranges =>
    locks(access, port) ? subtract(peers, merge(inside, spared)) : none;
  return merge(
    subtract(keptOut(after, now), keptOut(before, then)),
    // Gone from the ranges: on a host that drops what nobody allows, also without lockdown.
    subtract(then, now),
  );
}

function locks({ lockdown, tcpPorts }: Access, port: number): boolean {
  return lockdown && tcpPorts.includes(port);
}

/** The ACME challenges (RFC 8555, RFC 8737) that come from the certificate authority to a port that is locked now. */
function stopped(before: Access, after: Access): readonly string[] {
  const challenges = [
    [80, 'HTTP-01'],
    [443, 'TLS-ALPN-01'],
  ] as const;
  return challenges
    .filter(([port]) => locks(after, port) && !locks(before, port))
    .map(([port, name]) => `${name} (port ${port})`);
}

function single(peers: readonly string[]): Ranges {
  return parseRanges(peers.map(withLength));
}

function named(port: number, peers: Ranges): string {
  const list = [...peers.v4, ...peers.v6];
  const total = addresses(peers.v4) + addresses(peers.v6);
  const shown = list.slice(0, most);
  const left = total - shown.reduce((sum, prefix) => sum + addresses([prefix]), 0n);
  const names = shown.map(withoutLength);
  const panel = panels[port];
  return `TCP port ${port}${panel === undefined ? '' : ` (${panel})`}: ${count(Number(total), 'connected peer')} would no longer be let in: ${names.join(', ')}${left > 0n ? ` and ${number(left)} more` : ''}${panel === undefined ? '' : '; if one of them is you, name your address under extra in the configuration first'}`;
}

function listed(own: readonly Session[]): string {
  const names = own.slice(0, most).map(({ peer, port }) => `${peer} to TCP port ${port}`);
  return `${names.join(', ')}${own.length > most ? ` and ${number(own.length - most)} more` : ''}`;
}

/**
 * Looks at the plans before they are applied, and says what they would cut.
 * @returns The plans that may be applied.
 */
export async function preflight(
  plans: readonly Plan[],
  { settings, output, record }: Context,
  codes: ExitCode[],
  { after: desiredAfter, advice }: Course = onward,
): Promise<readonly Plan[]> {
  const filters = plans.filter(
    ({ job, steps }) => job.renderer.kind === 'filter' && steps.length > 0,
  );
  if (filters.length === 0) return plans;
  const changes = await Promise.all(
    filters.map(async (plan) => {
      const content = await readKnown(settings.stateDir, plan.job.name);
      const desired = desiredAfter(plan);
      const after = accessTo(plan.wanted, desired, desired?.mode === 'lockdown');
      return { plan, before: accessBefore(plan, content), after, leaves: desired === undefined };
    }),
  );
  // To read all connections takes as long as a restore of iptables.
  if (!changes.some(({ before, after }) => mayCut(before, after))) return plans;
  const ports = changes.flatMap(({ before, after }) => [...before.tcpPorts, ...after.tcpPorts]);
  const everywhere = changes.some(({ before }) => before.everywhere !== undefined);
  const sessions = await observeSessions(host, ports, everywhere);
  const refused: Plan[] = [];
  const said = new Set<string>();
  for (const { plan, before, after, leaves } of changes) {
    const { name } = plan.job;
    const judgement = judge(before, after, sessions, await spared(plan));
    const { own } = judgement;
    // That those whom cfsync let in may be kept out then is what was asked for.
    const notices = leaves ? [] : judgement.notices;
    // What another backend does as well is said once.
    output.notices(
      name,
      notices.filter(({ text }) => !said.has(text)),
    );
    for (const { text } of notices) said.add(text);
    if (own.length === 0) continue;
    const what = `this could cut the session it runs in: ${listed(own)} would no longer be let in`;
    const detail = own
      .slice(0, most)
      .map(({ peer, port, proof }) => `${peer} to TCP port ${port}: ${proof}`);
    const about = { backend: name, detail };
    if (settings.values['allow-lockout'] === true)
      output.warning(`${name}: ${what}; --allow-lockout says to go on`, about);
    else {
      refused.push(plan);
      codes.push(exit.refused);
      const message = `${name}: refused: ${what}; nothing was changed; ${advice}`;
      output.error(message, about);
      record.backend(name, { code: exit.refused, message });
    }
  }
  // A backend that is not applied now is not promised for the next boot.
  return plans.filter(
    (plan) => !refused.includes(plan) && !(refused.length > 0 && plan.job.name === 'boot'),
  );
}

/** What is held now; which ports and whether it locks them, only the record of the last apply tells. */
function accessBefore(plan: Plan, applied: Applied | undefined): Access {
  const locks = applied?.desired.mode === 'lockdown' && isInForce(plan, applied);
  return accessTo(plan.observed.owned, (applied ?? plan).desired, locks);
}

function accessTo(
  { ranges, strays = [] }: Owned,
  desired: Desired | undefined,
  lockdown: boolean,
): Access {
  const named = (list: readonly Stray[]): Ranges =>
    parseRanges(list.flatMap((stray) => stray.prefixes));
  const wide = strays.filter((stray) => stray.beyond !== undefined);
  return {
    lockdown,
    tcpPorts: desired?.tcpPorts ?? [],
    ranges: merge(ranges, named(strays)),
    ...(wide.length > 0 && { everywhere: named(wide) }),
  };
}

/** Somebody who was locked out may have flushed the rules to get in again: a record alone proves no lockdown. */
function isInForce({ job, observed }: Plan, { desired }: Applied): boolean {
  try {
    const { owned } = job.renderer.want(desired, job.options, observed.around);
    return job.renderer.plan(owned, observed).length === 0;
  } catch {
    return false;
  }
}

/** What comes in through Docker's bridges, and through the interfaces that the backend's option `trusted` names. */
async function spared({ job }: Plan): Promise<Ranges> {
  const { bridges } = await bridgesAndRoutes(host);
  const { trusted } = job.raw;
  const names = [trusted ?? []].flat().map(String);
  return reachedThrough(host, [...bridges, ...names]);
}
