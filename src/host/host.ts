/** The one place that spawns programs, and the read-only view of the machine that renderers get. */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { readdir, readFile, readlink } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { BackendError, CfsyncError, errno, exit } from '../errors.ts';
import { withInput, withStage } from './files.ts';
import type { Command, Host, Outcome } from '../renderer.ts';
import type { ProcessHost } from './proc.ts';
import { processes } from './programs.ts';
import { escape, firstLines } from '../text.ts';

/** Where programs are looked for, whatever the caller's PATH says. */
const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Above what `nft -j list` prints for 1M prefixes (51 bytes an element, nft 1.0.6). */
const maxOutput = 256 * 1024 * 1024;

const defaultTimeout = 30_000;

/** The Debian package of a program, for the message that says what to install. */
const packages: Readonly<Record<string, string>> = {
  nft: 'nftables',
  iptables: 'iptables',
  'iptables-save': 'iptables',
  'iptables-restore': 'iptables',
  ip6tables: 'iptables',
  'ip6tables-save': 'iptables',
  'ip6tables-restore': 'iptables',
  ipset: 'ipset',
  ufw: 'ufw',
  'fail2ban-client': 'fail2ban',
  nginx: 'nginx',
  kubectl: 'kubernetes-client',
};

/** A command as a person would type it; for messages, never for a shell. Of its stage nothing is left then. */
export function show({ argv, stage }: Command): string {
  const words = stage === undefined ? argv : argv.map((word) => inStage(word, 'FOLDER'));
  return escape(words.map(shorten).join(' '));
}

function inStage(word: string, folder: string): string {
  return word.replaceAll('{stage}', folder);
}

/** A script among the words would bury the message. */
function shorten(word: string): string {
  return word.length > 80 ? `${word.slice(0, 60).split('\n')[0]}...` : word;
}

/**
 * Runs a program to its end. Throws when it is missing, runs out of time or prints without end.
 * @param env All of its environment.
 */
export function run(command: Command, env = ours()): Promise<Outcome> {
  const { stage, ...rest } = command;
  if (stage === undefined) return start(command, env);
  return withStage(stage, (folder) => {
    const [program, ...args] = command.argv.map((word) => inStage(word, folder));
    return start({ ...rest, argv: [program!, ...args] }, env);
  });
}

/** Runs a program that is to succeed: answers in one line why it did not, or undefined. */
export async function failure(
  command: Command,
  env?: NodeJS.ProcessEnv,
): Promise<string | undefined> {
  try {
    const { code, stdout, stderr } = await run(command, env);
    if (code === 0) return undefined;
    const [line = ''] = firstLines(stderr || stdout);
    return `${show(command)} ended with code ${code}${line === '' ? '' : ` (${line})`}`;
  } catch (error) {
    if (error instanceof CfsyncError) return error.message;
    throw error;
  }
}

interface Printing extends ChildProcess {
  readonly stdout: Readable;
  readonly stderr: Readable;
}

/**
 * Starts a program with its input in a file. A 'pipe' of Node's is a pair of sockets: nft 1.0.9 (Ubuntu 24.04) refuses
 * it (`Not a regular file: "/dev/stdin"`), and nobody can open it by name, as a hook may want to. Node makes neither a
 * pipe(2) nor a memfd, and a FIFO would take another program. A file costs 60 microseconds, 60 ms for 50 MB.
 */
function launch({ argv, stdin = '' }: Command, env: NodeJS.ProcessEnv): Printing {
  const [program, ...args] = argv;
  const from = (input: 'ignore' | number): Printing => {
    try {
      return spawn(program, args, {
        env,
        stdio: [input, 'pipe', 'pipe'],
        // In a session of its own: what a terminal sends to end cfsync must not end a step half-way.
        detached: true,
      }) as Printing;
    } catch (cause) {
      // Words that no program can be given: too many of them, or one with a NUL in it.
      throw spawnError(program, cause as Error);
    }
  };
  return stdin === '' ? from('ignore') : withInput(stdin, from);
}

function start(command: Command, env: NodeJS.ProcessEnv): Promise<Outcome> {
  const [program] = command.argv;
  const timeout = command.timeout ?? defaultTimeout;
  return new Promise((resolve, reject) => {
    const child = launch(command, env);
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    let size = 0;
    let ended: string | undefined;
    const stop = (reason: string): void => {
      ended ??= reason;
      endGroup(child);
      // One that left the group may hold them open for as long as it runs.
      child.stdout.destroy();
      child.stderr.destroy();
    };
    const timer = setTimeout(() => stop(`did not end within ${timeout / 1000} s`), timeout);
    const collect = (into: Buffer[]) => (chunk: Buffer) => {
      size += chunk.length;
      if (size > maxOutput) stop(`printed more than ${maxOutput / 1024 / 1024} MiB`);
      else into.push(chunk);
    };
    child.stdout.on('data', collect(out));
    child.stderr.on('data', collect(err));
    child.on('error', (cause) => {
      clearTimeout(timer);
      reject(spawnError(program, cause));
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const stderr = Buffer.concat(err).toString();
      if (ended !== undefined || code === null) {
        const what = ended ?? `was ended by ${signal}`;
        reject(
          new CfsyncError(exit.failed, `${show(command)} ${what}`, { detail: firstLines(stderr) }),
        );
        return;
      }
      resolve({ code, stdout: Buffer.concat(out).toString(), stderr });
    });
  });
}

/** Ends a program that leads a process group, with those that it started. */
function endGroup(child: ChildProcess): void {
  if (child.pid !== undefined) endProcess(-child.pid);
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (errno(error) !== 'ESRCH') throw error;
  }
}

