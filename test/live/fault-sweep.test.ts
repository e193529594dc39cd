/**
 * Every operation of an apply on files, and every program that it runs, fails in turn: the exit code always says
 * what is there then, and the next apply puts it right.
 */

import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { digest } from '../../src/digest.ts';
import type { Outcome } from '../../src/renderer.ts';
import { Lab, smallFail2ban } from './lab.ts';
import { describeLive } from './privileges.ts';

const preload = new URL('preload.mjs', import.meta.url).href;
const runs = fileURLToPath(new URL('runs.mjs', import.meta.url));

const log = '/run/lab/log';
const state = '/run/lab/state';
const temporary = '/run/lab/tmp';
const env = { CFSYNC_STATE_DIR: state, TMPDIR: temporary };

/**
 * Every operation fails, in one to three ways that are shared out. Of what is done again and again and leaves
 * nothing behind one time fails. CFSYNC_TEST_FAULTS=all is for every time and every way, which takes ten times as
 * long.
 */
const all = process.env.CFSYNC_TEST_FAULTS === 'all';

/** Two lists that each lack something of the other: the same work in both directions. */
const lists = {
  a: ['173.245.48.0/20\n104.16.0.0/13', '2400:cb00::/32\n2606:4700::/32'],
  b: ['173.245.48.0/20\n108.162.192.0/18', '2400:cb00::/32\n2803:f800::/32'],
} as const;
type List = keyof typeof lists;
const other = { a: 'b', b: 'a' } as const;

interface Backend {
  readonly args: readonly string[];
  readonly setup: string;
  /** Prints all that the backend holds. */
  readonly holds: string;
}

const saved =
  'for t in iptables ip6tables; do $t-save | sed "/^#/d; s/\\[[0-9]*:[0-9]*\\]//"; done';
const backends: Readonly<Record<string, Backend>> = {
  nftables: {
    args: ['-b', 'nftables', '--mode=lockdown'],
    setup: ':',
    holds: 'nft --stateless list ruleset',
  },
  iptables: { args: ['-b', 'iptables', '--mode=lockdown'], setup: ':', holds: saved },
  'iptables with sets': {
    args: ['-b', 'iptables', '--ipset', '--mode=lockdown'],
    setup: ':',
    // The seed of its hash is another one in every set.
    holds: `${saved}; ipset save -sorted | sed 's/ initval [^ ]*//'`,
  },
  ufw: {
    args: ['-b', 'ufw', '--mode=lockdown'],
    setup: 'ufw allow 22/tcp; ufw --force enable',
    holds: `cat /etc/ufw/user*.rules; ${saved}`,
  },
  fail2ban: {
    args: ['-b', 'fail2ban'],
    setup: smallFail2ban,
    holds: 'cd /etc/fail2ban; ls . jail.d; grep "" jail.d/*; fail2ban-client get lab ignoreip',
  },
};
const names = Object.keys(backends);

/** As the log has it. */
interface Operation {
  readonly kind: 'file' | 'run';
  readonly n: number;
  readonly op: string;
  readonly what: string;
  readonly changes: boolean;
}

const programs = ['nft', 'iptables', 'ipset', 'ufw', 'fail2ban-server', 'python3'];
/** What programs only read with. */
const asks = /--test|--version|-save|list|save| -S|test -|banned|get |cfsync\.py/;
const privateDirs = ['/var/log', '/var/lib/fail2ban'];
const runFaults = [
  'truncate',
  'exit-before:1',
  'exit-after:1',
  'hang-before',
  'hang-after',
  'fail:ENOENT',
  'fail:EACCES',
];

/** The same for the same work, in whatever run and backend. */
function workOf({ op, what }: Operation): string {
  const path = what
    .replaceAll(/[0-9a-f]{24}|\d{6}|cfsync-\w{6}/g, '*')
    .replaceAll(/\/proc\/\d+(\/fd\/\d+)?/g, '/proc/*');
  return `${op} ${names.reduce((text, name) => text.replaceAll(name, '*'), path)}`;
}

