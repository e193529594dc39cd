/** Answers which ranges are to be used: of the feeds, the last snapshot, the bundled list, or a file. */

import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Feeds, FeedUrls } from './download.ts';
import { CfsyncError, exit, why } from '../errors.ts';
import { digest } from '../digest.ts';
import { parseFeed, parseList } from './gate.ts';
import { equal, isEmpty, merge, none, subtract } from '../prefix.ts';
import { waiting } from '../cli/progress.ts';
import type { Notice, Ranges } from '../renderer.ts';
import {
  type Check,
  type Origin,
  type Snapshot,
  type State,
  readState,
  storeCheck,
  storeSnapshot,
} from '../state/store.ts';
import { count, escape } from '../text.ts';

/** The day on which the lists in `data/` were what Cloudflare published. */
const bundledAsOf = '2026-10-01';

const bundledOrigin: Origin = { kind: 'bundled', detail: bundledAsOf };

/** How far apart two equal answers of one feed must be before they take a range away. */
const hoursApart = 24;

const hour = 3_600_000;

export interface SourceOptions {
  /** `auto`, `bundled`, `snapshot`, a directory with `ips-v4` and `ips-v6`, or a file: a list or the JSON. */
  readonly source: string;
  readonly urls: FeedUrls;
  readonly stateDir: string;
  readonly now: Date;
  /** Days for which the last believed answer is good enough. */
  readonly maxAge: number;
  /** Replaces the download in tests. */
  readonly download?: (urls: FeedUrls) => Promise<Feeds>;
}

/** Why a list that is not from the feeds is used. */
interface Fallback {
  /** Its code is `failed` (no answer) or `refused` (an answer that is not believed). */
  readonly reason: CfsyncError;
  /** Of the list that is used, for people: `3 days old`. */
  readonly age: string;
  /** The exit code of `apply` and `verify`: 0 while the last believed answer is young enough, then the reason's. */
  readonly staleExit: typeof exit.ok | typeof exit.failed | typeof exit.refused;
}

export interface Answer {
  readonly ranges: Ranges;
  readonly origin: Origin;
  /** Whether a host may lose what it holds beyond `ranges`. */
  readonly mayRemove: boolean;
  /** Only when no feed was believed. */
  readonly fallback?: Fallback;
  /** Against the snapshot; all is added when there is none. */
  readonly changes: { readonly added: Ranges; readonly removed: Ranges };
  /** The snapshot as it was before. */
  readonly snapshot?: Snapshot;
  readonly notices: readonly Notice[];
  /** Stores what was learned; until then nothing was written. */
  commit(): Promise<readonly Notice[]>;
}

/** What is known before the feeds are asked. */
export interface Known {
  readonly snapshot?: Snapshot;
  readonly check?: Check;
  /** The list that comes with this release. */
  readonly bundled: Ranges;
}

/** What the feeds' answers mean; `check` is what is known from now on. */
export interface Decision {
  readonly ranges: Ranges;
  readonly origin: Origin;
  readonly mayRemove: boolean;
  readonly fallback?: Fallback;
  readonly notices: readonly Notice[];
  readonly check: Check;
}

/** @throws CfsyncError when a source that was named cannot be read (`failed`) or believed (`refused`). */
export async function resolveSource(options: SourceOptions): Promise<Answer> {
  const { stateDir, now } = options;
  const state = await readState(stateDir);
  const { check, notices, ...choice } = await choose(options, state);
  const { ranges, origin } = choice;
  const before = state.snapshot?.ranges ?? none;
  return {
    ...choice,
    changes: { added: subtract(ranges, before), removed: subtract(before, ranges) },
    ...(state.snapshot && { snapshot: state.snapshot }),
    notices: [...state.notices, ...notices],
    commit: async () => {
      if (!check) return [];
      const acceptedAt = now.toISOString();
      return [
        ...(await storeSnapshot(stateDir, { ranges, origin, acceptedAt })),
        ...(await storeCheck(stateDir, check)),
      ];
    },
  };
}

/** Without `check` there is nothing to store. */
type Choice = Omit<Decision, 'check'> & { readonly check?: Check };

