/** Builds a small internet of namespaces, with an origin, an edge of Cloudflare and a stranger, for the live tests. */

import { deepStrictEqual } from 'node:assert/strict';
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { constants } from 'node:os';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Outcome } from '../../src/renderer.ts';
import { quoted } from '../helpers/program.ts';
import { path } from './privileges.ts';

const agent = fileURLToPath(new URL('agent.mjs', import.meta.url));
const cfsync = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));

/** The edge is in Cloudflare's ranges, nobody else is. */
const addresses = {
  origin: { v4: '203.0.113.5', v6: '2001:db8:5::5' },
  edge: { v4: '173.245.48.10', v6: '2400:cb00::10' },
  stranger: { v4: '198.51.100.10', v6: '2001:db8::10' },
  container: { v4: '172.17.0.2', v6: 'fd00:17::2' },
} as const;
const docker0 = { v4: '172.17.0.1', v6: 'fd00:17::1' } as const;

/** `--kill-child`: what is inside dies with its holder. */
const namespaces =
  '--net --mount --propagation private --pid --mount-proc --fork --kill-child'.split(' ');

/** Where origin's private files are, on a tmpfs of its own. */
const privateDir = '/run/lab/private';
const stateDir = '/run/lab/state';

/**
 * Duplicate address detection keeps an address silent for a second or two. `nodad` cannot spare the link-local
 * ones, and origin asks for its neighbours from those when it forwards.
 */
const detection = ['ipv6/conf/all/accept_dad', 'ipv6/conf/default/accept_dad'];

/** An answer on a quiet machine takes under 10 ms; who expects silence waits this long. */
const silence = 400;
/** And who expects nothing. */
const enough = 2000;
/** Who expects an answer can afford to wait for it: only a failing test takes this long. */
const patience = 20_000;
/** What a program may take, which ends one that hangs: nothing comes near it on a busy machine. */
const longest = 240_000;
/** A lost SYN is sent again after 1 s and then looks like success; below that it counts as lost. */
const hammerTimeout = 900;

export type Protocol = 'tcp' | 'udp';
/** How one echo round trip ended; `refused` is also an ICMP rejection. */
export type Reach = 'open' | 'refused' | 'timeout' | 'reset';
/** `first` tells of the first ten attempts that ended in each way. */
type Counts = Readonly<Record<Reach, number>> & {
  readonly first: Readonly<Record<Reach, readonly string[]>>;
};

/** One value for each address family; without `v6` in a lab without IPv6. */
export interface PerFamily<T> {
  readonly v4: T;
  readonly v6?: T | undefined;
}

/** Who gets through to a port of the origin. */
export interface Verdict<T = Reach> {
  readonly edge: T;
  readonly stranger: T;
}

/** What a test expects of a host: the same in both families, or one answer for each. */
export type Access = 'open' | 'closed';
export type Expected = Access | PerFamily<Access>;

type Argv = readonly [string, ...string[]];

export interface RunOptions {
  readonly stdin?: string;
  /** In addition to PATH, HOME and LC_ALL=C; nothing is inherited. */
  readonly env?: Readonly<Record<string, string>>;
  /** Milliseconds; 240 000 unless given. */
  readonly timeout?: number;
}

/** A running hammer. */
export interface Hammer {
  /** Ends it and says how the attempts went. */
  stop(): Promise<PerFamily<Counts>>;
}

/** A host: network, mount and PID namespaces that live as long as the agent in them. */
export class Host {
  readonly name: string;
  readonly v4: string;
  readonly v6: string | undefined;
  readonly #holder: ChildProcessWithoutNullStreams;
  readonly #waiting = new Map<number, { resolve(value: any): void; reject(error: Error): void }>();
  #calls = 0;

  /** Resolves only when the agent has answered, because before that the namespaces may not be there. */
  static async start(name: keyof typeof addresses, ipv6: boolean): Promise<Host> {
    const host = new Host(name, ipv6);
    await host.#call('hello');
    return host;
  }

