import {
  existsSync,
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
import { makePlan, makeRemoval, planId, type Plan } from '../../src/engine/plan.ts';
import { check } from '../../src/engine/perform.ts';
import { apply } from '../../src/engine/apply.ts';
import { goBack, makeRollback, rollBack } from '../../src/engine/back.ts';
import type { Policy } from '../../src/feed/policy.ts';
import { CfsyncError, exit, type ExitCode } from '../../src/errors.ts';
import { digest } from '../../src/digest.ts';
import type { Job } from '../../src/engine/job.ts';
import { none, parseRanges } from '../../src/prefix.ts';
import {
  beginRun,
  entriesOf,
  journalPath,
  lastRun,
  openNames,
  readOpen,
  type Kept,
  type Run,
} from '../../src/state/journal.ts';
import { readApplied } from '../../src/state/records.ts';
import { defineRenderer, type Owned, type Renderer, type Step } from '../../src/renderer.ts';
import { desired } from '../helpers/desired.ts';

let folder: string;
let file: string;
let state: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-engine-'));
  file = join(folder, 'rules');
  state = join(folder, 'state');
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

const run: Run = { number: 1, command: 'apply', boot: 'this one' };
const policy: Policy = { mayRemove: true, known: undefined, acceptLargeChange: false };
const one = parseRanges(['173.245.48.0/20', '2400:cb00::/32']);
const two = parseRanges(['173.245.48.0/20', '190.93.240.0/21', '2400:cb00::/32']);

interface FileOwned extends Owned {
  readonly text: string | null;
}

/** A backend that is one file of prefixes; the first plan has the steps that a test adds. */
function fileBackend(more: readonly Step[] = []): Renderer {
  let rest = more;
  const nothing: FileOwned = { ranges: none, text: null };
  return defineRenderer<object, FileOwned, object>({
    api: 1,
    name: 'file',
    kind: 'filter',
    options: () => ({}),
    nothing,
    want: ({ ranges }) => ({
      owned: { ranges, text: [...ranges.v4, ...ranges.v6].join('\n') },
      notices: [],
    }),
    async observe() {
      const text = existsSync(file) ? readFileSync(file, 'utf8') : null;
      return { owned: { ranges: parseRanges(text?.split('\n') ?? []), text }, around: {} };
    },
    plan: (wanted, { owned }) => {
      if (wanted.text === owned.text) return [];
      const extra = rest;
      rest = [];
      return [
        {
          kind: 'file',
          summary: 'write the file',
          path: file,
          content: wanted.text,
          mode: 0o640,
          expect: owned.text === null ? null : digest(owned.text),
        },
        ...extra,
      ];
    },
    print: ({ text }) => (text === null ? [] : [{ path: 'file', content: text }]),
  });
}

const command = (program: string, ...args: string[]): Step => ({
  kind: 'run',
  summary: `run ${program}`,
  command: { argv: [program, ...args] },
});

function job(renderer: Renderer, ranges = one): Job {
  return { name: 'file', renderer, options: {}, raw: { a: 1 }, desired: desired({ ranges }) };
}

const plan = (renderer: Renderer, ranges = one) => makePlan(job(renderer, ranges), policy, state);

describe('apply', () => {
  it('brings the backend to the plan, verifies it, and records it', async () => {
    const result = await apply(await plan(fileBackend()), state, run);
    expect(result).toMatchObject({ code: exit.ok, message: 'file: applied and read back' });
    expect(readFileSync(file, 'utf8')).toBe('173.245.48.0/20\n2400:cb00::/32');
    expect(await readApplied(state, 'file')).toMatchObject({
      desired: { ranges: one },
      options: { a: 1 },
    });
    expect(existsSync(journalPath(state, 'file'))).toBe(false);
  });

  it('has nothing to do the second time, and writes nothing', async () => {
    await apply(await plan(fileBackend()), state, run);
    const record = join(state, 'applied', 'file.json');
    const before = readFileSync(record, 'utf8');
    const again = await plan(fileBackend());
    expect(again.steps).toEqual([]);
    rmSync(journalPath(state, 'file'), { force: true });
    expect(await apply(again, state, run)).toMatchObject({
      code: exit.ok,
      message: 'file: no changes',
    });
    expect(readFileSync(record, 'utf8')).toBe(before);
  });

  describe('a step that cannot be undone', () => {
    const done = () => join(folder, 'done');
    const final = (...argv: [string, ...string[]]): Step => ({
      kind: 'run',
      summary: 'cannot be undone',
      final: true,
      command: { argv },
    });
    const touch = (): Step => final('touch', done());

    it('runs after the others, wherever it stands', async () => {
      const after = command('test', '!', '-e', done());
      const result = await apply(await plan(fileBackend([touch(), after])), state, run);
      expect(result).toMatchObject({ code: exit.ok, message: 'file: applied and read back' });
      expect(existsSync(done())).toBe(true);
    });

    it('does not run when the rest does not settle', async () => {
      const undo = command('rm', file);
      const result = await apply(await plan(fileBackend([undo, touch()])), state, run);
      expect(result.code).toBe(exit.rolledBack);
      expect(existsSync(done())).toBe(false);
    });

    it('does not run on the way back', async () => {
      const renderer = fileBackend([command('false')]);
      const restless: Renderer = {
        ...renderer,
        plan: (wanted, observed) => [...renderer.plan(wanted, observed), touch()],
      };
      const result = await apply(await plan(restless), state, run);
      expect(result.code).toBe(exit.rolledBack);
      expect(existsSync(done())).toBe(false);
      expect(existsSync(file)).toBe(false);
    });

    it('is left out when the rest has made it needless, if it says so', async () => {
      const wish: Step = { ...touch(), ifLeft: true } as Step;
      await apply(await plan(fileBackend([wish])), state, run);
      expect(existsSync(done())).toBe(false);
      // One that is still planned when the file is there, and one that is alone.
      const always: Renderer = {
        ...fileBackend(),
        plan: (wanted, observed) => [
          ...fileBackend().plan(wanted, observed),
          ...(existsSync(done()) ? [] : [wish]),
        ],
      };
      for (const ranges of [two, one, one]) {
        rmSync(done(), { force: true });
        const result = await apply(await plan(always, ranges), state, run);
        expect(result).toMatchObject({ code: exit.ok, message: 'file: applied and read back' });
        expect(existsSync(done())).toBe(true);
      }
    });

    it('takes the rest back when it fails', async () => {
      const result = await apply(await plan(fileBackend([final('false')])), state, run);
      expect(result.code).toBe(exit.rolledBack);
      expect(existsSync(file)).toBe(false);
    });
  });

  describe('a step that writes over one version', () => {
    const text = '173.245.48.0/20\n2400:cb00::/32';
    const content = (name: string) => readFileSync(join(folder, name), 'utf8');
    const runs = () => content('log').length / 2;
    /** Before the program runs for the nth time somebody else changes the version to this. */
    const meanwhile = (n: number, version: string) =>
      writeFileSync(join(folder, `meanwhile-${n}`), version);
    /** Writes what its file has below the version, if that is the one which is there, as an API server does. */
    const script = `
      cd "$2" && echo x >>log
      cp "meanwhile-$(wc -l <log)" version 2>&-
      if [ "$(head -n 1 "$1/new")" != "$(cat version)" ]; then echo '(Conflict)' >&2; exit 1; fi
      tail -n +2 "$1/new" >rules && echo written >version`;
    const versioned = (): Renderer =>
      defineRenderer<object, FileOwned, string>({
        ...(fileBackend() as Renderer<object, FileOwned, string>),
        nothing: { ranges: none, text: '' },
        async observe() {
          const rules = content('rules');
          const ranges = parseRanges(rules.split('\n').filter((line) => line !== ''));
          return { owned: { ranges, text: rules }, around: content('version').trim() };
        },
        want({ ranges }, _, around) {
          if (around === 'refused') throw new CfsyncError(exit.failed, 'it is theirs');
          return { owned: { ranges, text: [...ranges.v4, ...ranges.v6].join('\n') }, notices: [] };
        },
        plan: (wanted, { owned, around }) =>
          wanted.text === owned.text
            ? []
            : [
                {
                  kind: 'run',
                  summary: 'write it',
                  command: {
                    argv: ['sh', '-c', script, 'sh', '{stage}', folder],
                    stage: { files: { new: `{version}\n${wanted.text}` } },
                  },
                  guard: { version: around, refusal: '(Conflict)' },
                },
              ],
      });

    beforeEach(() => {
      writeFileSync(file, '');
      writeFileSync(join(folder, 'version'), 'first');
      writeFileSync(join(folder, 'log'), '');
    });
    const applied = async () => apply(await plan(versioned()), state, run);

    it('is the same plan whatever the version', async () => {
      const before = await plan(versioned());
      writeFileSync(join(folder, 'version'), 'other');
      const after = await plan(versioned());
      expect(after.steps).not.toEqual(before.steps);
      expect(planId([after])).toBe(planId([before]));
      expect(planId([await plan(versioned(), two)])).not.toBe(planId([before]));
    });

    it('runs over the version that was observed', async () => {
      expect(await applied()).toMatchObject({ code: exit.ok });
      expect(content('rules')).toBe(text);
      expect(runs()).toBe(1);
    });

    it('runs again when somebody else came first and the same is to be done', async () => {
      meanwhile(1, 'second');
      expect(await applied()).toMatchObject({ code: exit.ok });
      expect(content('rules')).toBe(text);
      expect(runs()).toBe(2);
    });

    it('changes nothing when that happens again', async () => {
      for (const n of [1, 2, 3]) meanwhile(n, `version ${n}`);
      expect(await applied()).toEqual({
        code: exit.failed,
        message:
          'write it: somebody else is changing it at the same time; run it again; nothing was changed',
        detail: ['(Conflict)'],
        notices: [],
      });
      expect(content('rules')).toBe('');
      expect(runs()).toBe(2);
      expect(await openNames(state)).toEqual([]);
    });

    it('changes nothing when it is refused now, and says why', async () => {
      meanwhile(1, 'refused');
      expect(await applied()).toMatchObject({
        code: exit.failed,
        detail: ['(Conflict)', 'it is theirs'],
      });
      expect(runs()).toBe(1);
      expect(await openNames(state)).toEqual([]);
    });

    it('runs again on the way back too', async () => {
      await applied();
      const [kept] = await entriesOf(state, 1);
      meanwhile(2, 'later');
      expect(await goBack(job(versioned()), kept!.entry, state)).toMatchObject({
        code: exit.rolledBack,
      });
      expect(content('rules')).toBe('');
      expect(runs()).toBe(3);
    });
  });

  it('goes back when a step fails, and says so', async () => {
    await apply(await plan(fileBackend()), state, run);
    const result = await apply(await plan(fileBackend([command('false')]), two), state, run);
    expect(result.code).toBe(exit.rolledBack);
    expect(result.message).toContain('run false');
    expect(result.message).toContain('back to what it was before');
    expect(readFileSync(file, 'utf8')).toBe('173.245.48.0/20\n2400:cb00::/32');
    expect(existsSync(journalPath(state, 'file'))).toBe(false);
    expect(await readApplied(state, 'file')).toMatchObject({ desired: { ranges: one } });
  });

  it('goes back when all steps succeed and the backend does not settle', async () => {
    const undo = command('rm', '-f', file);
    const result = await apply(await plan(fileBackend([undo])), state, run);
    expect(result).toMatchObject({ code: exit.rolledBack });
    expect(result.detail).toEqual(['left to do: write the file']);
    expect(existsSync(file)).toBe(false);
  });

  it('says where the journal is when going back fails as well', async () => {
    // The file becomes a folder, which no step can replace.
    const spoil = [command('rm', '-f', file), command('mkdir', '-p', file), command('false')];
    const renderer = fileBackend(spoil);
    const result = await apply(await plan(renderer), state, run);
    expect(result.code).toBe(exit.broken);
    expect(result.message).toContain(journalPath(state, 'file'));
    const journal = JSON.parse(readFileSync(journalPath(state, 'file'), 'utf8')) as {
      content: unknown;
    };
    expect(journal.content).toMatchObject({ before: { text: null } });
  });

  it('asks for all checks at once, and names the first step that is refused', async () => {
    const shell = (script: string): Step => ({
      ...command('true'),
      check: { argv: ['sh', '-c', script], timeout: 100_000 },
    });
    const mark = join(folder, 'mark');
    const first = `until test -e ${mark}; do sleep 0.01; done`;
    const second = `: >${mark}`;
    await check(await plan(fileBackend([shell(first), shell(second)])));
    rmSync(mark);
    const fail = (script: string, what: string) => shell(`${script}; echo ${what} >&2; exit 3`);
    const both = fileBackend([fail(first, 'first'), fail(second, 'second')]);
    await expect(check(await plan(both))).rejects.toMatchObject({ detail: ['first'] });
  });

  it('changes nothing when a check fails', async () => {
    const bad: Step = { ...command('true'), check: { argv: ['false'] } };
    await expect(check(await plan(fileBackend([bad])))).rejects.toMatchObject({
      code: exit.failed,
    });
    expect(existsSync(file)).toBe(false);
  });

  it('changes nothing when the file was changed after it was observed', async () => {
    const made = await plan(fileBackend());
    writeFileSync(file, '198.51.100.0/24');
    const result = await apply(made, state, run);
    expect(result.message).toContain('appeared while cfsync was at work');
    expect(result.code).toBe(exit.failed);
    expect(readFileSync(file, 'utf8')).toBe('198.51.100.0/24');
    expect(await openNames(state)).toEqual([]);
  });

  it('takes no file back that it has not written', async () => {
    const made = await plan(fileBackend());
    const late = { ...made, steps: [command('true'), ...made.steps] };
    writeFileSync(file, '198.51.100.0/24');
    const result = await apply(late, state, run);
    expect(result.code).toBe(exit.rolledBack);
    expect(readFileSync(file, 'utf8')).toBe('198.51.100.0/24');
  });

  it('does not follow a symbolic link', async () => {
    symlinkSync(join(folder, 'elsewhere'), file);
    await expect(check(await plan(fileBackend()))).rejects.toThrow('is a symbolic link');
    const result = await apply(await plan(fileBackend()), state, run);
    expect(result.message).toContain('symbolic link');
    expect(existsSync(join(folder, 'elsewhere'))).toBe(false);
  });

  it('changes nothing when the journal cannot be written', async () => {
    writeFileSync(state, 'a file where the state directory should be');
    await expect(plan(fileBackend()).then((p) => apply(p, state, run))).rejects.toThrow(
      CfsyncError,
    );
    expect(existsSync(file)).toBe(false);
  });
});

describe('makePlan', () => {
  it('adds and never removes without leave, but puts drift right', async () => {
    writeFileSync(file, '190.93.240.0/21\n198.18.0.0/24\n2400:cb00::/32');
    const cautious = {
      mayRemove: false,
      known: two,
      acceptLargeChange: true,
    };
    const made = await makePlan(job(fileBackend()), cautious, state);
    expect(made.wanted.ranges).toEqual(two);
    expect(made.removed).toEqual(parseRanges(['198.18.0.0/24']));
  });

  it('has no step when the growth is refused', async () => {
    writeFileSync(file, '173.245.48.0/24\n2400:cb00::/32');
    const made = await plan(fileBackend());
    expect(made).toMatchObject({ verdict: { kind: 'no change' }, steps: [] });
  });

  it('shows what a backend refuses to do to somebody who only looks', async () => {
    const refusing = (code: ExitCode): Renderer => ({
      ...fileBackend(),
      want(wish, options, around) {
        if (around !== undefined) throw new CfsyncError(code, 'it would shut out everybody');
        return fileBackend().want(wish, options);
      },
      observe: async (on, options) => ({
        ...(await fileBackend().observe(on, options)),
        around: {},
      }),
    });
    const seen: string[] = [];
    const look = (code: ExitCode) =>
      makePlan(job(refusing(code)), policy, state, ({ message }) => seen.push(message));
    const shown = await look(exit.refused);
    expect(seen).toEqual(['it would shut out everybody']);
    expect(shown.steps).toEqual((await plan(fileBackend())).steps);
    await expect(plan(refusing(exit.refused))).rejects.toThrow('shut out');
    // What cannot be done at all has nothing to show.
    await expect(look(exit.failed)).rejects.toThrow('shut out');
  });

  it('has an id that tells plans apart', async () => {
    const first = planId([await plan(fileBackend())]);
    expect(planId([await plan(fileBackend())])).toBe(first);
    expect(planId([await plan(fileBackend(), two)])).not.toBe(first);
  });
});

describe('makeRemoval', () => {
  it('leaves the host as if cfsync had never run, and no record', async () => {
    await apply(await plan(fileBackend()), state, run);
    const result = await apply(await makeRemoval(job(fileBackend())), state, run);
    expect(result).toMatchObject({ code: exit.ok, message: 'file: removed and read back' });
    expect(existsSync(file)).toBe(false);
    expect(await readApplied(state, 'file')).toBeUndefined();
  });
});

describe('records that cannot be used', () => {
  it('are said, moved aside by the next apply, and do not stop it', async () => {
    await apply(await plan(fileBackend()), state, run);
    const record = join(state, 'applied', 'file.json');
    writeFileSync(record, '{');
    const made = await plan(fileBackend(), two);
    expect(made.notices).toEqual([
      { level: 'warning', text: expect.stringContaining('file.json is corrupt') },
    ]);
    expect(await apply(made, state, run)).toMatchObject({ code: exit.ok });
    expect(readFileSync(`${record}.corrupt-1`, 'utf8')).toBe('{');
    expect(await readApplied(state, 'file')).toMatchObject({ desired: { ranges: two } });
  });
});

describe('after a run that was cut off', () => {
  const open = () => readOpen(state, 'file').then(({ content }) => content!);
  /** Leaves what a run leaves that dies after its first step. */
  async function cutOff(): Promise<void> {
    await apply(await plan(fileBackend()), state, run);
    const made = await plan(fileBackend([command('false')]), two);
    const dead: Plan = {
      ...made,
      job: { ...made.job, renderer: { ...made.job.renderer, observe: () => Promise.reject(dies) } },
    };
    await apply(dead, state, { ...run, number: 2 });
    expect(readFileSync(file, 'utf8')).toContain('190.93.240.0/21');
  }
  const dies = new CfsyncError(exit.failed, 'dies');

  it('the next apply goes on, and rollback still leads to what was before', async () => {
    await cutOff();
    await apply(await plan(fileBackend(), two), state, { ...run, number: 3 });
    expect(await openNames(state)).toEqual([]);
    const [kept] = await entriesOf(state, 2);
    expect(kept?.entry.before).toMatchObject({ ranges: one });
    expect(kept?.entry.was).toMatchObject({ desired: { ranges: one } });
  });

  it('an apply that fails goes back to before the one that was cut off', async () => {
    await cutOff();
    const three = parseRanges(['173.245.48.0/20', '188.114.96.0/21', '2400:cb00::/32']);
    const made = await plan(fileBackend([command('false')]), three);
    expect(await apply(made, state, { ...run, number: 3 })).toMatchObject({ code: 4 });
    expect(readFileSync(file, 'utf8')).toBe('173.245.48.0/20\n2400:cb00::/32');
    expect(await openNames(state)).toEqual([]);
  });

  it('going back looks at what is there, and leaves the records as they were', async () => {
    await cutOff();
    expect(await goBack(job(fileBackend()), await open(), state)).toMatchObject({ code: 4 });
    expect(readFileSync(file, 'utf8')).toBe('173.245.48.0/20\n2400:cb00::/32');
    expect(await readApplied(state, 'file')).toMatchObject({ desired: { ranges: one } });
  });

  it.each([
    ['going on', async () => apply(await plan(fileBackend(), two), state, { ...run, number: 3 })],
    ['going back', async () => goBack(job(fileBackend()), await open(), state)],
    ['a new run', async () => beginRun(state, 'apply', '')],
  ])('%s deletes what a write that was cut off left, and nothing else', async (what, settle) => {
    await cutOff();
    const at = what === 'a new run' ? join(state, 'journal') : folder;
    const cut = join(at, '.cfsync-0123456789abcdef01234567.tmp');
    const others = ['.cfsync-mine.tmp', 'cfsync-0123456789abcdef01234567.tmp'];
    for (const path of [cut, ...others.map((name) => join(at, name))]) writeFileSync(path, '');
    await settle();
    expect(existsSync(cut)).toBe(false);
    for (const name of others) expect(existsSync(join(at, name))).toBe(true);
  });

  it('a file that it created and somebody else replaced since is left alone', async () => {
    const made = await plan(fileBackend());
    await apply(made, state, run);
    const [{ entry }] = (await entriesOf(state, 1)) as [Kept];
    writeFileSync(file, '198.51.100.0/24');
    expect(await makeRollback(job(fileBackend()), entry)).toMatchObject({
      steps: [],
      removed: none,
    });
    const back = await goBack(job(fileBackend()), entry, state);
    expect(back).toMatchObject({
      code: 4,
      message: expect.stringContaining('is back to what it was before, but for what is left'),
    });
    expect(back.notices.map(({ text }) => text)).toEqual([
      `${file} is left as it is, because somebody else has changed it since, and is still in force; look at it, then delete it, or run cfsync remove --backend file`,
    ]);
    expect(readFileSync(file, 'utf8')).toBe('198.51.100.0/24');
  });

  it('a file that it created is taken away in as many steps as that takes', async () => {
    const renderer = fileBackend();
    const write = (content: string | null, from: string): Step => ({
      kind: 'file',
      summary: 'write the file',
      path: file,
      content,
      mode: 0o640,
      expect: digest(from),
    });
    const marked: Renderer = {
      ...renderer,
      plan: (wanted, observed) => {
        const { text } = observed.owned as FileOwned;
        return (wanted as FileOwned).text === null && text !== null
          ? [write('', text), write(null, '')]
          : renderer.plan(wanted, observed);
      },
    };
    await apply(await plan(renderer), state, run);
    const [{ entry }] = (await entriesOf(state, 1)) as [Kept];
    expect(await goBack(job(marked), entry, state)).toMatchObject({ code: 4 });
    expect(existsSync(file)).toBe(false);
  });

  it.each([
    ['without a step', one],
    ['with one', parseRanges(['173.245.48.0/20', '190.93.240.0/20', '2400:cb00::/32'])],
  ])('an entry that cannot be used is said and moved aside, %s', async (_, ranges) => {
    await cutOff();
    writeFileSync(journalPath(state, 'file'), '{');
    const result = await apply(await plan(fileBackend(), ranges), state, { ...run, number: 3 });
    expect(result.notices.map(({ text }) => text)).toEqual([
      expect.stringContaining('what was there before is not known'),
      expect.stringContaining('file.json.corrupt-1'),
    ]);
  });
});

describe('the history', () => {
  const lists = ['0', '1', '2', '3', '4', '5', '6'].map((n) =>
    parseRanges([`190.93.24${n}.0/24`, '173.245.48.0/20', '2400:cb00::/32']),
  );

  it('keeps the last five runs, each back to the one before', async () => {
    for (const [i, list] of lists.entries())
      await apply(await plan(fileBackend(), list), state, { ...run, number: i + 1 });
    for (let number = 7; number > 2; number--) {
      expect(await lastRun(state, undefined)).toBe(number);
      expect(await lastRun(state, ['file'])).toBe(number);
      expect(await lastRun(state, ['other'])).toBeUndefined();
      const [{ entry }] = (await entriesOf(state, number)) as [Kept];
      const back = await makeRollback(job(fileBackend()), entry);
      expect(await rollBack(back, entry, state)).toMatchObject({ code: 4 });
      expect(readFileSync(file, 'utf8')).toContain(`190.93.24${number - 2}.0/24`);
      expect(await readApplied(state, 'file')).toMatchObject({
        desired: { ranges: lists[number - 2] },
      });
    }
    expect(await lastRun(state, undefined)).toBeUndefined();
    expect((await beginRun(state, 'apply', '')).number).toBe(1);
  });

  it('has no entry of a run that changed nothing', async () => {
    await apply(await plan(fileBackend()), state, run);
    await apply(await plan(fileBackend()), state, { ...run, number: 2 });
    expect(await lastRun(state, undefined)).toBe(1);
    expect(await beginRun(state, 'apply', '')).toMatchObject({ number: 2 });
  });

  it('is no reason to go back when an old run cannot be let go', async () => {
    for (let number = 1; number <= 5; number++)
      await apply(await plan(fileBackend(), lists[number]), state, { ...run, number });
    const oldest = join(state, 'history', '000001-file.json');
    rmSync(oldest);
    mkdirSync(oldest);
    const result = await apply(await plan(fileBackend(), one), state, { ...run, number: 6 });
    expect(result).toMatchObject({
      code: 0,
      notices: [{ level: 'warning', text: expect.stringContaining(oldest) }],
    });
  });

  it('need not be written to for going back', async () => {
    await apply(await plan(fileBackend()), state, run);
    await apply(await plan(fileBackend(), two), state, { ...run, number: 2 });
    rmSync(join(state, 'journal'), { recursive: true });
    writeFileSync(join(state, 'journal'), '');
    const [{ entry }] = (await entriesOf(state, 2)) as [Kept];
    const back = await rollBack(await makeRollback(job(fileBackend()), entry), entry, state);
    expect(back).toMatchObject({ code: 4, notices: [{ level: 'warning' }, { level: 'warning' }] });
    expect(readFileSync(file, 'utf8')).toBe('173.245.48.0/20\n2400:cb00::/32');
  });

  it('is where the entry is when going back fails', async () => {
    await apply(await plan(fileBackend()), state, run);
    const [{ entry }] = (await entriesOf(state, run.number)) as [Kept];
    rmSync(file);
    mkdirSync(file);
    const kept = join(state, 'history', '000001-file.json');
    const back = await goBack(job(fileBackend()), entry, state);
    expect(back).toMatchObject({ code: 5, message: expect.stringContaining(kept) });
  });

  it('goes back when the end of an apply cannot be written down', async () => {
    await apply(await plan(fileBackend()), state, run);
    rmSync(join(state, 'history'), { recursive: true });
    writeFileSync(join(state, 'history'), '');
    const result = await apply(await plan(fileBackend(), two), state, { ...run, number: 2 });
    expect(result).toMatchObject({ code: 4, message: expect.stringContaining('history') });
    expect(readFileSync(file, 'utf8')).toBe('173.245.48.0/20\n2400:cb00::/32');
    expect(await readApplied(state, 'file')).toMatchObject({ desired: { ranges: one } });
  });
});
