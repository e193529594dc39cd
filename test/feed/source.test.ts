import { cp, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Feed, Feeds } from '../../src/feed/download.ts';
import { CfsyncError, exit } from '../../src/errors.ts';
import { parseRanges } from '../../src/prefix.ts';
import type { Ranges } from '../../src/renderer.ts';
import {
  type Decision,
  type Known,
  type SourceOptions,
  decide,
  resolveSource,
} from '../../src/feed/source.ts';
import { type Check, type Snapshot, readState } from '../../src/state/store.ts';
import { play, published, start } from '../helpers/feeds.ts';

const hour = 3_600_000;
const at = (hours: number) => new Date(Date.UTC(2026, 9, 1) + hours * hour);
const iso = (hours: number) => at(hours).toISOString();

// Far apart, so that nothing merges.
const [a, b, c] = ['104.16.0.0/13', '162.158.0.0/15', '172.64.0.0/13'];
const v6 = '2606:4700::/32';
const of = (...prefixes: string[]): Ranges => parseRanges([...prefixes, v6]);
const bundled = of(c);

const ok = (...prefixes: string[]): Feed => ({ ok: of(...prefixes) });
const gone = (name = 'feed'): Feed => ({
  error: new CfsyncError(exit.failed, `https://${name}: 502 Bad Gateway`),
});
const untrue = (name = 'feed'): Feed => ({
  error: new CfsyncError(exit.refused, `https://${name}: an HTML page, not a list`, {
    detail: ['detail'],
  }),
});

const snapshotOf = (...prefixes: string[]): Snapshot => ({
  ranges: of(...prefixes),
  origin: { kind: 'feeds', detail: 'text and JSON feeds' },
  acceptedAt: iso(0),
});
const settled: Check = {
  checkedAt: iso(0),
  believed: { at: iso(0), feeds: 'both' },
  settled: true,
};

const decided = (known: Partial<Known>, text: Feed, json: Feed, hours = 1, maxAge = 30) =>
  decide({ bundled, ...known }, { text, json }, at(hours), maxAge);

/** The decision as it would be known in the next run. */
const after = ({ ranges, origin, check }: Decision, hours: number): Partial<Known> => ({
  snapshot: { ranges, origin, acceptedAt: iso(hours) },
  check,
});

const said = ({ notices }: Decision) => notices.map(({ level, text }) => `${level}: ${text}`);

describe('both feeds are believed', () => {
  test.each([
    ['no snapshot', {}],
    ['a snapshot with more', { snapshot: snapshotOf(a, b, c), check: settled }],
    ['a snapshot that is not settled', { snapshot: snapshotOf(a, b, c) }],
  ])('and agree, over %s', (_, known) => {
    const decision = decided(known, ok(b, a), ok(a, b));
    expect(decision).toEqual({
      ranges: of(a, b),
      origin: { kind: 'feeds', detail: 'text and JSON feeds' },
      mayRemove: true,
      notices: [],
      check: { checkedAt: iso(1), believed: { at: iso(1), feeds: 'both' }, settled: true },
    });
  });

  test('the same addresses in other prefixes agree', () => {
    const halves = { ok: parseRanges(['104.16.0.0/14', '104.20.0.0/14', v6]) };
    expect(decided({}, halves, ok(a)).notices).toEqual([]);
  });

  test('and differ: both together, what is in neither goes, and the difference is named', () => {
    const known = { snapshot: snapshotOf(a, b, c), check: settled };
    const decision = decided(known, ok(a), ok(a, b));
    expect(decision.ranges).toEqual(of(a, b));
    expect(decision.mayRemove).toBe(true);
    expect(said(decision)).toEqual([
      `warning: the text and JSON feeds differ, as they do while a change is rolled out (only in the JSON feed: ${b}); the ranges of both are used`,
    ]);
    expect(decision.check).toEqual({
      checkedAt: iso(1),
      believed: { at: iso(1), feeds: 'differing' },
      settled: true,
    });
    expect(said(decided(known, ok(a, c), ok(a, b)))[0]).toContain(
      `(only in the text feed: ${c}; only in the JSON feed: ${b})`,
    );
  });

  test('a long difference is cut short', () => {
    const many = Array.from({ length: 20 }, (_, n) => `104.${n * 2}.0.0/16`);
    expect(said(decided({}, ok(...many), ok(many[0]!)))[0]).toMatch(
      /104\.16\.0\.0\/16 and 11 more\)/,
    );
  });

  test('a pending removal is over', () => {
    const pending = { digest: 'x', since: iso(0) };
    const known = { snapshot: snapshotOf(a, b), check: { ...settled, pending } };
    expect(decided(known, ok(a), ok(a)).check.pending).toBeUndefined();
    expect(decided(known, ok(a), ok(b)).check.pending).toBeUndefined();
  });
});

