/**
 * fail2ban: Cloudflare's ranges in `ignoreip`, because a banned edge address is an outage.
 *
 * `%(known/ignoreip)s` would be the obvious way to add to the admin's list. fail2ban knows one level
 * of it, so a second one, of the admin's, breaks the whole configuration (measured on 1.0.2). So:
 * where nobody sets `ignoreip`, a file that is read before all others, which any value of the admin's
 * replaces; where somebody does, one that is read last, with his values and ours, all literal.
 * What his values are is never parsed here: `fail2ban-client -d` is asked, in a copy without our files.
 */
import ipaddr from 'ipaddr.js';
import { isIP } from 'node:net';
import { BackendError, CfsyncError, exit } from '../../src/errors.ts';
import { bannedIn, fromJson, isTexts, isWord, listsIn, unreadable, ignoredIn } from './answers.ts';
import { check, observation, type Changes } from './client.ts';
import {
  going,
  renamed,
  settingsOf,
  withEntries,
  withoutEntries,
  type Entry,
  type Setting,
} from './ignoreip.ts';
import { digest } from '../../src/digest.ts';
import { checkKeys, isFields } from '../../src/plugin/options.ts';
import { canonical, intersect, isEmpty, none, parseRanges, subtract } from '../../src/prefix.ts';
import { namesOnly } from '../../src/feed/published.ts';
import {
  defineRenderer,
  type Command,
  type FileStep,
  type Host,
  type Notice,
  type Outcome,
  type Owned,
  type Ranges,
  type Step,
  type Stray,
} from '../../src/renderer.ts';
import { publicSpace } from '../../src/special-purpose.ts';
import { count, escape, firstLines } from '../../src/text.ts';

/** Our two files: the texts, `null` for none. */
interface Files {
  /** `jail.d/00-cfsync.conf`: read early, holds as long as nobody sets `ignoreip`. */
  readonly early: string | null;
  /** `jail.d/zz-cfsync.local`: read last, carries what the admin set. */
  readonly late: string | null;
}

/** What the admin sets, by section. */
type Sections = Readonly<Record<string, readonly string[]>>;

/** What an `ignoreip` of the admin's says of Cloudflare's ranges. */
interface Fail2banStray extends Stray {
  /** Below /etc/fail2ban. */
  readonly file: string;
  readonly section: string;
  /** As written. */
  readonly values: readonly string[];
}

export interface Fail2banOwned extends Owned, Files {
  readonly strays?: readonly Fail2banStray[];
  /** The files of the admin's that the strays stand in, by name; absent without strays. */
  readonly theirs?: Readonly<Record<string, string>>;
  /** What the admin set when the files were read or composed. */
  readonly beside: Sections;
  /** What of `ranges` the running server ignores, by jail; `null` when it is not running. */
  readonly server: Readonly<Record<string, Ranges>> | null;
}

interface Jail {
  readonly name: string;
  /** What it ignores without us. */
  readonly ignoreip: readonly string[];
  /** Its own section sets `ignoreip` and does not refer to that of `[DEFAULT]`. */
  readonly own: boolean;
}

interface RunningJail {
  readonly name: string;
  /** As the server lists them: networks without host bits, addresses, host names. */
  readonly ignores: readonly string[];
  readonly bans: readonly string[];
}

export interface Fail2banAround {
  /** The enabled jails, by name. */
  readonly jails: readonly Jail[];
  /** What the admin's `[DEFAULT]` says; `null` when it says nothing. */
  readonly defaults: readonly string[] | null;
  /** The configuration loads without our files too. */
  readonly alone: boolean;
  /** What the jails of the configuration on disk ignore, ours included; empty when that does not load. */
  readonly effective: Readonly<Record<string, readonly string[]>>;
  /** The jails of the running server, `null` when it is not running. */
  readonly server: readonly RunningJail[] | null;
  /** The admin's files that may set `ignoreip`, by name. */
  readonly files: Readonly<Record<string, string>>;
  /** Those of them that are links: what they lead to is not ours to change. */
  readonly links: readonly string[];
  /**
   * What the jails ignore without us, with `mark(n)` in the place of the nth value of `marked(files)`: the
   * values that are not in `files` stay as they are. `null` when that could not be found out.
   */
  readonly traced: Readonly<Record<string, readonly string[]>> | null;
  /** What cannot be taken over, in words. */
  readonly left?: readonly string[];
}

const client = 'fail2ban-client';
const folder = '/etc/fail2ban';
const names = { early: 'jail.d/00-cfsync.conf', late: 'jail.d/zz-cfsync.local' } as const;
const keys = ['early', 'late'] as const;
const absent: Files = { early: null, late: null };

