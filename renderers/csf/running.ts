/** Reads CSF's chains in the running firewall. */
import type { SavedTable } from '../../src/filters/iptables/save.ts';
import type { Family } from '../../src/prefix.ts';
import type { Conf } from './conf.ts';
import {
  chainOf,
  directions,
  familyOf,
  ruleOf,
  times,
  type Entry,
  type Lines,
  type Style,
} from './lines.ts';
import type { CsfAround } from './state.ts';

const programs = {
  save: { v4: ['IPTABLES_SAVE', 'iptables-save'], v6: ['IP6TABLES_SAVE', 'ip6tables-save'] },
  restore: {
    v4: ['IPTABLES_RESTORE', 'iptables-restore'],
    v6: ['IP6TABLES_RESTORE', 'ip6tables-restore'],
  },
} as const;

/** With the programs that csf.conf names: where both variants of iptables are installed, only one is CSF's. */
export function program(conf: Conf, kind: keyof typeof programs, family: Family): string {
  const [setting, name] = programs[kind][family];
  return conf[setting]?.startsWith('/') ? conf[setting] : name;
}

export function table(
  tables: readonly SavedTable[] | undefined,
  name: string,
): SavedTable | undefined {
  return tables?.find((t) => t.name === name);
}

/** Whether CSF's chains are there, and nobody is about to fill them. */
export function filters({ kernel, restarting }: CsfAround, family: Family): boolean {
  if (restarting) return false;
  const chains = table(kernel[family], 'filter')?.chains.map((chain) => chain.name) ?? [];
  return directions.every((direction) => chains.includes(chainOf[direction]));
}

/** How the rules of the running CSF look; csf.conf may have changed since it started. */
export function styleOf({ kernel }: CsfAround, family: Family): Style {
  // CSF gives advanced filters of both families the interface of IPv4 (ETH_DEVICE).
  const device = (chain: string, target: string, otherwise: string): string =>
    table(kernel.v4, 'filter')
      ?.rules.filter((rule) => rule.chain === chain)
      .map(({ text }) => new RegExp(`^(.*) -j ${target}$`).exec(text)?.[1])
      .find((words) => words !== undefined) ?? otherwise;
  const watched = table(kernel[family], 'filter')?.chains.some((c) => c.name === 'LOGACCEPT');
  return {
    in: device('LOCALINPUT', chainOf.in, '! -i lo'),
    out: device('LOCALOUTPUT', chainOf.out, '! -o lo'),
    accept: watched ? 'LOGACCEPT' : 'ACCEPT',
  };
}

/** CSF failed at its last start and left nothing in place. */
export function isDown({ error, disabled, restarting }: CsfAround): boolean {
  return error !== null && !disabled && !restarting;
}

/** How often each rule is in the chains of CSF. */
export function counter(around: CsfAround, family: Family): (entry: Entry) => number {
  const rules = new Map<string, number>();
  for (const { chain, text } of table(around.kernel[family], 'filter')?.rules ?? []) {
    const key = `${chain} ${text}`;
    rules.set(key, (rules.get(key) ?? 0) + 1);
  }
  const style = styleOf(around, family);
  return (entry) => rules.get(`${chainOf[entry.direction]} ${ruleOf(entry, style)}`) ?? 0;
}

/** What of the entries is loaded; null when that is exactly what the file says, or nothing can be. */
export function loaded(held: Lines, around: CsfAround, family: Family): readonly string[] | null {
  if (!filters(around, family)) return null;
  const inKernel = counter(around, family);
  const others = times(around.others);
  const all = [...held].filter(([, entry]) => familyOf(entry) === family);
  const found = all.flatMap(([line, entry]) => {
    const n = inKernel(entry);
    return n === 0 ? [] : Array<string>(Math.max(1, n - others(line))).fill(line);
  });
  return found.join() === all.map(([line]) => line).join() ? null : found;
}