async function choose(options: SourceOptions, state: State): Promise<Choice> {
  const { source, urls, stateDir, now, maxAge } = options;
  if (source === 'auto') {
    const download = options.download ?? (await import('./download.ts')).download;
    const feeds = await waiting('waiting for the ranges', (say) =>
      download(urls, { again: (text) => say(`waiting for the ranges (${text})`) }),
    );
    return decide({ ...state, bundled: await bundled() }, feeds, now, maxAge);
  }
  const { snapshot, check } = state;
  if (source === 'snapshot') {
    if (snapshot) {
      const { ranges, origin } = snapshot;
      return { ranges, origin, mayRemove: true, notices: [] };
    }
    const message = `there is no snapshot in ${escape(stateDir)}; cfsync fetch makes one`;
    throw new CfsyncError(exit.failed, message, { detail: state.notices.map(({ text }) => text) });
  }
  return {
    ...(await named(source)),
    mayRemove: true,
    notices: [],
    check: {
      checkedAt: now.toISOString(),
      ...(check?.believed && { believed: check.believed }),
      settled: true,
    },
  };
}

/**
 * The policy of `--source auto`. S is the snapshot; "settled" means that all beyond S is known not to be
 * Cloudflare's.
 *
 * | text, JSON                 | S                   | ranges        | may remove |
 * |----------------------------|---------------------|---------------|------------|
 * | agree                      | any                 | theirs        | yes        |
 * | differ                     | any                 | both together | yes        |
 * | one, with all of S         | settled             | its own       | yes        |
 * | one, the same for 24 hours | any                 | its own       | yes        |
 * | one, otherwise             | settled             | S and its own | yes        |
 * | one, otherwise             | none or not settled | S and its own | no         |
 * | none                       | any                 | S             | no         |
 * | none                       | none                | bundled       | no         |
 */
export function decide(known: Known, feeds: Feeds, now: Date, maxAge: number): Decision {
  const { text, json } = feeds;
  if ('ok' in text) {
    if ('ok' in json) return two(text.ok, json.ok, now);
    return one(known, 'text', text.ok, json.error, now);
  }
  if ('ok' in json) return one(known, 'json', json.ok, text.error, now);
  return neither(known, text.error, json.error, now, maxAge);
}

function two(text: Ranges, json: Ranges, now: Date): Decision {
  const at = now.toISOString();
  const same = equal(text, json);
  const notices: Notice[] = [];
  if (!same) {
    const sides: [string, Ranges][] = [
      ['text', subtract(text, json)],
      ['JSON', subtract(json, text)],
    ];
    const what = sides
      .filter(([, ranges]) => !isEmpty(ranges))
      .map(([feed, ranges]) => `only in the ${feed} feed: ${list(ranges)}`);
    notices.push(
      warning(
        `the text and JSON feeds differ, as they do while a change is rolled out (${what.join('; ')}); the ranges of both are used`,
      ),
    );
  }
  return {
    ranges: same ? text : merge(text, json),
    origin: {
      kind: 'feeds',
      detail: same ? 'text and JSON feeds' : 'text and JSON feeds, which differed',
    },
    mayRemove: true,
    notices,
    check: { checkedAt: at, believed: { at, feeds: same ? 'both' : 'differing' }, settled: true },
  };
}

function one(
  { snapshot, check }: Known,
  feed: 'text' | 'json',
  answer: Ranges,
  other: CfsyncError,
  now: Date,
): Decision {
  const at = now.toISOString();
  const name = feed === 'text' ? 'text' : 'JSON';
  const gone = snapshot ? subtract(snapshot.ranges, answer) : none;
  const wasSettled = snapshot !== undefined && check?.settled === true;

  const fingerprint = digest(JSON.stringify([answer.v4, answer.v6]));
  const before = check?.pending?.digest === fingerprint ? Date.parse(check.pending.since) : NaN;
  // A clock that was ahead must not put the day on which a removal is accepted off for ever.
  const since = before <= now.getTime() ? before : now.getTime();
  const due = since + hoursApart * hour;
  const settled = (wasSettled && isEmpty(gone)) || now.getTime() >= due;
  const notices = [warning(`only the ${name} feed is used; ${other.message}`)];
  if (!settled) {
    const what = isEmpty(gone) ? 'no range is taken away' : `${list(gone)}, missing there, stays`;
    notices.push(
      warning(
        `${what} until both feeds agree, or the ${name} feed says the same at ${new Date(due).toISOString()} or later`,
      ),
    );
  }
  return {
    ranges: settled ? answer : merge(answer, gone),
    origin: { kind: 'feeds', detail: `${name} feed alone` },
    mayRemove: settled || wasSettled,
    notices,
    check: {
      checkedAt: at,
      believed: { at, feeds: feed },
      ...(!settled && { pending: { digest: fingerprint, since: new Date(since).toISOString() } }),
      settled: settled || wasSettled,
    },
  };
}

