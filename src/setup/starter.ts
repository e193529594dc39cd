/** Writes the configuration that a host begins with. */
import { stringify } from 'yaml';
import type { Choice } from './in-use.ts';
import { merge, none } from '../prefix.ts';
import type { Desired } from '../renderer.ts';
import { wrap } from '../text.ts';

/**
 * @param unusable Of backends that are in use and cannot be worked on now, the reason.
 * @param besides What else is to be known, a sentence each.
 */
export function starterText(
  choices: readonly Choice[],
  unusable: ReadonlyMap<string, string>,
  besides: readonly string[],
): string {
  const common = choices.find(({ desired }) => desired !== undefined)?.desired ?? beginning;
  return `# Configuration of cfsync. All settings: man 5 cfsync.yaml. Mistakes: cfsync config check.

# allow: Cloudflare can reach the ports. lockdown: the same, and nobody else can. To go there, see
# what it does, do it with a way back, and when all is well, set it here:
#   cfsync apply --mode lockdown --dry-run
#   cfsync apply --mode lockdown --confirm 60
${modeLines(common).join('\n\n')}

# Prefixes of your own that may reach the ports as well, such as an office or a health check.
${extraLines(choices).join('\n')}

# What is kept in step with Cloudflare's ranges. Found on this host by cfsync init:
backends:
${choices.flatMap((choice) => sectionLines(choice, common, unusable.get(choice.name))).join('\n')}${besides
    .flatMap((text) => comment(text))
    .map((line) => `\n${line}`)
    .join('')}

# What is asked after an apply that changed something: when it does not answer, that goes back.
# probe: https://www.example.com/

# Programs that are told what a run came to, as JSON on standard input.
# on-change: [logger, -t, cfsync]
# on-failure: [logger, -t, cfsync, -p, user.err]

# For node_exporter; with cfsync.timer, its folder must be in ReadWritePaths= of cfsync.service.
# metrics: /var/lib/prometheus/node-exporter/cfsync.prom
`;
}

/** What holds where nothing was applied. */
const beginning: Desired = {
  ranges: none,
  extra: none,
  tcpPorts: [80, 443],
  udpPorts: [],
  mode: 'allow',
};

/** The settings of all backends, with what they are for. */
function modeLines({ mode, tcpPorts, udpPorts }: Desired): string[] {
  return [
    `mode: ${mode}`,
    `# TCP ports that Cloudflare connects to.\nports: [${tcpPorts.join(', ')}]`,
    ...(udpPorts.length === 0 ? [] : [`udp-ports: [${udpPorts.join(', ')}]`]),
  ];
}

/** All packet filters get the same, so that none of them shuts out whom another one lets in. */
function extraLines(choices: readonly Choice[]): string[] {
  const { v4, v6 } = merge(...choices.map(({ desired }) => desired?.extra ?? none));
  const prefixes = [...v4, ...v6];
  if (prefixes.length > 0) return ['extra:', ...prefixes.map((prefix) => `  - ${prefix}`)];
  return ['# extra:', '#   - prefix: 198.51.100.0/24', '#     comment: the office'];
}

function sectionLines(
  { name, why, options, desired }: Choice,
  common: Desired,
  reason: string | undefined,
): string[] {
  const own = { ...(desired && differing(desired, common)), ...options };
  const section = [`  ${name}:`];
  if (Object.keys(own).length > 0)
    section.push(
      ...stringify(own, { lineWidth: 0 })
        .trimEnd()
        .split('\n')
        .map((line) => `    ${line}`),
    );
  return reason === undefined
    ? [...comment(why), ...section]
    : [
        ...comment(`${name}: ${why}; left out for now: ${reason}`),
        ...section.map((line) => line.replace(/^ {2}/, '  # ')),
      ];
}

/** Where a packet filter is not as the first one. */
function differing(desired: Desired, common: Desired): Readonly<Record<string, unknown>> {
  const { mode, tcpPorts, udpPorts } = desired;
  const isSame = (one: readonly number[], other: readonly number[]): boolean =>
    one.join() === other.join();
  return {
    ...(mode !== common.mode && { mode }),
    ...(!isSame(tcpPorts, common.tcpPorts) && { ports: tcpPorts }),
    ...(!isSame(udpPorts, common.udpPorts) && { 'udp-ports': udpPorts }),
  };
}

function comment(text: string): string[] {
  return wrap(text, 94).map((line) => `  # ${line}`);
}