/** What fail2ban's documentation proposes as a first value. */
const localhost = ['127.0.0.1/8', '::1'];

const indent = '    ';

/** First line of a text that the server may not have loaded: a run that is cut off before the reload leaves it. */
const pending = '# Not loaded yet; cfsync apply or cfsync remove goes on from here. Before:\n';

export default defineRenderer<object, Fail2banOwned, Fail2banAround>({
  api: 1,
  name: 'fail2ban',
  kind: 'list',

  options(raw) {
    checkKeys(raw, [], 'fail2ban');
    return {};
  },

  nothing: { ranges: none, ...absent, beside: {}, server: null },

  want({ ranges }, _options, around) {
    if (around === undefined)
      return {
        owned: { ranges, early: earlyText(ranges), late: null, beside: {}, server: null },
        notices: [],
      };
    const beside = sectionsOf(around);
    const server =
      around.server &&
      Object.fromEntries(configured(around.server, around).map(({ name }) => [name, ranges]));
    const owned = { ranges, ...compose(ranges, beside), beside, server };
    return { owned, notices: noticesOf(owned, around) };
  },

  async observe(host) {
    const inside = (await host.list(`${folder}/jail.d`)) ?? [];
    const around = await lookAround(host, inside);
    const early = (await host.read(`${folder}/${names.early}`)) ?? null;
    const late = (await host.read(`${folder}/${names.late}`)) ?? null;
    const { server } = around;
    const ranges = rangesIn(early, late);
    const loaded =
      server &&
      Object.fromEntries(
        configured(server, around).map((jail) => [
          jail.name,
          intersect(prefixesOf(jail.ignores), ranges),
        ]),
      );
    return {
      owned: { ranges, early, late, beside: sectionsOf(around), server: loaded },
      around,
    };
  },

  plan(wanted, observed) {
    const { owned, around } = observed;
    const removal = wanted.early === null && wanted.late === null;
    const files = removal || carries(wanted, owned) ? wanted : compose(wanted.ranges, owned.beside);
    const theirs = editsOfTheirs(wanted, owned, around);
    const differ = keys.filter((key) => files[key] !== owned[key]);
    // On the way back none of theirs goes, not even what was written since then: see editsOfTheirs.
    const gone =
      wanted.strays === undefined ? (owned.strays ?? []).flatMap(({ values }) => values) : [];
    // Where nothing of ours changes, one of our files is marked all the same.
    const touched =
      differ.length > 0 || gone.length === 0 ? differ : keys.filter((key) => files[key] !== null);
    const changed = touched.sort((a, b) => Number(files[a] === null) - Number(files[b] === null));
    const reload =
      around.server !== null && (changed.length + theirs.length > 0 || lags(wanted.ranges, around));
    const edits = changed.map((key) => editOf(key, owned[key], files[key], reload, gone));
    const steps: Step[] = [...edits.flatMap(({ before }) => before), ...theirs];
    if (reload)
      steps.push(run('reload the configuration', ['reload']), ...keepExtras(owned, around));
    steps.push(...edits.flatMap(({ after }) => after));
    const [first] = steps;
    if (first !== undefined) {
      const check = checkOf(files, theirs, wanted.ranges, around);
      steps[0] = { ...first, check };
    }
    if (!removal) steps.push(...unban(wanted.ranges, around, reload));
    return steps;
  },

  print({ early, late, server, strays = [] }) {
    const texts = {
      [names.early]: early,
      [names.late]: late,
      server: serverText(server),
      ...theirTexts(strays),
    };
    return Object.entries(texts).flatMap(([name, content]) =>
      content === null ? [] : [{ path: `fail2ban/${name}`, content }],
    );
  },

  adopt({ owned, around }, _desired, known) {
    const { files, links, traced } = around;
    const all = marked(files);
    const isTheirs = (entry: Entry): boolean => {
      const prefix = prefixOf(entry.text);
      return prefix !== undefined && namesOnly(known, [prefix]);
    };
    const found = all.filter(({ file, entry }) => !links.includes(file) && isTheirs(entry));
    if (traced === null || found.length === 0)
      return { owned, around: { ...around, left: elsewhere(around, known) } };
    const settings = new Set(found.map(({ setting }) => setting));
    const gone = new Set([...settings].flatMap((setting) => [...going(setting, isTheirs)]));
    const origin = new Map(all.map(({ entry }, n) => [mark(n), entry]));
    const values = (jail: string): readonly string[] =>
      traced[jail]!.flatMap((value) => {
        const entry = origin.get(value);
        if (entry === undefined) return value === token ? [] : [value];
        return gone.has(entry) ? [] : [entry.text];
      });
    const bare = {
      ...around,
      jails: around.jails.map((jail) => ({ ...jail, ignoreip: values(jail.name) })),
      defaults: around.defaults && values(probe),
    };
    const strays = straysOf(found);
    const theirs = Object.fromEntries(strays.map(({ file }) => [file, files[file]!]));
    return {
      owned: { ...owned, strays, theirs, beside: sectionsOf(bare) },
      around: { ...bare, left: elsewhere(bare, known) },
    };
  },
});

