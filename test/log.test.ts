/** Standard error of the built program: for people, as JSON, and with priorities for the journal. */
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../src/errors.ts';
import { listRenderer, runProgram } from './helpers/program.ts';

let folder: string;

/** Its plan writes the list and then fails, and can be gone back from; it has a remark of each kind. */
const failing = listRenderer
  .replace(
    'notices: []',
    "notices: [{ level: 'warning', text: 'mind it' }, { level: 'note', text: 'by the way' }]",
  )
  .replace(
    /: \[(\{ kind: 'file'.*\})\]/,
    ": [$1, ...(wanted.text === null ? [] : [{ kind: 'run', summary: 'reload', command: { argv: ['ls', '/no/such', '-d', '/none'] } }])]",
  );

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-log-'));
  writeFileSync(join(folder, 'list.mjs'), failing);
  writeFileSync(
    join(folder, 'config.yaml'),
    `backends:\n  lb:\n    renderer: ./list.mjs\n    path: ${folder}/list\n`,
  );
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

const env = () => ({ CFSYNC_STATE_DIR: join(folder, 'state') });
const apply = ['apply', '--config', 'config.yaml', '--source', 'bundled'];
const message = 'reload: ls /no/such -d /none ended with code 2; lb is back to what it was before';
const said = [
  "ls: cannot access '/no/such': No such file or directory",
  "ls: cannot access '/none': No such file or directory",
];

describe('for people', () => {
  it('has a line each, what a program said below, and remarks only when asked', async () => {
    const quiet = await runProgram(apply, { cwd: folder, env: env() });
    const lines = ['cfsync: warning: lb: mind it', `cfsync: ${message}`, `  ${said.join('\n  ')}`];
    expect(quiet).toEqual({
      code: exit.rolledBack,
      stdout: '',
      stderr: `${lines.join('\n')}\n`,
    });
    const verbose = await runProgram([...apply, '-v'], { cwd: folder, env: env() });
    expect(verbose.stderr).toContain('\ncfsync: lb: by the way\n');
  });
});

describe('as JSON', () => {
  const json = async (args: readonly string[]): Promise<Record<string, unknown>[]> => {
    const around = { cwd: folder, env: env() };
    const { stderr } = await runProgram([...args, '--log-format', 'json'], around);
    const lines = stderr.trimEnd().split('\n');
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  };

  it('has an object a line, with the backend apart', async () => {
    const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as string;
    expect(await json([...apply, '--verbose'])).toEqual([
      { time, level: 'warning', backend: 'lb', message: 'mind it' },
      { time, level: 'info', backend: 'lb', message: 'by the way' },
      { time, level: 'error', backend: 'lb', message, detail: said },
    ]);
  });

  it('has what ends a command, and what must be known', async () => {
    expect(await json(['fetch', '--source', 'nowhere'])).toMatchObject([
      { level: 'error', message: expect.stringContaining('cannot read the source') },
    ]);
    expect(await json(['show', '--source', 'snapshot'])).toMatchObject([{ level: 'error' }]);
    writeFileSync(join(folder, 'list.mjs'), listRenderer);
    await runProgram(apply, { cwd: folder, env: env() });
    expect(await json(['rollback', '--config', 'config.yaml'])).toMatchObject([
      { level: 'notice', backend: 'lb', message: expect.stringMatching(/^goes back to before/) },
      { level: 'notice', message: expect.stringMatching(/^timer runs change nothing/) },
    ]);
  });
});

describe('in the journal', () => {
  const journal = async (args: readonly string[], stream?: string): Promise<string> => {
    const file = join(folder, 'journal');
    const stderr = openSync(file, 'w');
    const { dev, ino } = fstatSync(stderr, { bigint: true });
    const JOURNAL_STREAM = stream ?? `${dev}:${ino}`;
    await runProgram(args, { cwd: folder, env: { ...env(), JOURNAL_STREAM }, stderr });
    closeSync(stderr);
    return readFileSync(file, 'utf8');
  };

  it('has a priority on every line', async () => {
    const lines = (await journal([...apply, '-v'])).split('\n');
    expect(lines).toEqual([
      '<4>cfsync: warning: lb: mind it',
      '<6>cfsync: lb: by the way',
      `<3>cfsync: ${message}`,
      ...said.map((line) => `<3>  ${line}`),
      '',
    ]);
  });

  it.each(['1:2', 'x', ''])('has none when standard error goes elsewhere (%j)', async (stream) => {
    expect(await journal(apply, stream)).toMatch(/^cfsync: warning: lb: mind it\ncfsync: /);
  });

  it('has JSON when that is asked for, and priorities for mistakes on the command line', async () => {
    expect(await journal([...apply, '--log-format', 'json'])).toMatch(/^\{"time":/);
    expect(await journal(['aply'])).toMatch(/^<3>cfsync: unknown command aply/);
  });
});
