/** `cfsync doctor` as it is run: its options, its exit codes and its one line for monitors. */
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkNames } from '../../src/cli/flags.ts';
import { exit } from '../../src/errors.ts';
import { runProgram, type Ended } from '../helpers/program.ts';
import { violations } from '../helpers/schema.ts';

let folder: string;
let server: Server;
/** One on which something listens, and that Cloudflare does not proxy to. */
let port: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-doctor-'));
  server = createServer();
  await new Promise<void>((done) => void server.listen(0, '::', done));
  port = String((server.address() as AddressInfo).port);
});

afterEach(async () => {
  await new Promise((done) => void server.close(done));
  rmSync(folder, { recursive: true });
});

const env = () => ({ CFSYNC_STATE_DIR: join(folder, 'state') });
const doctor = (...args: readonly string[]): Promise<Ended> =>
  runProgram(['doctor', ...args], { cwd: folder, env: env() });
const listening = ['--only', 'listening'];

describe('doctor', () => {
  it('--list names the checks that would be made, in order', async () => {
    const { code, stdout } = await doctor('--list');
    expect(code).toBe(exit.ok);
    expect(
      stdout
        .trimEnd()
        .split('\n')
        .map((line) => line.split(' ')[0]),
    ).toEqual(checkNames);
    const one = await doctor('--list', '--only', 'bans', '--format', 'json');
    expect(JSON.parse(one.stdout)).toEqual([
      { name: 'bans', title: expect.stringContaining('fail2ban') },
    ]);
  });

  it('refuses a check that there is not, with the nearest one', async () => {
    const { code, stdout, stderr } = await doctor('--skip', 'listenning');
    expect({ code, stdout }).toEqual({ code: exit.usage, stdout: '' });
    expect(stderr).toContain('--skip: there is no check listenning (did you mean listening?)');
    expect((await doctor('--format', 'markdown')).code).toBe(exit.usage);
  });

  it('ends with 2 when it found something, and writes nothing', async () => {
    const { code, stdout, stderr } = await doctor(...listening, '--ports', port);
    expect({ code, stderr }).toEqual({ code: exit.pending, stderr: '' });
    expect(stdout).toContain(`1. WARNING: Cloudflare does not proxy to port ${port} [listening]`);
    expect(readdirSync(folder)).toEqual([]);
  });

  it('tells the same in JSON, as its schema says', async () => {
    const { stdout } = await doctor(...listening, '--ports', port, '--format', 'json');
    const file = join(import.meta.dirname, '..', '..', 'docs', 'doctor.schema.json');
    const schema = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    expect(violations(JSON.parse(stdout), schema)).toEqual([]);
    expect(JSON.parse(stdout)).toMatchObject({
      checked: ['listening'],
      findings: [{ check: 'listening', level: 'warning' }],
    });
  });

  it('--probe is one line, with a priority where the journal takes it', async () => {
    const args = ['doctor', '--probe', ...listening, '--ports', port];
    const line = `WARNING: Cloudflare does not proxy to port ${port}; cfsync doctor tells more\n`;
    const plain = await runProgram(args, { cwd: folder, env: env() });
    expect(plain).toEqual({ code: exit.pending, stdout: line, stderr: '' });
    const file = join(folder, 'journal');
    const stdout = openSync(file, 'w');
    const { dev, ino } = fstatSync(stdout, { bigint: true });
    const JOURNAL_STREAM = `${dev}:${ino}`;
    await runProgram(args, { cwd: folder, env: { ...env(), JOURNAL_STREAM }, stdout });
    closeSync(stdout);
    expect(readFileSync(file, 'utf8')).toBe(`<4>${line}`);
  });
});
