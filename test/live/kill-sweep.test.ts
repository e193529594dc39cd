/** SIGKILL at every boundary of an apply and at random moments: what recovers is wholly the old or the new state. */

import { readdir, readFile, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { exit } from '../../src/errors.ts';
import type { Outcome } from '../../src/renderer.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';
import { quoted } from '../helpers/program.ts';

/** At random moments, next to those at the boundaries; CFSYNC_TEST_KILLS=20 for a quick look. */
const kills = Number(process.env.CFSYNC_TEST_KILLS ?? 200);

const preload = new URL('preload.mjs', import.meta.url).href;
const data = fileURLToPath(new URL('../../data', import.meta.url));
const programs = ['nft', 'iptables', 'ip6tables', 'ipset', 'ufw', 'fail2ban-client', 'python3'];

/** Sets, rules and files all change on the way from one to the other. */
const versions = [
  ['--source', '/run/lab/lists/0', '--ports', '80,443', '--allow-weaker'],
  ['--source', '/run/lab/lists/1', '--ports', '443,8443', '--allow-weaker'],
] as const;

const temporary = '/run/lab/tmp';

interface Seen {
  /** A script that prints what is there, ours and the admin's; counters and handles left out. */
  readonly tell: string;
  /** What an admin does between the kill and what recovers from it. */
  readonly act: string;
  /** Takes that back, and fails where it is not there any more. */
  readonly undo: string;
}

const iptablesRule = 'INPUT -p tcp -m tcp --dport 9002 -j ACCEPT';
const ufwRules = '/etc/ufw/user.rules /etc/ufw/user6.rules';
const jail = '/etc/fail2ban/jail.d/admin.local';

const backends = {
  nftables: {
    tell: 'for t in admin cfsync; do nft -s list table inet $t 2>&1 || :; done',
    act: 'nft add rule inet admin input tcp dport 9001 accept',
    undo: `nft delete rule inet admin input handle $(nft -a list chain inet admin input | sed -n 's/.* dport 9001 accept # handle //p' | grep .)`,
  },
  iptables: {
    tell: `{ iptables-save; ip6tables-save; } | sed '/^#/d; /ufw/d; s/ *\\[[0-9]*:[0-9]*\\]//'; ipset save -sorted | sed 's/ initval [^ ]*//'`,
    act: `iptables -A ${iptablesRule}`,
    undo: `iptables -D ${iptablesRule}`,
  },
  ufw: {
    tell: `cat ${ufwRules} | grep .; iptables -S ufw-user-input; ip6tables -S ufw6-user-input`,
    act: 'ufw allow 9003/tcp',
    undo: `for f in ${ufwRules}; do grep -q 'dport 9003 ' $f; done; iptables -S | grep -q 'dport 9003 '; ip6tables -S | grep -q 'dport 9003 '; ufw delete allow 9003/tcp`,
  },
  fail2ban: {
    tell: 'cd /etc/fail2ban; ls -A . jail.d; grep "" jail.d/*',
    act: `echo 'maxretry = 7' >> ${jail}`,
    undo: `grep -q 'maxretry = 7' ${jail}; sed -i '/maxretry = 7/d' ${jail}`,
  },
} as const satisfies Readonly<Record<string, Seen>>;
type Backend = keyof typeof backends;

/** A line of what preload.mjs writes down. */
interface Operation {
  readonly kind: 'file' | 'run';
  readonly n: number;
  readonly op: string;
  readonly what: string;
  readonly changes: boolean;
}

type Recovery = 'apply' | 'rollback';

/** When an apply is killed: as preload.mjs understands it, or milliseconds after its start. */
type Moment = string | number;

class Sweep {
  /** How many kills left a journal open. */
  inTheMiddle = 0;
  readonly #lab: Lab;
  readonly #names: readonly Backend[];
  readonly #args: readonly string[];
  /** What is there after a run that nobody killed, for each version. */
  readonly #clean: Readonly<Record<string, string>>[] = [];
  /** Milliseconds that such a run takes. */
  #duration = 0;
  /** The version that is there. */
  #at = 0;

  constructor(lab: Lab, names: readonly Backend[], args: readonly string[]) {
    this.#lab = lab;
    this.#names = names;
    this.#args = args;
  }

  async prepare(): Promise<void> {
    for (this.#at of [0, 1, 0, 1, 0]) {
      await this.#forget('hold.json');
      const start = performance.now();
      await this.#apply(this.#at);
      this.#duration = performance.now() - start;
      this.#clean[this.#at] ??= await this.#told();
      expect(await this.#told()).toEqual(this.#clean[this.#at]);
    }
    for (const name of this.#names) expect(this.#clean[0]![name]).not.toBe(this.#clean[1]![name]);
  }

  /** From the journal on, all that changes something that can be seen without a power cut. */
  async boundaries(): Promise<readonly string[]> {
    const there = await this.#operations();
    const back = await this.#operations();
    const changes = (list: readonly Operation[]) =>
      list.filter((o) => o.changes).map(({ kind, n, op }) => `${kind} ${n} ${op}`);
    expect(changes(back)).toEqual(changes(there));
    return there.flatMap(({ kind, n, op, what, changes }) => {
      if (!changes || ['chmod', 'chown', 'sync'].includes(op) || what.includes(temporary))
        return [];
      if (kind === 'file') return [`kill-before file ${n}`];
      const asks = !/restore|-f -$/.test(what) || /--(test|version)/.test(what);
      return asks ? [] : [`kill-started run ${n}`, `kill-after run ${n}`];
    });
  }

  randomMoment(): number {
    return this.#duration * (0.3 + 0.75 * Math.random());
  }

  /**
   * Kills an apply of the other version, recovers, and sees what is there then.
   * @param first A recovery before that one, which is killed as well.
   */
  async kill(at: Moment, recovery: Recovery, first?: Recovery): Promise<void> {
    const label = `${at}, ${first ?? 'no first try'}, ${recovery}`;
    const to = 1 - this.#at;
    const from = this.#at;
    // Nobody is at a terminal here, so a hold would never end.
    await this.#forget('hold.json');
    const ended = await this.#runAndKill(this.#line('apply', to), at);
    await this.#shell(this.#names.map((name) => backends[name].act));
    if (first !== undefined) await this.#runAndKill(this.#line(first, to), this.randomMoment());
    const open = await this.#open();
    if (open.length > 0) this.inTheMiddle++;
    const { code, stderr } = await this.#cfsync(this.#line(recovery, to));
    const said = `${label}: ${stderr}`;
    const nothing = stderr.includes('there is no apply to go back from');
    // A rollback that was killed holds, and what it has begun goes on all the same.
    const held = stderr.includes('this run asks for another state than is held');
    expect(code, said).toBe(nothing ? exit.failed : held ? exit.busy : exit.ok);
    for (const name of open) expect(stderr, label).toMatch(new RegExp(`${name}: .* cut off`));
    await this.#shell(this.#names.map((name) => backends[name].undo));

    const told = await this.#told();
    const now = this.#names.map((name) => {
      const version = this.#clean.findIndex((clean) => clean[name] === told[name]);
      // For the difference in its message.
      if (version < 0) expect(told[name], `${name} at ${said}`).toBe(this.#clean[to]![name]);
      if (first === undefined && recovery === 'apply') expect(version, said).toBe(to);
      if (
        first === undefined &&
        recovery === 'rollback' &&
        (ended || nothing || open.includes(name))
      )
        expect(version, said).toBe(from);
      return version;
    });
    expect(await this.#open(), said).toEqual([]);
    expect(told.litter, said).toBe('');
    this.#at = now[0]!;
    if (now.some((version) => version !== this.#at)) await this.#apply(this.#at);
  }

  #shell(scripts: readonly string[]): Promise<string> {
    const script = scripts.map((text) => `(${text})`).join('\n');
    return this.#lab.origin.must(['sh', '-ec', script]);
  }

  /** By backend; and what cut off writes left in /etc. */
  async #told(): Promise<Readonly<Record<string, string>>> {
    const tells = this.#names.map((name) => [name, backends[name].tell] as const);
    const all = [...tells, ['litter', 'find /etc -name ".cfsync-*"'] as const];
    const text = await this.#shell(all.map(([name, tell]) => `echo "=== ${name}"; ${tell}`));
    const parts = text.split(/^=== (.*)\n/m).slice(1);
    return Object.fromEntries(all.map(([name], i) => [name, parts[2 * i + 1]!]));
  }

  #cfsync(
    args: readonly string[],
    options: { env?: Record<string, string>; timeout?: number } = {},
  ): Promise<Outcome> {
    // What killed checks leave in the temporary folder goes with the lab.
    const env = { TMPDIR: temporary, ...options.env };
    return this.#lab.cfsync(args, { timeout: 300_000, ...options, env });
  }

  #line(command: Recovery, version: number): readonly string[] {
    const names = this.#names.flatMap((name) => ['-b', name]);
    return command === 'rollback'
      ? ['rollback']
      : ['apply', ...names, '--mode', 'lockdown', ...this.#args, ...versions[version]!];
  }

  async #apply(version: number, env: Record<string, string> = {}): Promise<void> {
    await this.#forget('hold.json');
    const { code, stderr } = await this.#cfsync(this.#line('apply', version), { env });
    expect(code, stderr).toBe(exit.ok);
  }

  /** Whether it came to its end before. */
  async #runAndKill(line: readonly string[], at: Moment): Promise<boolean> {
    if (typeof at === 'number')
      return this.#cfsync(line, { timeout: at }).then(
        () => true,
        (error: unknown) => {
          expect(String(error)).toContain('still running');
          return false;
        },
      );
    await this.#forget('history', '../log');
    const env = this.#preloaded(at);
    expect(await this.#cfsync(line, { env })).toMatchObject({ code: 128 + 9 });
    const log = await readFile(this.#lab.origin.path('/run/lab/log'), 'utf8');
    expect(log).toContain(JSON.stringify({ acted: at }));
    return false;
  }

  #preloaded(act: string): Record<string, string> {
    return {
      NODE_OPTIONS: `--import=${preload}`,
      CFSYNC_TEST_LOG: '/run/lab/log',
      CFSYNC_TEST_ACT: act,
      // Before it, an apply may or may not have a snapshot to write.
      CFSYNC_TEST_FROM: '/state/journal/.cfsync-',
    };
  }

  /** What an apply of the other version does. */
  async #operations(): Promise<readonly Operation[]> {
    await this.#forget('history', '../log');
    this.#at = 1 - this.#at;
    await this.#apply(this.#at, this.#preloaded(''));
    const log = await readFile(this.#lab.origin.path('/run/lab/log'), 'utf8');
    return log
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
  }

  /** The backends with an open journal. */
  async #open(): Promise<readonly string[]> {
    const names = await readdir(this.#lab.origin.path('/run/lab/state/journal'));
    return names.filter((name) => name.endsWith('.json')).map((name) => name.slice(0, -5));
  }

  async #forget(...names: readonly string[]): Promise<void> {
    for (const name of names)
      await rm(this.#lab.origin.path(`/run/lab/state/${name}`), { recursive: true, force: true });
  }
}

