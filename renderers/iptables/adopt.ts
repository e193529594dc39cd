/** What is said of rules that are taken over, and of those that are not. */
import { broughtBack, leftAlone } from '../../src/filters/strays.ts';
import type { Notice } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import type { IptAround } from './around.ts';
import { families } from './names.ts';
import type { findStrays } from './strays.ts';

/** What the admin has to know of rules that are taken over, and of those that are not. */
export function adoptRemarks(
  found: readonly ReturnType<typeof findStrays>[],
  rest: IptAround,
): Notice[] {
  const notices = leftAlone(
    found.flatMap((f) => f.others),
    found.flatMap((f) => f.mixed),
  );
  if (found.every((f) => f.strays.length === 0)) return notices;
  notices.push(broughtBack('/etc/iptables/rules.v4 and rules.v6'));
  const used = families
    .flatMap((family) => [...(rest[family]?.tables ?? []), ...(rest[family]?.other.tables ?? [])])
    .flatMap((table) => table.rules.map((rule) => rule.text));
  for (const name of rest.accepted.keys())
    if (!used.some((text) => text.includes(`-set ${name} `)))
      notices.push({
        level: 'warning',
        text: `ipset ${escape(name)} stays, and no rule of iptables uses it then: ipset destroy ${escape(name)}`,
      });
  return notices;
}
