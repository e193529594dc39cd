/** Reads the configuration file. */
import { resolve } from 'node:path';
import type { Document } from 'yaml';
import { CfsyncError, errno, exit, why } from '../errors.ts';
import { checkKeys, whyNoName } from '../plugin/options.ts';
import { escape } from '../text.ts';
import { readTrusted } from '../host/trust.ts';

export const defaultConfig = '/etc/cfsync/config.yaml';

type Section = Readonly<Record<string, unknown>>;

/** What the file says; values are checked where flags are. */
export interface Config {
  /** Absolute; undefined when there is none. */
  readonly file: string | undefined;
  /** Top-level settings, under the names of their flags. */
  readonly settings: Section;
  /** By name; a section may set `renderer`, `mode`, `ports`, `udp-ports` and the backend's own options. */
  readonly backends: Readonly<Record<string, Section>>;
  /** `FILE:LINE` of a setting, by its keys from the top; the line of what holds it where it is not set. */
  place(...keys: readonly string[]): string;
}

/** What there is where there is no file. */
export const noConfig: Config = { file: undefined, settings: {}, backends: {}, place: () => '' };

/** Settings of the file's top level that are read under their own names. */
const settingKeys = [
  'ports',
  'udp-ports',
  'mode',
  'source',
  'ipv4-url',
  'ipv6-url',
  'api-url',
  'state-dir',
  'lock-timeout',
  'max-age',
  'judge',
  'judge-ignore',
  'metrics',
  'on-change',
  'on-failure',
  'webhook',
] as const;

/**
 * @param path From --config; it must exist then. Without it, /etc/cfsync/config.yaml is read if it is there.
 */
export async function readConfig(path: string | undefined): Promise<Config> {
  const file = resolve(path ?? defaultConfig);
  let text: string;
  try {
    text = await readTrusted(file, 'configuration');
  } catch (cause) {
    if (cause instanceof CfsyncError) throw cause;
    if (path === undefined && errno(cause) === 'ENOENT') return noConfig;
    throw new CfsyncError(
      exit.failed,
      `cannot read the configuration ${escape(file)}: ${why(cause)}; nothing was changed${
        errno(cause) === 'ENOENT' ? '; cfsync init --config FILE writes one' : ''
      }`,
      { cause },
    );
  }
  const { isMap, isScalar, LineCounter, parseDocument } = await import('yaml');
  const lines = new LineCounter();
  const at = (offset: number): string => `${escape(file)}:${lines.linePos(offset).line}`;
  // Warnings are not wanted: Node would say them, with whatever stands in the file.
  const options = { lineCounter: lines, prettyErrors: false, logLevel: 'error' } as const;
  const document = parseDocument(text, options);
  const [mistake] = document.errors;
  if (mistake !== undefined)
    throw new CfsyncError(exit.usage, `${at(mistake.pos[0])}: ${escape(mistake.message)}`, {
      cause: mistake,
    });
  const place = (...keys: readonly string[]): string => {
    let node: unknown = document.contents;
    let offset = document.contents?.range?.[0] ?? 0;
    for (const key of keys) {
      const pair = isMap(node)
        ? node.items.find((item) => isScalar(item.key) && String(item.key.value) === key)
        : undefined;
      if (pair === undefined) break;
      offset = (pair.key as { readonly range?: readonly number[] }).range?.[0] ?? offset;
      node = pair.value;
    }
    return at(offset);
  };
  const top = section(readValue(document, at), place());
  knownKeys(top, [...settingKeys, 'extra', 'probe', 'backends'], place);
  const backends = section(top.backends ?? {}, place('backends'), 'backends');
  for (const name of Object.keys(backends)) {
    const wrong = whyNoName(name);
    if (wrong !== undefined)
      throw new CfsyncError(exit.usage, `${place('backends', name)}: ${wrong}`);
  }
  return {
    file,
    settings: top,
    backends: Object.fromEntries(
      Object.entries(backends).map(([name, value]) => [
        name,
        section(value ?? {}, place('backends', name), escape(name)),
      ]),
    ),
    place,
  };
}

/**
 * Aliases that multiply are only found when the values are made, and those that go round when they are written, as
 * options are to the state directory.
 */
function readValue(document: Document, at: (offset: number) => string): unknown {
  try {
    const value: unknown = document.toJS({ maxAliasCount: 100 }) ?? {};
    JSON.stringify(value);
    return value;
  } catch (cause) {
    const [first] = (cause instanceof Error ? cause.message : String(cause)).split('\n');
    throw new CfsyncError(exit.usage, `${at(0)}: ${first}`, { cause });
  }
}

function knownKeys(top: Section, known: readonly string[], place: Config['place']): void {
  for (const key of Object.keys(top)) checkKeys({ [key]: top[key] }, known, place(key));
}

/**
 * Runs a check of a value; what is wrong with one that is from the file is said with its place there.
 * @param keys Where the value stands, from the top.
 */
export function located<T>(config: Config, keys: readonly string[], check: () => T): T {
  try {
    return check();
  } catch (error) {
    throw withPlace(config, keys, error);
  }
}

/** As `located`, for checks that take their time. */
export async function locatedLater<T>(
  config: Config,
  keys: readonly string[],
  check: () => Promise<T>,
): Promise<T> {
  try {
    return await check();
  } catch (error) {
    throw withPlace(config, keys, error);
  }
}

function withPlace(config: Config, keys: readonly string[], error: unknown): unknown {
  if (!(error instanceof CfsyncError) || error.code !== exit.usage) return error;
  if (config.file === undefined) return error;
  // A check of several options names the one that is wrong: `iptables: set: must be true or false`.
  const [, named] = /^[^:]+: (?:unknown key )?([\w-]+)/.exec(error.message) ?? [];
  const place = config.place(...keys, ...(named === undefined ? [] : [named]));
  return new CfsyncError(error.code, `${place}: ${error.message}`, {
    detail: error.detail,
    cause: error,
  });
}

function section(value: unknown, where: string, name?: string): Section {
  // A set or a time of YAML is an object as well.
  const kind: unknown = typeof value === 'object' && value && Object.getPrototypeOf(value);
  if (kind === Object.prototype) return value as Section;
  const what = name === undefined ? '' : `${name}: `;
  throw new CfsyncError(exit.usage, `${where}: ${what}must be a mapping of names to values`);
}
