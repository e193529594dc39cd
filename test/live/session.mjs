/** What the tests of sessions run in the hosts of the lab: the first argument says which. */

import { spawn } from 'node:child_process';
import { createConnection, createServer } from 'node:net';
import { createInterface } from 'node:readline';

const [role, ...words] = process.argv.slice(2);
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const lines = createInterface({ input: process.stdin });

const roles = {
  /** Holds connections, as sshd does, and runs programs for whoever sits at the other end. */
  serve(host, port) {
    createServer((socket) => socket.on('error', () => {}).pipe(socket)).listen(port, host, () =>
      say('ready'),
    );
    lines.on('line', (line) => {
      const { argv, env } = JSON.parse(line);
      const child = spawn(argv[0], argv.slice(1), { env, stdio: ['ignore', 'pipe', 'pipe'] });
      const out = { stdout: '', stderr: '' };
      child.stdout.on('data', (chunk) => (out.stdout += chunk));
      child.stderr.on('data', (chunk) => (out.stderr += chunk));
      child.on('close', (code) => say({ ...out, code }));
    });
  },

  /** Holds one connection; answers each line with what became of it. */
  dial(host, port, localPort = '0') {
    const socket = createConnection({ host, port, localPort: Number(localPort) }, () =>
      say('ready'),
    );
    socket.on('error', () => {});
    lines.on('line', () => {
      const silence = setTimeout(() => say('silence'), 2500);
      socket.once('data', () => {
        clearTimeout(silence);
        say('echo');
      });
      socket.write('still there?\n');
    });
  },

  /** Passes on what arrives on one port to another port of this host, as sslh does. */
  relay(from, to) {
    createServer((outer) => {
      const inner = createConnection({ host: '127.0.0.1', port: to });
      inner.on('connect', () => say({ port: inner.localPort }));
      for (const socket of [outer, inner]) socket.on('error', () => {});
      outer.pipe(inner).pipe(outer);
    }).listen(from, '::', () => say('ready'));
  },

  /** Looks for its own session, and prints what it read on the way, for the fixtures. */
  async observe(...ports) {
    const built = (name) => import(new URL(`../../dist/src/${name}.js`, import.meta.url).href);
    const { host } = await built('host');
    const { observeSessions } = await built('sessions');
    const seen = { files: {}, folders: {}, links: {}, denied: [] };
    const record = (look, into) => async (path) => {
      try {
        const found = await look(path);
        if (found !== undefined) into[path] = found;
        return found;
      } catch (error) {
        seen.denied.push(path);
        throw error;
      }
    };
    const { own, peers } = await observeSessions(
      {
        read: record(host.read, seen.files),
        list: record(host.list, seen.folders),
        link: record(host.link, seen.links),
      },
      ports.map(Number),
    );
    say({ own, peers: [...peers], seen });
    process.exit();
  },
};

await roles[role](...words);
lines.on('close', () => process.exit());
