/** Hooks of the built program: what they are given, when they run, and what follows when they fail. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { parse } from 'yaml';
import { readConfig } from '../../src/settings/config.ts';
import { exit } from '../../src/errors.ts';
import { readSettings } from '../../src/settings/settings.ts';
import { post } from '../../src/report/webhook.ts';
import { listen, play, published, start } from '../helpers/feeds.ts';
import { listRenderer, quoted, runProgram } from '../helpers/program.ts';
import { violations } from '../helpers/schema.ts';

const schemaOf = (name: string): Readonly<Record<string, unknown>> =>
  JSON.parse(
    readFileSync(join(import.meta.dirname, '..', '..', 'docs', `${name}.schema.json`), 'utf8'),
  ) as Record<string, unknown>;

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-hooks-'));
  writeFileSync(join(folder, 'list.mjs'), listRenderer);
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

const at = (name: string) => join(folder, name);
const read = (name: string) => readFileSync(at(name), 'utf8');

/** Writes a program that does something, and answers its path. */
function script(name: string, body: string): string {
  writeFileSync(at(name), `#!/bin/sh\ncd ${folder}\n${body}\n`);
  chmodSync(at(name), 0o755);
  return at(name);
}

/** Keeps its input in a file named after the hook. */
const keep = () => script('keep', 'cat >"got.$CFSYNC_HOOK"');

function config(...lines: readonly string[]): void {
  const backends = `backends:\n  lb:\n    renderer: ./list.mjs\n    path: ${folder}/list\n`;
  const text = lines.map((line) => `${line}\n`).join('') + backends;
  writeFileSync(at('config.yaml'), text);
}

const cfsync = (...args: string[]) =>
  runProgram([...args, '--config', 'config.yaml'], {
    cwd: folder,
    env: { CFSYNC_STATE_DIR: at('state') },
  });
const apply = (...args: string[]) => cfsync('apply', '--source', 'bundled', ...args);

/** What a hook was given, held to the schema; undefined when it did not run. */
function given(hook: string): unknown {
  const file = `got.${hook}`;
  if (!existsSync(at(file))) return undefined;
  const report: unknown = JSON.parse(read(file));
  const wrong = violations(report, schemaOf('run'));
  if (wrong.length > 0) throw new Error(wrong.join('\n'));
  return report;
}

const text = (part: string) => expect.stringContaining(part) as string;

