/** Refuses what clashes with rules of the admin's, or would not keep strangers out. */
import { CfsyncError, exit } from '../../src/errors.ts';
import type { Family } from '../../src/prefix.ts';
import type { Desired, Ranges } from '../../src/renderer.ts';
import { count } from '../../src/text.ts';
import { includesPort, isOfOurForm, within, type ChainRule, type Listing } from './chains.ts';
import { isRunning, listings, used } from './in-force.ts';
import { commandOf, deletionOf } from './command.ts';
import { identity, inputChain, isAnywhere, tupleOf, type Tuple } from './rules.ts';
import { labels, paths, programs, rulesIn, type UfwAround } from './state.ts';

/** ufw knows a rule by its ports and addresses; with two of them it would change or delete the first. */
export function refuseClashes(
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
    { detail: clashes.map((rule) => `${commandOf(rule)}: ${wayOut(rule)}`) },
  );
}

/** ufw changes the comment of an allow rule in place, so that nobody is locked out meanwhile. */
function wayOut(rule: Tuple): string {
  return rule.action === 'allow' && rule.log === ''
    ? `make it cfsync's with: ${commandOf(rule)} comment 'cfsync'`
    : `delete it with: ${deletionOf(rule)}`;
}

/** Lockdown is what UFW does by itself, where nothing opens the ports. */
export function refuseOpenings(desired: Desired, ranges: Ranges, around: UfwAround): void {
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
      [...new Set(rules.map((rule) => `delete it with: ${deletionOf(rule)}`))],
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
export function openingRules(
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
