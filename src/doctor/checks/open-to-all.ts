/** Is there a wider rule beside those for Cloudflare, so that they restrict nothing? */
import { defineCheck, type Finding } from '../check.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import { size } from '../../filters/intervals.ts';
import { isOpen, observeFilters, surveyOf } from '../survey.ts';
import type { Rule } from '../../filters/walk.ts';
import { applyCommand, portsText } from '../words.ts';
import { line } from '../../filters/words.ts';

export default defineCheck<FilterSeen>({
  name: 'open-to-all',
  title: 'a wider rule beside those for Cloudflare, which then lock nothing',
  observe: observeFilters,

  judge(seen, context): readonly Finding[] {
    const { filters, doors } = surveyOf(seen, context);
    const wide = new Map<string, Rule>();
    const ports = new Set<number>();
    const named = new Map<string, Rule>();
    for (const door of doors) {
      if (door.allowing.length === 0 || !isOpen(door)) continue;
      ports.add(door.port);
      for (const rule of door.allowing) named.set(rule.id, rule);
      const [most] = door.strangers
        .filter(({ verdict, packet }) => verdict === 'accept' && packet.translated === undefined)
        .sort((a, b) => (size(a.sources) > size(b.sources) ? -1 : 1));
      // Published ports have a finding of their own.
      if (most === undefined) return [];
      for (const rule of most.rules) wide.set(rule.id, rule);
    }
    const [one] = named.values();
    if (one === undefined) return [];
    const [first] = wide.values();
    return [
      {
        level: 'warning',
        share: 'all',
        causes: [],
        title: `Anybody gets in on ${portsText(ports)}, beside the rules for Cloudflare`,
        evidence: [
          ...(first === undefined
            ? ['no rule and no policy drops what nobody lets in']
            : [...wide.values()].slice(0, 4).map((rule) => `lets everybody in: ${line(rule)}`)),
          `which makes worthless: ${line(one)}${named.size > 1 ? `, and ${named.size - 1} more` : ''}`,
        ],
        advice: 'Lockdown names each wider rule that is in its way, or closes the ports itself.',
        command: applyCommand(filters, first ?? one, context, 'lockdown'),
      },
    ];
  },
});