describe('on-change', () => {
  it('is given the report of the run, once', async () => {
    config(`on-change: [${keep()}]`, `on-failure: [${keep()}]`);
    const began = new Date().toISOString();
    expect(await apply()).toMatchObject({ code: exit.ok, stderr: '' });
    const report = given('on-change') as { started: string; ended: string };
    expect(report).toMatchObject({
      schema: 1,
      command: 'apply',
      code: exit.ok,
      changed: true,
      source: { kind: 'bundled', ranges: { v4: 15, v6: 7 }, fallback: null },
      errors: [],
      backends: [
        {
          name: 'lb',
          code: exit.ok,
          message: 'applied and read back',
          changed: true,
          gained: {
            v4: expect.arrayContaining(['173.245.48.0/20']) as string[],
            addresses: { v4: '1524736', v6: text('0') },
          },
          lost: { v4: [], v6: [], addresses: { v4: '0', v6: '0' } },
        },
      ],
    });
    expect(began <= report.started && report.started < report.ended).toBe(true);
    rmSync(at('got.on-change'));
    expect(await apply()).toEqual({ code: exit.ok, stdout: '', stderr: '' });
    expect(await cfsync('verify')).toEqual({ code: exit.ok, stdout: '', stderr: '' });
    expect([given('on-change'), given('on-failure')]).toEqual([undefined, undefined]);
  });

  it('does not run in a rehearsal', async () => {
    config(`on-change: [${keep()}]`);
    for (const command of ['apply', 'adopt'])
      expect(await cfsync(command, '--source', 'bundled', '--dry-run')).toMatchObject({
        code: exit.ok,
      });
    await apply();
    rmSync(at('got.on-change'));
    for (const command of ['rollback', 'remove'])
      expect(await cfsync(command, '--dry-run')).toMatchObject({ code: exit.ok });
    expect(given('on-change')).toBeUndefined();
  });

  it('runs when rollback, remove or adopt change something', async () => {
    config(`on-change: [${keep()}]`, `on-failure: [${keep()}]`);
    /** Takes what it was given away. */
    const taken = (): unknown => {
      const report = given('on-change');
      rmSync(at('got.on-change'), { force: true });
      return report;
    };
    const covered = { addresses: { v4: '1524736', v6: text('0') } };
    const bare = { addresses: { v4: '0', v6: '0' } };
    await apply();
    taken();
    expect(await cfsync('rollback')).toMatchObject({ code: exit.ok });
    expect(taken()).toMatchObject({
      command: 'rollback',
      code: exit.ok,
      changed: true,
      source: null,
      backends: [{ name: 'lb', code: exit.ok, changed: true, gained: bare, lost: covered }],
    });
    rmSync(at('state'), { recursive: true });
    await apply();
    taken();
    expect(await cfsync('remove')).toMatchObject({ code: exit.ok });
    expect(taken()).toMatchObject({
      command: 'remove',
      backends: [{ name: 'lb', code: exit.ok, changed: true, gained: bare, lost: covered }],
    });
    const adopting = `
  adopt: (observed) => ({
    ...observed,
    owned: {
      ...observed.owned,
      strays: observed.owned.text?.includes('theirs')
        ? [{ text: 'theirs', prefixes: ['104.16.0.0/13'] }]
        : [],
    },
  }),
  api: 1,`;
    writeFileSync(at('list.mjs'), listRenderer.replace('api: 1,', adopting));
    writeFileSync(at('list'), 'theirs\n');
    expect(await cfsync('adopt', '--source', 'bundled')).toMatchObject({ code: exit.ok });
    expect(taken()).toMatchObject({
      command: 'adopt',
      changed: true,
      source: { kind: 'bundled' },
      backends: [{ name: 'lb', code: exit.ok, changed: true, gained: covered, lost: bare }],
    });
    expect(given('on-failure')).toBeUndefined();
  });

  it('names the plan that was applied', async () => {
    config(`on-change: [${keep()}]`);
    await cfsync('diff', '--source', 'bundled', '--out', 'plan.json');
    expect(await cfsync('apply', '--plan', 'plan.json')).toMatchObject({ code: exit.ok });
    expect(given('on-change')).toMatchObject({
      source: { kind: 'plan', detail: 'plan.json', ranges: { v4: 15, v6: 7 }, fallback: null },
    });
  });

  it('gets its arguments as they are, and a fixed PATH', async () => {
    const say = script('say', 'printf "%s\\n" "$@" "$PATH" >said');
    config(`on-change: [${say}, "$(touch pwned); 'a b'", "*"]`);
    await apply();
    expect(read('said')).toBe(
      "$(touch pwned); 'a b'\n*\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
    );
    expect(existsSync(at('pwned'))).toBe(false);
  });

  it('finds all locks free, and a run of cfsync in it runs no hook again', async () => {
    mkdirSync(at('less'));
    writeFileSync(at('less/ips-v4'), published.v4.replace('190.93.240.0/20\n', ''));
    writeFileSync(at('less/ips-v6'), published.v6);
    const program = join(import.meta.dirname, '..', '..', 'dist', 'src', 'bin.js');
    const again = `${quoted(process.execPath)} ${quoted(program)} --config config.yaml --state-dir state --lock-timeout 0`;
    const hook = script(
      'hook',
      `echo "$CFSYNC_HOOK" >>ran
${again} verify; echo "verify $?" >>ran
${again} apply --source less; echo "apply $?" >>ran`,
    );
    config(`on-change: [${hook}]`, `on-failure: [${hook}]`);
    expect(await apply()).toMatchObject({ code: exit.ok, stderr: '' });
    expect(read('ran')).toBe('on-change\nverify 0\napply 0\n');
    expect(read('list')).not.toContain('190.93.240.0');
    rmSync(at('ran'));
    expect(await cfsync('apply', '--source', 'nowhere')).toMatchObject({ code: exit.failed });
    expect(read('ran')).toBe('on-failure\nverify 0\napply 0\n');
  });
});

