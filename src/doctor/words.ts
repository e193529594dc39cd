/** Words that several checks print. */
import type { Filters } from '../filters/ask.ts';
import type { Rule, Ruleset } from '../filters/walk.ts';
import type { DoctorContext } from './check.ts';

/** `port 443`, `ports 80, 443`; each once, in order. */
export function portsText(ports: Iterable<number>): string {
  const list = [...new Set(ports)].sort((a, b) => a - b);
  return `${list.length === 1 ? 'port' : 'ports'} ${list.join(', ')}`;
}

/** The first of a list, and how many more there are. */
export function atMost(list: readonly string[], most: number): readonly string[] {
  return list.length > most ? [...list.slice(0, most), `and ${list.length - most} more`] : list;
}

/** The cfsync command that lets Cloudflare in by the backend that has the rules at hand. */
export function applyCommand(
  { ruleset }: Filters,
  rule: Rule | undefined,
  context: DoctorContext,
  mode?: 'lockdown',
): string {
  const backend = backendOf(ruleset, rule, context);
  const applied = context.applied.find(({ name }) => name === backend);
  const words = ['cfsync apply --backend', backend];
  if (mode === 'lockdown' || applied?.mode === 'lockdown') words.push('--mode lockdown');
  const ports = context.ports.join(',');
  if (ports !== (applied?.ports.join(',') ?? '80,443')) words.push(`--ports ${ports}`);
  return words.join(' ');
}

function backendOf(
  { chains }: Ruleset,
  rule: Rule | undefined,
  { applied }: DoctorContext,
): string {
  const filters = ['ufw', 'csf', 'iptables', 'nftables'];
  if (rule === undefined)
    return applied.find(({ name }) => filters.includes(name))?.name ?? 'nftables';
  if (rule.place.startsWith('nft ')) return 'nftables';
  const has = (chain: string): boolean =>
    [...chains.keys()].some((name) => name.endsWith(` filter ${chain}`));
  if (has('ufw-user-input')) return 'ufw';
  return has('LOCALINPUT') && has('ALLOWIN') ? 'csf' : 'iptables';
}
