/** Nothing that was locked is opened in silence: what counts as weaker, and who may say so. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import type { Job } from '../../src/engine/job.ts';
import type { Context } from '../../src/run/context.ts';
import { noConfig } from '../../src/settings/config.ts';
import type { Settings } from '../../src/settings/settings.ts';
import { readApplied, writeApplied, type Given } from '../../src/state/records.ts';
import { keepLocked, openings } from '../../src/run/weaker.ts';
import { runProgram, type Ended } from '../helpers/program.ts';
import { filterRenderer } from '../helpers/wall.ts';
import { runAtTerminal } from '../helpers/terminal.ts';

const port = fc.integer({ min: 1, max: 5 });
const given: fc.Arbitrary<Given> = fc.record({
  mode: fc.constantFrom('allow', 'lockdown'),
  tcpPorts: fc.uniqueArray(port, { minLength: 1 }),
  udpPorts: fc.uniqueArray(port),
});

/** What strangers are kept off, as product and manual have it: TCP and UDP of the ports, in lockdown. */
function locked({ mode, tcpPorts, udpPorts }: Given): readonly string[] {
  if (mode === 'allow') return [];
  return [
    ...tcpPorts.map((one) => `tcp ${one}`),
    ...[...tcpPorts, ...udpPorts].map((one) => `udp ${one}`),
  ];
}

describe('openings', () => {
  it('are there exactly where strangers get in who did not before', () => {
    fc.assert(
      fc.property(given, given, (applied, wanted) => {
        const opened = locked(applied).filter((one) => !locked(wanted).includes(one));
        expect(openings(applied, wanted).length > 0).toBe(opened.length > 0);
      }),
      { numRuns: 2000 },
    );
  });

  const applied: Given = { mode: 'lockdown', tcpPorts: [80, 443], udpPorts: [443, 3478] };
  it.each<[Partial<Given>, string[]]>([
    [{}, []],
    [{ mode: 'allow' }, ['mode']],
    [{ tcpPorts: [80, 443, 8443] }, []],
    [{ tcpPorts: [443] }, ['ports']],
    [{ udpPorts: [] }, ['udp-ports']],
    // Its UDP is still closed, because its TCP is.
    [{ udpPorts: [3478] }, []],
    [{ tcpPorts: [80], udpPorts: [443] }, ['ports', 'udp-ports']],
    // To allow, the ports do not matter any more.
    [{ mode: 'allow', tcpPorts: [80], udpPorts: [] }, ['mode']],
  ])('of %j are %j', (change, settings) => {
    const found = openings(applied, { ...applied, ...change });
    expect(found.map(({ setting }) => setting)).toEqual(settings);
  });
});