// ---- what others wrote ----

/** One for each `ignoreip`. */
function straysOf(found: readonly Marked[]): readonly Fail2banStray[] {
  const settings = new Map<Setting, Marked[]>();
  for (const one of found) {
    const own = settings.get(one.setting);
    if (own === undefined) settings.set(one.setting, [one]);
    else own.push(one);
  }
  return [...settings].map(([{ section }, own]) => {
    const { file } = own[0]!;
    const values = own.map(({ entry }) => entry.text);
    return {
      text: `${folder}/${file}: [${section}] ignoreip = ${values.join(' ')}`,
      prefixes: values.map((value) => prefixOf(value)!),
      file,
      section,
      values,
    };
  });
}

/** What the jails ignore of Cloudflare's ranges and is not to be found in the files of the admin's. */
function elsewhere({ jails }: Pick<Fail2banAround, 'jails'>, known: Ranges): readonly string[] {
  return jails.flatMap(({ name, ignoreip }) => {
    const found = ignoreip.filter((value) => {
      const prefix = prefixOf(value);
      return prefix !== undefined && namesOnly(known, [prefix]);
    });
    if (found.length === 0) return [];
    const some = found.slice(0, 3).map(escape).join(', ');
    return [
      `left alone: jail ${escape(name)} ignores ${some}${found.length > 3 ? ` and ${found.length - 3} more` : ''} by what stands in jail.conf, behind a link, in an included file or in a variable; take that out there`,
    ];
  });
}

/** A name that nobody has, for the nth of the values that are followed through the configuration. */
function mark(n: number): string {
  return `cfsync-${n}.invalid`;
}

interface Marked {
  readonly file: string;
  readonly setting: Setting;
  readonly entry: Entry;
}

/**
 * The values on lines that may name ranges of Cloudflare's: public prefixes, and not single hosts. What
 * refers to other values is none.
 */
function marked(files: Fail2banAround['files']): readonly Marked[] {
  return Object.entries(files).flatMap(([file, text]) =>
    settingsOf(text).flatMap((setting) =>
      setting.lines
        .filter(({ entries }) => entries.some(isPublic))
        .flatMap(({ entries }) => entries.filter(({ text }) => !text.includes('%')))
        .map((entry) => ({ file, setting, entry })),
    ),
  );
}

function isPublic({ text }: Entry): boolean {
  const prefix = prefixOf(text);
  return prefix !== undefined && namesOnly(publicSpace, [prefix]);
}

/** The files with the marks in them, as far as they have any. */
function withMarks(files: Fail2banAround['files']): Readonly<Record<string, string>> {
  const all = marked(files);
  const changed = Object.entries(files).map(([file, text]) => {
    const names = all.flatMap((one, n) => (one.file === file ? [[one.entry, mark(n)]] : []));
    return [file, renamed(text, new Map(names as [Entry, string][]))] as const;
  });
  return Object.fromEntries(changed.filter(([file, text]) => text !== files[file]));
}

function isStray(strays: readonly Fail2banStray[], file: string) {
  const key = (section: string, value: string): string => `${section}\n${value}`;
  const all = new Set(
    strays
      .filter((stray) => stray.file === file)
      .flatMap(({ section, values }) => values.map((value) => key(section, value))),
  );
  return ({ section }: Setting, { text }: Entry): boolean => all.has(key(section, text));
}

/**
 * On the way back, a file that still is as we wrote it gets its bytes back, and any other the values; what was
 * written since then stays.
 */
