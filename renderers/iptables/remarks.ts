/** What is said of the rules around ours. */
import { changesNothing, opensToAll } from '../../src/filters/notices.ts';
import type { SavedTable } from '../../src/filters/iptables/save.ts';
import type { Desired, Notice } from '../../src/renderer.ts';
import { count, few } from '../../src/text.ts';
import type { IptAround } from './around.ts';
import { judge, nativeDrops, published } from './drops.ts';
import { base, families, tool } from './names.ts';
import type { IptOptions } from './options.ts';

/** 44 rules cost 0.5 microseconds a packet and 10,000 cost 175 (kernel 6.18); from here on it is worth a set. */
const manyPrefixes = 200;

export function remarks(desired: Desired, options: IptOptions, around: IptAround): Notice[] {
  return [
    ...(around.v6 === undefined
      ? [note('this kernel has no IPv6 (no /proc/sys/net/ipv6), so ip6tables is left alone')]
      : []),
    ...ofRules(desired, around),
    ...nativeDrops(desired, around).map(([label, instead]) =>
      warning(
        `chain ${label} of nftables drops the ports, and an accept of iptables does not count there; ${instead}`,
      ),
    ),
    ...ofPrograms(around),
    ...withoutSets(desired, options, around),
    ...(around.remarks ?? []),
  ];
}

function note(text: string): Notice {
  return { level: 'note', text };
}

function warning(text: string): Notice {
  return { level: 'warning', text };
}

/** What the rules of iptables do to the ports. */
function ofRules(desired: Desired, around: IptAround): Notice[] {
  const notices: Notice[] = [];
  const allow = desired.mode === 'allow';
  /** For certain, or maybe. */
  let dropping = false;
  const sentOn = new Set<number>();
  for (const family of families) {
    const found = around[family];
    if (found === undefined) continue;
    const filter = found.tables.find((t) => t.name === 'filter');
    if (filter !== undefined) {
      const { drops, open, unclear, stays } = judge(family, filter, desired, around);
      if (drops.length + unclear.length > 0) dropping = true;
      if (stays.length > 0)
        notices.push(
          note(
            `${tool[family]} may drop the ports on conditions that cfsync cannot judge: ${few(stays)}`,
          ),
        );
      if (open !== undefined && drops.length > 0 && allow)
        notices.push(opensToAll(tool[family], open));
    }
    const nat = found.tables.find((t) => t.name === 'nat');
    if (nat !== undefined)
      for (const port of published(family, nat, desired, around)) sentOn.add(port);
    const { variant, tables } = found.other;
    if (tables.some((t) => hasRules(t)))
      notices.push(
        note(
          `there are also rules of ${tool[family]}-${variant}; both count, and what either drops is dropped: look with ${tool[family]}-${variant}-save`,
        ),
      );
  }
  if (!dropping && allow) notices.push(changesNothing('rule of iptables'));
  if (sentOn.size > 0 && allow)
    notices.push(
      note(
        `port ${[...sentOn].join(', ')} is sent on by DNAT (published by Docker), which the INPUT chain does not see; --mode lockdown covers it`,
      ),
    );
  return notices;
}

/** Programs that have rules of their own, or save those of others. */
function ofPrograms(around: IptAround): Notice[] {
  const notices: Notice[] = [];
  const filter = around.v4.tables.find((t) => t.name === 'filter');
  const has = (chain: string): boolean => filter?.chains.some((c) => c.name === chain) === true;
  if (has('ufw-user-input'))
    notices.push(
      note('UFW is active here: --backend ufw keeps the rules where ufw status shows them'),
    );
  if (has('INPUT_ZONES') || has('IN_public'))
    notices.push(
      note('firewalld manages these chains, and takes the jump away whenever it reloads'),
    );
  if (around.netfilterPersistent)
    notices.push(
      note(
        'netfilter-persistent is installed: netfilter-persistent save would freeze the rules of today in /etc/iptables; keep them with cfsync apply --persist',
      ),
    );
  return notices;
}

/** What is different without ipsets. */
function withoutSets(desired: Desired, options: IptOptions, around: IptAround): Notice[] {
  if (options.set) return [];
  const notices: Notice[] = [];
  for (const family of families)
    if (desired.ranges[family].length > manyPrefixes)
      notices.push(
        note(
          `${count(desired.ranges[family].length, 'rule')} of ${tool[family]} are asked one after another; --ipset makes that one look-up`,
        ),
      );
  if (around.shared.length > 0)
    notices.push(
      warning(
        `${around.shared.join(', ')}: rules that cfsync did not write use this set, and it is no longer refreshed`,
      ),
    );
  return notices;
}

function hasRules(table: SavedTable): boolean {
  const where = table.name === 'filter' || table.name === 'raw' ? base[table.name] : undefined;
  return (
    table.rules.some((r) => r.chain === where) ||
    table.chains.some((c) => c.name === where && c.policy === 'DROP')
  );
}
