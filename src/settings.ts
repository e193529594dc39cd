/** Turns flags, environment and configuration into what the commands work with. */
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Values } from './arguments.ts';
import { readConfig, type Config } from './config.ts';
import type { Job } from './job.ts';
import { CfsyncError, exit } from './errors.ts';
import { isAllowed } from './feed-url.ts';
import { flags, type Flag } from './flags.ts';
import { appliedNames, readApplied } from './records.ts';
import { loadRenderer } from './load.ts';
import { oneOf, stringList, text } from './options.ts';
import { maxAge } from './policy.ts';
import { parseProbe, type Probe } from './probe.ts';
import { parsePorts } from './ports.ts';
import { none } from './prefix.ts';
import type { Desired, Ranges } from './renderer.ts';
import type { SourceOptions } from './source.ts';
import { escape } from './text.ts';
import { mustBeTrusted } from './trust.ts';

/** Where Cloudflare publishes its ranges; the text feeds end without a newline. */
const feeds = {
  ipv4: 'https://www.cloudflare.com/ips-v4',
  ipv6: 'https://www.cloudflare.com/ips-v6',
  api: 'https://api.cloudflare.com/client/v4/ips',
} as const;

export interface Settings {
  readonly values: Values;
  readonly config: Config;
  readonly stateDir: string;
  /** Seconds. */
  readonly lockTimeout: number;
  /** Asked after an apply that changed something. */
  readonly probe: Probe | undefined;
}

export async function readSettings(values: Values): Promise<Settings> {
  const config = await readConfig(values.config as string | undefined);
  const setting = (name: string): unknown => values[name] ?? config.settings[name];
  const stateDir = resolve(
    text(
      values['state-dir'] ??
        process.env.CFSYNC_STATE_DIR ??
        config.settings['state-dir'] ??
        defaultStateDir(),
      'state-dir',
    ),
  );
  if (existsSync(stateDir)) await mustBeTrusted(stateDir, 'state directory');
  return {
    values,
    config,
    stateDir,
    lockTimeout: Number(setting('lock-timeout') ?? 10),
    probe: config.settings.probe === undefined ? undefined : parseProbe(config.settings.probe),
  };
}

function defaultStateDir(): string {
  if (process.getuid?.() === 0) return '/var/lib/cfsync';
  return join(process.env.XDG_STATE_HOME ?? join(homedir(), '.local', 'state'), 'cfsync');
}

/** Where the ranges come from; a named path is seen from the working directory. */
export function sourceOptions(settings: Settings): SourceOptions {
  const { values, config, stateDir } = settings;
  const setting = (name: string, fallback: string): string =>
    text(values[name] ?? config.settings[name] ?? fallback, name);
  const source = setting('source', 'auto');
  return {
    source: ['auto', 'bundled', 'snapshot'].includes(source) ? source : resolve(source),
    urls: {
      ipv4: url(setting('ipv4-url', feeds.ipv4), 'ipv4-url'),
      ipv6: url(setting('ipv6-url', feeds.ipv6), 'ipv6-url'),
      api: url(setting('api-url', feeds.api), 'api-url'),
    },
    stateDir,
    now: new Date(),
    maxAge,
  };
}

function url(value: string, where: string): string {
  if (URL.canParse(value) && isAllowed(new URL(value))) return value;
  throw new CfsyncError(
    exit.usage,
    `${where}: ${escape(value)} is not a URL with https (http is taken from this host alone)`,
  );
}

/** The backends to work on: those named by --backend, else those in the configuration. */
function backendNames(settings: Settings): readonly string[] {
  const named = settings.values.backend as readonly string[] | undefined;
  const names = named ?? Object.keys(settings.config.backends);
  if (names.length > 0) return [...new Set(names)];
  throw new CfsyncError(
    exit.usage,
    `no backend: name one with --backend (cfsync backends lists them)${
      settings.config.file === undefined ? '' : `, or under backends in ${settings.config.file}`
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
export async function makeJob(settings: Settings, name: string): Promise<Job> {
  const { values, config } = settings;
  const section = config.backends[name] ?? {};
  const renderer = await loadRenderer(
    name,
    section.renderer === undefined ? undefined : text(section.renderer, `${name}: renderer`),
    config.file,
  );
  const own = Object.entries(section).filter(([key]) => !coreKeys.includes(key));
  const raw = withFlags(Object.fromEntries(own), name, values);
  const setting = (key: string, fallback: unknown): unknown =>
    values[key] ?? section[key] ?? config.settings[key] ?? fallback;
  const desired: Desired = {
    ranges: none,
    extra: await extraPrefixes(config),
    tcpPorts: parsePorts(setting('ports', '80,443'), 'ports'),
    udpPorts: udpPorts(setting('udp-ports', '')),
    mode: oneOf(setting('mode', 'allow'), ['allow', 'lockdown'], 'mode'),
  };
  return { name, renderer, options: renderer.options(raw), raw, desired };
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

/** The gate loads a package, so only where there is something to check. */
async function extraPrefixes(config: Config): Promise<Ranges> {
  const { extra } = config.settings;
  if (extra === undefined) return none;
  const { parseExtra } = await import('./gate.ts');
  return parseExtra(stringList(extra, 'extra'));
}

/**
 * A backend as it was last applied, whatever the configuration says by now; undefined when nothing was.
 * Options of its own that were given now, such as a way to reach it, count all the same.
 */
export async function recordedJob(settings: Settings, name: string): Promise<Job | undefined> {
  const applied = await readApplied(settings.stateDir, name);
  if (applied === undefined) return undefined;
  const now = await makeJob(settings, name);
  const raw = withFlags(applied.options, name, settings.values);
  return { ...now, raw, options: now.renderer.options(raw), desired: applied.desired };
}

function udpPorts(value: unknown): readonly number[] {
  const empty = value === '' || value === null || (Array.isArray(value) && value.length === 0);
  return empty ? [] : parsePorts(value, 'udp-ports');
}