function editsOfTheirs(
  wanted: Fail2banOwned,
  owned: Fail2banOwned,
  { files }: Fail2banAround,
): readonly FileStep[] {
  const names = new Set([...(wanted.strays ?? []), ...(owned.strays ?? [])].map((s) => s.file));
  return [...names].flatMap((file) => {
    const now = files[file];
    if (now === undefined) return [];
    const before = wanted.theirs?.[file];
    const back = (wanted.strays ?? []).filter((stray) => stray.file === file);
    const same = (text: string): boolean =>
      withoutEntries(text, isStray(back, file)) === withoutEntries(now, isStray(back, file));
    const then =
      wanted.strays === undefined
        ? withoutEntries(now, isStray(owned.strays ?? [], file))
        : before !== undefined && same(before)
          ? before
          : back.reduce((text, { section, values }) => withEntries(text, section, values), now);
    if (then === now) return [];
    const path = `${folder}/${file}`;
    return [
      {
        kind: 'file',
        summary: `fail2ban: rewrite ${path}: Cloudflare's ranges ${back.length > 0 ? 'come back into' : 'leave'} ignoreip`,
        path,
        content: then,
        mode: 0o644,
        expect: digest(now),
      },
    ];
  });
}

function theirTexts(strays: readonly Fail2banStray[]): Readonly<Record<string, string>> {
  const texts: Record<string, string> = {};
  for (const { file, section, values } of strays)
    texts[file] =
      `${texts[file] ?? ''}[${section}]\nignoreip =\n${values.map((value) => `${indent}${value}\n`).join('')}`;
  return texts;
}

// ---- the two files ----

function sectionsOf({ defaults, jails }: Pick<Fail2banAround, 'defaults' | 'jails'>): Sections {
  const own = jails.filter((jail) => jail.own).map(({ name, ignoreip }) => [name, ignoreip]);
  return { ...(defaults && { DEFAULT: defaults }), ...Object.fromEntries(own) };
}

/**
 * Whether a state can be put there as it is. One that was recorded earlier may have other values of the admin's, and its
 * file fewer of them than he has now, where it was written before he added some.
 */
function carries({ early, late, beside }: Fail2banOwned, now: Fail2banOwned): boolean {
  if (JSON.stringify(beside) !== JSON.stringify(now.beside)) return false;
  if (late === null || (late === now.late && early === now.early)) return true;
  const written = valuesIn(late);
  return Object.entries(beside).every(([name, values]) =>
    values.every((value) => written.get(name)?.includes(value) !== false),
  );
}

/** The admin's values in a file of ours, by section. */
function valuesIn(late: string): ReadonlyMap<string, readonly string[]> {
  const found = late.matchAll(/^\[(.*)\]\nignoreip =(.*)$/gm);
  return new Map(
    [...found].map(([, name, values]) => [name!, values!.replaceAll('%%', '%').split(' ')]),
  );
}

function compose(ranges: Ranges, beside: Sections): Files {
  const sections = Object.entries(beside).map(([name, values]) => section(name, values, ranges));
  return {
    early: beside.DEFAULT === undefined ? earlyText(ranges) : null,
    late: sections.length === 0 ? null : lateText(sections),
  };
}

function earlyText(ranges: Ranges): string {
  return `# Written by cfsync: addresses of Cloudflare are not banned.
# This is read first: an ignoreip of yours, in jail.local for instance, replaces it. Then run cfsync
# apply, which adds these ranges to it in ${names.late}.

${section('DEFAULT', localhost, ranges)}`;
}

function lateText(sections: readonly string[]): string {
  return `# Written by cfsync: addresses of Cloudflare are not banned.
# This is read last and holds what the other files set (the line of ignoreip itself), then the ranges.
# Change your values where you set them, then run cfsync apply.

${sections.join('\n')}`;
}

/** The values stay on the first line: on a line of its own, `#` (which fail2ban takes for an entry) is a comment. */
function section(name: string, values: readonly string[], { v4, v6 }: Ranges): string {
  const first = values.map((value) => value.replaceAll('%', '%%')).join(' ');
  const rest = [...v4, ...v6].map((prefix) => `${indent}${prefix}\n`).join('');
  return `[${name}]\n${`ignoreip = ${first}`.trimEnd()}\n${rest}`;
}

function rangesIn(...texts: readonly (string | null)[]): Ranges {
  const lines = texts.flatMap((text) => (text ?? '').split('\n'));
  return parseRanges(
    lines
      .filter((line) => line.startsWith(indent) && canonical(line.trim()) !== undefined)
      .map((line) => line.trim()),
  );
}

// ---- observe ----

/** A jail that nobody configures shows what `[DEFAULT]` says. */
const probe = 'cfsync-probe';
const probeJail = `[${probe}]\nenabled = true\nbackend = polling\nfilter =\naction =\nlogpath = /dev/null\n`;
/** A value that nobody sets shows where a value of ours would arrive. */
const token = 'cfsync.invalid';