describe.each(['text', 'json'] as const)('only the %s feed is believed', (feed) => {
  const one = (known: Partial<Known>, answer: Feed, hours = 1, other = gone('other')) =>
    feed === 'text' ? decided(known, answer, other, hours) : decided(known, other, answer, hours);
  const known = { snapshot: snapshotOf(a, b), check: settled };
  const name = feed === 'text' ? 'text' : 'JSON';

  test('additions are taken at once', () => {
    const decision = one(known, ok(a, b, c));
    expect(decision).toMatchObject({
      ranges: of(a, b, c),
      origin: { kind: 'feeds', detail: `${name} feed alone` },
      mayRemove: true,
      check: { checkedAt: iso(1), believed: { at: iso(1), feeds: feed }, settled: true },
    });
    expect(decision.check.pending).toBeUndefined();
    expect(said(decision)).toEqual([
      `warning: only the ${name} feed is used; https://other: 502 Bad Gateway`,
    ]);
  });

  test('the other one is named when it is not believed', () => {
    expect(said(one(known, ok(a, b), 1, untrue('other')))).toEqual([
      `warning: only the ${name} feed is used; https://other: an HTML page, not a list`,
    ]);
  });

  test('a removal waits for the same answer 24 hours later', () => {
    const first = one(known, ok(a, c), 10);
    expect(first.ranges).toEqual(of(a, b, c));
    expect(first.mayRemove).toBe(true);
    expect(first.check.pending?.since).toBe(iso(10));
    expect(said(first)[1]).toBe(
      `warning: ${b}, missing there, stays until both feeds agree, or the ${name} feed says the same at ${iso(34)} or later`,
    );

    const early = one(after(first, 10), ok(a, c), 34 - 1 / hour);
    expect(early.ranges).toEqual(of(a, b, c));
    expect(early.check.pending).toEqual(first.check.pending);

    const due = one(after(early, 33), ok(c, a), 34);
    expect(due.ranges).toEqual(of(a, c));
    expect(due.mayRemove).toBe(true);
    expect(due.check).toMatchObject({ settled: true });
    expect(due.check.pending).toBeUndefined();
    expect(said(due)).toHaveLength(1);
  });

  test('the same answer of the other feed counts', () => {
    const first = one(known, ok(a), 10);
    const [text, json] = feed === 'text' ? [gone(), ok(a)] : [ok(a), gone()];
    expect(decided(after(first, 10), text, json, 34).ranges).toEqual(of(a));
  });

  test.each([
    ['a different answer', ok(a, c)],
    ['an answer without the removal', ok(a, b)],
  ])('%s starts the clock again', (_, answer) => {
    const first = one(known, ok(a), 10);
    const second = one(after(first, 10), answer, 30);
    const third = one(after(second, 30), ok(a), 40);
    expect(third.ranges.v4).toContain(b);
    expect(third.check.pending?.since).toBe(iso(40));
  });

  test('runs in which no feed is believed do not', () => {
    const first = one(known, ok(a), 10);
    const second = decided(after(first, 10), gone(), untrue(), 20);
    expect(second.check.pending).toEqual(first.check.pending);
    expect(one(after(second, 20), ok(a), 34).ranges).toEqual(of(a));
  });

  test('both feeds agree: at once', () => {
    const first = one(known, ok(a), 10);
    const second = decided(after(first, 10), ok(a), ok(a), 11);
    expect(second.ranges).toEqual(of(a));
    expect(second.check.pending).toBeUndefined();
  });

  test('a clock that was ahead does not put it off', () => {
    const first = one(known, ok(a), 10_000);
    const second = one(after(first, 10_000), ok(a), 10);
    expect(second.check.pending?.since).toBe(iso(10));
    expect(one(after(second, 10), ok(a), 34).ranges).toEqual(of(a));
  });

  test('no snapshot: nothing is taken away until the answer is 24 hours old', () => {
    const first = one({}, ok(a), 10);
    expect(first).toMatchObject({ ranges: of(a), mayRemove: false, check: { settled: false } });
    expect(said(first)[1]).toBe(
      `warning: no range is taken away until both feeds agree, or the ${name} feed says the same at ${iso(34)} or later`,
    );
    const second = one(after(first, 10), ok(a), 20);
    expect(second).toMatchObject({ ranges: of(a), mayRemove: false, check: { settled: false } });
    const third = one(after(second, 20), ok(a), 34);
    expect(third).toMatchObject({ ranges: of(a), mayRemove: true, check: { settled: true } });
    expect(one(after(third, 34), ok(a), 35).mayRemove).toBe(true);
  });

  test('a snapshot whose check was lost is not settled', () => {
    expect(one({ snapshot: known.snapshot }, ok(a, b)).mayRemove).toBe(false);
  });

  test('a check whose snapshot was lost settles nothing', () => {
    expect(one({ check: settled }, ok(a, b))).toMatchObject({
      mayRemove: false,
      check: { settled: false },
    });
  });
});

