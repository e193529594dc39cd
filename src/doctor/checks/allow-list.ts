/** Does the list by which Cloudflare is let in have all of its ranges, and nothing that it gave up? */
import { retired } from '../../feed/published.ts';
import { count } from '../../text.ts';
import { defineCheck, type DoctorContext, type Finding } from '../check.ts';
import { namedBy } from '../../filters/conditions.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import { common, fromPrefixes, without } from '../../filters/intervals.ts';
import {
  errorsOf,
  isBan,
  observeFilters,
  rangesOut,
  sourcesOf,
  surveyOf,
  type Survey,
} from '../survey.ts';
import type { Result, Rule } from '../../filters/walk.ts';
import { applyCommand, backendOf, letIn, type Wish } from '../remedy.ts';
import { atMost, portsText } from '../words.ts';
import { described, line } from '../../filters/words.ts';

export default defineCheck<FilterSeen>({
  name: 'allow-list',
  title: 'the rules that let Cloudflare in have all of its ranges, and none that it gave up',
  observe: observeFilters,
  judge(seen, context) {
    const survey = surveyOf(seen, context);
    return [...missing(survey, context), ...leftover(survey, context), ...age(survey, context)];
  },
});

function missing(survey: Survey, context: DoctorContext): readonly Finding[] {
  const { ranges, list } = context;
  const { doors } = survey;
  const wishes: Wish[] = [];
  const lacking = new Set<string>();
  const rules = new Map<string, Rule>();
  const ports = new Set<number>();
  const verdicts = new Set<Result['verdict']>();
  for (const { family, port, cloudflare, allowing } of doors) {
    const out = rangesOut(cloudflare, ranges[family]);
    const isListed = allowing.length > 0 || out.length * 2 < ranges[family].length;
    if (out.length === 0 || out.length === ranges[family].length || !isListed) continue;
    const ends = cloudflare.filter(
      (result) =>
        (result.verdict === 'drop' || result.verdict === 'reject') &&
        !isBan(result, ranges[family]) &&
        common(result.sources, fromPrefixes(out)).length > 0,
    );
    if (ends.length === 0) continue;
    for (const {
      sources,
      verdict,
      rules: [rule],
    } of ends) {
      for (const range of out)
        if (common(fromPrefixes([range]), sources).length > 0) lacking.add(range);
      if (rule !== undefined) rules.set(rule.id, rule);
      verdicts.add(verdict);
    }
    ports.add(port);
    wishes.push({ family, port, sources: fromPrefixes(out) });
  }
  if (lacking.size === 0) return [];
  const names = [...lacking];
  const [rule] = rules.values();
  return [
    {
      level: 'problem',
      share: 'part',
      causes: errorsOf(verdicts),
      title: `The allow-list for ${portsText(ports)} lacks ${count(names.length, 'range')} of Cloudflare's`,
      evidence: [
        ...atMost(names, 8).map((range) => `not let in: ${range}`),
        ...[...rules.values()].slice(0, 3).map((one) => `kept out by ${line(one)}`),
        `judged by the ${list.kind === 'snapshot' ? 'snapshot' : 'list that came with this release'} of ${list.asOf.slice(0, 10)}`,
      ],
      ...letIn(survey, rule, wishes, context),
      explains: [...rules.keys()],
    },
  ];
}

/** What Cloudflare gave up may be anybody's by now. */
function leftover({ filters, doors }: Survey, context: DoctorContext): readonly Finding[] {
  const evidence = new Set<string>();
  let first: Rule | undefined;
  for (const { family, strangers } of doors) {
    const gone = without(fromPrefixes(retired[family]), fromPrefixes(context.ranges[family]));
    for (const { verdict, rules, sources, packet } of strangers) {
      const own = common(sources, gone);
      const rule = rules.find((one) => namedBy(one, packet) !== undefined);
      if (verdict !== 'accept' || own.length === 0 || rule === undefined) continue;
      first ??= rule;
      evidence.add(`${described(own, context.ranges, family)}: ${line(rule)}`);
    }
  }
  if (first === undefined) return [];
  return [
    {
      level: 'warning',
      share: 'all',
      causes: [],
      title: "The allow-list has ranges that are no longer Cloudflare's",
      evidence: [...evidence].slice(0, 6),
      advice: "Other people's traffic may come from there by now.",
      command: applyCommand(backendOf(filters, first, context), context).replace(
        'cfsync apply',
        'cfsync adopt',
      ),
    },
  ];
}

/** A snapshot that nobody refreshes will lack ranges one day. */
function age({ doors }: Survey, { list, maxAge, now, applied }: DoctorContext): readonly Finding[] {
  const days = Math.floor((now.getTime() - Date.parse(list.asOf)) / 86_400_000);
  if (!list.ages || days < maxAge) return [];
  const isUsed =
    applied.length > 0 && doors.some((door) => sourcesOf(door.cloudflare, 'accept').length > 0);
  return [
    {
      level: isUsed ? 'warning' : 'note',
      share: 'maybe',
      causes: [],
      title: `The list of Cloudflare's ranges was last known to be right ${days} days ago`,
      evidence: [`the snapshot is of ${list.asOf.slice(0, 10)}; max-age is ${maxAge} days`],
      command: 'cfsync fetch',
    },
  ];
}
