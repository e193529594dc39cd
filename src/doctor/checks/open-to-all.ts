/** Is there a wider rule beside those for Cloudflare, so that they restrict nothing? */
import { defineCheck, type Finding } from '../check.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import { size } from '../../filters/intervals.ts';
import { isOpen, observeFilters, sourcesOf, surveyOf, type Door } from '../survey.ts';
import type { Rule } from '../../filters/walk.ts';
import { lockOut } from '../remedy.ts';
import { portsText } from '../words.ts';
import { line } from '../../filters/words.ts';

export default defineCheck<FilterSeen>({
  name: 'open-to-all',
  title: 'a wider rule beside those for Cloudflare, which then lock nothing',
  observe: observeFilters,

  judge(seen, context): readonly Finding[] {
    const survey = surveyOf(seen, context);
    const { doors } = survey;
    const wide = new Map<string, Rule>();
    const ports = new Set<number>();
    const open: Door[] = [];
    const named = new Map<string, Rule>();
    for (const door of doors) {
      if (door.allowing.length === 0 || !isOpen(door)) continue;
      ports.add(door.port);
      open.push(door);
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
        ...lockOut(
          survey,
          first ?? one,
          open.map(({ family, port, strangers }) => ({
            family,
            port,
            sources: sourcesOf(strangers, 'accept'),
          })),
          context,
        ),
      },
    ];
  },
});