  private constructor(name: keyof typeof addresses, ipv6: boolean) {
    this.name = name;
    this.v4 = addresses[name].v4;
    this.v6 = ipv6 ? addresses[name].v6 : undefined;
    // The PID namespace makes daemons end with the host. Its first process must collect their remains,
    // which a shell that waits for the agent does and Node does not.
    this.#holder = spawn('unshare', [
      ...namespaces,
      'sh',
      '-c',
      '"$@"; exit',
      'sh',
      process.execPath,
      agent,
    ]);
    this.#holder.stdin.on('error', () => {}); // the exit that follows says more
    createInterface({ input: this.#holder.stdout }).on('line', (line) => {
      const { id, result, error }: { id: number; result: any; error?: string } = JSON.parse(line);
      const call = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) call?.resolve(result);
      else call?.reject(new Error(`${name}: ${error}`));
    });
    const lost = (reason: string): void => {
      const error = new Error(`${name} is gone: ${reason}`);
      for (const call of this.#waiting.values()) call.reject(error);
      this.#waiting.clear();
    };
    this.#holder.on('error', (error) => lost(error.message));
    const complaints = text(this.#holder.stderr);
    this.#holder.on('close', () => void complaints.then(lost));
  }

  /** The process that holds the namespaces, as seen from outside. */
  get pid(): number {
    const { pid } = this.#living;
    if (pid === undefined) throw new Error(`${this.name} did not start`);
    return pid;
  }

  /** The path from outside of a file in this host. Absolute symbolic links lead outside again. */
  path(inside: string): string {
    return `/proc/${this.pid}/root${inside}`;
  }

  /** Starts a program in this host, as the leader of a process group, so that all of it can be killed. */
  spawn(argv: Argv, env: Readonly<Record<string, string>> = {}): ChildProcessWithoutNullStreams {
    const { pid } = this;
    return spawn(
      'nsenter',
      [`--target=${pid}`, '--net', '--mount', `--pid=/proc/${pid}/ns/pid_for_children`, ...argv],
      { detached: true, env: { PATH: path, HOME: '/root', LC_ALL: 'C', ...env } },
    );
  }

  /** Runs a program in this host to its end. Code 127: there is no such program. */
  async run(
    argv: Argv,
    { stdin = '', env = {}, timeout = longest }: RunOptions = {},
  ): Promise<Outcome> {
    return finish(this.spawn(argv, env), argv, stdin, timeout);
  }

  /** As `run`, but a program that fails is an error. Answers its standard output. */
  async must(argv: Argv, options: RunOptions = {}): Promise<string> {
    return succeed(argv, await this.run(argv, options));
  }

  /** Loads rules in nft's own syntax. */
  async nft(script: string): Promise<void> {
    await this.must(['nft', '-f', '-'], { stdin: script });
  }

  /**
   * Runs a batch of `ip` commands. Not in the PID namespace, so that they can name other hosts by process id.
   */
  async ip(commands: readonly string[]): Promise<void> {
    const argv = ['nsenter', `--target=${this.pid}`, '--net', 'ip', '-batch', '-'] as const;
    const child = spawn(argv[0], argv.slice(1), { detached: true, env: { PATH: path } });
    succeed(argv, await finish(child, argv, `${commands.join('\n')}\n`, longest));
  }

  /** Starts echo servers on these ports, for both families. */
  async listen({ tcp = [], udp = [] }: { tcp?: number[]; udp?: number[] }): Promise<void> {
    await this.#call('listen', { tcp, udp });
  }

  /** One echo round trip to a literal address; `timeout` in milliseconds, `source` one of this host's addresses. */
  async connect(
    address: string,
    port: number,
    {
      proto = 'tcp',
      timeout = enough,
      source,
    }: { proto?: Protocol; timeout?: number; source?: string } = {},
  ): Promise<Reach> {
    return this.#call('connect', { host: address, port, proto, timeout, source });
  }

  /** One round trip to each address of a host, side by side. */
  async reach(
    target: PerFamily<string>,
    port: number,
    options: { proto?: Protocol; timeout?: number } = {},
  ): Promise<PerFamily<Reach>> {
    const [v4, v6] = await Promise.all([
      this.connect(target.v4, port, options),
      target.v6 === undefined ? undefined : this.connect(target.v6, port, options),
    ]);
    return { v4, v6 };
  }

  /**
   * Makes round trips to each address of a host in a tight loop, until stopped; `workers` for each address.
   * Resolves when each worker has finished its first one. A lost SYN or datagram is a timeout; what TCP loses
   * later in a connection it repairs after 200 ms, and that is not counted.
   */
  async hammer(
    { v4, v6 }: PerFamily<string>,
    port: number,
    { proto = 'tcp', workers = 8 }: { proto?: Protocol; workers?: number } = {},
  ): Promise<Hammer> {
    const name = `hammer ${++this.#calls}`;
    const hosts = v6 === undefined ? [v4] : [v4, v6];
    await this.#call('hammer', { name, hosts, port, proto, timeout: hammerTimeout, workers });
    return {
      stop: async () => {
        const [first, second] = await this.#call<[Counts, Counts?]>('halt', { name });
        return { v4: first, v6: second };
      },
    };
  }

  /** Ends every process in this host; its namespaces go with the last one. */
  async stop(): Promise<void> {
    const { exitCode, signalCode } = this.#holder;
    if (exitCode !== null || signalCode !== null) return;
    const exit = once(this.#holder, 'exit');
    this.#holder.stdin.end();
    const force = setTimeout(() => this.#holder.kill('SIGKILL'), 2000);
    await exit;
    clearTimeout(force);
  }

  /** With a process id that may be someone else's by now, nsenter could enter the machine itself. */
  get #living(): ChildProcessWithoutNullStreams {
    const { exitCode, signalCode } = this.#holder;
    if (exitCode !== null || signalCode !== null) throw new Error(`${this.name} is gone`);
    return this.#holder;
  }

  async #call<T = void>(operation: string, args: object = {}): Promise<T> {
    const { stdin } = this.#living;
    const id = ++this.#calls;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      stdin.write(`${JSON.stringify({ id, operation, args })}\n`);
    });
  }
}

