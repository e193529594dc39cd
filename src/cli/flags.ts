/** The command line as data: every option and every command, for parsing, help and the manual. */

export interface Flag {
  readonly type: 'switch' | 'text' | 'list' | 'number';
  /** The name of the value in help. */
  readonly value?: string;
  readonly short?: string;
  readonly help: string;
  /** The words that are taken, where there are few. */
  readonly choices?: readonly string[];
  /** Sets this option of this backend. */
  readonly backend?: readonly [backend: string, key: string];
  /** The environment variable that sets the option when neither flag nor configuration does. */
  readonly env?: string;
  /** A path, seen from the working directory; the option gets it absolute. */
  readonly path?: true;
}

/**
 * The checks of the doctor, in the order in which findings of the same weight are told: first what explains one cause
 * exactly, then what only sees its effect.
 */
export const checkNames = [
  'firewall-state',
  'two-firewalls',
  'bans',
  'allow-list',
  'ipv6',
  'packet-filter',
  'published-ports',
  'open-to-all',
  'way-out',
  'service',
  'listening',
  'tls',
  'dns',
  'real-ip',
  'ingress',
  'keep-alive',
  'overload',
  'error-log',
] as const;
export type CheckName = (typeof checkNames)[number];

export const flags = {
  backend: {
    type: 'list',
    value: 'NAME',
    short: 'b',
    help: 'backend to work on; repeat it for more (default: those in the configuration)',
  },
  config: {
    type: 'text',
    value: 'FILE',
    path: true,
    help: 'configuration (default: /etc/cfsync/config.yaml)',
  },
  'state-dir': {
    type: 'text',
    value: 'DIR',
    help: 'snapshots and records (default: /var/lib/cfsync for root)',
  },
  ports: {
    type: 'text',
    value: 'LIST',
    help: 'TCP ports Cloudflare connects to (default: 80,443)',
  },
  'udp-ports': { type: 'text', value: 'LIST', help: 'UDP ports (default: none)' },
  mode: {
    type: 'text',
    value: 'MODE',
    choices: ['allow', 'lockdown'],
    help: 'allow: let Cloudflare in; lockdown: and nobody else (default: allow)',
  },
  source: {
    type: 'text',
    value: 'SOURCE',
    help: 'auto, bundled, snapshot, a folder with ips-v4 and ips-v6, or a file (default: auto)',
  },
  'ipv4-url': { type: 'text', value: 'URL', help: 'text feed of the IPv4 ranges' },
  'ipv6-url': { type: 'text', value: 'URL', help: 'text feed of the IPv6 ranges' },
  'api-url': { type: 'text', value: 'URL', help: 'JSON feed of both' },
  out: {
    type: 'text',
    value: 'PATH',
    help: 'render: folder to write to; diff: file to save the plan in',
  },
  plan: {
    type: 'text',
    value: 'FILE',
    help: 'a plan that diff --out saved; apply refuses it if it would now be another one',
  },
  dir: { type: 'text', value: 'DIR', help: 'compare with the files that render wrote there' },
  format: {
    type: 'text',
    value: 'FORMAT',
    choices: ['text', 'json', 'markdown'],
    help: 'text, json, or for diff markdown (default: text)',
  },
  'dry-run': { type: 'switch', help: 'print the plan and stop before the first change' },
  'exit-code': {
    type: 'switch',
    help: 'of diff and apply --dry-run: exit 2 when changes are pending',
  },
  'accept-large-change': {
    type: 'switch',
    help: 'take a loss above 25 % or a growth above 50 % of the address space',
  },
  'allow-lockout': {
    type: 'switch',
    help: 'go on even if the session that this runs in could be cut',
  },
  'allow-weaker': {
    type: 'switch',
    help: 'let others in again on ports that were locked; at a terminal naming mode or ports does',
  },
  'all-or-nothing': {
    type: 'switch',
    help: 'when one backend fails, those that are done go back as well',
  },
  'end-hold': {
    type: 'switch',
    help: 'end the hold of a rollback, as an apply at a terminal does',
  },
  confirm: {
    type: 'number',
    value: 'SECONDS',
    help: 'go back unless cfsync confirm is run in time',
  },
  'install-timer': {
    type: 'switch',
    help: 'install what runs it every week: a systemd timer, or a line for cron',
  },
  persist: { type: 'switch', help: 'keep it across reboots, by one systemd unit' },
  metrics: {
    type: 'text',
    value: 'FILE',
    path: true,
    help: "write metrics for node_exporter's textfile collector",
  },
  'lock-timeout': {
    type: 'number',
    value: 'SECONDS',
    help: 'how long to wait for locks (default: 10)',
  },
  'nft-chain': {
    type: 'text',
    value: 'F/T/C',
    backend: ['nftables', 'chain'],
    help: 'nftables: attach to this chain (inet/filter/input), auto or none',
  },
  'nft-file': {
    type: 'text',
    value: 'KIND',
    backend: ['nftables', 'file'],
    choices: ['ruleset', 'sets', 'define'],
    help: 'nftables: what render writes: ruleset, sets or define',
  },
  ipset: {
    type: 'switch',
    backend: ['iptables', 'set'],
    help: 'iptables: the ranges in ipsets, not one rule each',
  },
  'ingress-flavour': {
    type: 'text',
    value: 'NAME',
    backend: ['nginx-ingress', 'flavour'],
    choices: ['community', 'f5'],
    help: 'nginx-ingress: which controller: community (ingress-nginx, the default) or f5',
  },
  'helm-values': {
    type: 'switch',
    backend: ['nginx-ingress', 'helm'],
    help: 'nginx-ingress: render Helm values instead of a ConfigMap',
  },
  kubeconfig: {
    type: 'text',
    value: 'FILE',
    backend: ['nginx-ingress', 'kubeconfig'],
    env: 'KUBECONFIG',
    path: true,
    help: 'nginx-ingress: how to reach the cluster (default: KUBECONFIG, ~/.kube/config)',
  },
  'force-conflicts': {
    type: 'switch',
    backend: ['nginx-ingress', 'force-conflicts'],
    help: 'nginx-ingress: take over keys that somebody else has set',
  },
  'csf-reload': {
    type: 'switch',
    backend: ['csf', 'reload'],
    help: 'csf: run csf -r, which flushes every rule of iptables, and not rule by rule',
  },
  only: {
    type: 'list',
    value: 'CHECK',
    help: 'doctor: make only these checks; repeat it for more',
  },
  skip: { type: 'list', value: 'CHECK', help: 'doctor: make all checks but these' },
  list: { type: 'switch', help: 'doctor: name the checks' },
  probe: {
    type: 'switch',
    help: 'doctor: say in one line what it comes to, for timers and monitors',
  },
  host: {
    type: 'text',
    value: 'NAME',
    help: 'doctor: the name that visitors use: its certificate and its address in DNS are looked at',
  },
  'origin-ip': {
    type: 'text',
    value: 'IP',
    help: "doctor: the address that Cloudflare's DNS has for this host",
  },
  quiet: { type: 'switch', short: 'q', help: 'say only what went wrong' },
  verbose: { type: 'switch', short: 'v', help: 'say also what did not change' },
  'log-format': {
    type: 'text',
    value: 'FORMAT',
    choices: ['text', 'json'],
    help: 'what is said on standard error: text, or one JSON object a line (default: text)',
  },
  'no-color': { type: 'switch', help: 'no colours' },
  help: { type: 'switch', short: 'h', help: 'help, also for one command: cfsync apply --help' },
  version: { type: 'switch', short: 'V', help: 'print the version' },
} as const satisfies Readonly<Record<string, Flag>>;

