/** What the built program shows at a terminal, and nowhere else, while it waits. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../src/errors.ts';
import { play, published, start, type Behaviour, type FeedServer } from './helpers/feeds.ts';
import { listRenderer, runProgram } from './helpers/program.ts';
import { runAtTerminal, screen } from './helpers/terminal.ts';

let folder: string;
let feeds: FeedServer;
let env: Record<string, string>;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-terminal-'));
  env = { CFSYNC_STATE_DIR: join(folder, 'state') };
  feeds = await start();
});
afterEach(async () => {
  await feeds.close();
  rmSync(folder, { recursive: true });
});

const fetching = () => [
  'fetch',
  `--ipv4-url=${feeds.urls.ipv4}`,
  `--ipv6-url=${feeds.urls.ipv6}`,
  `--api-url=${feeds.urls.api}`,
];
const late =
  (behaviour: Behaviour): Behaviour =>
  (request, response) =>
    void setTimeout(() => behaviour(request, response), 3500);
const line = /\r\u001B\[K(cfsync: waiting[^\r\n]*)/g;
const lines = (sent: string): string[] => [...sent.matchAll(line)].map(([, text]) => text!);
/** Each second in a line, on a busy machine but for some. */
function expectCounted(sent: string, what: string): void {
  const seconds = lines(sent).map((text) => Number(/, (\d+) s$/.exec(text)?.[1]));
  expect(seconds.length).toBeGreaterThan(1);
  expect(seconds).toEqual([...new Set(seconds)].sort((a, b) => a - b));
  for (const [i, text] of lines(sent).entries())
    expect(text).toBe(`cfsync: waiting for ${what}, ${seconds[i]} s`);
}

describe('a download that takes long', () => {
  beforeEach(() => feeds.set('/ips-v6', late(play.list(published.v6))));

  it('is said in one line, which is gone in the end', async () => {
    const terminal = runAtTerminal(fetching(), { cwd: folder, env });
    expect(await terminal.ended).toBe(exit.ok);
    expectCounted(terminal.sent(), 'the ranges');
    expect(screen(terminal.sent())).not.toContain('waiting');
    expect(screen(terminal.sent())).toMatch(/^\+ 103\.21\.244\.0\/22$/m);
  });

  it('names what is asked again, and fits a narrow terminal', async () => {
    feeds.set('/ips-v6', play.inTurn(play.badGateway, late(play.list(published.v6))));
    const terminal = runAtTerminal(fetching(), { cwd: folder, env, columns: 200 });
    expect(await terminal.ended).toBe(exit.ok);
    const again = `${feeds.urls.ipv6}: 502 Bad Gateway; attempt 2 of 3`;
    expect(lines(terminal.sent()).at(-1)).toContain(again);
    feeds.set('/ips-v6', play.inTurn(play.badGateway, late(play.list(published.v6))));
    const narrow = runAtTerminal(fetching(), { cwd: folder, env, columns: 30 });
    await narrow.ended;
    const shown = lines(narrow.sent());
    expect(shown.length).toBeGreaterThan(0);
    for (const text of shown) expect(text).toHaveLength(29);
  });

  it.each([
    ['with --quiet', ['--quiet'], {}, ''],
    ['as JSON', ['--log-format=json'], {}, ''],
    ['on a terminal that cannot rewrite a line', [], { TERM: 'dumb' }, ''],
    ['where standard error goes elsewhere', [], {}, '2>&1 | cat'],
  ])('is not said %s', async (_, more, also, redirect) => {
    const around = { cwd: folder, env: { ...env, ...also }, redirect };
    const terminal = runAtTerminal([...fetching(), ...more], around);
    expect(await terminal.ended).toBe(exit.ok);
    expect(terminal.sent()).toContain('+ 103.21.244.0/22');
    expect(terminal.sent()).not.toContain('waiting');
    expect(terminal.sent()).not.toContain('\u001B');
  });

  it('is not said in a pipe', async () => {
    const ended = await runProgram(fetching(), { cwd: folder, env });
    expect(ended).toMatchObject({ code: exit.ok, stderr: '' });
  });
});