/** Whether nothing of it is there when an apply has ended. */
function isFleeting({ kind, what, changes }: Operation): boolean {
  return kind === 'run' ? asks.test(what) : !changes || what.startsWith(temporary);
}

/**
 * How the operations of a backend's apply are to fail. What all backends do alike, in the state directory, is
 * shared out among them.
 */
function faultsOf(name: string, operations: readonly Operation[]): readonly string[] {
  const works = new Map<string, Operation[]>();
  for (const operation of operations) {
    const work = workOf(operation);
    const list = works.get(work);
    if (list === undefined) works.set(work, [operation]);
    else list.push(operation);
  }
  return [...works].flatMap(([work, list]) => {
    const [first] = list;
    const lot = lotOf(work);
    if (first!.what.startsWith(state) && lot % names.length !== names.indexOf(name)) return [];
    const some = all || !isFleeting(first!) ? list : [list[lot % list.length]!];
    return some.flatMap((operation) => waysOf(operation, lotOf(`${work} ${operation.n}`)));
  });
}

function lotOf(text: string): number {
  return Number.parseInt(digest(text).slice(0, 8), 16);
}

function waysOf(operation: Operation, lot: number): readonly string[] {
  const { kind, n, op, changes } = operation;
  const pick = (from: readonly string[], i = 0): string => from[(lot + i) % from.length]!;
  if (kind === 'run') {
    const some = isFleeting(operation)
      ? [pick(runFaults)]
      : [0, 2, 4].map((i) => pick(runFaults, i));
    const faults = all ? runFaults : some;
    return faults.map((fault) => `${fault} run ${n}`);
  }
  const errnos = changes ? ['ENOSPC', 'EIO', 'EACCES', 'EROFS'] : ['EIO', 'EACCES'];
  const ways = [`fail:${pick(errnos)}`];
  if (changes && op !== 'chmod' && op !== 'chown' && op !== 'mkdir')
    ways.push(`fail-on:${pick(['ENOSPC', 'EROFS'])}`, `signal:${pick(['SIGINT', 'SIGTERM'])}`);
  const faults = all ? ways : [pick(ways)];
  return faults.map((fault) => `${fault} file ${n}`);
}

class Sweep {
  readonly #lab: Lab;
  readonly #backend: Backend;
  readonly #states = new Map<List, string>();
  #now: List = 'a';

  constructor(lab: Lab, backend: Backend) {
    this.#lab = lab;
    this.#backend = backend;
  }

