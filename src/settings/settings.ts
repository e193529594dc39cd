/** Turns flags, environment and configuration into what the commands work with. */
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Values } from '../cli/arguments.ts';
import { located, locatedLater, type Config } from './config.ts';
import type { Job } from '../engine/job.ts';
import { CfsyncError, exit } from '../errors.ts';
import { hasUserinfo, isAllowed, withoutQuery, withoutSecret } from '../feed/feed-url.ts';
import { flags, type Flag } from '../cli/flags.ts';
import { appliedNames, readApplied, type Given } from '../state/records.ts';
import { loadBoot, loadRenderer } from './load.ts';
import { argv, bootName, extras, oneOf, stringList, text, whyNoName } from '../plugin/options.ts';
import { parsePorts } from '../plugin/ports.ts';
import { none } from '../prefix.ts';
import type { Command, Desired, Ranges } from '../renderer.ts';
import type { SourceOptions } from '../feed/source.ts';
import { shown } from '../text.ts';
import { mustBeTrustedState } from '../host/trust.ts';

/** Where Cloudflare publishes its ranges; the text feeds end without a newline. */
const feeds = {
  ipv4: 'https://www.cloudflare.com/ips-v4',
  ipv6: 'https://www.cloudflare.com/ips-v6',
  api: 'https://api.cloudflare.com/client/v4/ips',
} as const;

/** `fail`: exit code 2; `say`: a warning alone; `off`: the rules of the host are not judged. */
type JudgeMode = (typeof judgeModes)[number];
const judgeModes = ['fail', 'say', 'off'] as const;

/** A program and its arguments, or a URL with http or https. */
export type Probe = Command['argv'] | URL;

export interface Hooks {
  /** Run with the report on standard input when a backend was changed. */
  readonly 'on-change': Command['argv'] | undefined;
  /** As well, when the run, or a backend in it, failed. */
  readonly 'on-failure': Command['argv'] | undefined;
  /** Where the report is posted to in both cases: https, or http on this host. */
  readonly webhook: string | undefined;
}

export interface Settings {
  readonly values: Values;
  readonly config: Config;
  readonly stateDir: string;
  /** Seconds. */
  readonly lockTimeout: number;
  /** Days for which the last believed answer is good enough. */
  readonly maxAge: number;
  /** Asked after an apply that changed something. */
  readonly probe: Probe | undefined;
  /** What follows when Cloudflare does not get in, or others do, once a run has ended. */
  readonly judge: JudgeMode;
  /** Places whose rules are not judged: `inet geoblock input`, `iptables filter INPUT`. */
  readonly judgeIgnore: readonly string[];
  readonly hooks: Hooks;
  /** The file for node_exporter, absolute. */
  readonly metrics: string | undefined;
}

export async function readSettings(values: Values, config: Config): Promise<Settings> {
  for (const name of (values.backend as readonly string[] | undefined) ?? []) {
    const wrong = whyNoName(name);
    if (wrong !== undefined) throw new CfsyncError(exit.usage, `--backend: ${wrong}`);
  }
  const stateDir = resolve(
    setting(
      { values: { ...values, ...stateDirOfEnvironment(values) }, config },
      'state-dir',
      defaultStateDir(),
      text,
    ),
  );
  await mustBeTrustedState(stateDir);
  return {
    values,
    config,
    stateDir,
    lockTimeout: setting({ values, config }, 'lock-timeout', 10, whole),
    maxAge: setting({ values, config }, 'max-age', 30, whole),
    probe: located(config, ['probe'], () =>
      config.settings.probe === undefined ? undefined : parseProbe(config.settings.probe),
    ),
    judge: setting({ values, config }, 'judge', 'fail', (value, where) =>
      oneOf(value, judgeModes, where),
    ),
    judgeIgnore: setting({ values, config }, 'judge-ignore', [], stringList),
    hooks: {
      'on-change': setting({ values, config }, 'on-change', undefined, optional(argv)),
      'on-failure': setting({ values, config }, 'on-failure', undefined, optional(argv)),
      webhook: setting({ values, config }, 'webhook', undefined, optional(url)),
    },
    metrics: setting({ values, config }, 'metrics', undefined, optional(path)),
  };
}

