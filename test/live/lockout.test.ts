import { type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import type { Outcome } from '../../src/renderer.ts';
import { answer, expected } from '../fixtures/sessions/expected.ts';
import { Lab, type Host } from './lab.ts';
import { describeLive } from './privileges.ts';

const program = fileURLToPath(new URL('session.mjs', import.meta.url));
const cfsync = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));

/** A running session.mjs. */
class End {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: Interface;
  readonly #gone: Promise<never>;

  static async start(host: Host, words: readonly string[], uid?: number): Promise<End> {
    const user = uid === undefined ? [] : [`--reuid=${uid}`, `--regid=${uid}`, '--clear-groups'];
    const argv = ['setpriv', ...user, process.execPath, program, ...words] as const;
    const end = new End(host.spawn(argv));
    expect(await end.next()).toBe('ready');
    return end;
  }

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout });
    this.#gone = once(this.#lines, 'close').then(() => {
      throw new Error('the program is gone');
    });
    this.#gone.catch(() => {});
    child.stderr.pipe(process.stderr);
  }

  async next(): Promise<any> {
    const [line] = await Promise.race([once(this.#lines, 'line'), this.#gone]);
    return JSON.parse(line as string);
  }

  async ask(question: object): Promise<any> {
    const answer = this.next();
    this.#child.stdin.write(`${JSON.stringify(question)}\n`);
    return answer;
  }

  /** Ends the program, and its connections with it. */
  end(): void {
    this.#child.stdin.end();
  }

  async alive(): Promise<boolean> {
    return (await this.ask({})) === 'echo';
  }
}

describeLive('lock-out preflight', { programs: ['nft', 'setpriv'] }, () => {
  let lab: Lab;
  /** A shell with a name that is hard to read in /proc/PID/stat, between the session and cfsync. */
  const shell = '/run/lab/a) S (sh';
  const scrubbed = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', CFSYNC_STATE_DIR: '/run/lab/state' };
  const lockdown = ['-b', 'nftables', '--mode', 'lockdown'];
  const ruleset = () => lab.origin.must(['nft', '-a', 'list', 'ruleset']);
  const write = (path: string, content: string) =>
    lab.origin.must(['tee', path], { stdin: content });
  /** The child has no SSH_CONNECTION, as below sudo. */
  const child = (...argv: string[]): [string, ...string[]] => [
    shell,
    '-c',
    '"$@"; exit "$?"',
    'sh',
    'env',
    '-i',
    ...Object.entries(scrubbed).map(([name, value]) => `${name}=${value}`),
    ...argv,
  ];
  const command = (...args: string[]) => child(process.execPath, cfsync, ...args);
  const applying = ['apply', '--source', 'bundled'];
  /** Runs cfsync below a program that holds connections, nowhere with an SSH_CONNECTION. */
  const run = (server: End, ...args: string[]): Promise<Outcome> =>
    server.ask({ argv: command(...args), env: scrubbed });
  const below = (server: End, ...args: string[]): Promise<Outcome> =>
    run(server, ...applying, ...args);
  /** Runs it below a shell that has an SSH_CONNECTION, with one that has been taken away from the child. */
  const runNamed = (connection: string, ...args: string[]): Promise<Outcome> =>
    lab.origin.run(command(...args), {
      env: { SSH_CONNECTION: connection },
    });
  const named = (connection: string, ...args: string[]): Promise<Outcome> =>
    runNamed(connection, ...applying, ...args);
  const extra = async (...prefixes: string[]): Promise<string[]> => {
    await write('/run/lab/cfsync.yaml', JSON.stringify({ extra: prefixes }));
    return ['--config', '/run/lab/cfsync.yaml'];
  };

  /** sshd behind a relay of another user's on port 443; answers SSH_CONNECTION, and the client. */
  const relayed = async (): Promise<[string, End]> => {
    // Or only root could listen there.
    await write('/proc/sys/net/ipv4/ip_unprivileged_port_start', '0');
    await End.start(lab.origin, ['serve', '127.0.0.1', '22']);
    const relay = await End.start(lab.origin, ['relay', '443', '22'], 1001);
    const inner = relay.next();
    const client = await End.start(lab.stranger, ['dial', lab.origin.v4, '443']);
    return [`127.0.0.1 ${(await inner).port} 127.0.0.1 22`, client];
  };
  const redirect = () =>
    lab.origin.nft(`table inet nat {
      chain prerouting { type nat hook prerouting priority dstnat; tcp dport 443 redirect to :22
      }
    }`);

  const open = async (container = false) => {
    lab = await Lab.create({ container });
    await lab.origin.must(['cp', '/bin/sh', shell]);
  };
  const addContainer = async () => {
    await lab.close();
    await open(true);
  };

  beforeEach(() => open());

  afterEach(() => lab.close());

  describe.each([
    ['IPv4', '0.0.0.0', 'v4'],
    ['IPv4 to a socket of both families', '::', 'v4'],
    ['IPv6', '::', 'v6'],
  ] as const)('a session over %s on port 443, without SSH_CONNECTION', (_name, address, family) => {
    let server: End;
    beforeEach(async () => {
      server = await End.start(lab.origin, ['serve', address, '443']);
    });

    it('from a stranger is refused, whole and unchanged, unless --allow-lockout', async () => {
      const client = await End.start(lab.stranger, ['dial', lab.origin[family]!, '443']);
      const before = await ruleset();
      for (const dry of [['--dry-run'], []]) {
        const { code, stdout, stderr } = await below(server, ...lockdown, ...dry);
        expect(code, stderr).toBe(exit.refused);
        expect(stderr).toContain(
          `nftables: refused: this could cut the session it runs in: ${lab.stranger[family]} to TCP port 443 would no longer be let in; nothing was changed; name the address under extra in the configuration, or go on with --allow-lockout, best with --confirm 120`,
        );
        expect(stderr).toMatch(
          new RegExp(
            `^ {2}${lab.stranger[family]} to TCP port 443: a socket of process \\d+ \\(`,
            'm',
          ),
        );
        expect(stdout.includes('step 1: nftables: sets and chains')).toBe(dry.length > 0);
        expect(await ruleset()).toBe(before);
      }
      expect(await client.alive()).toBe(true);

      // The refusal was right: this cuts it.
      const { code, stderr } = await below(server, ...lockdown, '--allow-lockout');
      expect(code, stderr).toBe(exit.ok);
      expect(stderr).toContain('would no longer be let in; --allow-lockout says to go on');
      expect(await client.alive()).toBe(false);
    });

    it('from Cloudflare is not, and lives on', async () => {
      const client = await End.start(lab.edge, ['dial', lab.origin[family]!, '443']);
      const { code, stderr } = await below(server, ...lockdown);
      expect(code, stderr).toBe(exit.ok);
      expect(await client.alive()).toBe(true);
    });

    it('from an extra prefix is not, until that is taken away', async () => {
      const client = await End.start(lab.stranger, ['dial', lab.origin[family]!, '443']);
      const office = await extra('198.51.100.0/24', '2001:db8::/64');
      for (const mode of ['allow', 'lockdown']) {
        const { code, stderr } = await below(server, '-b', 'nftables', '--mode', mode, ...office);
        expect(code, stderr).toBe(exit.ok);
        expect(await client.alive()).toBe(true);
        const before = await ruleset();
        const without = await below(server, '-b', 'nftables', '--mode', mode);
        expect(without.code, without.stderr).toBe(exit.refused);
        expect(await ruleset()).toBe(before);
      }
      // Nor may the port go that the session came in by.
      const ports = await below(server, '-b', 'nftables', ...office, '--ports', '80');
      expect(ports.code, ports.stderr).toBe(exit.refused);
      expect(await client.alive()).toBe(true);
    });
  });

  it('judges where rollback goes back to', async () => {
    const server = await End.start(lab.origin, ['serve', '::', '443']);
    expect(await below(server, ...lockdown)).toMatchObject({ code: exit.ok });
    expect(await below(server, '-b', 'nftables', '--allow-weaker')).toMatchObject({
      code: exit.ok,
    });
    const client = await End.start(lab.stranger, ['dial', lab.origin.v4, '443']);
    const before = await ruleset();
    for (const dry of [['--dry-run'], []]) {
      const { code, stderr } = await run(server, 'rollback', ...dry);
      expect(code, stderr).toBe(exit.refused);
      expect(stderr).toContain(
        `nftables: refused: this could cut the session it runs in: ${lab.stranger.v4} to TCP port 443 would no longer be let in; nothing was changed; go on with --allow-lockout, from a session that stays`,
      );
      expect(await ruleset()).toBe(before);
    }
    // Nor does it hold.
    expect(await below(server, '-b', 'nftables')).toEqual({
      code: exit.ok,
      stdout: '',
      stderr: '',
    });
    expect(await client.alive()).toBe(true);
    const { code, stderr } = await run(server, 'rollback', '--allow-lockout');
    expect(code, stderr).toBe(exit.ok);
    expect(await client.alive()).toBe(false);
  });

  it('lets rollback and remove lift a lockdown that keeps the session out', async () => {
    const server = await End.start(lab.origin, ['serve', '::', '443']);
    for (const command of ['rollback', 'remove']) {
      const client = await End.start(lab.stranger, ['dial', lab.origin.v4, '443']);
      expect(await below(server, ...lockdown, '--allow-lockout')).toMatchObject({ code: exit.ok });
      expect(await client.alive()).toBe(false);
      expect(await run(server, command)).toMatchObject({ code: exit.ok });
      client.end();
      await lab.origin.must(['rm', '-f', '/run/lab/state/hold.json']);
    }
  });

  it('judges what remove leaves', async () => {
    const server = await End.start(lab.origin, ['serve', '::', '443']);
    const client = await End.start(lab.stranger, ['dial', lab.origin.v6!, '443']);
    const office = await extra('2001:db8::/64');
    expect(await below(server, ...lockdown, ...office)).toMatchObject({ code: exit.ok });
    const before = await ruleset();
    for (const dry of [['--dry-run'], []]) {
      const { code, stderr } = await run(server, 'remove', '-b', 'nftables', ...dry);
      expect(code, stderr).toBe(exit.refused);
      expect(stderr).toContain(`${lab.stranger.v6} to TCP port 443 would no longer be let in`);
      expect(await ruleset()).toBe(before);
    }
    const { code, stderr } = await run(server, 'remove', '-b', 'nftables', '--allow-lockout');
    expect(code, stderr).toBe(exit.ok);
    expect(await ruleset()).toBe('');
    expect(await client.alive()).toBe(true);
  });

  it('knows that rules which adopt took over come back with rollback', async () => {
    await lab.origin.nft(`table inet admin {
      chain input {
        type filter hook input priority 0; policy drop
        tcp dport 22 accept
        ip saddr 173.245.48.0/20 tcp dport 443 accept
      }
    }`);
    const connection = '173.245.48.10 50000 203.0.113.5 443';
    const list = ['-b', 'nftables', '--source', 'bundled', '--ports=443'];
    const adopted = await runNamed(connection, 'adopt', ...list);
    expect(adopted.code, adopted.stderr).toBe(exit.ok);
    expect(adopted.stdout).toContain('ip saddr 173.245.48.0/20');
    const { code, stderr } = await runNamed(connection, 'rollback');
    expect(code, stderr).toBe(exit.ok);
    expect(await ruleset()).toContain('ip saddr 173.245.48.0/20 tcp dport 443 accept');
    // Nothing of a first apply is left.
    await lab.origin.must(['rm', '-r', '/run/lab/state']);
    expect(await runNamed(connection, 'apply', ...list)).toMatchObject({ code: exit.ok });
    expect(await runNamed(connection, 'rollback')).toMatchObject({ code: exit.refused });
  });

  it('judges the port that the session came to, not others', async () => {
    const server = await End.start(lab.origin, ['serve', '::', '22']);
    const client = await End.start(lab.stranger, ['dial', lab.origin.v4, '22']);
    const { code, stderr } = await below(server, ...lockdown);
    expect(code, stderr).toBe(exit.ok);
    expect(await client.alive()).toBe(true);
  });

  it.each([
    ['IPv4', '198.51.100.10 50000 203.0.113.5 443', '198.51.100.10'],
    ['IPv6', '2001:db8::10 50000 2001:db8:5::5 443', '2001:db8::10'],
    ['a link', 'fe80::10%eth0 50000 fe80::5%eth0 443', 'fe80::10'],
  ])('finds SSH_CONNECTION over %s with an ancestor', async (_name, connection, peer) => {
    const before = await ruleset();
    const { code, stderr } = await named(connection, ...lockdown);
    expect(code, stderr).toBe(exit.refused);
    expect(stderr).toContain(`${peer} to TCP port 443 would no longer be let in`);
    expect(stderr).toMatch(/: SSH_CONNECTION in the environment of process \d+ \(a\) S \(sh\)\n/);
    expect(await ruleset()).toBe(before);
    expect(await named(connection, ...lockdown, '--allow-lockout')).toMatchObject({
      code: exit.ok,
    });
  });

  it('lets an SSH_CONNECTION be that is not to be cut, or says nothing', async () => {
    for (const connection of [
      '173.245.48.10 50000 203.0.113.5 443',
      '198.51.100.10 50000 203.0.113.5 22',
      'UNKNOWN 65535 UNKNOWN 65535',
      '127.0.0.1 50000 127.0.0.1 443',
    ])
      expect(await named(connection, ...lockdown, '--dry-run'), connection).toMatchObject({
        code: exit.ok,
      });
  });

  it('judges what changes: not a lockdown that is in force, but one that somebody lifted', async () => {
    const connection = '198.51.100.10 50000 203.0.113.5 443';
    const apply = (...args: string[]) => named(connection, ...lockdown, ...args);
    expect(await apply('--allow-lockout')).toMatchObject({ code: exit.ok });
    expect(await apply()).toEqual({ code: exit.ok, stdout: '', stderr: '' });
    // Nothing changes, whatever is known of what was there before.
    await lab.origin.must(['rm', '-r', '/run/lab/state/applied']);
    expect(await apply()).toEqual({ code: exit.ok, stdout: '', stderr: '' });
    // Another port is locked, and the session's is as it was.
    expect(await apply('--ports', '443', '--allow-weaker')).toMatchObject({
      code: exit.ok,
      stderr: '',
    });
    await lab.origin.nft('delete table inet cfsync');
    const { code, stderr } = await apply('--ports', '443');
    expect(code, stderr).toBe(exit.refused);
    await lab.expectVerdict(443, { edge: 'closed', stranger: 'closed' }); // nobody listens
    expect(await ruleset()).not.toContain('cfsync');
  });

  it('looks behind a program that passes the session on', async () => {
    const [connection, client] = await relayed();
    // Somebody else's connection, to a program of another user's.
    await lab.origin.listen({ tcp: [80] });
    await End.start(lab.stranger, ['dial', lab.origin.v6!, '80']);
    const { code, stderr } = await named(connection, ...lockdown);
    expect(code, stderr).toBe(exit.refused);
    expect(stderr).toContain(
      'this could cut the session it runs in: 198.51.100.10 to TCP port 443 would',
    );
    expect(stderr).toContain('a program of user 1001 relays the session');
    expect(stderr).toContain(
      'TCP port 80: 1 connected peer would no longer be let in: 2001:db8::10\n',
    );
    expect(await client.alive()).toBe(true);
    expect(await named(connection, ...lockdown, '--allow-lockout')).toMatchObject({
      code: exit.ok,
    });
    expect(await client.alive()).toBe(false);
  });

  it.each(['v4', 'v6'] as const)(
    'looks before a rule that redirects the session (%s)',
    async (family) => {
      await redirect();
      const server = await End.start(lab.origin, ['serve', '::', '22']);
      const client = await End.start(lab.stranger, ['dial', lab.origin[family]!, '443']);
      const { code, stderr } = await below(server, ...lockdown);
      expect(code, stderr).toBe(exit.refused);
      expect(stderr).toMatch(
        / to TCP port 443: a socket of process .*; a rule redirects port 443 to port 22\n/,
      );
      expect(await client.alive()).toBe(true);
      expect(await below(server, ...lockdown, '--allow-lockout')).toMatchObject({ code: exit.ok });
      expect(await client.alive()).toBe(false);
    },
  );

  it.each(['v4', 'v6'] as const)(
    "leaves a session through Docker's bridge be (%s)",
    async (family) => {
      await addContainer();
      const server = await End.start(lab.origin, ['serve', '::', '443']);
      const client = await End.start(lab.container, ['dial', lab.origin[family]!, '443']);
      const { code, stderr } = await below(server, ...lockdown);
      expect(code, stderr).toBe(exit.ok);
      expect(stderr).not.toContain('TCP port 443:');
      expect(await client.alive()).toBe(true);
    },
  );

  it('leaves a session through a trusted interface be, until it is trusted no more', async () => {
    await addContainer();
    await lab.origin.ip([
      'link set docker0 down',
      'link set docker0 name vpn',
      'link set vpn up',
      'address add fd00:17::1/64 dev vpn nodad',
    ]);
    const server = await End.start(lab.origin, ['serve', '::', '443']);
    const client = await End.start(lab.container, ['dial', lab.origin.v4, '443']);
    await write('/run/lab/trusted.yaml', '{ backends: { nftables: { trusted: [vpn] } } }');
    expect(await below(server, ...lockdown)).toMatchObject({ code: exit.refused });
    const trusting = await below(server, ...lockdown, '--config', '/run/lab/trusted.yaml');
    expect(trusting.code, trusting.stderr).toBe(exit.ok);
    expect(await client.alive()).toBe(true);
    expect(await below(server, ...lockdown)).toMatchObject({ code: exit.refused });
    expect(await client.alive()).toBe(true);
  });

  it('names peers on ports about to be locked, and what of certificates stops, once', async () => {
    await addContainer();
    await lab.origin.listen({ tcp: [80, 443, 2083] });
    const clients = await Promise.all([
      End.start(lab.stranger, ['dial', lab.origin.v4, '2083']),
      End.start(lab.stranger, ['dial', lab.origin.v6!, '2083']),
      End.start(lab.stranger, ['dial', lab.origin.v4, '443']),
      End.start(lab.edge, ['dial', lab.origin.v4, '443']),
      End.start(lab.origin, ['dial', lab.origin.v4, '443']),
      End.start(lab.container, ['dial', lab.origin.v4, '443']),
    ]);
    const lock = (...args: string[]) =>
      lab.cfsync(['apply', '--source', 'bundled', ...lockdown, '--ports', '80,443,2083', ...args]);
    expect((await lock('--dry-run')).code).toBe(exit.ok);
    const { code, stderr } = await lock();
    expect(code, stderr).toBe(exit.ok);
    expect(stderr.split('\n').filter((line) => line.startsWith('cfsync: warning: '))).toEqual([
      'cfsync: warning: nftables: TCP port 443: 1 connected peer would no longer be let in: 198.51.100.10',
      'cfsync: warning: nftables: TCP port 2083 (cPanel): 2 connected peers would no longer be let in: 198.51.100.10, 2001:db8::10; if one of them is you, name your address under extra in the configuration first',
      'cfsync: warning: nftables: certificates of names that are not behind Cloudflare can no longer be renewed over HTTP-01 (port 80) or TLS-ALPN-01 (port 443), because lockdown keeps the certificate authority out as well; DNS-01 goes on working',
    ]);
    const alive = await Promise.all(clients.map((client) => client.alive()));
    expect(alive).toEqual([false, false, false, true, true, true]);
    // A change of the ranges under it says none of this again.
    expect(await lock(...(await extra('192.0.2.0/24')))).toMatchObject({
      code: exit.ok,
      stderr: '',
    });
    expect(await lock(...(await extra('192.0.2.0/24')))).toEqual({
      code: exit.ok,
      stdout: '',
      stderr: '',
    });
  });

  it('refuses one backend, and the next boot with it, and brings the others as far as they go', async () => {
    const connection = '198.51.100.10 50000 203.0.113.5 443';
    const backends = [...lockdown, '-b', 'iptables'];
    const ports = '{ backends: { nftables: { ports: [8080] } } }';
    await write('/run/lab/ports.yaml', ports);
    const args = [...backends, '--config', '/run/lab/ports.yaml', '--persist'];
    const before = await ruleset();
    const none = await named(connection, ...args, '--all-or-nothing');
    expect(none.code, none.stderr).toBe(exit.refused);
    expect(none.stdout).toBe('');
    expect(await ruleset()).toBe(before);
    const { code, stdout, stderr } = await named(connection, ...args);
    expect(code, stderr).toBe(exit.refused);
    expect(stderr).toContain('iptables: refused: ');
    expect(stderr).not.toContain('nftables: refused');
    expect(stdout).toContain('nftables: applied and read back');
    expect(stdout).not.toContain('boot: ');
    expect(await named(connection, ...args, '--allow-lockout')).toMatchObject({ code: exit.ok });
    const unit = await lab.origin.must(['cat', '/etc/systemd/system/cfsync-boot.service']);
    expect(unit).not.toContain('allow-lockout');
  });

  it('says once what holds for several backends', async () => {
    const args = [...lockdown, '-b', 'iptables', '--dry-run'];
    const { code, stderr } = await lab.cfsync(['apply', '--source', 'bundled', ...args]);
    expect(code, stderr).toBe(exit.ok);
    expect(stderr.match(/certificates of names/g)).toHaveLength(1);
  });

  describe('what /proc shows is what the fixtures say it does', () => {
    const dial = (host: Host, family: 'v4' | 'v6', ...more: string[]) =>
      End.start(host, ['dial', lab.origin[family]!, ...more]);
    const observe = (uid?: number) =>
      child(
        ...(uid === undefined ? [] : ['setpriv', `--reuid=${uid}`, '--clear-groups']),
        process.execPath,
        program,
        'observe',
        '80',
        '443',
      );
    const serve = async (): Promise<End> => {
      const server = await End.start(lab.origin, ['serve', '::', '443']);
      await dial(lab.stranger, 'v4', '443');
      await dial(lab.stranger, 'v6', '443');
      await dial(lab.edge, 'v4', '443');
      return server;
    };
    const under = (connection: string): Promise<Outcome> =>
      lab.origin.run(observe(), { env: { SSH_CONNECTION: connection } });
    const scenes: Readonly<Record<string, () => Promise<Outcome>>> = {
      held: async () => (await serve()).ask({ argv: observe(), env: scrubbed }),
      'other-user': async () => (await serve()).ask({ argv: observe(1001), env: scrubbed }),
      busy: async () => {
        const gone = await End.start(lab.origin, ['serve', '::', '80']);
        await dial(lab.stranger, 'v4', '80');
        await dial(lab.origin, 'v4', '80');
        gone.end();
        await lab.origin.listen({ tcp: [22] });
        await dial(lab.stranger, 'v4', '22');
        const server = await serve();
        await dial(lab.origin, 'v4', '443');
        const env = { ...scrubbed, SSH_CONNECTION: '198.51.100.10 50000 203.0.113.5 443' };
        return server.ask({ argv: observe(), env });
      },
      redirected: async () => {
        await redirect();
        await lab.origin.listen({ tcp: [22] });
        // Two clients with the same port.
        await dial(lab.edge, 'v6', '443', '50000');
        await dial(lab.stranger, 'v6', '443', '50000');
        return under('2001:db8::10 50000 2001:db8:5::5 22');
      },
      named: () => under('2001:db8::10 50000 2001:db8:5::5 443'),
      relayed: async () => {
        const [connection] = await relayed();
        await dial(lab.edge, 'v6', '443');
        await lab.origin.listen({ tcp: [80] });
        await dial(lab.stranger, 'v6', '80');
        return under(connection);
      },
    };

    it.each(Object.keys(expected))('%s', async (name) => {
      const { stdout, stderr } = await scenes[name]!();
      expect(stderr).toBe('');
      // So Node 24 calls itself.
      const { own, peers } = JSON.parse(stdout.replaceAll('(MainThread)', '(node)'));
      expect(answer({ own, peers: new Map(peers) })).toEqual(expected[name]);
    });
  });
});
