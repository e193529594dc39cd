/** Do ports that Docker publishes bypass the rules of the host? */
import { defineCheck, type Finding } from '../check.ts';
import { strangers } from '../../filters/strangers.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import { isClosed, isOpen, observeFilters, surveyOf, type Door } from '../survey.ts';
import type { Rule } from '../../filters/walk.ts';
import { nftLockdown } from '../remedy.ts';
import { portsText } from '../words.ts';
import { line } from '../../filters/words.ts';

export default defineCheck<FilterSeen>({
  name: 'published-ports',
  title: 'web ports that Docker publishes past the rules of the host',
  observe: observeFilters,

  judge(seen, context): readonly Finding[] {
    const { filters, doors } = surveyOf(seen, context);
    const others = strangers(context.ranges);
    const published = new Map<string, Rule>();
    const ports = new Set<number>();
    const closing = new Map<string, Rule>();
    for (const door of doors) {
      const { family, port } = door;
      const away = door.strangers.filter(
        ({ verdict, packet }) => verdict === 'accept' && packet.to !== 'here',
      );
      if (away.length === 0 || !isOpen({ ...door, strangers: away.concat(rest(door)) })) continue;
      // What the host itself would do with them: where it would let them in as well, nothing is bypassed.
      const here = filters.ask({
        family,
        protocol: 'tcp',
        port,
        sources: others[family],
        without: 'nat',
      });
      if (!isClosed({ ...door, strangers: here })) continue;
      ports.add(port);
      for (const { packet } of away)
        if (packet.translated !== undefined) published.set(packet.translated.id, packet.translated);
      for (const { verdict, rules } of here)
        if (verdict !== 'accept') for (const rule of rules) closing.set(rule.id, rule);
    }
    if (ports.size === 0) return [];
    return [
      {
        level: 'warning',
        share: 'all',
        causes: [],
        title: `Published ports bypass the packet filter: anybody gets in on ${portsText(ports)}`,
        evidence: [
          ...[...published.values()].slice(0, 4).map((rule) => `published by ${line(rule)}`),
          ...[...closing.values()].slice(0, 2).map((rule) => `and never asked: ${line(rule)}`),
        ],
        advice:
          'What is published goes past the chains for the host itself. Lockdown of nftables holds for it too.',
        command: nftLockdown(context),
      },
    ];
  },
});

/** What is not sent away: so that shares are of all strangers. */
function rest(door: Door): Door['strangers'] {
  return door.strangers
    .filter(({ verdict, packet }) => verdict !== 'accept' || packet.to === 'here')
    .map((result) => ({ ...result, verdict: 'unclear' as const }));
}
