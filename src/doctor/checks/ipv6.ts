/** Are the rules for one family only, while the other one is served as well? */
import { isSwitchedOn, switchFile } from '../../../renderers/ufw/switch.ts';
import { parseConf, isOn } from '../../../renderers/csf/conf.ts';
import { families } from '../../prefix.ts';
import { defineCheck, type DoctorContext, type Finding } from '../check.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import { isLoopback } from '../../host/proc.ts';
import { listeners, type Listener } from '../listeners.ts';
import {
  isClosed,
  isOpen,
  keptOut,
  observeFilters,
  rangesOut,
  sourcesOf,
  surveyOf,
  type Door,
} from '../survey.ts';
import type { Rule } from '../../filters/walk.ts';
import { applyCommand, backendOf, letIn, lockOut } from '../remedy.ts';
import { portsText } from '../words.ts';
import { line } from '../../filters/words.ts';

interface Seen {
  readonly filters: FilterSeen;
  readonly listeners: readonly Listener[];
  /** /etc/default/ufw, and whether ufw is on. */
  readonly ufw: { readonly defaults: string; readonly enabled: boolean };
  /** /etc/csf/csf.conf. */
  readonly csf: string;
}

export default defineCheck<Seen>({
  name: 'ipv6',
  title: 'rules for IPv4 alone while IPv6 is served as well',

  async observe(host) {
    const [filters, heard, defaults, ufw, csf] = await Promise.all([
      observeFilters(host),
      listeners(host),
      host.read('/etc/default/ufw'),
      host.read(switchFile),
      host.read('/etc/csf/csf.conf'),
    ]);
    const enabled = isSwitchedOn(ufw);
    return {
      filters,
      listeners: heard,
      ufw: { defaults: defaults ?? '', enabled },
      csf: csf ?? '',
    };
  },

  judge(seen, context): readonly Finding[] {
    const { doors } = surveyOf(seen.filters, context);
    const served = (port: number): boolean =>
      seen.listeners.some(
        (one) => one.port === port && one.address.includes(':') && !isLoopback(one.address),
      );
    const pairs = context.ports.flatMap((port) => {
      const [v4, v6] = families.map((family) =>
        doors.find((door) => door.family === family && door.port === port),
      );
      return v4 !== undefined && v6 !== undefined && served(port) ? [{ v4, v6 }] : [];
    });
    return [...leftOut(seen, pairs, context), ...leftOpen(seen, pairs, context)];
  },
});

interface Pair {
  readonly v4: Door;
  readonly v6: Door;
}

/** IPv4 comes in, and nothing over IPv6. */
function leftOut(seen: Seen, pairs: readonly Pair[], context: DoctorContext): readonly Finding[] {
  const survey = surveyOf(seen.filters, context);
  const all = context.ranges.v6.length;
  const own = pairs.filter(
    ({ v4, v6 }) =>
      keptOut(v4.cloudflare).length === 0 &&
      sourcesOf(v4.cloudflare, 'accept').length > 0 &&
      rangesOut(v6.cloudflare, context.ranges.v6).length === all,
  );
  if (own.length === 0) return [];
  const results = own.flatMap(({ v6 }) => v6.cloudflare);
  const rules = new Map(results.flatMap((r) => r.rules).map((rule) => [rule.id, rule]));
  const isReject = results.some(({ verdict }) => verdict === 'reject');
  const [rule] = rules.values();
  const reasons = settingsOf(seen);
  const remedy =
    reasons.length === 0
      ? letIn(
          survey,
          rule,
          own.map(({ v6 }) => ({ ...v6, sources: keptOut(v6.cloudflare) })),
          context,
        )
      : then(applyCommand(backendOf(survey.filters, rule, context), context), reasons[0]!);
  return [
    {
      level: 'problem',
      share: 'part',
      causes: [isReject ? 521 : 522],
      title: `IPv6 is left out: Cloudflare gets in on ${portsText(own.map(({ v4 }) => v4.port))} over IPv4 alone`,
      evidence: [
        ...reasons,
        ...[...rules.values()].slice(0, 3).map((one) => `over IPv6, kept out by ${line(one)}`),
      ],
      ...remedy,
      explains: [...rules.keys()],
    },
  ];
}

/** Strangers are kept out over IPv4 alone. */
function leftOpen(seen: Seen, pairs: readonly Pair[], context: DoctorContext): readonly Finding[] {
  const survey = surveyOf(seen.filters, context);
  const own = pairs.filter(({ v4, v6 }) => isClosed(v4) && isOpen(v6));
  const [first] = own;
  if (first === undefined) return [];
  const [closing] = first.v4.strangers.filter(({ verdict }) => verdict !== 'accept');
  const rules = (results: Door['strangers']): readonly Rule[] => [
    ...new Map(results.flatMap((r) => r.rules).map((rule) => [rule.id, rule])).values(),
  ];
  const opening = rules(first.v6.strangers.filter(({ verdict }) => verdict === 'accept'));
  const reasons = settingsOf(seen);
  const remedy =
    reasons.length === 0
      ? lockOut(
          survey,
          closing?.rules[0],
          own.map(({ v6 }) => ({ ...v6, sources: sourcesOf(v6.strangers, 'accept') })),
          context,
        )
      : then(undefined, reasons[0]!);
  return [
    {
      level: 'warning',
      share: 'all',
      causes: [],
      title: `The lock on ${portsText(own.map(({ v4 }) => v4.port))} is for IPv4 alone: anybody gets in over IPv6`,
      evidence: [
        ...reasons,
        ...(closing?.rules ?? []).slice(0, 2).map((one) => `over IPv4, kept out by ${line(one)}`),
        ...(opening.length === 0
          ? ['over IPv6, no rule and no policy drops']
          : opening.slice(0, 2).map((one) => `over IPv6, let in by ${line(one)}`)),
      ],
      ...remedy,
    },
  ];
}

function settingsOf({ ufw, csf }: Seen): readonly string[] {
  const off = /^IPV6=["']?no["']?.*$/im.exec(ufw.defaults)?.[0];
  return [
    ...(ufw.enabled && off !== undefined ? [`/etc/default/ufw: ${off}`] : []),
    ...(csf !== '' && !isOn(parseConf(csf), 'IPV6') ? ['/etc/csf/csf.conf: IPV6 = "0"'] : []),
  ];
}

/** What stands in the settings of a firewall is changed there first; then its rules for IPv6 can be written. */
function then(command: string | undefined, reason: string): Pick<Finding, 'advice' | 'command'> {
  const isUfw = reason.includes('ufw');
  const first = isUfw
    ? "sed -i 's/^IPV6=.*/IPV6=yes/' /etc/default/ufw && ufw reload"
    : `sed -i 's/^IPV6 = .*/IPV6 = "1"/' /etc/csf/csf.conf && csf -r`;
  return {
    ...(isUfw && { advice: 'ufw reload lets everybody in for about a second.' }),
    command: command === undefined ? first : `${first} && ${command}`,
  };
}