export interface LabOptions {
  /** Without it no host has IPv6 addresses and origin has IPv6 switched off. Default: true. */
  readonly ipv6?: boolean;
  /** Adds a container behind a bridge `docker0` in origin, which then forwards. The test sets the NAT rules. */
  readonly container?: boolean;
  /**
   * Folders that origin gets a private copy of. /etc always is private, /run and /sys are origin's own;
   * everything else is the machine's, so name what a program under test may write to.
   */
  readonly privateDirs?: readonly string[];
}

/**
 * The hosts share one wire, which leads nowhere else. Each has its addresses on `eth0` and takes everybody
 * to be on the wire (`default dev eth0`), so that origin has one public interface with a default route,
 * as an ordinary server does.
 */
export class Lab {
  readonly origin: Host;
  readonly edge: Host;
  readonly stranger: Host;
  readonly #container: Host | undefined;
  readonly #hosts: readonly Host[];

  static async create(options: LabOptions = {}): Promise<Lab> {
    const { ipv6 = true, container = false } = options;
    const names = [
      'origin',
      'edge',
      'stranger',
      ...(container ? (['container'] as const) : []),
    ] as const;
    const starts = await Promise.allSettled(names.map((name) => Host.start(name, ipv6)));
    const hosts = starts.flatMap((start) => (start.status === 'fulfilled' ? [start.value] : []));
    try {
      for (const start of starts) if (start.status === 'rejected') throw start.reason;
      const lab = new Lab(hosts);
      await Promise.all([lab.#wire(), seclude(lab.origin, options.privateDirs ?? [])]);
      return lab;
    } catch (error) {
      await Promise.all(hosts.map((host) => host.stop()));
      throw error;
    }
  }

  private constructor(hosts: readonly Host[]) {
    const [origin, edge, stranger, container] = hosts;
    if (!origin || !edge || !stranger) throw new Error('a lab has at least three hosts');
    this.origin = origin;
    this.edge = edge;
    this.stranger = stranger;
    this.#container = container;
    this.#hosts = hosts;
  }

  /** Only in a lab created with `container: true`. */
  get container(): Host {
    if (!this.#container) throw new Error('this lab was created without a container');
    return this.#container;
  }

  /** Runs the built command line in origin, with a state directory of the lab's own. */
  async cfsync(
    args: readonly string[],
    {
      env,
      input = '',
      timeout = longest,
    }: { env?: RunOptions['env']; input?: string; timeout?: number } = {},
  ): Promise<Outcome> {
    return this.origin.run([process.execPath, cfsync, ...args], {
      stdin: input,
      env: { CFSYNC_STATE_DIR: stateDir, ...env },
      timeout,
    });
  }

  /** How edge and stranger fare on a port of origin now. */
  async verdict(
    port: number,
    proto: Protocol = 'tcp',
    timeouts: Verdict<number> = { edge: enough, stranger: enough },
  ): Promise<Verdict<PerFamily<Reach>>> {
    const [edge, stranger] = await Promise.all([
      this.edge.reach(this.origin, port, { proto, timeout: timeouts.edge }),
      this.stranger.reach(this.origin, port, { proto, timeout: timeouts.stranger }),
    ]);
    return { edge, stranger };
  }

  /** Asserts who gets through; `closed` is everything but `open`. */
  async expectVerdict(
    port: number,
    expected: Verdict<Expected>,
    proto: Protocol = 'tcp',
  ): Promise<void> {
    const timeout = (access: Expected): number => (access === 'open' ? patience : silence);
    const seen = await this.verdict(port, proto, {
      edge: timeout(expected.edge),
      stranger: timeout(expected.stranger),
    });
    deepStrictEqual(
      {
        edge: access(seen.edge, expected.edge),
        stranger: access(seen.stranger, expected.stranger),
      },
      { edge: this.#both(expected.edge), stranger: this.#both(expected.stranger) },
      `${proto} port ${port}: unexpected verdict`,
    );
  }

  /** Ends every process of the lab. */
  async close(): Promise<void> {
    await Promise.all(this.#hosts.map((host) => host.stop()));
  }

  #both(expected: Expected): PerFamily<Access> {
    const { v4, v6 } = typeof expected === 'string' ? { v4: expected, v6: expected } : expected;
    return { v4, v6: this.origin.v6 === undefined ? undefined : v6 };
  }

  /** The wire is a bridge in the stranger's namespace, and the stranger's own `eth0`. */
  async #wire(): Promise<void> {
    const { origin, edge, stranger } = this;
    await (origin.v6 === undefined
      ? sysctl(origin, 1, 'ipv6/conf/all/disable_ipv6')
      : Promise.all(this.#hosts.map((host) => sysctl(host, 0, ...detection))));
    await stranger.ip([
      'link add eth0 type bridge',
      `link add origin type veth peer name eth0 netns ${origin.pid}`,
      `link add edge type veth peer name eth0 netns ${edge.pid}`,
      'link set origin master eth0 up',
      'link set edge master eth0 up',
    ]);
    await Promise.all([origin, edge, stranger].map((host) => host.ip(settle(host))));
    if (this.#container) await contain(this.#container, origin);
  }
}

/** Gives a host its addresses. */
function settle({ v4, v6 }: Host, gateway?: typeof docker0): string[] {
  return [
    'link set lo up',
    'link set eth0 up',
    `address add ${v4}/32 dev eth0`,
    ...(gateway ? [`route add ${gateway.v4} dev eth0`] : []),
    `route add 0.0.0.0/0 ${gateway ? `via ${gateway.v4} ` : ''}dev eth0`,
    ...(v6 === undefined
      ? []
      : [
          `address add ${v6}/128 dev eth0`,
          ...(gateway ? [`route add ${gateway.v6} dev eth0`] : []),
          `route add ::/0 ${gateway ? `via ${gateway.v6} ` : ''}dev eth0`,
        ]),
  ];
}

/** Puts a container behind origin, as Docker does. */
async function contain(container: Host, origin: Host): Promise<void> {
  await origin.ip([
    'link add docker0 type bridge',
    `link add veth0 type veth peer name eth0 netns ${container.pid}`,
    'link set veth0 master docker0 up',
    'link set docker0 up',
    `address add ${docker0.v4}/16 dev docker0`,
    ...(origin.v6 === undefined ? [] : [`address add ${docker0.v6}/64 dev docker0`]),
  ]);
  await container.ip(settle(container, docker0));
  await sysctl(origin, 1, 'ipv4/ip_forward');
  if (origin.v6 !== undefined) await sysctl(origin, 1, 'ipv6/conf/all/forwarding');
}

/** Sets network settings of a host, named as below /proc/sys/net. */
async function sysctl(host: Host, value: 0 | 1, ...names: string[]): Promise<void> {
  const files = names.map((name) => `/proc/sys/net/${name}`);
  await host.must(['tee', ...files], { stdin: `${value}` });
}

const repository = fileURLToPath(new URL('../../', import.meta.url)).slice(0, -1);

/** For a shell in a host: an empty folder in the place of one, but for this repository where it lies below that. */
export function emptied(folder: string): string {
  const mount = `mount -t tmpfs tmpfs ${quoted(folder)}`;
  if (!repository.startsWith(`${folder}/`)) return mount;
  const here = quoted(repository);
  // What is hidden cannot be bound any more; /mnt is on every Debian.
  return `mount --bind ${here} /mnt && ${mount} && mkdir -p ${here} && mount --move /mnt ${here}`;
}

/** The folder above this repository that other users may not enter, as /root, where nothing else in it is needed. */
function closedFolder(): string | undefined {
  const names = repository.split('/').slice(1, -1);
  const above = names.map((_, i) => `/${names.slice(0, i + 1).join('/')}`);
  const closed = above.find((folder) => (statSync(folder).mode & 1) === 0);
  if (closed === undefined || closed.startsWith('/run/')) return undefined;
  return process.execPath.startsWith(`${closed}/`) ? undefined : closed;
}

/** Hides the machine's configuration and state from the programs in a host. */
async function seclude(host: Host, folders: readonly string[]): Promise<void> {
  await host.must(['sh', '-c', emptied('/run')]);
  // Some tests run cfsync as another user.
  const closed = closedFolder();
  if (closed !== undefined) await host.must(['sh', '-c', emptied(closed)]);
  // Otherwise /sys/class/net shows the machine's interfaces.
  await host.must(['mount', '-t', 'sysfs', 'sysfs', '/sys']);
  // The configuration test of Debian's Apache needs /run/lock.
  await host.must(['mkdir', '-p', privateDir, stateDir, '/run/lock']);
  // What else the machine is at work on is none of the origin's; cfsync doctor would tell of it.
  await host.must(['tee', '/run/lab/loadavg'], { stdin: '0.00 0.00 0.00 1/100 100\n' });
  await host.must(['mount', '--bind', '/run/lab/loadavg', '/proc/loadavg']);
  for (const folder of ['/etc', ...folders.filter((folder) => !folder.startsWith('/etc/'))]) {
    // A folder is bound, not its files: a file cannot be renamed over a bound one.
    await host.must(['cp', '-a', '--parents', folder, privateDir]);
    await host.must(['mount', '--bind', `${privateDir}${folder}`, folder]);
  }
}

/** What is not open counts as closed where that is expected, and is told as it was elsewhere. */
function access(seen: PerFamily<Reach>, expected: Expected): PerFamily<Reach | Access> {
  const { v4, v6 } = typeof expected === 'string' ? { v4: expected, v6: expected } : expected;
  const told = (reach: Reach, expected?: Access): Reach | Access =>
    reach !== 'open' && expected === 'closed' ? 'closed' : reach;
  return { v4: told(seen.v4, v4), v6: seen.v6 && told(seen.v6, v6) };
}

/** Waits for a program that leads a process group, and ends the group when it takes too long. */
async function finish(
  child: ChildProcessWithoutNullStreams,
  argv: Argv,
  stdin: string,
  timeout: number,
): Promise<Outcome> {
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
  // A program that does not read its input is none of our business.
  child.stdin.on('error', () => {}).end(stdin);

  const closed = once(child, 'close');
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  }, timeout);
  try {
    await once(child, 'exit');
  } finally {
    clearTimeout(timer);
  }
  // A daemon may have inherited the output and never close it. What is there by now is read before the next turn.
  await Promise.race([closed, sleep(200).then(() => nextTurn())]);
  child.stdout.destroy();
  child.stderr.destroy();
  if (late) throw new Error(`${argv.join(' ')}: still running after ${timeout} ms\n${stderr}`);
  const { exitCode, signalCode } = child;
  return { code: exitCode ?? 128 + constants.signals[signalCode ?? 'SIGKILL'], stdout, stderr };
}

/** The standard output of a program that must not fail. */
function succeed(argv: Argv, { code, stdout, stderr }: Outcome): string {
  if (code !== 0) throw new Error(`${argv.join(' ')}: exit ${code}\n${stderr}`);
  return stdout;
}

/**
 * Starts fail2ban with one jail. Every run of cfsync copies its folder some times, and a name that nobody answers for
 * costs 5 s.
 */
export const smallFail2ban = `
  echo 'nameserver 127.0.0.1' >/etc/resolv.conf
  cd /etc/fail2ban; mkdir -p /run/fail2ban
  find filter.d action.d -type f ! -name 'nftables*' -delete; rm jail.d/*
  printf '%s\\n' '[Definition]' 'failregex = ^ bad <HOST>$' >filter.d/lab.conf
  printf '%s\\n' '[lab]' 'enabled = true' 'banaction = nftables' 'backend = polling' 'logpath = /var/log/lab.log' >jail.local
  : >/var/log/lab.log
  fail2ban-server start`;
