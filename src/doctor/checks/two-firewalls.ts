/** Do two sets of rules get in each other's way: both variants of iptables, nft in its tables, two services at boot? */
import { isSwitchedOn, switchFile } from '../../../renderers/ufw/switch.ts';
import { runningFolder, unitFolder } from '../../host/systemd.ts';
import type { DoctorContext, Finding } from '../check.ts';
import { defineCheck } from '../check.ts';
import { line } from '../../filters/words.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import { isBan, isClosed, observeFilters, surveyOf, type Survey } from '../survey.ts';

interface Seen {
  readonly filters: FilterSeen;
  /** Units that targets of systemd want; null where there is no systemd. */
  readonly wanted: readonly string[] | null;
  /** Whether systemd runs. */
  readonly runs: boolean;
  /** Whether ufw is on: its unit is enabled where it is not. */
  readonly ufw: boolean;
}

export default defineCheck<Seen>({
  name: 'two-firewalls',
  title: 'iptables-legacy beside nft, two services that restore rules at boot, or none',

  async observe(host) {
    const folders = ['sysinit', 'basic', 'multi-user', 'network-pre'].map(
      (name) => `${unitFolder}/${name}.target.wants`,
    );
    const [filters, system, ufw, ...lists] = await Promise.all([
      observeFilters(host),
      host.list(runningFolder),
      host.read(switchFile),
      ...folders.map((folder) => host.list(folder)),
    ]);
    const found = lists.filter((names) => names !== undefined).flat();
    return {
      filters,
      wanted: lists.every((names) => names === undefined) ? null : found,
      runs: system !== undefined,
      ufw: isSwitchedOn(ufw),
    };
  },

  judge(seen, context): readonly Finding[] {
    const survey = surveyOf(seen.filters, context);
    return [
      ...bothVariants(survey, context),
      ...nativeRules(survey),
      ...atBoot(seen),
      ...lostAtBoot(seen, survey, context),
    ];
  },
});

function bothVariants({ filters, doors }: Survey, { ranges }: DoctorContext): readonly Finding[] {
  const { nft, legacy } = filters.variants;
  // A host's own nft rules next to iptables of the legacy variant are two firewalls as well.
  const others = filters.ruleset.bases.filter(
    ({ chain, hook }) => chain.startsWith('nft ') && (hook === 'input' || hook === 'prerouting'),
  );
  if (legacy.length === 0 || (nft.length === 0 && others.length === 0)) return [];
  const kept = doors.flatMap(({ family, cloudflare }) =>
    cloudflare.filter(
      (result) =>
        (result.verdict === 'drop' || result.verdict === 'reject') &&
        !isBan(result, ranges[family]) &&
        result.rules.some(({ place }) => place.startsWith('iptables ')),
    ),
  );
  const rules = new Map(kept.flatMap((r) => r.rules).map((rule) => [rule.id, rule]));
  const second = nft[0] ?? others.map(({ end }) => line(end))[0] ?? '';
  const isIn = (one: string): boolean => legacy.some((text) => one.includes(text.split(': ')[1]!));
  // What the legacy rules drop, nobody sees who looks at the others.
  const hidden = [...rules.values()].filter((rule) => isIn(rule.text));
  return [
    {
      level: hidden.length > 0 ? 'problem' : nft.length > 0 ? 'warning' : 'note',
      share: hidden.length > 0 ? 'all' : 'maybe',
      causes: hidden.length === 0 ? [] : kept.some((r) => r.verdict === 'drop') ? [522] : [521],
      title:
        'Rules of iptables-legacy and of nft are in force side by side: both must let Cloudflare in',
      evidence: [
        ...hidden.slice(0, 3).map((rule) => `iptables-legacy keeps Cloudflare out: ${line(rule)}`),
        `iptables-legacy, ${legacy.length} rules and policies: ${legacy[0]}`,
        `nft${nft.length > 0 ? ` (iptables-nft), ${nft.length} rules and policies` : ''}: ${second}`,
      ],
      advice:
        'iptables -S shows one variant alone. Keep the one that `iptables --version` names, after looking at iptables-legacy-save; this takes the other one away.',
      command:
        'iptables-legacy -P INPUT ACCEPT && iptables-legacy -F && ip6tables-legacy -P INPUT ACCEPT && ip6tables-legacy -F',
      explains: hidden.map(({ id }) => id),
    },
  ];
}

/** iptables-save prints such a rule without what it cannot show: measured, a rule for all ports came back. */
function nativeRules({ filters: { native } }: Survey): readonly Finding[] {
  const [first] = native;
  if (first === undefined) return [];
  const [, family = 'ip', table = 'filter'] = first.place.split(' ');
  return [
    {
      level: 'warning',
      share: 'maybe',
      causes: [],
      title: `nft rules stand in a table that iptables keeps: iptables-save forgets their conditions`,
      evidence: native.slice(0, 4).map(line),
      advice: `iptables-save and iptables-restore, as at a reboot with netfilter-persistent, turn them into rules for every source and port. Put them into a table of their own, or use the iptables backend; nft -a list table ${family} ${table} shows them with the handles that nft delete rule takes.`,
    },
  ];
}

/** Services that load rules when the machine starts. */
const restoring = [
  'nftables',
  'netfilter-persistent',
  'iptables',
  'ip6tables',
  'firewalld',
  'shorewall',
  'ferm',
  'csf',
  'ufw',
];

function restoringUnits({ wanted, ufw }: Seen): readonly string[] {
  return restoring.filter(
    (name) => wanted?.includes(`${name}.service`) === true && (name !== 'ufw' || ufw),
  );
}

function atBoot(seen: Seen): readonly Finding[] {
  const units = restoringUnits(seen).filter((name) => name !== 'ip6tables');
  if (units.length < 2) return [];
  return [
    {
      level: 'warning',
      share: 'maybe',
      causes: [],
      title: `${units.length} services restore packet filter rules at boot: ${units.join(', ')}`,
      evidence: units.map((name) => `enabled: ${name}.service`),
      advice:
        'The later one wins, or both hold at once. Keep the one whose rules you mean, and switch the others off: systemctl disable NAME.service.',
    },
  ];
}

function lostAtBoot(seen: Seen, { doors }: Survey, { applied }: DoctorContext): readonly Finding[] {
  const units = restoringUnits(seen);
  const isKept = units.length > 0 || seen.wanted?.includes('cfsync-boot.service') === true;
  const [only, ...others] = applied.filter(({ name }) => ['nftables', 'iptables'].includes(name));
  if (!seen.runs || isKept || !doors.some(isClosed)) return [];
  return [
    {
      level: 'note',
      share: 'maybe',
      causes: [],
      title: 'Nothing restores the packet filter rules at boot: the lock ends with the next one',
      evidence: [`none of these is enabled: ${restoring.join(', ')}`],
      ...(only !== undefined && others.length === 0
        ? {
            command: `cfsync apply --backend ${only.name} --mode ${only.mode} --ports ${only.ports.join(',')} --persist`,
          }
        : {
            advice:
              'What cfsync applied comes back with cfsync apply --persist; rules of yours with nftables.service, or netfilter-persistent save.',
          }),
    },
  ];
}