  /** Answers what an apply does, once every one does the same: old snapshots and entries are let go by then. */
  async prepare(): Promise<readonly Operation[]> {
    const { setup, holds } = this.#backend;
    const files = Object.entries(lists).map(
      ([name, [v4, v6]]) =>
        `mkdir /run/lab/${name}; echo '${v4}' >/run/lab/${name}/ips-v4; echo '${v6}' >/run/lab/${name}/ips-v6`,
    );
    for (const { code, said } of await this.#several(`mkdir ${temporary}`, ...files, setup))
      expect(code, said).toBe(0);
    for (const list of ['b', 'a', 'b', 'a', 'b', 'a', 'b', 'a'] as const) {
      const [applied, shown] = await this.#several(this.#apply(list), holds);
      expect(applied!.code, applied!.said).toBe(exit.ok);
      expect(shown!.code, shown!.said).toBe(exit.ok);
      this.#states.set(list, shown!.said);
    }
    expect(this.#states.get('a')).not.toBe(this.#states.get('b'));
    expect(await this.#applyWith('')).toMatchObject({ code: exit.ok });
    this.#now = 'b';
    const lines = (await this.#log()).trim().split('\n');
    return lines.map((line) => JSON.parse(line) as Operation);
  }

  /** Applies the other list with a fault, and then without; answers which promises were not kept. */
  async strike(fault: string): Promise<readonly string[]> {
    const [old, wanted] = [this.#now, other[this.#now]].map((list) => this.#states.get(list)!);
    const apply = this.#apply(other[this.#now]);
    const { code, stdout, stderr } = await this.#applyWith(fault);
    const journal = /\/run\/lab\/state\/\S+\.json(?=: look at)/.exec(stderr)?.[0];
    const there = journal !== undefined && existsSync(this.#lab.origin.path(journal));
    const { holds } = this.#backend;
    const strewn = `ls -A ${temporary}; rm -rf ${temporary}/*; find /etc ${state} -name '.cfsync-*'`;
    const [struck, left, again, after, leftAfter, verified] = await this.#several(
      holds,
      strewn,
      apply,
      holds,
      strewn,
      ['verify'],
    );
    this.#now = other[this.#now];
    const reached = /"op":"(\w+)","what":"(.*)","changes":\w+\}\n\{"acted"/.exec(await this.#log());

    const problems: string[] = [];
    const must = (so: boolean, otherwise: string): void => {
      if (!so) problems.push(otherwise);
    };
    const be = (state: string | undefined): void => {
      const now = struck!.said === old ? 'old' : struck!.said === wanted ? 'new' : 'neither';
      must(struck!.said === state, `code ${code} and the state is ${now}`);
    };
    must(reached !== null, 'it was not reached');
    must(!/internal error|^ +at /m.test(stderr), 'an internal error');
    if (code === exit.ok) be(wanted);
    else if (code === exit.failed || code === exit.rolledBack) be(old);
    else if (code === exit.broken) must(there, 'code 5 and no journal');
    else problems.push(`code ${code}`);
    // What cannot be deleted stays, until the next run.
    const undeletable = reached?.[1] === 'rm' || fault.startsWith('fail-on:EROFS');
    must(left!.said === '' || undeletable, `left: ${left!.said}`);
    must(again!.code === exit.ok, `the next apply: code ${again!.code}: ${again!.said}`);
    must(after!.said === wanted, 'the next apply does not bring what is wanted');
    must(leftAfter!.said === '', `left by the next apply: ${leftAfter!.said}`);
    must(verified!.code === exit.ok, `verify: code ${verified!.code}: ${verified!.said}`);
    if (problems.length === 0) return [];
    const where = `${fault} (${reached?.[1]} ${reached?.[2]})`;
    return [`${where}: ${problems.join('; ')}\ncode ${code}: ${stdout}${stderr}`];
  }

  #apply(list: List): string[] {
    // With 25 s the waits for locks take 30 s at most, and so pass faster where a program hangs.
    const common = ['--accept-large-change', '--lock-timeout=25'];
    return ['apply', `--source=/run/lab/${list}`, ...common, ...this.#backend.args];
  }

  async #applyWith(fault: string): Promise<Outcome> {
    await rm(this.#lab.origin.path(log), { force: true });
    const act = { CFSYNC_TEST_LOG: log, CFSYNC_TEST_ACT: fault };
    return this.#lab.cfsync(this.#apply(other[this.#now]), {
      env: { ...env, ...act, NODE_OPTIONS: `--import=${preload}` },
    });
  }

  #log(): Promise<string> {
    return readFile(this.#lab.origin.path(log), 'utf8');
  }

  async #several(
    ...lines: (string | readonly string[])[]
  ): Promise<readonly { readonly code: number; readonly said: string }[]> {
    const argv = [process.execPath, runs, JSON.stringify(lines)] as const;
    const text = await this.#lab.origin.must([...argv], { env });
    return JSON.parse(text) as { code: number; said: string }[];
  }
}

describeLive('a fault in the middle of an apply', { programs }, () => {
  it.for(names)('of %s', { timeout: 3_600_000 }, async (name) => {
    const lab = await Lab.create({ privateDirs });
    try {
      const sweep = new Sweep(lab, backends[name]!);
      const problems: string[] = [];
      for (const fault of faultsOf(name, await sweep.prepare()))
        problems.push(...(await sweep.strike(fault)));
      expect(problems).toEqual([]);
    } finally {
      await lab.close();
    }
  });
});