it('a lock that is waited for is said', async () => {
  const state = join(folder, 'state');
  mkdirSync(state, { mode: 0o700 });
  const holder = spawn('flock', [join(state, 'lock'), 'sh', '-c', 'echo locked; exec sleep 600']);
  await once(holder.stdout, 'data');
  try {
    const terminal = runAtTerminal([...fetching(), '--lock-timeout=4'], { cwd: folder, env });
    expect(await terminal.ended).toBe(exit.busy);
    expectCounted(terminal.sent(), 'another cfsync to end');
    expect(screen(terminal.sent())).toMatch(/^cfsync: another cfsync is at work on /);
  } finally {
    holder.kill();
  }
});

describe('an apply that waits for its confirmation', () => {
  const list = () => readFileSync(join(folder, 'list'), 'utf8');
  const applying = ['apply', '--config=config.yaml', '--source=bundled', '--accept-large-change'];
  const apply = (seconds: number) => {
    const args = [...applying, `--confirm=${seconds}`];
    return runAtTerminal(args, { cwd: folder, env });
  };
  const counted = (sent: string): number[] =>
    [...sent.matchAll(/goes back in (\d+) s unless confirmed/g)].map(([, n]) => Number(n));
  const until = async (what: string, holds: () => boolean): Promise<void> => {
    for (let i = 0; !holds(); i++) {
      if (i > 1000) throw new Error(`not within 100 s: ${what}`);
      await sleep(100);
    }
  };

  beforeEach(() => {
    writeFileSync(join(folder, 'list.mjs'), listRenderer);
    writeFileSync(join(folder, 'list'), '192.0.2.0/24\n');
    writeFileSync(
      join(folder, 'config.yaml'),
      `backends:\n  lb:\n    renderer: ./list.mjs\n    path: ${folder}/list\n`,
    );
  });

  it('is counted down, and goes back', async () => {
    const terminal = apply(4);
    expect(await terminal.ended).toBe(exit.rolledBack);
    expect(list()).toBe('192.0.2.0/24\n');
    const numbers = [...new Set(counted(terminal.sent()))];
    expect(numbers.length).toBeGreaterThan(1);
    // A busy machine may leave out one of them.
    expect(numbers).toEqual([4, 3, 2, 1].filter((n) => numbers.includes(n)));
    const seen = screen(terminal.sent());
    expect(seen).not.toContain('unless confirmed');
    // What the watcher says has lines of its own.
    expect(seen).toMatch(/^cfsync: warning: no confirm came for the apply/m);
    expect(seen).toMatch(/^cfsync: the apply has gone back; cfsync verify says what holds$/m);
  });

  it('is counted down until it is confirmed elsewhere', async () => {
    const terminal = apply(60);
    await until('it counts', () => counted(terminal.sent()).length > 0);
    expect((await runProgram(['confirm'], { cwd: folder, env })).code).toBe(exit.ok);
    expect(await terminal.ended).toBe(exit.ok);
    expect(screen(terminal.sent())).toMatch(/^cfsync: confirmed; it stays$/m);
    expect(list()).toContain('104.16.0.0/13');
  });

  it('still waits when ^C ends the watching', async () => {
    const terminal = apply(8);
    await until('it counts', () => counted(terminal.sent()).length > 0);
    terminal.type('\u0003');
    expect(await terminal.ended).toBe(130);
    expect(list()).toContain('104.16.0.0/13');
    await until('it goes back', () => list() === '192.0.2.0/24\n');
  });

  it('is not waited for without a person', async () => {
    const args = [...applying, '--confirm=60'];
    const { code, stderr } = await runProgram(args, { cwd: folder, env });
    expect(code).toBe(exit.ok);
    expect(stderr).toMatch(/^cfsync: it goes back in 60 s unless cfsync confirm is run; .*\n$/);
    expect((await runProgram(['confirm'], { cwd: folder, env })).code).toBe(exit.ok);
  });
});
