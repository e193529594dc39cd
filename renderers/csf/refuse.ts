/** Refuses what CSF would not do, or would do to others. */
import { CfsyncError, exit } from '../../src/errors.ts';
import { wordsOf, type SavedRule, type SavedTable } from '../../src/filters/iptables/save.ts';
import type { Desired } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { isOn, opened, type Conf } from './conf.ts';
import { filters, table } from './running.ts';
import { families, folder, lockFile, type CsfAround, type CsfOwned } from './state.ts';

/** The settings that open ports to everybody. */
const openSettings = {
  tcp: { v4: 'TCP_IN', v6: 'TCP6_IN' },
  udp: { v4: 'UDP_IN', v6: 'UDP6_IN' },
} as const;

export function refuse(owned: CsfOwned, reload: boolean, around: CsfAround): void {
  // With the same lines it loads what is wanted, also when it started while cfsync was at work.
  if (around.restarting && around.own !== owned.allow)
    throw new CfsyncError(
      exit.busy,
      `csf: CSF is being restarted by somebody else (${lockFile}); nothing was changed; try again later`,
    );
  if (around.error !== null && !reload)
    throw new CfsyncError(
      exit.failed,
      `csf: the last start of CSF failed, and the host may be open to all (${folder}/csf.error: ${around.error}); nothing was changed; put that right, run csf -r, and run cfsync again`,
    );
  if (reload && isOn(around.conf, 'LFDSTART'))
    throw new CfsyncError(
      exit.failed,
      `csf: LFDSTART = "1" in csf.conf: csf -r would only ask lfd to restart CSF later; nothing was changed; leave out --csf-reload, the running rules are brought up to date without it`,
    );
}

/** Lockdown is CSF's own policy of dropping what nothing opens; cfsync can only see to it that nothing does. */
export function refuseOpen(desired: Desired, around: CsfAround): void {
  const { conf, kernel } = around;
  const no = (why: string, instead: string): never => {
    throw new CfsyncError(exit.failed, `csf: lockdown: ${why}; nothing was changed; ${instead}`);
  };
  if (around.restarting) return;
  if (!filters(around, 'v4'))
    no(
      around.disabled ? 'CSF is disabled (csf.disable)' : 'CSF is not running',
      around.disabled ? 'enable it with csf -e' : 'start it with csf -s',
    );
  if (isOn(conf, 'TESTING'))
    no(
      'TESTING = "1" in csf.conf clears the firewall every few minutes',
      'set TESTING = "0" and run csf -r',
    );
  if (!isOn(conf, 'IPV6') && around.ipv6)
    no(
      'IPV6 = "0" in csf.conf, so CSF lets everybody in over IPv6',
      'set IPV6 = "1" and run csf -r, or switch IPv6 off on this host',
    );
  const open = openPorts(desired, around);
  if (open.length > 0)
    no(
      `${open.map(({ name, ports }) => `${name} in csf.conf opens ${ports.join(', ')}`).join('; ')} to everybody`,
      'take that out there, run csf -r, and run cfsync again',
    );
  if (isOn(conf, 'IPV6') && !filters(around, 'v6')) no('CSF is not running for IPv6', 'run csf -r');
  for (const family of families)
    for (const port of closed(desired)) {
      const rule = inputRules(kernel[family]).find((r) => letsIn(r, port));
      if (rule !== undefined)
        no(
          `the running firewall still opens ${port} to everybody (-A INPUT ${escape(rule.text)})`,
          'run csf -r, or delete that rule',
        );
    }
  for (const name of ['CC_ALLOW', 'CC_ALLOW_PORTS'])
    if (isOn(conf, name) && (name === 'CC_ALLOW' || countryPorts(conf, closed(desired))))
      no(
        `${name} = "${escape(conf[name]!)}" in csf.conf lets whole countries in`,
        'take that out there, run csf -r, and run cfsync again',
      );
}

function countryPorts(conf: Conf, ports: readonly number[]): boolean {
  return ['CC_ALLOW_PORTS_TCP', 'CC_ALLOW_PORTS_UDP'].some(
    (name) => opened(conf, name, ports).length > 0,
  );
}

/** What is to be open to nobody else, over TCP and UDP. */
export function closed({ tcpPorts, udpPorts }: Desired): number[] {
  return [...new Set([...tcpPorts, ...udpPorts])].sort((a, b) => a - b);
}

export function openPorts(
  desired: Desired,
  { conf }: CsfAround,
): { readonly name: string; readonly ports: readonly number[] }[] {
  const ports =
    desired.mode === 'lockdown'
      ? { tcp: closed(desired), udp: closed(desired) }
      : { tcp: desired.tcpPorts, udp: desired.udpPorts };
  return (['tcp', 'udp'] as const).flatMap((protocol) =>
    families.flatMap((family) => {
      if (family === 'v6' && !isOn(conf, 'IPV6')) return [];
      const name = openSettings[protocol][family];
      const found = opened(conf, name, ports[protocol]);
      return found.length === 0 ? [] : [{ name, ports: found }];
    }),
  );
}

function inputRules(tables: readonly SavedTable[] | undefined): readonly SavedRule[] {
  return table(tables, 'filter')?.rules.filter((rule) => rule.chain === 'INPUT') ?? [];
}

/** A rule of the kind that TCP_IN becomes: a port, and any source. */
function letsIn({ text }: SavedRule, port: number): boolean {
  const words = wordsOf(text);
  const [option = '', list = '', jump, target = ''] = words.slice(-4);
  return (
    /^--dports?$/.test(option) &&
    jump === '-j' &&
    /^(LOG)?ACCEPT$/.test(target) &&
    !words.includes('-s') &&
    ['tcp', 'udp'].includes(words[words.indexOf('-p') + 1] ?? '') &&
    opened({ list }, 'list', [port]).length > 0
  );
}