/** An origin where all four backends have something to respect. */
async function makeLab(...more: readonly string[]): Promise<Lab> {
  const lab = await Lab.create({
    privateDirs: ['/var/log', '/var/lib/fail2ban', '/usr/local/sbin'],
  });
  const script = [
    `mkdir ${temporary} /run/lab/lists`,
    `cp -r ${quoted(data)} /run/lab/lists/0`,
    `cp -r ${quoted(data)} /run/lab/lists/1`,
    'sed -i /^131.0.72/d /run/lab/lists/1/ips-v4',
    'sed -i /^2c0f:f248/d /run/lab/lists/1/ips-v6',
    ...more,
  ];
  await lab.origin.must(['sh', '-ec', script.join('\n')]);
  return lab;
}

/** One after the other: boundaries, then random moments, every fifth with a recovery that is killed too. */
async function sweepAll(sweep: Sweep, random: number): Promise<void> {
  const recoveries = ['apply', 'rollback'] as const;
  for (const [i, at] of (await sweep.boundaries()).entries())
    await sweep.kill(at, recoveries[i % 2]!);
  await sweepRandom(sweep, random);
}

async function sweepRandom(sweep: Sweep, random: number): Promise<void> {
  const recoveries = ['apply', 'rollback'] as const;
  for (let i = 0; i < random; i++)
    await sweep.kill(
      sweep.randomMoment(),
      recoveries[i % 2]!,
      i % 5 === 4 ? recoveries[(i + 1) % 2] : undefined,
    );
}