/** What `fail2ban-client -d` says of a configuration. */
interface Loaded {
  /** What the enabled jails ignore; `null` when the configuration does not load. */
  readonly jails: Readonly<Record<string, readonly string[]>> | null;
  /** What was said of jails that are left out for their errors. */
  readonly skipped: readonly string[];
  readonly errors: readonly string[];
}

/** @param inside The names in jail.d. */
async function lookAround(host: Host, inside: readonly string[]): Promise<Fail2banAround> {
  const early = inside.some((name) => `jail.d/${name}` === names.early);
  const theirs = await readTheirs(host, inside);
  const text = (values: readonly string[]): string =>
    `[DEFAULT]\nignoreip = ${values.join(' ')}\n\n`;
  const tries: readonly Files[] = [
    { early: null, late: probeJail },
    { early: text([...localhost, token]), late: probeJail },
    { early: null, late: text([token]) + probeJail },
  ];
  const marks = withMarks(theirs);
  const traces = (Object.keys(marks).length === 0 ? [] : tries.slice(0, early ? 2 : 1)).map(
    (files) => ({ ...staging(files), ...marks }),
  );
  const all = [...tries.map(staging), ...traces];
  const { server, links, loads } = await ask(host, all);
  const [without, first, last] = loads as [Loaded, Loaded, Loaded];
  const now = loads.at(-1)!;
  // What refers to the value of our early file loads only while that is there.
  const base = without.jails === null && early ? first : without;
  const traced = traces.length === 0 ? base : loads[base === first ? 4 : 3]!;
  if (base.jails === null || last.jails === null) throw misconfigured(without.errors);
  const enabled = Object.keys(base.jails).filter((name) => name !== probe);
  if (enabled.length === 0 && base.skipped.length > 0) throw misconfigured(base.skipped);
  const arrives = ({ jails }: Loaded, name: string): boolean =>
    jails?.[name]?.includes(token) === true;
  const values = (name: string): readonly string[] =>
    (base.jails?.[name] ?? []).filter((value) => value !== token);
  const alone = without.jails !== null;
  // An empty `ignoreip =` of the admin's is a value as well: it stops ours.
  const free = arrives(first, probe) && !(alone && values(probe).length > 0);
  return {
    jails: enabled
      .sort()
      .map((name) => ({ name, ignoreip: values(name), own: !arrives(last, name) })),
    defaults: free ? null : values(probe),
    alone,
    effective: now.jails ?? byName([]),
    server,
    files: theirs,
    links,
    traced: sameJails(base, traced) ? traced.jails : null,
  };
}

/** What was answered of the server and of the configuration with each of these changes, then as it is. */
async function ask(
  host: Host,
  tries: readonly Changes[],
): Promise<Pick<Fail2banAround, 'server' | 'links'> & { readonly loads: readonly Loaded[] }> {
  const { code, stdout, stderr } = await askPython(host, tries);
  if (code !== 0)
    throw new BackendError('broken', 'fail2ban: its configuration cannot be read', {
      detail: firstLines(stderr),
    });
  const answer = recordIn(fromJson(stdout, client));
  const server = serverIn(answer);
  if (answer.configuration === null)
    throw new BackendError(
      'misconfigured',
      `fail2ban: there is no ${folder}/jail.d; nothing was changed; make that folder`,
    );
  const { writable, links, loads } = recordIn(answer.configuration);
  if (writable !== true)
    throw new BackendError(
      'no permission',
      `fail2ban: ${folder}/jail.d may not be written to; nothing was changed; run cfsync as root`,
    );
  if (!isTexts(links)) throw unreadable(client, 'it does not say which files are links');
  const link = Object.values(names).find((name) => links.includes(name));
  if (link !== undefined)
    throw new BackendError(
      'misconfigured',
      `fail2ban: ${folder}/${link} is a symbolic link, which cfsync does not follow; nothing was changed; delete the link`,
    );
  return { server, links, loads: loadedIn(loads, tries.length + 1) };
}

async function askPython(host: Host, tries: readonly Changes[]): Promise<Outcome> {
  // Whether it is missing itself, or fail2ban is, which needs it: that is said by the client.
  const missing = (): Promise<Outcome> => host.query({ argv: [client, '--version'] });
  let answer: Outcome;
  try {
    answer = await host.query(observation(tries));
  } catch (error) {
    if (error instanceof BackendError && error.reason === 'not installed') await missing();
    throw error;
  }
  if (answer.code === 127) await missing();
  return answer;
}

