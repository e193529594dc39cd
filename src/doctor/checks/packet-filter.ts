/** Do the rules that are in force let Cloudflare's ranges in, on each port? */
import type { Family } from '../../prefix.ts';
import { defineCheck, type DoctorContext, type Finding } from '../check.ts';
import type { Filters } from '../../filters/ask.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import { isMuch } from '../../filters/verdict.ts';
import { fromPrefixes, size, union, without, type Intervals } from '../../filters/intervals.ts';
import {
  isClosed,
  observeFilters,
  sourcesOf,
  surveyOf,
  type Door,
  type Survey,
} from '../survey.ts';
import type { Doubt, Rule } from '../../filters/walk.ts';
import { letIn } from '../remedy.ts';
import { hasTunnel, unlessTunnel } from '../tunnel.ts';
import { portsText } from '../words.ts';
import { described, line } from '../../filters/words.ts';

/** Where one rule, or one lack of understanding, keeps Cloudflare out. */
interface Group {
  readonly verdict: 'drop' | 'reject' | 'unclear' | 'limited';
  readonly rules: readonly Rule[];
  readonly doubts: readonly Doubt[];
  readonly hits: { readonly family: Family; readonly port: number; readonly sources: Intervals }[];
}

interface Seen {
  readonly filters: FilterSeen;
  /** Whether a tunnel runs: then the ports may be closed to everybody. */
  readonly tunnel: boolean;
}

export default defineCheck<Seen>({
  name: 'packet-filter',
  title: "rules that drop, reject or limit connections from Cloudflare's ranges",

  async observe(host) {
    const [filters, tunnel] = await Promise.all([observeFilters(host), hasTunnel(host)]);
    return { filters, tunnel };
  },

  judge(seen, context) {
    const survey = surveyOf(seen.filters, context);
    const { filters, doors } = survey;
    const groups = new Map<string, Group>();
    const add = (
      { verdict, rules, doubts }: Pick<Group, 'verdict' | 'rules' | 'doubts'>,
      hit: Group['hits'][number],
    ): void => {
      const key = [verdict, ...rules.map(({ id }) => id)].join('\n');
      const group = groups.get(key) ?? { verdict, rules, doubts, hits: [] };
      groups.set(key, group);
      group.hits.push(hit);
    };
    for (const { family, port, cloudflare } of doors) {
      for (const { verdict, rules, doubts, sources } of cloudflare)
        if (verdict !== 'accept') add({ verdict, rules, doubts }, { family, port, sources });
      const quiet = sourcesOf(cloudflare, 'accept');
      for (const { verdict, rules, doubts, sources } of filters.ask({
        family,
        protocol: 'tcp',
        port,
        sources: quiet,
        busy: true,
      }))
        if (verdict === 'drop' || verdict === 'reject')
          add({ verdict: 'limited', rules, doubts }, { family, port, sources });
    }
    // Where others get in, or some of Cloudflare's ranges, the ports were not closed for the sake of a tunnel.
    const shut = doors.filter((door) => isClosed(door) && isNobody(door));
    const isShut = ({ hits }: Group): boolean =>
      hits.every(({ family, port }) =>
        shut.some((door) => door.family === family && door.port === port),
      );
    const isFew = ({ hits }: Group): boolean =>
      doors
        .filter((door) => hits.some((hit) => hit.family === door.family && hit.port === door.port))
        .every((door) => !isMuch(closed(door), context.ranges[door.family], door.family));
    return [...groups.values()].flatMap((group) =>
      unlessTunnel(seen.tunnel && isShut(group), [
        finding(group, survey, context, isFew(group) ? 'warning' : 'problem'),
      ]),
    );
  },
});

/** What of Cloudflare's ranges does not come in, whatever rules say so. */
function closed({ cloudflare }: Door): Intervals {
  return union(sourcesOf(cloudflare, 'drop'), sourcesOf(cloudflare, 'reject'));
}

/** Whether none of Cloudflare's ranges comes in. */
function isNobody({ cloudflare }: Door): boolean {
  return cloudflare.every(({ verdict }) => verdict === 'drop' || verdict === 'reject');
}

function finding(
  { verdict, rules, doubts, hits }: Group,
  survey: Survey,
  context: DoctorContext,
  level: 'problem' | 'warning',
): Finding {
  const ports = portsText(hits.map(({ port }) => port));
  const where = [...new Set(hits.map(({ family }) => family))].map((family) => {
    const own = hits.filter((hit) => hit.family === family);
    const [{ sources } = { sources: [] }] = own;
    const on = portsText(own.map(({ port }) => port));
    return `concerned: ${described(sources, context.ranges, family)}, on ${on}`;
  });
  const evidence = [...rules.map(line), ...where];
  const [rule] = rules;
  if (verdict === 'unclear')
    return {
      level: 'warning',
      share: 'maybe',
      causes: [521, 522],
      title: `Whether Cloudflare gets in on ${ports} depends on what the doctor does not know`,
      evidence: [
        ...doubts.map(({ rule: one, why }) => `not understood (${why}): ${line(one)}`),
        ...evidence,
      ],
      advice:
        'Look at these rules yourself: do they apply to new connections from Cloudflare? The doctor does not guess.',
    };
  if (verdict === 'limited')
    return {
      level: 'warning',
      share: 'maybe',
      causes: [522],
      title: `New connections from Cloudflare to ${ports} are limited in number`,
      evidence,
      // No backend takes a limit for what keeps Cloudflare out.
      advice: `A few addresses of Cloudflare stand for all visitors, so a limit that suits one visitor turns many away. Accept its ranges before the limit (cfsync show prints them)${rule?.place.includes(' ufw') === true ? ', in the file where it stands: /etc/ufw/before.rules, or ufw insert 1 allow before a ufw limit; then ufw reload' : ''}.`,
    };
  const remedy = letIn(survey, rule, hits, context);
  const isDrop = verdict === 'drop';
  return {
    level,
    share: isAll(hits, survey.filters, context) ? 'all' : 'part',
    causes: [isDrop ? 522 : 521],
    title: `The packet filter ${isDrop ? 'drops' : 'rejects'} Cloudflare's connections to ${ports}`,
    evidence,
    ...remedy,
    ...(rule !== undefined && { effect: rule.id }),
  };
}

/** Whether there is a port on which nothing of Cloudflare's comes in over the host's main family. */
function isAll(hits: Group['hits'], { families }: Filters, { ranges }: DoctorContext): boolean {
  const [main] = families;
  return hits.some(
    ({ family, sources }) =>
      family === main && size(without(fromPrefixes(ranges[family]), sources)) === 0n,
  );
}