describe('on-failure', () => {
  const failed = (code: number) => ({ code, changed: false });

  beforeEach(() => config(`on-failure: [${keep()}]`, `on-change: [${keep()}]`));

  it('runs when there was no list to be had', async () => {
    expect(await cfsync('apply', '--source', 'nowhere')).toMatchObject({ code: exit.failed });
    expect(given('on-failure')).toMatchObject({
      ...failed(exit.failed),
      source: null,
      errors: [text('cannot read the source')],
      backends: [],
    });
  });

  it('runs when the feeds are down and the last answer is too old, with what was used', async () => {
    const feeds = await start();
    for (const path of ['/ips-v4', '/ips-v6', '/client/v4/ips']) feeds.set(path, play.homePage);
    const urls = Object.entries(feeds.urls).map(([name, url]) => `--${name}-url=${url}`);
    const ended = await cfsync('apply', ...urls);
    await feeds.close();
    expect(ended.code).toBe(exit.refused);
    expect(given('on-failure')).toMatchObject({
      code: exit.refused,
      changed: true,
      source: { kind: 'bundled', fallback: text('the feeds cannot be believed') },
      backends: [{ name: 'lb', code: exit.ok, changed: true }],
    });
    expect(given('on-change')).toEqual(given('on-failure'));
  });

  it('runs when nothing could be planned', async () => {
    mkdirSync(at('list'));
    expect(await apply()).toMatchObject({ code: exit.failed });
    expect(given('on-failure')).toMatchObject({
      ...failed(exit.failed),
      source: { kind: 'bundled' },
      backends: [{ name: 'lb', code: exit.failed, message: text('cannot read'), changed: false }],
    });
  });

  it('runs when a change is refused', async () => {
    writeFileSync(at('list'), '192.0.2.0/24\n2400:cb00::/32\n');
    expect(await apply()).toMatchObject({ code: exit.refused });
    expect(given('on-failure')).toMatchObject({
      ...failed(exit.refused),
      backends: [{ code: exit.refused, message: text('refused: '), gained: { v4: [] } }],
    });
  });

  it('runs when an apply was rolled back', async () => {
    const failing = listRenderer.replace(
      /: \[(\{ kind: 'file'.*\})\]/,
      ": [$1, ...(wanted.text === null ? [] : [{ kind: 'run', summary: 'reload', command: { argv: ['false'] } }])]",
    );
    writeFileSync(at('list.mjs'), failing);
    expect(await apply()).toMatchObject({ code: exit.rolledBack });
    expect(given('on-failure')).toMatchObject({
      ...failed(exit.rolledBack),
      errors: [text('lb is back to what it was before')],
      backends: [{ code: exit.rolledBack, changed: false, gained: { v4: [] } }],
    });
    expect(given('on-change')).toBeUndefined();
  });

  it('runs when the probe failed, and what was applied has gone back', async () => {
    config(`on-failure: [${keep()}]`, `on-change: [${keep()}]`, "probe: ['false']");
    expect(await apply()).toMatchObject({ code: exit.rolledBack });
    expect(given('on-failure')).toMatchObject({
      ...failed(exit.rolledBack),
      errors: [text('the probe failed'), text('lb is back to what it was before')],
      backends: [
        {
          code: exit.rolledBack,
          message: 'applied and read back; lb is back to what it was before',
          changed: false,
          gained: { v4: [], v6: [] },
        },
      ],
    });
    expect(given('on-change')).toBeUndefined();
  });

  describe('when no confirm comes', () => {
    const watcher = (): number[] => {
      const { stdout } = spawnSync('pgrep', ['-f', `watcher.js ${at('state')}`], {
        encoding: 'utf8',
      });
      return stdout.split('\n').filter(Boolean).map(Number);
    };
    const told = {
      command: 'apply',
      changed: true,
      backends: [
        {
          name: 'lb',
          changed: true,
          code: exit.rolledBack,
          message: text('no confirm came for the apply of '),
        },
      ],
    };
    beforeEach(() => {
      config(`on-change: [${keep()}]`, `on-failure: [${keep()}]`, `metrics: ${at('cfsync.prom')}`);
    });

    it('runs when the watcher has taken it back', async () => {
      expect(await apply('--confirm', '4')).toMatchObject({ code: exit.ok });
      expect(given('on-change')).toMatchObject({ code: exit.ok });
      rmSync(at('got.on-change'));
      await vi.waitUntil(() => watcher().length === 0, 60_000);
      expect(existsSync(at('list'))).toBe(false);
      expect(given('on-failure')).toMatchObject({ ...told, code: exit.rolledBack });
      expect(given('on-change')).toMatchObject({ code: exit.rolledBack });
      expect(read('cfsync.prom')).toContain('cfsync_last_exit_code{command="apply"} 4\n');
    });

    it('runs when the next run has taken it back, in place of the watcher', async () => {
      await apply('--confirm', '4');
      for (const pid of watcher()) process.kill(pid, 'SIGKILL');
      await vi.waitUntil(() => watcher().length === 0, 60_000);
      await sleep(4200);
      const ended = await apply();
      expect(ended).toMatchObject({ code: exit.ok, stderr: text('no confirm came') });
      expect(given('on-failure')).toMatchObject({ ...told, code: exit.ok });
    });

    it('does not run when it came', async () => {
      await apply('--confirm', '10');
      expect(await cfsync('confirm')).toMatchObject({ code: exit.ok });
      await vi.waitUntil(() => watcher().length === 0, 60_000);
      expect(given('on-failure')).toBeUndefined();
    });
  });

  it('runs after an error inside cfsync', async () => {
    writeFileSync(at('list.mjs'), listRenderer.replace('const lines', 'nothing.here; const lines'));
    expect(await apply()).toMatchObject({ code: exit.failed });
    expect(given('on-failure')).toMatchObject({
      code: exit.failed,
      errors: [text('internal error, please report it: ReferenceError')],
      backends: [{ code: exit.failed, message: 'not reached' }],
    });
  });

  it('does not run for mistakes on the command line', async () => {
    expect(await apply('-b', 'nowhere')).toMatchObject({ code: exit.usage });
    expect(given('on-failure')).toBeUndefined();
  });

  it('does not run while another cfsync is at work', async () => {
    await apply();
    rmSync(at('got.on-change'));
    const holder: ChildProcess = spawn('flock', [at('state/lock'), 'sh', '-c', 'echo; sleep 600'], {
      detached: true,
    });
    await once(holder.stdout!, 'data');
    const ended = await apply('--lock-timeout', '0');
    process.kill(-holder.pid!);
    expect(ended.code).toBe(exit.busy);
    expect(given('on-failure')).toBeUndefined();
  });
});