describe('no feed is believed', () => {
  const known = { snapshot: snapshotOf(a, b), check: settled };

  test('the last snapshot is used, and its age and the reason are said', () => {
    const decision = decided(known, gone('text'), gone('json'), 50);
    expect(decision).toMatchObject({
      ranges: of(a, b),
      origin: known.snapshot.origin,
      mayRemove: false,
      fallback: { age: '2 days old', staleExit: exit.ok },
    });
    expect(said(decision)).toEqual([
      'warning: the feeds cannot be had: https://text: 502 Bad Gateway; https://json: 502 Bad Gateway; the last snapshot is used, which is 2 days old, and no range is taken away',
    ]);
    expect(decision.check).toEqual({ ...settled, checkedAt: iso(50), problem: 'failed' });
  });

  test('without one, the bundled list', () => {
    const decision = decided({}, gone(), gone(), 24 * 10);
    expect(decision).toMatchObject({
      ranges: bundled,
      origin: { kind: 'bundled', detail: '2026-10-01' },
      mayRemove: false,
      fallback: { age: '10 days old', staleExit: exit.failed },
      check: { settled: false },
    });
    expect(said(decision)[0]).toContain('the list that comes with this release is used');
  });

  test('stored, it is still as old as it is, and still not settled', () => {
    const first = decided({}, gone(), gone(), 24 * 10);
    const second = decided(after(first, 240), gone(), gone(), 24 * 20);
    expect(second.fallback?.age).toBe('20 days old');
    const third = decided(after(first, 240), ok(a), gone(), 24 * 20);
    expect(third).toMatchObject({ ranges: of(a, c), mayRemove: false });
  });

  test.each([
    [gone(), gone(), exit.failed],
    [untrue(), gone(), exit.refused],
    [gone(), untrue(), exit.refused],
    [untrue(), untrue(), exit.refused],
  ])('the exit code when stale', (text, json, code) => {
    for (const [hours, stale] of [
      [30 * 24 - 1 / hour, exit.ok],
      [30 * 24, code],
    ] as const) {
      const decision = decided(known, text, json, hours);
      expect(decision.fallback?.staleExit).toBe(stale);
      expect(decision.fallback?.reason.code).toBe(code);
    }
    expect(decided({ snapshot: known.snapshot }, text, json).fallback?.staleExit).toBe(code);
    expect(decided(known, text, json, 50, 2).fallback?.staleExit).toBe(code);
  });

  test('the reason keeps the details of both', () => {
    expect(decided(known, untrue(), untrue()).fallback?.reason.detail).toEqual([
      'detail',
      'detail',
    ]);
  });

  test.each([
    [0.5, 'less than an hour old'],
    [1, '1 hour old'],
    [47.9, '47 hours old'],
    [48, '2 days old'],
    [24 * 400, '400 days old'],
    [-5, 'less than an hour old'],
  ])('after %s hours it is %s', (hours, age) => {
    expect(decided(known, gone(), gone(), hours).fallback?.age).toBe(age);
  });

  test('a list is as young as the last answer that agreed with it', () => {
    const check = { ...settled, believed: { at: iso(90), feeds: 'both' } } as const;
    expect(decided({ ...known, check }, gone(), gone(), 100).fallback?.age).toBe('10 hours old');
    // Somebody named a source after that answer.
    const snapshot = { ...known.snapshot, acceptedAt: iso(95) };
    expect(decided({ snapshot, check }, gone(), gone(), 100).fallback?.age).toBe('5 hours old');
  });
});