function recordIn(value: unknown): Readonly<Record<string, unknown>> {
  if (!isFields(value)) throw unreadable(client, 'there is nothing in it');
  return value;
}

/** @throws BackendError when these are not so many. */
function loadedIn(answers: unknown, count: number): readonly Loaded[] {
  if (!Array.isArray(answers) || answers.length !== count)
    throw unreadable('fail2ban-client -d', 'an answer is missing');
  return answers.map((answer: unknown): Loaded => {
    const { jails, skipped, errors } = (answer ?? {}) as Readonly<Record<string, unknown>>;
    if (!isTexts(skipped) || !isTexts(errors) || typeof jails !== 'object')
      throw unreadable('fail2ban-client -d', 'it does not say what was loaded');
    const lists = jails === null ? [] : listsIn(jails, 'fail2ban-client -d');
    const odd = lists.find(([, values]) => !values.every(isWord));
    if (odd !== undefined)
      throw unreadable('fail2ban-client -d', `jail ${odd[0]} ignores what is no word`);
    return { jails: jails === null ? null : byName(lists), skipped, errors };
  });
}

/** Without the names that every object has: a jail may be called `constructor`. */
function byName<T>(entries: readonly (readonly [string, T])[]): Readonly<Record<string, T>> {
  return Object.assign(Object.create(null) as Record<string, T>, Object.fromEntries(entries));
}

function sameJails(one: Loaded, other: Loaded): boolean {
  const names = ({ jails }: Loaded): string =>
    Object.keys(jails ?? {})
      .sort()
      .join();
  return names(one) === names(other);
}

/** What an admin writes himself; jail.conf comes with the package. */
async function readTheirs(host: Host, inside: readonly string[]): Promise<Fail2banAround['files']> {
  const candidates = [
    'jail.local',
    ...inside.filter((name) => /\.(conf|local)$/.test(name)).map((name) => `jail.d/${name}`),
  ].filter((name) => name !== names.early && name !== names.late);
  const files: Record<string, string> = {};
  for (const name of candidates) {
    const text = await host.read(`${folder}/${name}`);
    if (text !== undefined && !text.includes('\ufffd')) files[name] = text;
  }
  return files;
}

function staging(files: Files): Changes {
  return { [names.early]: files.early, [names.late]: files.late };
}

function misconfigured(detail: readonly string[]): BackendError {
  return new BackendError(
    'misconfigured',
    'fail2ban: its configuration does not load; nothing was changed; fail2ban-client -t says why',
    { detail },
  );
}