describe('a hook that fails', () => {
  it('is said, and neither the exit code nor the other hook is another one', async () => {
    const bad = script('bad', 'echo "no mail today" >&2; exit 7');
    config(`on-change: [${bad}, now]`, `on-failure: [${keep()}]`);
    expect(await apply()).toMatchObject({
      code: exit.ok,
      stderr: `cfsync: warning: on-change: ${bad} now ended with code 7 (no mail today); what cfsync did stays as it is\n`,
    });
    config('on-change: [no-such-program]');
    rmSync(at('list'));
    const missing = await apply();
    expect(missing).toMatchObject({ code: exit.ok });
    expect(missing.stderr).toContain('on-change: no-such-program is not installed');
  });

  it.skipIf(process.getuid?.() !== 0)('is not run as root when others can write it', async () => {
    const hook = keep();
    chmodSync(hook, 0o757);
    config(`on-change: [${hook}]`);
    const ended = await apply();
    expect(ended.code).toBe(exit.ok);
    expect(ended.stderr).toMatch(/on-change: program .* is not to be trusted as root/);
    expect(given('on-change')).toBeUndefined();
  });

  it.skipIf(process.getuid?.() !== 0)(
    'is not run as root through the link of another',
    async () => {
      const hook = keep();
      mkdirSync(at('his'));
      symlinkSync(hook, at('his/hook'));
      chownSync(at('his'), 65534, 65534);
      config(`on-change: [${at('his/hook')}]`);
      const ended = await apply();
      expect(ended.code).toBe(exit.ok);
      expect(ended.stderr).toContain(
        `${at('his')} does not belong to root; it was not run; copy it`,
      );
      expect(given('on-change')).toBeUndefined();
      // Nor is the probe, and then nothing is changed that would have to go back.
      rmSync(at('list'));
      config(`probe: [${at('his/hook')}]`);
      const asked = await apply();
      expect(asked.code).toBe(exit.failed);
      expect(asked.stderr).toContain(`${at('his')} does not belong to root; nothing was changed`);
      expect(existsSync(at('list'))).toBe(false);
    },
  );
});