test('in any row of runs, the policy holds', () => {
  const universe = [a, b, c] as const;
  const feed = fc.oneof(
    { weight: 4, arbitrary: fc.subarray([...universe], { minLength: 1 }).map((all) => ok(...all)) },
    { weight: 1, arbitrary: fc.constantFrom(gone(), untrue()) },
  );
  const run = fc.record({ text: feed, json: feed, wait: fc.constantFrom(1, 12, 24, 168) });
  const runs = fc.array(run, { minLength: 1, maxLength: 12 });
  const has = (ranges: Ranges, prefix: string) => ranges.v4.includes(prefix);

  fc.assert(
    fc.property(runs, (runs) => {
      const broken: string[] = [];
      const must = (holds: boolean, rule: string) => {
        if (!holds) broken.push(rule);
      };
      let known: Partial<Known> = {};
      let hours = 0;
      /** Since when one feed alone has given the same answer. */
      let lone: { ranges: Ranges; since: number } | undefined;
      /** What is known not to be Cloudflare's. */
      const foreign = new Set<string>();
      for (const { text, json, wait } of runs) {
        hours += wait;
        const decision = decided(known, text, json, hours);
        const answers = [text, json].flatMap((one) => ('ok' in one ? [one.ok] : []));
        const [first, second] = answers;
        if (first && second) lone = undefined;
        else if (first && JSON.stringify(lone?.ranges) !== JSON.stringify(first)) {
          lone = { ranges: first, since: hours };
        }
        const confirmed = lone !== undefined && hours - lone.since >= 24;
        const { snapshot } = known;
        for (const prefix of universe) {
          const named = answers.some((ranges) => has(ranges, prefix));
          const was = snapshot !== undefined && has(snapshot.ranges, prefix);
          const is = has(decision.ranges, prefix);
          const needed = snapshot === undefined && decision.origin.kind === 'bundled';
          if (named) foreign.delete(prefix);
          else if (second || (first && confirmed)) foreign.add(prefix);
          must(is || !decision.mayRemove || foreign.has(prefix), 'what a host may lose is foreign');
          must(is || !named, 'what a believed answer names is taken');
          must(
            is || !was || !!second || (!!first && confirmed),
            'what goes, both or a day left out',
          );
          must(
            !is || was || named || needed,
            'what comes was named, or is the bundled list in need',
          );
        }
        must(decision.mayRemove || !second, 'both may remove');
        must(!decision.mayRemove || !!first, 'a fallback may not remove');
        must((decision.fallback === undefined) === (first !== undefined), 'a fallback is said');
        known = after(decision, hours);
      }
      expect(broken).toEqual([]);
    }),
    { numRuns: 2000 },
  );
});