/** @throws CfsyncError with code `usage`. */
export function parseProbe(value: unknown): Probe {
  if (typeof value === 'string' && URL.canParse(value)) {
    const url = new URL(value);
    refuseUserinfo(url, 'probe');
    if (url.protocol === 'https:' || url.protocol === 'http:') return url;
  }
  if (Array.isArray(value)) return argv(value, 'probe');
  throw new CfsyncError(
    exit.usage,
    'probe: must be a list of a program and its arguments, or a URL with http or https',
  );
}

function optional<T>(
  check: (value: unknown, where: string) => T,
): (value: unknown, where: string) => T | undefined {
  return (value, where) => (value === undefined ? undefined : check(value, where));
}

function path(value: unknown, where: string): string {
  return resolve(text(value, where));
}

function stateDirOfEnvironment(values: Values): Values {
  const { CFSYNC_STATE_DIR } = process.env;
  return CFSYNC_STATE_DIR && values['state-dir'] === undefined
    ? { 'state-dir': CFSYNC_STATE_DIR }
    : {};
}

/** A value of the command line, else of the backend's section, else of the file, else the default; checked. */
function setting<T>(
  { values, config }: Pick<Settings, 'values' | 'config'>,
  key: string,
  fallback: unknown,
  check: (value: unknown, where: string) => T,
  backend?: string,
): T {
  const own = backend === undefined ? undefined : config.backends[backend]?.[key];
  if (values[key] !== undefined) return check(values[key], `--${key}`);
  const keys = own === undefined ? [key] : ['backends', backend!, key];
  return located(config, keys, () => check(own ?? config.settings[key] ?? fallback, key));
}

function defaultStateDir(): string {
  if (process.getuid?.() === 0) return '/var/lib/cfsync';
  return join(process.env.XDG_STATE_HOME ?? join(homedir(), '.local', 'state'), 'cfsync');
}

/** Where the ranges come from; a named path is seen from the working directory. */
export function sourceOptions(settings: Settings): SourceOptions {
  const { stateDir, maxAge } = settings;
  const source = setting(settings, 'source', 'auto', text);
  return {
    source: ['auto', 'bundled', 'snapshot'].includes(source) ? source : resolve(source),
    urls: {
      ipv4: setting(settings, 'ipv4-url', feeds.ipv4, url),
      ipv6: setting(settings, 'ipv6-url', feeds.ipv6, url),
      api: setting(settings, 'api-url', feeds.api, url),
    },
    stateDir,
    now: new Date(),
    maxAge,
  };
}

function url(value: unknown, where: string): string {
  const parsed = typeof value === 'string' && URL.canParse(value) ? new URL(value) : null;
  if (parsed !== null) refuseUserinfo(parsed, where);
  if (parsed !== null && isAllowed(parsed)) return value as string;
  throw new CfsyncError(
    exit.usage,
    `${where}: ${shown(typeof value === 'string' ? withoutQuery(value) : value)} is not a URL with https (http is taken from this host alone)`,
  );
}

/** @throws CfsyncError that does not say what they are. */
function refuseUserinfo(url: URL, where: string): void {
  if (hasUserinfo(url))
    throw new CfsyncError(exit.usage, `${where}: no name or password is taken in a URL`);
}

/** The backends to work on: those named by --backend, else those in the configuration. */
function backendNames(settings: Settings): readonly string[] {
  const named = settings.values.backend as readonly string[] | undefined;
  const names = named ?? Object.keys(settings.config.backends);
  if (names.length > 0) return [...new Set(names)];
  throw new CfsyncError(
    exit.usage,
    `no backend: name one with --backend (cfsync backends lists them)${
      settings.config.file === undefined
        ? ', or run cfsync init, which writes a configuration for those in use here'
        : `, or under backends in ${settings.config.file}`
    }`,
  );
}

