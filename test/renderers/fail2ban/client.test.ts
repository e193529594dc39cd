/** The Python program, with a client of which it is known what it does; test/live has the real one. */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { check, observation, type Changes } from '../../../renderers/fail2ban/client.ts';
import type { Command } from '../../../src/renderer.ts';

const python = ['/usr/bin/python3', '/usr/local/bin/python3'].find(
  (path) => spawnSync(path, ['-c', '']).status === 0,
);

describe.skipIf(python === undefined)('the program', () => {
  let root: string;
  const at = (...names: string[]): string => join(root, ...names);
  const put = (name: string, text: string): void => writeFileSync(at(name), text);

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'cfsync-test-'));
    for (const name of ['bin', 'etc/jail.d', 'etc/filter.d', 'elsewhere'])
      mkdirSync(at(name), { recursive: true });
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  /** What it does by its first word; `-c FOLDER -d` is `dump FOLDER`. */
  function client(cases: Readonly<Record<string, string>>): void {
    const all = Object.entries(cases).map(([word, script]) => `${word}) ${script};;\n`);
    put(
      'bin/fail2ban-client',
      `#!/bin/sh\n[ "$1" != -c ] || set -- dump "$2"\ncase "$1" in\n${all.join('')}esac\n`,
    );
    chmodSync(at('bin/fail2ban-client'), 0o755);
  }

  /** @param patience In seconds. */
  function run({ stage, stdin = '' }: Command, patience = 30) {
    const text = Object.values(stage!.files)[0]!
      .replace('"/etc/fail2ban"', JSON.stringify(at('etc')))
      .replaceAll('limit=30', `limit=${patience}`);
    put('program.py', text);
    rmSync(at('stage'), { recursive: true, force: true });
    mkdirSync(at('stage'));
    return spawnSync(python!, ['-I', at('program.py'), at('stage')], {
      input: stdin,
      encoding: 'utf8',
      env: { PATH: `${at('bin')}:/usr/bin:/bin` },
      timeout: 100_000,
    });
  }

  function observe(tries: readonly Changes[] = [], patience = 30) {
    const { stdout, stderr } = run(observation(tries), patience);
    expect(stderr).toBe('');
    return JSON.parse(stdout) as {
      banned: object;
      ignoreip: [string, object][];
      configuration: { writable: boolean; links: string[]; loads: object[] } | null;
    };
  }

  it('says that the client is missing', () => {
    const other = run(observation([]));
    // The test machine may have fail2ban itself.
    const isThere = spawnSync('sh', ['-c', 'command -v fail2ban-client'], {
      env: { PATH: '/usr/bin:/bin' },
    });
    expect(other.status).toBe(isThere.status === 0 ? 0 : 127);
  });

  it('asks for every jail, and gives answers as they come', () => {
    const names = Array.from({ length: 9 }, (_, i) => `j ${i}`);
    const list = `[${names.map((name) => `{'${name}': []}`).join(', ')}]`;
    client({ banned: `echo "${list}"`, get: 'echo "of $2"; echo no >&2; exit 3', dump: ':' });
    const { banned, ignoreip } = observe();
    expect(banned).toEqual({ code: 0, ended: null, stdout: `${list}\n`, stderr: '' });
    expect(ignoreip).toEqual(
      names.map((name) => [name, { code: 3, ended: null, stdout: `of ${name}\n`, stderr: 'no\n' }]),
    );
  });

  it.each(['', 'Lorem ipsum', '[{', '[None]', '[1]', '{"a": 1, }', '"'])(
    'asks nothing more where the bans are %j',
    (answer) => {
      client({ banned: `printf '%s' '${answer}'`, dump: ':' });
      const { banned, ignoreip } = observe();
      expect(banned).toMatchObject({ code: 0, stdout: answer });
      expect(ignoreip.every(([, said]) => 'code' in said)).toBe(true);
    },
  );

  it('says how a question ended that did not end by itself', () => {
    client({ banned: 'exec sleep 20', dump: ':' });
    expect(observe([], 1).banned).toMatchObject({ code: null, ended: 'did not end within 1 s' });
    client({ banned: `echo "[{'a': []}]"`, get: 'kill -9 $$', dump: ':' });
    expect(observe().ignoreip).toMatchObject([
      ['a', { code: null, ended: 'was ended by SIGKILL' }],
    ]);
    client({ banned: ':', dump: 'echo half; kill -9 $$' });
    expect(run(observation([]))).toMatchObject({
      status: 1,
      stderr: 'fail2ban-client -d was ended by SIGKILL\n',
    });
  });

  it('tries changes in copies of the files, and links to the rest', () => {
    put('etc/jail.conf', 'stock\n');
    put('etc/jail.d/a.local', 'a\n');
    put('etc/jail.d/gone.conf', 'gone\n');
    put('elsewhere/jail.local', 'theirs\n');
    symlinkSync('../elsewhere/jail.local', at('etc/jail.local'));
    symlinkSync('nowhere', at('etc/jail.d/dangling.local'));
    execFileSync('mkfifo', [at('etc/pipe')]);
    const tell = `cd "$2" && find . -mindepth 1 -printf '%P %y\\n' | sort | grep -v '^filter.d/' >&3; grep -rs '' jail* | sort >&3; echo >&3`;
    client({ banned: ':', dump: `{ ${tell}; } 3>> "${at('told')}-$(basename "$2")"` });
    const { configuration } = observe([
      {},
      { 'jail.d/gone.conf': null, 'jail.d/zz.local': 'new\n', 'jail.local': 'not there\n' },
    ]);
    expect(configuration).toMatchObject({
      writable: true,
      links: ['jail.d/dangling.local', 'jail.local'],
    });
    expect(configuration!.loads).toHaveLength(3);
    const told = (name: string) => readFileSync(at(`told-${name}`), 'utf8').split('\n');
    const files = [
      'filter.d l',
      'jail.conf f',
      'jail.d d',
      'jail.d/a.local f',
      'jail.d/dangling.local l',
    ];
    expect(told('try-0')).toEqual([
      ...files,
      'jail.d/gone.conf f',
      'jail.local f',
      'pipe l',
      'jail.conf:stock',
      'jail.d/a.local:a',
      'jail.d/gone.conf:gone',
      'jail.local:theirs',
      '',
      '',
    ]);
    expect(told('try-1')).toEqual([
      ...files,
      'jail.d/zz.local f',
      'jail.local f',
      'pipe l',
      'jail.conf:stock',
      'jail.d/a.local:a',
      'jail.d/zz.local:new',
      'jail.local:theirs',
      '',
      '',
    ]);
    expect(readFileSync(at('elsewhere/jail.local'), 'utf8')).toBe('theirs\n');
  });

  it('has nothing to say of a configuration without a folder for our files', () => {
    rmSync(at('etc'), { recursive: true });
    client({ banned: 'exit 255' });
    expect(observe([{}])).toMatchObject({ banned: { code: 255 }, configuration: null });
  });

  const dump = (...lines: string[]): string => lines.map((line) => `echo "${line}"`).join('; ');
  const jails = { a: ['10.0.0.0/8', '104.16.0.0/13'], b: [] };
  const expected = { files: { 'jail.d/zz.local': 'x\n' }, jails, running: true, hint: 'hint' };
  const right = [
    "['add', 'a', 'auto']",
    "['set', 'a', 'addignoreip', '10.0.0.0/8', '104.16.0.0/13']",
    "['add', 'b', 'auto']",
  ];
  it.each([
    ['all is there', dump(...right), 0, ''],
    [
      'a range is missing',
      dump(right[0]!, right[2]!),
      1,
      'jail a would not ignore 10.0.0.0/8 and 1 more: a file that is read later sets ignoreip\n',
    ],
    ['a jail is gone', dump(...right.slice(0, 2)), 1, 'jail b would be gone\n'],
    ['a jail is new', dump(...right, "['add', 'c', 'auto']"), 1, 'jail c would be new\n'],
    [
      'a log is missing',
      `${dump(...right)}; echo "Have not found any log file for b jail" >&2`,
      1,
      'Have not found any log file for b jail\n',
    ],
    [
      'it does not load',
      'echo "fail2ban [1]: ERROR   not so: $2" >&2; exit 255',
      1,
      'hint\nnot so: ROOT/etc\n',
    ],
    ['it cannot be said', 'kill -9 $$', 1, 'fail2ban-client -d was ended by SIGKILL\n'],
  ])('checks a configuration in which %s', (_, script, status, stderr) => {
    client({ dump: script });
    const outcome = run(check(expected));
    expect(outcome).toMatchObject({ status, stderr: stderr.replace('ROOT', root) });
  });
});