/** The jails of the running server with their ignore lists and bans. */
function serverIn(answer: Readonly<Record<string, unknown>>): readonly RunningJail[] | null {
  // In place of `status`: one answer has the jails and the bans.
  const banned = outcomeOf(answer.banned, 'banned');
  if (banned.code !== 0) return notAnswered(banned);
  const lists = bannedIn(banned.stdout);
  const { ignoreip } = answer;
  if (!Array.isArray(ignoreip) || ignoreip.length !== lists.length)
    throw unreadable(client, 'an answer is missing');
  const jails: RunningJail[] = [];
  for (const [i, [name, bans]] of lists.entries()) {
    const words = `get ${name} ignoreip`;
    const answer: unknown = ignoreip[i];
    const [asked, said]: readonly unknown[] = Array.isArray(answer) ? answer : [];
    if (asked !== name) throw unreadable(`${client} ${words}`, 'it is of another jail');
    const outcome = outcomeOf(said, words);
    if (outcome.code !== 0) return notAnswered(outcome);
    jails.push({ name, ignores: ignoredIn(outcome.stdout, name), bans });
  }
  return jails.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** @throws CfsyncError when it did not end by itself. */
function outcomeOf(value: unknown, words: string): Outcome {
  const { code, ended, stdout, stderr } = recordIn(value);
  if (typeof ended === 'string') throw new CfsyncError(exit.failed, `${client} ${words} ${ended}`);
  if (typeof code !== 'number' || typeof stdout !== 'string' || typeof stderr !== 'string')
    throw unreadable(`${client} ${words}`, 'it does not say how it ended');
  return { code, stdout, stderr };
}

function notAnswered(outcome: Outcome): null {
  const said = outcome.stdout + outcome.stderr;
  if (said.includes('Permission denied'))
    throw new BackendError(
      'no permission',
      'fail2ban: its socket may not be used; nothing was changed; run cfsync as root',
    );
  if (said.includes('Invalid command'))
    throw new BackendError(
      'not supported',
      'fail2ban: this version cannot list its bans; nothing was changed; 0.11.2 and later can',
    );
  // No socket, or one that a killed server left behind.
  if (/Failed to access socket path|Unable to contact server|Connection refused/.test(said))
    return null;
  throw new BackendError('broken', 'fail2ban: the server does not answer as it should', {
    detail: firstLines(said),
  });
}

// ---- the running server ----

/** The running jails that the configuration has too; the next reload ends the others. */
function configured(
  server: readonly RunningJail[],
  { jails }: Pick<Fail2banAround, 'jails'>,
): readonly RunningJail[] {
  return server.filter(({ name }) => jails.some((jail) => jail.name === name));
}

/** An address or network as a prefix, host bits cut off as fail2ban does; undefined for a host name. */
function prefixOf(entry: string): string | undefined {
  const [address, length] = entry.split('/');
  const family = isIP(address!);
  if (family === 0) return undefined;
  const whole = `${address}/${length ?? (family === 4 ? 32 : 128)}`;
  try {
    const kind = family === 4 ? ipaddr.IPv4 : ipaddr.IPv6;
    const network = kind.networkAddressFromCIDR(whole).toString();
    return canonical(`${network}/${whole.split('/')[1]}`)?.text;
  } catch {
    return undefined;
  }
}

function prefixesOf(entries: readonly string[]): Ranges {
  return parseRanges(entries.map(prefixOf).filter((prefix) => prefix !== undefined));
}

/** Whether a running jail lacks ranges that the files give it: a reload did not happen. */
function lags(ranges: Ranges, { server, effective }: Fail2banAround): boolean {
  return (server ?? []).some(({ name, ignores }) => {
    const meant = intersect(prefixesOf(effective[name] ?? []), ranges);
    return !isEmpty(subtract(meant, prefixesOf(ignores)));
  });
}

/**
 * A reload forgets what was added by `fail2ban-client set JAIL addignoreip`, and that may be what keeps an
 * admin in. What a marked file had before is not of that kind.
 */
function keepExtras({ early, late }: Files, around: Fail2banAround): readonly Step[] {
  const before = [early, late].flatMap((text) => text?.match(/^# .*/gm) ?? []);
  return configured(around.server ?? [], around).flatMap(({ name, ignores }) => {
    const loaded = around.effective[name];
    if (loaded === undefined) return [];
    const known = [...loaded, ...before.flatMap((line) => line.split(/\s+/))];
    const ours = new Set(known.map((entry) => prefixOf(entry) ?? entry));
    const extra = ignores.filter((entry) => !ours.has(prefixOf(entry) ?? entry));
    if (extra.length === 0) return [];
    const what = `jail ${name}: ignore ${extra.join(' ')} again, which was set at run time`;
    return [run(what, ['set', name, 'addignoreip', ...extra])];
  });
}

interface Ban {
  readonly jail: string;
  readonly entry: string;
}

/** The bans that lie inside the ranges, and those that reach beyond them. */
function bansOn(ranges: Ranges, { server }: Fail2banAround): { inside: Ban[]; wider: Ban[] } {
  const bans = (server ?? []).flatMap(({ name, bans }) =>
    bans.map((entry) => ({ jail: name, entry })),
  );
  const inside: Ban[] = [];
  const wider: Ban[] = [];
  if (isEmpty(intersect(prefixesOf(bans.map((ban) => ban.entry)), ranges)))
    return { inside, wider };
  for (const ban of bans) {
    const prefix = prefixesOf([ban.entry]);
    if (isEmpty(intersect(prefix, ranges))) continue;
    (isEmpty(subtract(prefix, ranges)) ? inside : wider).push(ban);
  }
  return { inside, wider };
}

/** `unban` with a network lifts every ban inside it, also one that came after we looked. */
function unban(ranges: Ranges, around: Fail2banAround, reload: boolean): readonly Step[] {
  const { inside } = bansOn(ranges, around);
  if (inside.length === 0 && !reload) return [];
  const what =
    inside.length === 0 ? 'lift what is banned of the ranges by then' : `lift ${list(inside)}`;
  return [{ ...run(what, ['unban', ...ranges.v4, ...ranges.v6]), final: true, ifLeft: true }];
}

function list(bans: readonly Ban[]): string {
  const some = bans.slice(0, 5).map(({ jail, entry }) => `${entry} (jail ${jail})`);
  const rest = bans.length > 5 ? ` and ${bans.length - 5} more` : '';
  return `${count(bans.length, 'ban')}: ${some.join(', ')}${rest}`;
}

function serverText(server: Fail2banOwned['server']): string | null {
  const lines = Object.entries(server ?? {})
    .filter(([, ranges]) => !isEmpty(ranges))
    .map(
      ([jail, { v4, v6 }]) =>
        `jail ${jail} ignores ${count(v4.length, 'IPv4 prefix', 'IPv4 prefixes')} and ${count(v6.length, 'IPv6 prefix', 'IPv6 prefixes')}\n`,
    );
  return lines.length === 0 ? null : lines.join('');
}

// ---- notices ----

function noticesOf(
  { ranges, late, beside }: Fail2banOwned,
  around: Fail2banAround,
): readonly Notice[] {
  const notices: Notice[] = [];
  if (late !== null) notices.push({ level: 'note', text: carriedText(beside) });
  if (!around.alone)
    notices.push({
      level: 'note',
      text: `a jail refers to the ignoreip of ${names.early} by %(known/ignoreip)s: before cfsync remove, set ignoreip in [DEFAULT] of ${folder}/jail.local`,
    });
  if (around.server === null)
    notices.push({
      level: 'note',
      text: 'the server is not running: its files are kept in step, and it reads them when it starts',
    });
  for (const text of around.left ?? []) notices.push({ level: 'warning', text });
  const { inside, wider } = bansOn(ranges, around);
  if (inside.length > 0)
    notices.push({
      level: 'warning',
      text: `addresses of Cloudflare are banned; apply lifts ${list(inside)}`,
    });
  if (wider.length > 0)
    notices.push({
      level: 'warning',
      text: `banned, and wider than Cloudflare's ranges: ${list(wider)}; cfsync leaves that alone; fail2ban-client set JAIL unbanip NETWORK lifts it`,
    });
  return notices;
}

function carriedText(beside: Sections): string {
  const places = Object.keys(beside).map((name) => `[${name}]`);
  return `ignoreip is set in ${places.join(', ')}: ${folder}/${names.late} repeats those values next to the ranges, so run cfsync apply after you change them`;
}

// ---- steps ----

function run(what: string, words: readonly string[]): Extract<Step, { kind: 'run' }> {
  return {
    kind: 'run',
    summary: escape(`fail2ban: ${what}`),
    command: { argv: [client, ...words], timeout: 120_000 },
  };
}

/**
 * What was ours, or is taken over, is still in the server until the reload, and only the file says what it
 * was. So a file is deleted or replaced in two steps around the reload, the first leaves a mark.
 */
function editOf(
  key: keyof Files,
  old: string | null,
  text: string | null,
  reload: boolean,
  gone: readonly string[],
): { readonly before: readonly Step[]; readonly after: readonly Step[] } {
  const path = `${folder}/${names[key]}`;
  const write = (what: string, from: string | null, to: string | null): Step => ({
    kind: 'file',
    summary: `fail2ban: ${what}`,
    path,
    content: to,
    mode: 0o644,
    expect: from === null ? null : digest(from),
  });
  const end = `${text === null ? 'delete' : 'write'} ${path}`;
  if ((old === null && gone.length === 0) || !reload)
    return { before: [write(end, old, text)], after: [] };
  const were = gone.length === 0 ? '' : `# ${gone.join(' ')}\n`;
  const marked = pending + (old === null ? '' : commented(old)) + were + (text ?? '');
  return {
    before: [write(`mark ${path} as not loaded yet`, old, marked)],
    after: [write(end, marked, text)],
  };
}

/** The text as comments, once and no deeper. */
function commented(text: string): string {
  const lines = text.replace(pending, '').trimEnd().split('\n');
  return lines.map((line) => `${line.replace(/^(?:# ?)*/, '# ').trimEnd()}\n`).join('');
}

function checkOf(
  files: Files,
  theirs: readonly FileStep[],
  ranges: Ranges,
  around: Fail2banAround,
): Command {
  const removal = files.early === null && files.late === null;
  const ours = removal ? [] : [...ranges.v4, ...ranges.v6];
  const edited = theirs.map(({ path, content }) => [path.slice(folder.length + 1), content]);
  return check({
    files: { ...staging(files), ...Object.fromEntries(edited) },
    jails: Object.fromEntries(around.jails.map((j) => [j.name, [...j.ignoreip, ...ours]])),
    running: around.server !== null,
    hint: around.alone
      ? 'the configuration would not load:'
      : `a jail refers to the ignoreip of ${names.early} by %(known/ignoreip)s; set ignoreip in [DEFAULT] of ${folder}/jail.local first`,
  });
}