describeLive('kill sweep', { programs }, () => {
  vi.setConfig({ testTimeout: 3_600_000 });

  // Side by side, because they wait for programs most of the time.
  describe.concurrent('of', () => {
    describe('nftables and iptables', () => {
      let lab: Lab;
      beforeAll(async () => {
        lab = await makeLab(`nft -f - <<END
          table inet admin {
            chain input {
              type filter hook input priority filter; policy drop
              iifname lo accept
              tcp dport 22 accept
            }
          }
END`);
      });
      afterAll(() => lab.close());

      it('leaves the old or the new state', async () => {
        const sweep = new Sweep(lab, ['nftables', 'iptables'], ['--ipset']);
        await sweep.prepare();
        await sweepAll(sweep, Math.round(kills * 0.85));
        expect(sweep.inTheMiddle).toBeGreaterThan(15);
      });
    });

    describe('files', () => {
      let lab: Lab;
      beforeAll(async () => {
        lab = await makeLab(
          'cd /etc/fail2ban',
          // Every run copies the folder some times.
          "find filter.d action.d -type f ! -name 'sshd*' ! -name '*common*' ! -name 'iptables*' -delete",
          'touch /var/log/auth.log',
          `printf '[sshd]\\nbackend = polling\\n' > ${jail}`,
          'nft add table inet admin',
          `nft 'add chain inet admin input { type filter hook input priority 0; }'`,
          'ufw allow 22/tcp',
          'ufw --force enable',
        );
      });
      afterAll(() => lab.close());

      it('of UFW and fail2ban are the old or the new ones', async () => {
        const sweep = new Sweep(lab, ['ufw', 'fail2ban'], []);
        await sweep.prepare();
        await sweepAll(sweep, Math.round(kills * 0.1));
        expect(sweep.inTheMiddle).toBeGreaterThan(15);

        const all = ['nftables', 'iptables', 'ufw', 'fail2ban'] as const;
        const four = new Sweep(lab, all, ['--nft-chain', 'none']);
        await four.prepare();
        await sweepRandom(four, Math.round(kills * 0.05));
      });
    });
  });
});