describe('webhook', () => {
  let server: Server;
  let answer = 200;
  let url: string;
  const got: { method: string; type: string; body: unknown }[] = [];

  beforeEach(async () => {
    answer = 200;
    got.length = 0;
    server = createServer((request, response) => {
      let body = '';
      request.setEncoding('utf8').on('data', (part: string) => (body += part));
      request.on('end', () => {
        const { method = '', headers } = request;
        got.push({ method, type: headers['content-type'] ?? '', body: JSON.parse(body) });
        response.writeHead(answer, { location: '/elsewhere' }).end('x'.repeat(10_000));
      });
    });
    url = `http://127.0.0.1:${await listen(server)}/hooks/SECRET`;
  });

  afterEach(() => {
    server.close();
    server.closeAllConnections();
  });

  it('is posted what the hooks are given, when there is something to tell', async () => {
    config(`webhook: ${url}`, `on-change: [${keep()}]`, `on-failure: [${keep()}]`);
    expect(await apply()).toMatchObject({ code: exit.ok, stderr: '' });
    expect(got).toEqual([{ method: 'POST', type: 'application/json', body: given('on-change') }]);
    await apply();
    await apply('--dry-run', '--ports', '1');
    expect(got).toHaveLength(1);
    expect(await cfsync('apply', '--source', 'nowhere')).toMatchObject({ code: exit.failed });
    expect(got[1]!.body).toEqual(given('on-failure'));
  });

  it.each([
    [500, 'answered 500 Internal Server Error'],
    [302, 'answered 302 Found'],
  ])('that answers %i is said, without the secret in its path', async (status, message) => {
    answer = status;
    config(`webhook: ${url}`);
    const { code, stderr } = await apply();
    expect(code).toBe(exit.ok);
    expect(stderr).toBe(
      `cfsync: warning: webhook: ${new URL(url).origin}/... ${message}; what cfsync did stays as it is\n`,
    );
    expect(got).toHaveLength(1);
  });

  it('has a time limit', async () => {
    const silent = await start();
    silent.set('/x', play.drip);
    expect(await post(`http://127.0.0.1:${silent.port}/x`, '{}', 300)).toBe(
      `http://127.0.0.1:${silent.port}/...: no answer within 0.3 s`,
    );
    await silent.close();
  });

  it('that cannot be reached is said', async () => {
    server.close();
    expect(await post(url, '{}', 5000)).toMatch(
      /^http:\/\/127\.0\.0\.1:\d+\/\.\.\.: .*ECONNREFUSED/,
    );
  });

  it('goes to this host without a proxy', async () => {
    vi.stubEnv('HTTP_PROXY', 'http://127.0.0.1:9');
    expect(await post(url, '{}', 5000)).toBeUndefined();
    vi.unstubAllEnvs();
  });
});

describe('the configuration', () => {
  it.each([
    ['on-change: mail root', 'on-change: must be a list of a program'],
    ['on-change: []', 'on-change: must be a list of a program'],
    [
      'on-failure: [./mail]',
      'on-failure: must be a list of a program (a name, or an absolute path)',
    ],
    ['on-failure: [mail, 1]', 'on-failure: must be a list of a program'],
    ['webhook: http://192.0.2.1/x', 'is not a URL with https'],
    ['metrics: [a]', 'metrics: must be a text'],
    ['on-chance: [mail]', 'unknown key on-chance (did you mean on-change?)'],
  ])('%s is a mistake', async (line, message) => {
    config(line);
    const settings = readConfig(at('config.yaml')).then((file) =>
      readSettings({ 'state-dir': at('state') }, file),
    );
    await expect(settings).rejects.toMatchObject({
      code: exit.usage,
      message: expect.stringMatching(/^\S+config\.yaml:1: /) as string,
    });
    await expect(settings).rejects.toThrow(message);
  });

  it('is shown, but for the secret; the schema knows it', async () => {
    config(
      'on-change: [mail, -s, "cfsync changed", root]',
      'on-failure: [/usr/bin/mail, root]',
      'webhook: https://hooks.example/SECRET',
      'metrics: /var/lib/prometheus/node-exporter/cfsync.prom',
    );
    expect(violations(parse(read('config.yaml')), schemaOf('config'))).toEqual([]);
    const { stdout } = await cfsync('config', 'show');
    expect(stdout.replaceAll(/ +/g, ' ')).toContain(`\
on-change: ["mail","-s","cfsync changed","root"] # ${at('config.yaml')}:1
on-failure: ["/usr/bin/mail","root"] # ${at('config.yaml')}:2
webhook: "https://hooks.example/..." # ${at('config.yaml')}:3
metrics: "/var/lib/prometheus/node-exporter/cfsync.prom" # ${at('config.yaml')}:4
`);
  });
});
