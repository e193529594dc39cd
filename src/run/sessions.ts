/** Finds out which session this process runs in, and who else is connected. */
import { isIP } from 'node:net';
import { groupBy } from '../group.ts';
import { connections, type Connection } from './connections.ts';
import { isLoopback, type ProcessHost, ofProcess, plain, statField } from '../host/proc.ts';
import { escape } from '../text.ts';

/** The session that this process runs in, or may run in. */
export interface Session {
  /** The TCP port of this host that the peer connected to. */
  readonly port: number;
  /** Canonical, without a zone. */
  readonly peer: string;
  /** What shows it, for the message. */
  readonly proof: string;
}

export interface Sessions {
  readonly own: readonly Session[];
  /** The addresses that are connected to each TCP port; none of this host's own. */
  readonly peers: ReadonlyMap<number, readonly string[]>;
}

interface Process {
  readonly pid: string;
  readonly name: string;
  readonly environment: string;
  /** The inodes of its sockets. */
  readonly sockets: ReadonlySet<string>;
}

/** One connection of a session, as one proof of it has it. */
interface Leg extends Pick<Connection, 'port' | 'peer' | 'peerPort'> {
  readonly proof: string;
}

/**
 * sudo, cron and `env -i` take SSH_CONNECTION away from a child, never from the parents; and of those, sshd or a
 * panel's terminal holds the connection itself. mosh holds none, so there the environment counts alone.
 * @param ports Only sessions and peers on these are told.
 * @param everywhere Own sessions on other ports are told as well.
 */
export async function observeSessions(
  host: ProcessHost,
  ports: readonly number[],
  everywhere = false,
): Promise<Sessions> {
  const [all, line] = await Promise.all([connections(host), ancestors(host)]);
  const here = new Set(all.map(({ address }) => address));
  const isHere = (address: string): boolean => here.has(address) || isLoopback(address);
  const remote = all.filter(({ port, peer }) => ports.includes(port) && !isHere(peer));
  const named = line.flatMap(fromEnvironment);
  const held = line.flatMap((process) => fromSockets(process, all));
  const legs = [...named, ...held].filter(({ peer }) => !isHere(peer));
  const relayed = named
    .filter(({ peer }) => isHere(peer))
    .flatMap((leg) => relayedBy(leg, all, remote));
  const own = [...legs, ...(await redirected(host, legs)), ...relayed];
  const byPort = groupBy(remote, ({ port }) => port);
  const peers = new Map([...byPort].map(([port, list]) => [port, list.map(({ peer }) => peer)]));
  return { own: unique(own.filter(({ port }) => everywhere || ports.includes(port))), peers };
}

/** This process and those it descends from, as far up as /proc shows them. */
async function ancestors(host: ProcessHost): Promise<readonly Process[]> {
  const found: Process[] = [];
  let stat = await ofProcess(host.read('/proc/self/stat'));
  while (stat !== undefined) {
    // Not process.pid: it need not be the number that this /proc counts by.
    const pid = stat.slice(0, stat.indexOf(' '));
    if (found.some((process) => process.pid === pid)) break;
    const name = stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
    const [environment = '', inodes] = await Promise.all([
      ofProcess(host.read(`/proc/${pid}/environ`)),
      sockets(host, `/proc/${pid}/fd`),
    ]);
    found.push({ pid, name, environment, sockets: inodes });
    const parent = statField(stat, 4);
    stat = parent ? await ofProcess(host.read(`/proc/${parent}/stat`)) : undefined;
  }
  return found;
}

async function sockets(host: ProcessHost, folder: string): Promise<ReadonlySet<string>> {
  const names = (await ofProcess(host.list(folder))) ?? [];
  const targets = await Promise.all(names.map((name) => ofProcess(host.link(`${folder}/${name}`))));
  return new Set(targets.flatMap((target) => /^socket:\[(\d+)\]$/.exec(target ?? '')?.[1] ?? []));
}

/** sshd(8): address and port of the client, then of the server. */
function fromEnvironment({ pid, name, environment }: Process): Leg[] {
  const [, client, peerPort, port] =
    /(?:^|\0)SSH_CONNECTION=([^ \0]+) (\d{1,5}) [^ \0]+ (\d{1,5})(?:\0|$)/.exec(environment) ?? [];
  const peer = client?.replace(/%.*/, '') ?? '';
  // Where sshd has no socket, it says UNKNOWN.
  if (isIP(peer) === 0) return [];
  const proof = `SSH_CONNECTION in the environment of process ${pid} (${escape(name)})`;
  return [{ peer: plain(peer), peerPort: Number(peerPort), port: Number(port), proof }];
}

function fromSockets({ pid, name, sockets }: Process, all: readonly Connection[]): Leg[] {
  return all
    .filter(({ inode }) => sockets.has(inode))
    .map((c) => ({ ...c, proof: `a socket of process ${pid} (${escape(name)})` }));
}

/**
 * A session over loopback comes through a program of this host, such as sslh, which shares a port between sshd and
 * a web server. Which of its connections carries the session only it knows; any of the same user's may.
 */
function relayedBy(leg: Leg, all: readonly Connection[], remote: readonly Connection[]): Leg[] {
  const end = all.find(
    ({ address, port, peerPort }) =>
      address === leg.peer && port === leg.peerPort && peerPort === leg.port,
  );
  const proof = `${leg.proof} names this host itself; a program of user ${end?.uid} relays the session, and holds this connection`;
  return remote.filter(({ uid }) => uid === end?.uid).map((c) => ({ ...c, proof }));
}

/** A TCP entry: addresses and ports as they came, then those of the answers. */
const tracked =
  /^\S+ +\d+ tcp .*? src=(\S+) dst=\S+ sport=(\d+) dport=(\d+) .*?src=\S+ dst=\S+ sport=(\d+) /gm;

/**
 * The ports that the peers connected to before a rule (REDIRECT, DNAT) sent them on to the one that the program
 * listens on: lockdown is asked before that rule. Known where the kernel keeps track and shows it.
 */
async function redirected(host: ProcessHost, legs: readonly Leg[]): Promise<readonly Leg[]> {
  if (legs.length === 0) return [];
  const known = new Map(legs.map((leg) => [`${leg.peer} ${leg.peerPort} ${leg.port}`, leg]));
  // A busy host tracks a quarter of a million; to look at the ports first takes a third of the time.
  const ends = new Set(legs.map((leg) => `${leg.peerPort} ${leg.port}`));
  const text = (await ofProcess(host.read('/proc/net/nf_conntrack'))) ?? '';
  return [...text.matchAll(tracked)].flatMap(([, source, peerPort, first, port]) => {
    if (!ends.has(`${peerPort} ${port}`) || isIP(source!) === 0) return [];
    const leg = known.get(`${plain(source!)} ${peerPort} ${port}`);
    if (leg === undefined) return [];
    const proof = `${leg.proof}; a rule redirects port ${first} to port ${port}`;
    return [{ ...leg, port: Number(first), proof }];
  });
}

/** Each peer and port once, as the first proof has it. */
function unique(legs: readonly Leg[]): Session[] {
  const found = new Map<string, Session>();
  for (const { port, peer, proof } of legs) {
    const key = `${peer} ${port}`;
    if (!found.has(key)) found.set(key, { port, peer, proof });
  }
  return [...found.values()];
}
