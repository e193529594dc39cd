/** Asks fail2ban what its configuration comes to, with our files or without them. */
import { BackendError } from '../../src/errors.ts';
import { intersect } from '../../src/prefix.ts';
import type { Host, Observed, Outcome } from '../../src/renderer.ts';
import { firstLines } from '../../src/text.ts';
import { fromJson, ignoringIn, isTexts, unreadable } from './answers.ts';
import { observation, type Changes } from './client.ts';
import { localhost, rangesIn, sectionsOf, staging } from './files.ts';
import { prefixesOf } from './ignoreip.ts';
import { probe, token, withMarks } from './marks.ts';
import { recordIn, serverIn } from './server.ts';
import {
  client,
  configured,
  folder,
  names,
  type Fail2banAround,
  type Fail2banOwned,
  type Files,
} from './state.ts';

export async function observe(host: Host): Promise<Observed<Fail2banOwned, Fail2banAround>> {
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
}

const probeJail = `[${probe}]\nenabled = true\nbackend = polling\nfilter =\naction =\nlogpath = /dev/null\n`;

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

/** @throws BackendError when these are not so many. */
function loadedIn(answers: unknown, count: number): readonly Loaded[] {
  if (!Array.isArray(answers) || answers.length !== count)
    throw unreadable('fail2ban-client -d', 'an answer is missing');
  return answers.map((answer: unknown): Loaded => {
    const { jails, skipped, errors } = (answer ?? {}) as Readonly<Record<string, unknown>>;
    if (!isTexts(skipped) || !isTexts(errors) || typeof jails !== 'object')
      throw unreadable('fail2ban-client -d', 'it does not say what was loaded');
    const lists = jails === null ? [] : ignoringIn(jails, 'fail2ban-client -d');
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

function misconfigured(detail: readonly string[]): BackendError {
  return new BackendError(
    'misconfigured',
    'fail2ban: its configuration does not load; nothing was changed; fail2ban-client -t says why',
    { detail },
  );
}