/** The backends that something was applied to: those named by --backend, else all that are recorded. */
export async function appliedBackends(settings: Settings): Promise<readonly string[]> {
  const named = settings.values.backend as readonly string[] | undefined;
  const names = named ?? (await appliedNames(settings.stateDir));
  if (names.length > 0) return [...new Set(names)];
  throw new CfsyncError(
    exit.failed,
    `nothing was applied yet, as far as ${settings.stateDir} knows; name a backend with --backend, or run cfsync apply`,
  );
}

export interface Effective {
  /** As in the configuration: `mode`, or `backends.nftables.mode`. */
  readonly name: string;
  readonly value: unknown;
  /** `default`, the name of a flag or an environment variable, or `FILE:LINE`. */
  readonly from: string;
}

/** Every setting as it counts now, and where it comes from. */
export async function effective(settings: Settings): Promise<readonly Effective[]> {
  const {
    config,
    values,
    stateDir,
    lockTimeout,
    maxAge,
    probe,
    judge,
    judgeIgnore,
    hooks,
    metrics,
  } = settings;
  const { source, urls } = sourceOptions(settings);
  const env = (name: string): string | undefined =>
    name === 'state-dir' && process.env.CFSYNC_STATE_DIR ? 'CFSYNC_STATE_DIR' : undefined;
  const from = (name: string, backend?: string): string => {
    const keys = backend === undefined ? [name] : ['backends', backend, name];
    if (values[name] !== undefined) return `--${name}`;
    const inFile = (backend === undefined ? config.settings : config.backends[backend])?.[name];
    if (inFile === undefined && backend !== undefined) return from(name);
    return env(name) ?? (inFile === undefined ? 'default' : config.place(...keys));
  };
  const global = {
    'state-dir': stateDir,
    source,
    'ipv4-url': withoutQuery(urls.ipv4),
    'ipv6-url': withoutQuery(urls.ipv6),
    'api-url': withoutQuery(urls.api),
    'lock-timeout': lockTimeout,
    'max-age': maxAge,
    extra: config.settings.extra ?? [],
    probe: probe instanceof URL ? withoutQuery(probe.href) : (probe ?? null),
    judge,
    'judge-ignore': judgeIgnore,
    'on-change': hooks['on-change'] ?? null,
    'on-failure': hooks['on-failure'] ?? null,
    webhook: hooks.webhook === undefined ? null : withoutSecret(hooks.webhook),
    metrics: metrics ?? null,
  };
  const rows = Object.entries(global).map(([name, value]) => ({ name, value, from: from(name) }));
  for (const backend of Object.keys(config.backends)) {
    const { desired, raw, renderer } = await makeJob(settings, backend);
    const { mode, tcpPorts, udpPorts } = desired;
    const own = {
      ...(renderer.kind === 'filter' && { mode, ports: tcpPorts, 'udp-ports': udpPorts }),
      ...raw,
    };
    for (const [name, value] of Object.entries(own))
      rows.push({ name: `backends.${backend}.${name}`, value, from: from(name, backend) });
  }
  return rows;
}

/** The backends to work on, with their options. */
export async function makeJobs(settings: Settings): Promise<readonly Job[]> {
  return Promise.all(backendNames(settings).map((name) => makeJob(settings, name)));
}

/** The keys of a backend's section that the core reads itself. */
const coreKeys = ['renderer', 'mode', 'ports', 'udp-ports'];

/**
 * A backend with its options and what should be true of it, still without ranges: so that a mistake in an option
 * is said before anything is downloaded.
 */