/** How a program that waits for a lock ends when it is not to be had in time; any other end is a failure. */
export const lateForLock = 75;

function noLock(program: string, code: number | null): CfsyncError {
  const what = code === null ? 'did not answer' : `ended with code ${code}`;
  return new CfsyncError(
    exit.failed,
    `${program}, which takes the lock, ${what}; nothing was changed`,
  );
}

/**
 * Takes the lock of an open file: a child that inherits the descriptor as its 3 does it, and the lock stays with
 * the open file. False when it is not to be had within `seconds`.
 */
export function lockOpen(fd: number, argv: Command['argv'], seconds: number): Promise<boolean> {
  const [program, ...args] = argv;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      env: ours(),
      stdio: ['ignore', 'ignore', 'ignore', fd],
      detached: true,
    });
    const timer = setTimeout(() => endGroup(child), (seconds + 5) * 1000);
    child.on('error', (cause) => {
      clearTimeout(timer);
      reject(spawnError(program, cause));
    });
    child.on('close', (code) => {
      clearTimeout(timer);
      if (code === 0 || code === lateForLock) resolve(code === 0);
      else reject(noLock(program, code));
    });
  });
}

/** Starts a program that lives on when this one and its terminal are gone. */
export function leave(
  argv: readonly [string, ...string[]],
  said: 'terminal' | 'nobody',
): Promise<void> {
  const [program, ...args] = argv;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      detached: true,
      env: environment(),
      stdio: ['ignore', 'ignore', said === 'terminal' ? 'inherit' : 'ignore'],
      cwd: '/',
    });
    child.on('error', (cause) => reject(spawnError(program, cause)));
    child.on('spawn', resolve);
    child.unref();
  });
}

/** /proc/sys/kernel/random/boot_id, proc_sys_kernel(5). */
export async function bootId(): Promise<string> {
  return ((await read('/proc/sys/kernel/random/boot_id')) ?? 'unknown').trim();
}

/** The environment of programs that may outlive this run. */
export function environment(): NodeJS.ProcessEnv {
  return { PATH: path, LC_ALL: 'C', HOME: process.env.HOME ?? '/' };
}

/** The environment of programs that end with this run, or are ended by the next one. */
function ours(): NodeJS.ProcessEnv {
  return runName === undefined ? environment() : { ...environment(), [runVariable]: runName };
}

const runVariable = 'CFSYNC_RUN';
let runName: string | undefined;

/** From here on the programs that are started are known by the name of this run. */
export function nameRun(name: string): void {
  runName = name;
}

/** Milliseconds for a program to be gone after SIGKILL. */
const patience = 5000;

/**
 * Ends the programs of a run that was killed itself: they would go on with a change while the next run looks at
 * what is there.
 * @throws CfsyncError with code `busy` when one does not end.
 */
export async function endLeftBehind(name: string): Promise<void> {
  for (const end = Date.now() + patience; ; await sleep(10)) {
    const variable = `${runVariable}=${name}`;
    const left = await processes(host, 'environ', (text) => text.split('\0').includes(variable));
    const [first] = left;
    if (first === undefined) return;
    if (Date.now() > end)
      throw new CfsyncError(
        exit.busy,
        `process ${first} does not end, which ${escape(name)} left behind; nothing was changed; look at it with ps, then try again`,
      );
    for (const pid of left) endProcess(pid);
  }
}

/** Waits until these processes have ended, at most so many milliseconds. */
export async function ended(pids: Iterable<number>, milliseconds: number): Promise<void> {
  const end = Date.now() + milliseconds;
  for (const pid of pids) while (Date.now() < end && existsSync(`/proc/${pid}`)) await sleep(20);
}

function spawnError(program: string, cause: Error): CfsyncError {
  if (errno(cause) === 'ENOENT') {
    const hint = packages[program];
    return new BackendError(
      'not installed',
      `${program} is not installed; ${hint === undefined ? 'install it' : `install it (Debian: apt-get install ${hint})`}`,
      { cause },
    );
  }
  return new BackendError('broken', `${program} cannot be started: ${cause.message}`, { cause });
}

/**
 * The kernel answers at once with the name of a process; for its environment, it may wait for the process. A promise of
 * Node's costs 150 microseconds, ten times as much as the answer, and a host has hundreds of processes.
 */
const answeredAtOnce = /^\/proc\/\d+\/comm$/;

/** The text of a file, or undefined when there is none. */
function read(file: string): Promise<string | undefined> {
  return ifThere(`read ${file}`, async () =>
    answeredAtOnce.test(file) ? readFileSync(file, 'utf8') : readFile(file, 'utf8'),
  );
}

function list(folder: string): Promise<readonly string[] | undefined> {
  return ifThere(`list ${folder}`, async () => (await readdir(folder)).sort());
}

/** Where a symbolic link leads, or undefined when there is none. */
function link(path: string): Promise<string | undefined> {
  return ifThere(`read the link ${path}`, () => readlink(path));
}

async function ifThere<T>(what: string, look: () => Promise<T>): Promise<T | undefined> {
  try {
    return await look();
  } catch (error) {
    if (errno(error) === 'ENOENT' || errno(error) === 'ENOTDIR') return undefined;
    throw new CfsyncError(exit.failed, `cannot ${what}: ${String(errno(error))}`, {
      cause: error,
    });
  }
}

/** This machine, as renderers see it. */
export const host: Host & ProcessHost = { query: run, read, list, link };
