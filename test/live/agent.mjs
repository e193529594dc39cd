/** Runs inside one host of the lab and does its networking, as told by JSON lines on standard input. */

import { createSocket } from 'node:dgram';
import { createConnection, createServer } from 'node:net';
import { nextTick } from 'node:process';
import { createInterface } from 'node:readline';
import { setImmediate as nextTurn } from 'node:timers/promises';

/** How a failed attempt is reported; any other error is a fault of the lab and is thrown. */
const failures = {
  ECONNREFUSED: 'refused',
  // ICMP "administratively prohibited", IPv4 and IPv6. The latter comes so fast over a veth pair that
  // Linux 6.18 tells of it only after the second SYN, which is a timeout here.
  EHOSTUNREACH: 'refused',
  EACCES: 'refused',
  ECONNRESET: 'reset',
  EPIPE: 'reset',
};

/** Serves both families: a socket on `::` takes IPv4 as well. */
const echo = {
  tcp: (port) =>
    new Promise((resolve, reject) => {
      const server = createServer((socket) => {
        socket.on('error', () => {});
        socket.pipe(socket);
      });
      // A short backlog overflows under the hammer and looks like dropped packets.
      server.on('error', reject).listen({ port, host: '::', backlog: 4096 }, () => resolve());
    }),
  udp: (port) =>
    new Promise((resolve, reject) => {
      const socket = createSocket('udp6');
      socket.on('message', (message, { address, port }) => socket.send(message, port, address));
      socket.on('error', reject).bind({ port, address: '::' }, () => resolve());
    }),
};

/**
 * Starts a round trip; calls `bound` with the port it comes from, `settle` with the answer or an error, and
 * returns how to end it.
 */
const roundTrip = {
  tcp: (host, port, bound, settle, source) => {
    const socket = createConnection({ host, port, noDelay: true, localAddress: source });
    // Node 20 connects in the next tick, and after an error it no longer knows the port.
    nextTick(() => bound(socket.localPort));
    socket.on('connect', () => socket.write('ping\n'));
    socket.on('data', () => settle('open'));
    socket.on('end', () => settle('reset'));
    socket.on('error', settle);
    // Closing with RST leaves no TIME_WAIT, or the hammer would run out of ports. Node puts off the RST of a
    // socket that is not connected yet until it is, and the kernel sends its SYN again for two minutes. One that
    // got in while a later test changed the rules left a connection that conntrack had seen begin and not
    // end; in the test after that a stranger from the same port passed as ESTABLISHED (Linux 6.18).
    return () => (socket.connecting ? socket.destroy() : socket.resetAndDestroy());
  },
  udp: (host, port, bound, settle, source) => {
    const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4');
    socket.on('message', () => settle('open'));
    socket.on('error', settle);
    // Only a connected socket hears of ICMP errors.
    const connect = () =>
      socket.connect(port, host, () => {
        bound(socket.address().port);
        socket.send('ping\n');
      });
    if (source === undefined) connect();
    else socket.bind({ port: 0, address: source }, connect);
    return () => socket.close();
  },
};

/** One echo round trip: its outcome is `open`, `refused`, `reset` or `timeout`. */
function attempt({ host, port, proto, timeout, source }) {
  return new Promise((resolve, reject) => {
    let settled = false;
    let from;
    const settle = (answer) => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      end();
      const outcome = typeof answer === 'string' ? answer : failures[answer.code];
      if (outcome === undefined) reject(answer);
      else resolve({ outcome, from });
    };
    // Timers run before input is read: after a stall of this process the answer may be waiting there.
    const timer = setTimeout(() => setImmediate(settle, 'timeout'), timeout);
    const end = roundTrip[proto](host, port, (local) => (from = local), settle, source);
  });
}

const hammers = new Map();
/** How many attempts ended in each way, with when and from where for the first of each. */
const nothing = () => ({
  open: 0,
  refused: 0,
  timeout: 0,
  reset: 0,
  first: { open: [], refused: [], timeout: [], reset: [] },
});

/** Workers in step would all be in mid-connection at once, where TCP repairs a loss before it counts. */
async function stagger() {
  for (let turns = Math.random() * 4; turns > 1; turns--) await nextTurn();
}

const operations = {
  hello: async () => 'hello',

  listen: async ({ tcp, udp }) => {
    await Promise.all([...tcp.map(echo.tcp), ...udp.map(echo.udp)]);
  },

  connect: async (target) => (await attempt(target)).outcome,

  /** Attempts in a tight loop, `workers` per address; answers when every worker has finished one. */
  hammer: async ({ name, hosts, port, proto, timeout, workers }) => {
    const hammer = { running: true, counts: hosts.map(nothing) };
    const start = performance.now();
    const first = [];
    const loops = [];
    for (const [i, host] of hosts.entries()) {
      const once = async () => {
        const after = Math.round(performance.now() - start);
        const { outcome, from } = await attempt({ host, port, proto, timeout });
        const counts = hammer.counts[i];
        if (counts[outcome]++ < 10)
          counts.first[outcome].push(`begun after ${after} ms from port ${from}`);
      };
      const loop = async (started) => {
        await started;
        while (hammer.running) {
          await stagger();
          await once();
        }
      };
      for (let worker = 0; worker < workers; worker++) {
        const started = once();
        first.push(started);
        loops.push(loop(started));
      }
    }
    hammer.finished = Promise.all(loops);
    // A fault is reported by `halt`; until then it must not end the agent.
    hammer.finished.catch(() => {});
    hammers.set(name, hammer);
    await Promise.all(first);
  },

  halt: async ({ name }) => {
    const hammer = hammers.get(name);
    hammers.delete(name);
    hammer.running = false;
    await hammer.finished;
    return hammer.counts;
  },
};

const answer = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

for await (const line of createInterface({ input: process.stdin })) {
  const { id, operation, args } = JSON.parse(line);
  operations[operation](args).then(
    (result) => answer({ id, result }),
    (error) => answer({ id, error: String(error) }),
  );
}
// The lab is gone; leaving takes the namespaces of this host and everything in them along.
process.exit();
