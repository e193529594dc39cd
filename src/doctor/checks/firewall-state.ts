/** Are CSF and ufw in a state in which their rules do what their files say? */
import { isSwitchedOn, switchFile } from '../../../renderers/ufw/switch.ts';
import { isOn, parseConf } from '../../../renderers/csf/conf.ts';
import { defineCheck, type Finding } from '../check.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import { keptOut, surveyOf, tryFilters } from '../survey.ts';

interface Seen {
  /** Null where the rules cannot be read, which other checks say. */
  readonly filters: FilterSeen | null;
  /** By path below /etc/csf; null for none. */
  readonly csf: Readonly<Record<'csf.conf' | 'csf.disable' | 'csf.error', string | null>>;
  /** /etc/ufw/ufw.conf, null for none. */
  readonly ufw: string | null;
}

export default defineCheck<Seen>({
  name: 'firewall-state',
  title: 'CSF in testing mode, disabled or failed; ufw on with chains missing',

  async observe(host) {
    const [filters, conf, disabled, failed, ufw] = await Promise.all([
      tryFilters(host),
      host.read('/etc/csf/csf.conf'),
      host.read('/etc/csf/csf.disable'),
      host.read('/etc/csf/csf.error'),
      host.read(switchFile),
    ]);
    return {
      filters,
      csf: {
        'csf.conf': conf ?? null,
        'csf.disable': disabled ?? null,
        'csf.error': failed ?? null,
      },
      ufw: ufw ?? null,
    };
  },

  judge(seen, context): readonly Finding[] {
    return [...csf(seen), ...ufw(seen, context)];
  },
});

function csf({ csf: files }: Seen): readonly Finding[] {
  const conf = files['csf.conf'];
  if (conf === null) return [];
  const base = { level: 'warning', share: 'maybe', causes: [] } as const;
  const findings: Finding[] = [];
  const error = files['csf.error'];
  if (error !== null)
    findings.push({
      ...base,
      title: 'CSF failed when it last started, and left the firewall open',
      evidence: [
        'there is /etc/csf/csf.error',
        ...error
          .split('\n')
          .filter((line) => line.trim() !== '')
          .slice(0, 3),
      ],
      advice: 'Put right what it names, in csf.allow or csf.conf, before this:',
      command: 'csf -r',
    });
  if (files['csf.disable'] !== null)
    findings.push({
      ...base,
      title: 'CSF is disabled: none of its rules is in force',
      evidence: ['there is /etc/csf/csf.disable'],
      command: 'csf -e',
    });
  else if (isOn(parseConf(conf), 'TESTING'))
    findings.push({
      ...base,
      title: 'CSF is in testing mode: it takes all of its rules away every few minutes',
      evidence: ['/etc/csf/csf.conf: TESTING = "1"'],
      command: `sed -i 's/^TESTING = .*/TESTING = "0"/' /etc/csf/csf.conf && csf -r`,
    });
  return findings;
}

/** Measured: ufw says "inactive" then, and a reload that was killed half-way leaves the policies without chains. */
function ufw(
  { filters: seen, ufw: conf }: Seen,
  context: Parameters<typeof surveyOf>[1],
): readonly Finding[] {
  if (seen === null || !isSwitchedOn(conf)) return [];
  // It is there without a rule too, where nothing is allowed by name.
  if (seen.saves.some(({ text }) => text.includes('\n:ufw-user-input '))) return [];
  const dropped = surveyOf(seen, context).doors.flatMap(({ cloudflare }) =>
    keptOut(cloudflare).length > 0 ? cloudflare : [],
  );
  const rules = dropped.flatMap((result) => result.rules);
  const isOut = rules.some(({ place }) => place.startsWith('iptables '));
  return [
    {
      level: isOut ? 'problem' : 'warning',
      share: 'all',
      causes: isOut ? [522] : [],
      title: `ufw is on, and its chains are missing: ${isOut ? 'its policies keep everybody out' : 'none of its rules is in force'}`,
      evidence: [
        '/etc/ufw/ufw.conf: ENABLED=yes',
        'iptables has no chain ufw-user-input',
        ...new Set(rules.map(({ place, text }) => `${place}: ${text}`)),
      ].slice(0, 6),
      command: 'ufw disable && ufw enable',
      explains: [...new Set(rules.map(({ id }) => id))],
    },
  ];
}