describe('a run that nobody is at', () => {
  let folder: string;
  let state: string;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'cfsync-weaker-'));
    state = join(folder, 'state');
    writeFileSync(join(folder, 'wall.mjs'), filterRenderer);
    writeFileSync(join(folder, 'list'), '104.16.0.0/13\n172.64.0.0/13\n2400:cb00::/32\n');
    configure('');
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const wall = (): string => join(folder, 'wall');
  /** @param top Settings; @param own Settings of the backend. */
  const configure = (top: string, own = ''): void =>
    writeFileSync(
      join(folder, 'config.yaml'),
      `judge: off\n${top}\nbackends: {wall: {renderer: ./wall.mjs, path: ${wall()}${own}}}\n`,
    );
  const words = (line: string): string[] => [
    ...line.split(' '),
    '--config',
    'config.yaml',
    ...(/--plan|rollback|remove|verify/.test(line) ? [] : ['--source', 'list']),
  ];
  const env = (): Record<string, string> => ({ CFSYNC_STATE_DIR: state });
  const cfsync = (line: string): Promise<Ended> =>
    runProgram(words(line), { cwd: folder, env: env() });
  const atTerminal = (line: string): Promise<number> =>
    runAtTerminal(words(line), { cwd: folder, env: env() }).ended;
  /** `MODE TCP UDP` of what is in force. */
  const now = (): string => readFileSync(wall(), 'utf8').split('\n').slice(0, 3).join(' ').trim();
  const lock = async (flags = ''): Promise<void> => {
    const { code, stderr } = await cfsync(`apply --mode lockdown${flags}`);
    expect(code, stderr).toBe(exit.ok);
  };

  it('keeps a lockdown that a flag made, brings the ranges, says so and ends with 3', async () => {
    await lock(' --ports 80,443,8443');
    expect(now()).toBe('lockdown 80,443,8443');
    writeFileSync(
      join(folder, 'list'),
      '104.16.0.0/13\n104.24.0.0/14\n172.64.0.0/13\n2400:cb00::/32\n',
    );
    const { code, stdout, stderr } = await cfsync('apply');
    expect(code).toBe(exit.refused);
    expect(stdout).toContain('+104.24.0.0/14');
    expect(stderr).toBe(
      `cfsync: wall: lockdown of 80, 443, 8443 stays as it was applied: mode allow would let others in, and neither a person nor a change of the configuration says so; to keep it, write mode: lockdown, ports: [80, 443, 8443] for wall into ${folder}/config.yaml; to open it, give --mode at a terminal, or --allow-weaker\n`,
    );
    expect(now()).toBe('lockdown 80,443,8443');
    // Drift is repaired as ever.
    writeFileSync(wall(), 'allow\n80\n\n104.16.0.0/13');
    expect((await cfsync('apply')).code).toBe(exit.refused);
    expect(now()).toBe('lockdown 80,443,8443');
    expect(await cfsync('verify')).toMatchObject({ code: exit.ok });
    // As it says: then all is quiet.
    configure('mode: lockdown\nports: [80, 443, 8443]');
    expect(await cfsync('apply')).toEqual({ code: exit.ok, stdout: '', stderr: '' });
  });

  it('shows the same before: dry run, diff, and a plan that is saved', async () => {
    await lock();
    const dry = await cfsync('apply --dry-run');
    expect(dry).toMatchObject({ code: exit.refused, stdout: '' });
    const diff = await cfsync('diff --out plan.json');
    expect(diff).toMatchObject({ code: exit.refused, stdout: '' });
    expect(diff.stderr).toContain('lockdown of 80, 443 stays as it was applied');
    expect((await cfsync('adopt')).code).toBe(exit.refused);
    expect(now()).toBe('lockdown 80,443');
  });

  it.each([
    ['apply', exit.refused, 'lockdown 80,443'],
    ['apply --mode allow', exit.refused, 'lockdown 80,443'],
    ['apply --ports 80', exit.refused, 'lockdown 80,443'],
    ['apply --mode lockdown --ports 80', exit.refused, 'lockdown 80,443'],
    ['apply --mode lockdown --ports 80,443,8080', exit.ok, 'lockdown 80,443,8080'],
    ['apply --allow-weaker', exit.ok, 'allow 80,443'],
    ['apply --mode lockdown --ports 80 --allow-weaker', exit.ok, 'lockdown 80'],
    ['adopt --allow-weaker', exit.ok, 'allow 80,443'],
  ])('after a lockdown: %s ends with %i', async (line, code, then) => {
    await lock();
    const ended = await cfsync(line);
    expect(ended.code, ended.stderr).toBe(code);
    expect(now()).toBe(then);
  });

  it.each([
    ['apply', exit.refused, 'lockdown 80,443'],
    ['apply --mode allow', exit.ok, 'allow 80,443'],
    // Who names the ports has not named the mode.
    ['apply --ports 80', exit.refused, 'lockdown 80,443'],
    ['apply --mode lockdown --ports 80', exit.ok, 'lockdown 80'],
  ])('at a terminal a person may: %s ends with %i', async (line, code, then) => {
    await lock();
    expect(await atTerminal(line)).toBe(code);
    expect(now()).toBe(then);
  });

  it.each([
    ['mode: lockdown', '', 'mode: allow', '', 'allow 80,443'],
    ['mode: lockdown', '', '', '', 'allow 80,443'],
    ['', ', mode: lockdown', '', ', mode: allow', 'allow 80,443'],
    ['mode: lockdown\nports: [80, 81]', '', 'mode: lockdown\nports: [80]', '', 'lockdown 80'],
    ['mode: lockdown\nudp-ports: [99]', '', 'mode: lockdown', '', 'lockdown 80,443'],
  ])('goes with the configuration from %j%j to %j%j', async (top, own, later, ownLater, then) => {
    configure(top, own);
    expect((await cfsync('apply')).code).toBe(exit.ok);
    expect(now()).toMatch(/^lockdown/);
    configure(later, ownLater);
    expect(await cfsync('apply')).toMatchObject({ code: exit.ok, stderr: '' });
    expect(now()).toBe(then);
  });

  it('a change of the configuration speaks for its own value, not for that of a flag', async () => {
    configure('mode: lockdown\nports: [80, 81, 82]');
    expect((await cfsync('apply')).code).toBe(exit.ok);
    configure('mode: lockdown\nports: [80, 81]');
    expect((await cfsync('apply --ports 80')).code).toBe(exit.refused);
    expect(now()).toBe('lockdown 80,81,82');
    expect((await cfsync('apply')).code).toBe(exit.ok);
    expect(now()).toBe('lockdown 80,81');
  });

  it.each([
    ['mode: lockdown\nports: [80, 443]', ''],
    ['', 'ports: [80, 443, 9443]'],
  ])('a change from %j to %j does not speak for a port that it never named', async (top, later) => {
    configure(top);
    await lock(' --ports 80,443,8443');
    configure(`mode: lockdown\n${later}`);
    expect((await cfsync('apply')).code).toBe(exit.refused);
    expect(now()).toBe('lockdown 80,443,8443');
  });

  it('a configuration that is gone says nothing', async () => {
    configure('mode: lockdown');
    expect((await cfsync('apply')).code).toBe(exit.ok);
    const { desired, given } = (await readApplied(state, 'wall'))!;
    const settings = { values: {}, config: noConfig, stateDir: state } as unknown as Settings;
    const job = {
      name: 'wall',
      renderer: { kind: 'filter' },
      desired: { ...desired, mode: 'allow' },
      given: { ...given, mode: 'allow' },
    } as unknown as Job;
    const said: string[] = [];
    const context = {
      settings,
      output: { error: (text: string) => said.push(text) },
      record: { backend: () => {} },
    } as unknown as Context;
    const [kept] = await keepLocked([job], context, []);
    expect(kept!.desired.mode).toBe('lockdown');
    expect(said).toHaveLength(1);
  });

  it.each([
    ['is empty', ''],
    ['a later release wrote', '{"schema":9,"kind":"applied","digest":"x","content":{}}'],
  ])('a record that %s does not open what it may say was locked', async (_, text) => {
    const other = `wall: {renderer: ./wall.mjs, path: ${wall()}}, other: {renderer: ./wall.mjs, path: ${wall()}2}`;
    writeFileSync(join(folder, 'config.yaml'), `judge: off\nbackends: {${other}}\n`);
    await lock();
    writeFileSync(join(state, 'applied', 'wall.json'), text);
    const ended = await cfsync('apply --allow-weaker -b other');
    expect(ended.code).toBe(exit.ok);
    const refused = await cfsync('apply');
    expect(refused.code).toBe(exit.refused);
    expect(refused.stderr).toContain('so it is not known whether its ports were locked');
    expect(now()).toBe('lockdown 80,443');
    expect((await cfsync('diff')).code).toBe(exit.refused);
    rmSync(`${wall()}2`);
    const together = await cfsync('apply --all-or-nothing');
    expect(together.code).toBe(exit.refused);
    expect(together.stderr).toContain('nothing else was changed, because of --all-or-nothing');
    expect(existsSync(`${wall()}2`)).toBe(false);
  });

  it('a backend that filters nothing has no mode to keep', async () => {
    writeFileSync(join(folder, 'wall.mjs'), filterRenderer.replace("'filter'", "'list'"));
    await lock();
    expect(await cfsync('apply')).toMatchObject({ code: exit.ok, stderr: '' });
  });

  it('the same value in another place is no change', async () => {
    await lock();
    for (const [top, own] of [
      ['mode: allow', ''],
      ['', ', mode: allow'],
      ['ports: [443, 80]', ''],
    ] as const) {
      configure(top, own);
      expect((await cfsync('apply')).code).toBe(exit.refused);
      expect(now()).toBe('lockdown 80,443');
    }
  });

  it('what was changed beside it counts once the rest is settled', async () => {
    configure('ports: [80, 443, 8443]');
    await lock();
    configure('ports: [80, 443]');
    expect((await cfsync('apply')).code).toBe(exit.refused);
    expect(now()).toBe('lockdown 80,443,8443');
    configure('mode: lockdown\nports: [80, 443]');
    expect(await cfsync('apply')).toMatchObject({ code: exit.ok });
    expect(now()).toBe('lockdown 80,443');
  });

  it('a record of 0.1.0 does not say what the configuration was: unchanged', async () => {
    configure('mode: lockdown');
    await lock();
    const { given: _, ...old } = (await readApplied(state, 'wall'))!;
    await writeApplied(state, 'wall', undefined);
    await writeApplied(state, 'wall', old);
    configure('mode: allow');
    for (const _ of [1, 2]) {
      expect((await cfsync('apply')).code).toBe(exit.refused);
      expect(now()).toBe('lockdown 80,443');
    }
    expect((await cfsync('apply --allow-weaker')).code).toBe(exit.ok);
    expect(now()).toBe('allow 80,443');
  });

  it('to go back is never weaker', async () => {
    expect((await cfsync('apply')).code).toBe(exit.ok);
    await lock();
    expect((await cfsync('rollback')).code).toBe(exit.ok);
    expect(now()).toBe('allow 80,443');
    expect((await cfsync('remove')).code).toBe(exit.ok);
  });

  it('a saved plan is applied as it is, or not at all', async () => {
    expect((await cfsync('diff --out plan.json')).code).toBe(exit.ok);
    await lock();
    const refused = await cfsync('apply --plan plan.json');
    expect(refused).toMatchObject({ code: exit.refused, stdout: '' });
    expect(refused.stderr).toContain('mode allow would let others in');
    expect(refused.stderr).toContain('apply the plan with --allow-weaker if that is meant');
    expect(now()).toBe('lockdown 80,443');
    // To be read it is shown, with the same word.
    const shown = await cfsync('diff --plan plan.json');
    expect(shown).toMatchObject({ code: exit.refused });
    expect(shown.stdout).toMatch(/^-lockdown\n\+allow$/m);
    expect(shown.stderr).toContain('mode allow would let others in');
    expect((await cfsync('diff --allow-weaker --out plan.json')).code).toBe(exit.ok);
    expect(await cfsync('diff --allow-weaker --plan plan.json')).toMatchObject({ code: exit.ok });
    expect((await cfsync('apply --plan plan.json')).code).toBe(exit.refused);
    expect((await cfsync('apply --plan plan.json --allow-weaker')).code).toBe(exit.ok);
    expect(now()).toBe('allow 80,443');
  });
});