function neither(
  { snapshot, check, bundled }: Known,
  text: CfsyncError,
  json: CfsyncError,
  now: Date,
  maxAge: number,
): Decision {
  const refused = [text, json].some((error) => error.code === exit.refused);
  const reason = new CfsyncError(
    refused ? exit.refused : exit.failed,
    `the feeds cannot be ${refused ? 'believed' : 'had'}: ${text.message}; ${json.message}`,
    { detail: [...text.detail, ...json.detail], cause: text },
  );
  const believed = check?.believed && Date.parse(check.believed.at);
  const fresh = believed !== undefined && now.getTime() - believed < maxAge * 24 * hour;

  const { ranges, origin } = snapshot ?? { ranges: bundled, origin: bundledOrigin };
  const since = snapshot ? asOf(snapshot, check) : bundledAsOf;
  const age = ageText(now.getTime() - Date.parse(since));
  const which = snapshot ? 'the last snapshot' : 'the list that comes with this release';
  return {
    ranges,
    origin,
    mayRemove: false,
    fallback: { reason, age, staleExit: fresh ? exit.ok : refused ? exit.refused : exit.failed },
    notices: [
      warning(`${reason.message}; ${which} is used, which is ${age}, and no range is taken away`),
    ],
    check: {
      checkedAt: now.toISOString(),
      ...(check?.believed && { believed: check.believed }),
      ...(check?.pending && { pending: check.pending }),
      problem: refused ? 'refused' : 'failed',
      settled: snapshot !== undefined && check?.settled === true,
    },
  };
}

/** When a snapshot was last known to be what Cloudflare publishes: ISO 8601, a day for the bundled list. */
export function asOf({ origin, acceptedAt }: Snapshot, check: Check | undefined): string {
  // The list is as young as the last answer that it agreed with.
  if (check?.believed && check.believed.at >= acceptedAt) return check.believed.at;
  return origin.kind === 'bundled' ? origin.detail : acceptedAt;
}

/** A source that was named: it takes effect at once, through the same gate. */
async function named(source: string): Promise<{ ranges: Ranges; origin: Origin }> {
  if (source === 'bundled') return { ranges: await bundled(), origin: bundledOrigin };
  if (await isDirectory(source)) {
    return { ranges: await readLists(source), origin: { kind: 'dir', detail: source } };
  }
  const text = await read(source);
  const ranges = text.trimStart().startsWith('{')
    ? parseFeed(text, escape(source))
    : parseList(text, 'any', escape(source));
  return { ranges, origin: { kind: 'file', detail: source } };
}

/** `data/` is two folders above this file, and two above all of the built program. */
function bundled(): Promise<Ranges> {
  return readLists(fileURLToPath(new URL('../../data', import.meta.url)));
}

async function readLists(dir: string): Promise<Ranges> {
  const [ipv4, ipv6] = [join(dir, 'ips-v4'), join(dir, 'ips-v6')];
  const { v4 } = parseList(await read(ipv4), 'v4', escape(ipv4));
  const { v6 } = parseList(await read(ipv6), 'v6', escape(ipv6));
  return { v4, v6 };
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    // Reading it will say why.
    return false;
  }
}

async function read(path: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    const message = `cannot read the source ${path}: ${why(cause)}; a source is auto, bundled, snapshot, a file, or a folder with ips-v4 and ips-v6`;
    throw new CfsyncError(exit.failed, escape(message), { cause });
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new CfsyncError(exit.refused, `${escape(path)}: not UTF-8`, { cause });
  }
}

function list({ v4, v6 }: Ranges): string {
  const all = [...v4, ...v6];
  const shown = all.slice(0, 8).join(', ');
  return all.length > 8 ? `${shown} and ${count(all.length - 8, 'more', 'more')}` : shown;
}

function ageText(milliseconds: number): string {
  const hours = Math.floor(milliseconds / hour);
  if (hours < 1) return 'less than an hour old';
  if (hours < 48) return `${count(hours, 'hour')} old`;
  return `${count(Math.floor(hours / 24), 'day')} old`;
}

function warning(text: string): Notice {
  return { level: 'warning', text };
}