type FlagName = keyof typeof flags;

export interface CommandSpec {
  readonly help: string;
  /** Words after the command: none unless given. */
  readonly words?: string;
  readonly flags: readonly FlagName[];
  readonly example: string;
  /** Its end runs the hooks of the configuration. */
  readonly hooks?: true;
}

const common = [
  'config',
  'state-dir',
  'quiet',
  'verbose',
  'log-format',
  'no-color',
  'help',
  'version',
] as const;
const from = ['source', 'ipv4-url', 'ipv6-url', 'api-url'] as const;
const cluster = ['ingress-flavour', 'kubeconfig'] as const;
const desired = [
  'backend',
  'ports',
  'udp-ports',
  'mode',
  'nft-chain',
  'ipset',
  'csf-reload',
  ...cluster,
] as const;

/** What a saved plan says itself; the options of its backends are those of the configuration and of flags. */
export const planned = [
  'backend',
  'ports',
  'udp-ports',
  'mode',
  ...from,
  'persist',
] as const satisfies readonly FlagName[];

export const commands = {
  fetch: {
    help: 'download and check the ranges, show what changed, store them',
    flags: [...from, 'lock-timeout', 'metrics', ...common],
    example: 'cfsync fetch',
  },
  diff: {
    help: 'show what apply would change',
    flags: [
      ...desired,
      ...from,
      'nft-file',
      'helm-values',
      'dir',
      'out',
      'plan',
      'format',
      'exit-code',
      'accept-large-change',
      'allow-weaker',
      ...common,
    ],
    example: 'cfsync diff --backend nftables --source bundled',
  },
  render: {
    help: 'write the rules, without touching the system',
    flags: [...desired, ...from, 'nft-file', 'helm-values', 'out', ...common],
    example: 'cfsync render --backend nftables --source bundled --out firewall',
  },
  apply: {
    help: 'fetch, plan, check, apply and verify',
    flags: [
      ...desired,
      ...from,
      'plan',
      'dry-run',
      'exit-code',
      'accept-large-change',
      'allow-lockout',
      'allow-weaker',
      'all-or-nothing',
      'end-hold',
      'confirm',
      'persist',
      'force-conflicts',
      'lock-timeout',
      'metrics',
      ...common,
    ],
    hooks: true,
    example: 'cfsync apply --backend nftables --mode lockdown --dry-run',
  },
  adopt: {
    help: 'take over what scripts or hands wrote for Cloudflare: ours in, theirs out',
    flags: [
      ...desired,
      ...from,
      'dry-run',
      'accept-large-change',
      'allow-lockout',
      'allow-weaker',
      'all-or-nothing',
      'confirm',
      'lock-timeout',
      'metrics',
      ...common,
    ],
    hooks: true,
    example: 'cfsync adopt --backend iptables --dry-run',
  },
  verify: {
    help: 'say whether the system still is what was applied',
    flags: ['backend', 'lock-timeout', 'metrics', ...common],
    example: 'cfsync verify --backend nftables',
  },
  confirm: {
    help: 'keep an apply that waits for its confirmation',
    flags: ['lock-timeout', ...common],
    example: 'cfsync confirm',
  },
  rollback: {
    help: 'return to the state before the last apply, and hold',
    flags: ['backend', 'dry-run', 'allow-lockout', 'lock-timeout', 'metrics', ...common],
    hooks: true,
    example: 'cfsync rollback --dry-run',
  },
  restore: {
    help: 'bring back what was applied last, as recorded: for the unit that runs at boot',
    flags: ['lock-timeout', ...common],
    example: 'cfsync restore',
  },
  remove: {
    help: 'take away everything that cfsync owns',
    flags: [
      'backend',
      ...cluster,
      'dry-run',
      'allow-lockout',
      'lock-timeout',
      'metrics',
      ...common,
    ],
    hooks: true,
    example: 'cfsync remove --backend nftables',
  },
  show: {
    help: 'print the ranges',
    flags: [...from, 'format', ...common],
    example: 'cfsync show --source bundled',
  },
  contains: {
    help: "is an address Cloudflare's? (exit 0 yes, 2 no)",
    words: 'IP...',
    flags: [...from, ...common],
    example: 'cfsync contains 173.245.48.10 --source bundled',
  },
  init: {
    help: 'write a configuration for what is in use here, and print its timer',
    flags: ['install-timer', 'dry-run', ...common.filter((name) => name !== 'state-dir')],
    example: 'cfsync init --dry-run',
  },
  config: {
    help: 'check the configuration, or show what counts and where it comes from',
    words: 'check|show',
    flags: [...desired.filter((name) => name !== 'backend'), ...from, 'lock-timeout', ...common],
    example: 'cfsync config show',
  },
  backends: {
    help: 'list the backends: usable here, and why not',
    flags: [...cluster, 'format', ...common],
    example: 'cfsync backends',
  },
  doctor: {
    help: 'find out why Cloudflare answers 521 or 522 for this host; changes nothing',
    flags: [
      'ports',
      'host',
      'origin-ip',
      ...cluster,
      'only',
      'skip',
      'list',
      'probe',
      'format',
      ...common,
    ],
    example: 'cfsync doctor',
  },
  completion: {
    help: 'print the completion for a shell',
    words: 'bash|zsh|fish',
    flags: [...common],
    example: 'cfsync completion bash',
  },
} as const satisfies Readonly<Record<string, CommandSpec>>;

export type CommandName = keyof typeof commands;

/** The flags of one, or of all. */
export function flagSpec(name: string): Flag | undefined {
  return (flags as Readonly<Record<string, Flag>>)[name];
}

export function commandSpec(name: string): CommandSpec | undefined {
  return Object.hasOwn(commands, name) ? commands[name as CommandName] : undefined;
}