describe('resolveSource', () => {
  let dir: string;
  let stateDir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'cfsync-source-'));
    stateDir = join(dir, 'state');
  });
  afterEach(async () => {
    await rm(dir, { recursive: true, force: true });
  });

  const urls = {
    ipv4: 'https://v4.invalid',
    ipv6: 'https://v6.invalid',
    api: 'https://api.invalid',
  };
  const resolve = (source: string, feeds?: Feeds, hours = 1, more: Partial<SourceOptions> = {}) =>
    resolveSource({
      source,
      urls,
      stateDir,
      now: at(hours),
      maxAge: 30,
      download: async () => {
        if (!feeds) throw new Error('the feeds were asked');
        return feeds;
      },
      ...more,
    });
  const both = (...prefixes: string[]): Feeds => ({ text: ok(...prefixes), json: ok(...prefixes) });
  const list = parseRanges([published.v4.split('\n'), published.v6.split('\n')].flat());

  async function failure(work: Promise<unknown>): Promise<CfsyncError> {
    const error: unknown = await work.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (!(error instanceof CfsyncError)) throw new Error('no CfsyncError', { cause: error });
    return error;
  }

  test('nothing is written before commit', async () => {
    const answer = await resolve('auto', both(a));
    expect(answer.changes).toEqual({ added: of(a), removed: { v4: [], v6: [] } });
    expect(answer.snapshot).toBeUndefined();
    expect(await readdir(dir)).toEqual([]);
    expect(await answer.commit()).toEqual([]);
    expect(await readState(stateDir)).toMatchObject({
      snapshot: { ranges: of(a), acceptedAt: iso(1), origin: { kind: 'feeds' } },
      check: { checkedAt: iso(1), settled: true },
      notices: [],
    });
  });

  test('what changes is told against the snapshot', async () => {
    await (await resolve('auto', both(a, b))).commit();
    const answer = await resolve('auto', both(b, c), 2);
    expect(answer.changes).toEqual({
      added: { v4: [c], v6: [] },
      removed: { v4: [a], v6: [] },
    });
    expect(answer.snapshot?.ranges).toEqual(of(a, b));
  });

  test('the same addresses stamp the check and leave the snapshot', async () => {
    await (await resolve('auto', both(a))).commit();
    const before = await readFile(join(stateDir, 'snapshot.json'), 'utf8');
    const answer = await resolve('auto', both(a), 2);
    expect(answer.changes).toEqual({ added: { v4: [], v6: [] }, removed: { v4: [], v6: [] } });
    await answer.commit();
    expect(await readFile(join(stateDir, 'snapshot.json'), 'utf8')).toBe(before);
    expect((await readState(stateDir)).check?.checkedAt).toBe(iso(2));
  });

  test('a pending removal outlives the run', async () => {
    await (await resolve('auto', both(a, b))).commit();
    await (await resolve('auto', { text: ok(a), json: gone() }, 10)).commit();
    expect((await readState(stateDir)).snapshot?.ranges).toEqual(of(a, b));
    const answer = await resolve('auto', { text: ok(a), json: gone() }, 34);
    expect(answer.changes.removed).toEqual({ v4: [b], v6: [] });
    await answer.commit();
    expect((await readState(stateDir)).snapshot?.ranges).toEqual(of(a));
  });

  test('a dry run does not start the clock', async () => {
    await (await resolve('auto', both(a, b))).commit();
    await resolve('auto', { text: ok(a), json: gone() }, 10);
    expect((await resolve('auto', { text: ok(a), json: gone() }, 34)).ranges).toEqual(of(a, b));
  });

  test('a corrupt snapshot is said, and not lost', async () => {
    await mkdir(stateDir);
    await writeFile(join(stateDir, 'snapshot.json'), '{');
    const answer = await resolve('auto', both(a));
    expect(answer.notices[0]?.text).toMatch(/snapshot\.json is corrupt/);
    expect(await answer.commit()).toHaveLength(1);
    expect(await readFile(join(stateDir, 'snapshot.json.corrupt-1'), 'utf8')).toBe('{');
  });

  test('with no feed and no snapshot the bundled list is stored, for the next boot', async () => {
    const answer = await resolve('auto', { text: gone(), json: gone() });
    expect(answer.ranges).toEqual(list);
    await answer.commit();
    const { snapshot, check } = await readState(stateDir);
    expect(snapshot?.origin).toEqual({ kind: 'bundled', detail: '2026-10-01' });
    expect(check).toEqual({ checkedAt: iso(1), problem: 'failed', settled: false });
  });

  test('the feeds themselves, end to end', async () => {
    const server = await start();
    try {
      const { download } = await import('../../src/feed/download.ts');
      const options = { urls: server.urls, download };
      expect(await resolve('auto', undefined, 1, options)).toMatchObject({
        ranges: list,
        notices: [],
      });
      // Reordered, and with a newline at the end.
      const reordered = `${published.v4.split('\n').reverse().join('\n')}\n`;
      server.set('/ips-v4', play.list(reordered));
      const answer = await resolve('auto', undefined, 1, options);
      expect(answer).toMatchObject({ ranges: list, notices: [], mayRemove: true });
      server.set('/client/v4/ips', play.challenge);
      expect((await resolve('auto', undefined, 1, options)).notices[0]?.text).toMatch(
        /^only the text feed is used; http:.*\/client\/v4\/ips: a bot challenge/,
      );
    } finally {
      await server.close();
    }
  });

  describe('named', () => {
    test('bundled', async () => {
      const answer = await resolve('bundled');
      expect(answer).toMatchObject({
        ranges: list,
        origin: { kind: 'bundled', detail: '2026-10-01' },
        mayRemove: true,
        notices: [],
      });
      await answer.commit();
      expect((await readState(stateDir)).check).toEqual({ checkedAt: iso(1), settled: true });
    });

    test('snapshot', async () => {
      const error = await failure(resolve('snapshot'));
      expect(error.message).toBe(`there is no snapshot in ${stateDir}; cfsync fetch makes one`);
      expect(error.code).toBe(exit.failed);
      await mkdir(stateDir);
      await writeFile(join(stateDir, 'snapshot.json'), '{');
      expect((await failure(resolve('snapshot'))).detail[0]).toMatch(/snapshot\.json is corrupt/);
      await (await resolve('auto', both(a))).commit();
      const check = (await readState(stateDir)).check;
      const answer = await resolve('snapshot', undefined, 5);
      expect(answer).toMatchObject({ ranges: of(a), origin: { kind: 'feeds' }, mayRemove: true });
      expect(await answer.commit()).toEqual([]);
      expect((await readState(stateDir)).check).toEqual(check);
    });

    test('a directory', async () => {
      await writeFile(join(dir, 'ips-v4'), a);
      await writeFile(join(dir, 'ips-v6'), `${v6}\n`);
      const answer = await resolve(dir);
      expect(answer).toMatchObject({
        ranges: of(a),
        origin: { kind: 'dir', detail: dir },
        mayRemove: true,
      });
    });

    test.each([
      ['a list', `${v6}\n${a}\n`],
      [
        'the JSON',
        JSON.stringify({ success: true, result: { ipv4_cidrs: [a], ipv6_cidrs: [v6] } }),
      ],
      [
        'the JSON after a newline',
        `\n${JSON.stringify({ success: true, result: { ipv4_cidrs: [a], ipv6_cidrs: [v6] } })}`,
      ],
    ])('a file with %s', async (_, text) => {
      const file = join(dir, 'file');
      await writeFile(file, text);
      const answer = await resolve(file);
      expect(answer).toMatchObject({
        ranges: of(a),
        origin: { kind: 'file', detail: file },
        mayRemove: true,
      });
    });

    test('takes effect at once, and ends a pending removal', async () => {
      await (await resolve('auto', both(a, b))).commit();
      await (await resolve('auto', { text: ok(a), json: gone() }, 10)).commit();
      const file = join(dir, 'file');
      await writeFile(file, `${c}\n${v6}\n`);
      await (await resolve(file, undefined, 11)).commit();
      expect(await readState(stateDir)).toMatchObject({ snapshot: { ranges: of(c) } });
      expect((await readState(stateDir)).check).toEqual({
        checkedAt: iso(11),
        believed: { at: iso(10), feeds: 'text' },
        settled: true,
      });
    });

    test.each([
      ['an empty file', '', exit.refused],
      ['one family only', `${a}\n`, exit.refused],
      ['private space', `10.0.0.0/8\n${v6}\n`, exit.refused],
      ['broken JSON', '{', exit.refused],
      ['no UTF-8', Buffer.from([0xff]), exit.refused],
      ['marked', '\ufeff104.16.0.0/13\n2606:4700::/32', exit.refused],
    ])('%s is refused', async (_, content, code) => {
      const file = join(dir, 'file');
      await writeFile(file, content);
      const error = await failure(resolve(file));
      expect(error.code).toBe(code);
      expect(error.message.startsWith(`${file}: `)).toBe(true);
    });

    test('a directory without one of the lists', async () => {
      await writeFile(join(dir, 'ips-v4'), a);
      const error = await failure(resolve(dir));
      expect(error.message).toBe(
        `cannot read the source ${join(dir, 'ips-v6')}: ENOENT: no such file or directory; a source is auto, bundled, snapshot, a file, or a folder with ips-v4 and ips-v6`,
      );
      expect(error.code).toBe(exit.failed);
    });

    test('a directory whose lists were mixed up', async () => {
      await writeFile(join(dir, 'ips-v4'), v6);
      await writeFile(join(dir, 'ips-v6'), a);
      expect((await failure(resolve(dir))).message).toContain(join(dir, 'ips-v4'));
    });

    test('nothing there', async () => {
      const file = join(dir, '\u001b[2J');
      expect((await failure(resolve(file))).message).toBe(
        `cannot read the source ${dir}/\\u001b[2J: ENOENT: no such file or directory; a source is auto, bundled, snapshot, a file, or a folder with ips-v4 and ips-v6`,
      );
    });
  });

  test('the bundled list is found from the built package too', async () => {
    const repository = fileURLToPath(new URL('../..', import.meta.url));
    const at = (name: string) => join(dir, 'package', name);
    for (const folder of ['data', 'dist'])
      await cp(join(repository, folder), at(folder), { recursive: true });
    const { resolveSource: built } = createRequire(at('dist/'))(
      './src/source.js',
    ) as typeof import('../../src/feed/source.ts');
    const options = { source: 'bundled', urls: {}, stateDir, now: new Date(), maxAge: 1 };
    expect((await built(options as SourceOptions)).ranges).toEqual(list);
  });
});
