/** Says what the admin should know of UFW as it is. */
import { none } from '../../src/prefix.ts';
import type { Desired, Notice } from '../../src/renderer.ts';
import { count } from '../../src/text.ts';
import { isUsed, listings, missingLink, used } from './in-force.ts';
import { openingRules } from './refuse.ts';
import { commandOf, deletionOf } from './command.ts';
import { isAnywhere } from './rules.ts';
import { labels, manyRules, type FamilyState, type UfwAround } from './state.ts';

export function remarks(desired: Desired, v4: FamilyState, around: UfwAround): Notice[] {
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
      .map(commandOf);
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
      `left alone, though for Cloudflare's ranges, because of other ports or more conditions; each of these takes one away: ${[...new Set(around.left.map(deletionOf))].join('; ')}`,
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