export async function makeJob(
  settings: Settings,
  name: string,
  load: typeof loadRenderer = loadRenderer,
): Promise<Job> {
  const { values, config } = settings;
  const section = config.backends[name] ?? {};
  const renderer = await locatedLater(config, ['backends', name], () =>
    load(
      name,
      section.renderer === undefined ? undefined : text(section.renderer, `${name}: renderer`),
      config.file,
    ),
  );
  const own = Object.entries(section).filter(([key]) => !coreKeys.includes(key));
  const raw = withFlags(Object.fromEntries(own), name, values);
  const { extra, comments } = await ownPrefixes(config);
  const desired: Desired = { ranges: none, extra, ...modeAndPorts(settings, name) };
  const given = modeAndPorts({ values: {}, config }, name);
  const options = located(config, ['backends', name], () => renderer.options(raw));
  return { name, renderer, options, raw, desired, given, comments };
}

function modeAndPorts(settings: Pick<Settings, 'values' | 'config'>, backend: string): Given {
  const set = <T>(key: string, fallback: unknown, check: (v: unknown, where: string) => T): T =>
    setting(settings, key, fallback, check, backend);
  return {
    tcpPorts: set('ports', '80,443', parsePorts),
    udpPorts: set('udp-ports', '', udpPorts),
    mode: set('mode', 'allow', (value, where) => oneOf(value, ['allow', 'lockdown'], where)),
  };
}

/** As `makeJob`, for a name that cfsync itself wrote down: it may be the one that nobody else can give. */
export function makeNotedJob(settings: Settings, name: string): Promise<Job> {
  return makeJob(settings, name, name === bootName ? loadBoot : loadRenderer);
}

/** The options of a backend, with what flags and environment say on top. */
export function withFlags(
  options: Readonly<Record<string, unknown>>,
  name: string,
  values: Values,
): Readonly<Record<string, unknown>> {
  const raw = { ...options };
  for (const [flag, { backend, env, path }] of Object.entries<Flag>(flags)) {
    if (backend?.[0] !== name) continue;
    const key = backend[1];
    const unset = values[flag] === undefined && raw[key] === undefined;
    const given = unset && env !== undefined ? process.env[env] || undefined : values[flag];
    if (given === undefined) continue;
    raw[key] = path === true ? resolve(String(given)) : given;
  }
  return raw;
}

/** The admin's own prefixes. The gate loads a package, so only where there is something to check. */
async function ownPrefixes(
  config: Config,
): Promise<{ readonly extra: Ranges; readonly comments: NonNullable<Job['comments']> }> {
  const { extra } = config.settings;
  if (extra === undefined || extra === null) return { extra: none, comments: [] };
  return locatedLater(config, ['extra'], async () => {
    const { parseExtra } = await import('../feed/gate.ts');
    const entries = extras(extra, 'extra');
    return {
      extra: parseExtra(entries.map(({ prefix }) => prefix)),
      comments: entries.flatMap(({ prefix, comment }) => {
        const { v4, v6 } = parseExtra([prefix]);
        return comment === undefined ? [] : [{ prefix: [...v4, ...v6][0]!, comment }];
      }),
    };
  });
}

/**
 * A backend as it was last applied, whatever the configuration says by now; undefined when nothing was.
 * Options of its own that were given now, such as a way to reach it, count all the same.
 */
export async function recordedJob(settings: Settings, name: string): Promise<Job | undefined> {
  const applied = await readApplied(settings.stateDir, name);
  if (applied === undefined) return undefined;
  const now = await makeNotedJob(settings, name);
  const raw = withFlags(applied.options, name, settings.values);
  const { given: _, ...job } = now;
  const { desired, given } = applied;
  return { ...job, raw, options: now.renderer.options(raw), desired, ...(given && { given }) };
}

function udpPorts(value: unknown, where: string): readonly number[] {
  const empty = value === '' || value === null || (Array.isArray(value) && value.length === 0);
  return empty ? [] : parsePorts(value, where);
}

/** A whole number, 0 or more. */
function whole(value: unknown, where: string): number {
  // In seconds, the largest is still less than a timer can wait for.
  const most = 1_000_000;
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most)
    return value;
  throw new CfsyncError(exit.usage, `${where}: must be a whole number from 0 to ${most}`);
}
