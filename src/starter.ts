/** Writes the configuration that a host begins with. */
import type { Choice } from './in-use.ts';
import { wrap } from './text.ts';

/**
 * @param unusable Of backends that are in use and cannot be worked on now, the reason.
 * @param besides What else is to be known, a sentence each.
 */
export function starterText(
  choices: readonly Choice[],
  unusable: ReadonlyMap<string, string>,
  besides: readonly string[],
): string {
  return `# Configuration of cfsync. All settings: man 5 cfsync.yaml. Mistakes: cfsync config check.

# allow: Cloudflare can reach the ports. lockdown: the same, and nobody else can. To go there, see
# what it does, do it with a way back, and when all is well, set it here:
#   cfsync apply --mode lockdown --dry-run
#   cfsync apply --mode lockdown --confirm 60
mode: allow

# TCP ports that Cloudflare connects to.
ports: [80, 443]

# Prefixes of your own that may reach the ports as well, such as an office or a health check.
# extra:
#   - prefix: 198.51.100.0/24
#     comment: the office

# What is kept in step with Cloudflare's ranges. Found on this host by cfsync init:
backends:
${choices.flatMap((choice) => sectionLines(choice, unusable.get(choice.name))).join('\n')}${besides
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

function sectionLines({ name, why, options = {} }: Choice, reason: string | undefined): string[] {
  const section = [
    `  ${name}:`,
    ...Object.entries(options).map(([key, value]) => `    ${key}: ${value}`),
  ];
  return reason === undefined
    ? [...comment(why), ...section]
    : [
        ...comment(`${name}: ${why}; left out for now: ${reason}`),
        ...section.map((line) => line.replace(/^ {2}/, '  # ')),
      ];
}

function comment(text: string): string[] {
  return wrap(text, 94).map((line) => `  # ${line}`);
}
