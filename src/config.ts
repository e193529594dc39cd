/** Reads the configuration file. */
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { CfsyncError, errno, exit } from './errors.ts';
import { checkKeys } from './options.ts';
import { escape } from './text.ts';
import { mustBeTrusted } from './trust.ts';

const defaultConfig = '/etc/cfsync/config.yaml';

type Section = Readonly<Record<string, unknown>>;

/** What the file says; values are checked where flags are. */
export interface Config {
  /** Absolute; undefined when there is none. */
  readonly file: string | undefined;
  /** Top-level settings, under the names of their flags. */
  readonly settings: Section;
  /** By name; a section may set `renderer`, `mode`, `ports`, `udp-ports` and the backend's own options. */
  readonly backends: Readonly<Record<string, Section>>;
}

/** Settings of the file's top level that are flags as well. */
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
] as const;

/**
 * @param path From --config; it must exist then. Without it, /etc/cfsync/config.yaml is read if it is there.
 */
export async function readConfig(path: string | undefined): Promise<Config> {
  const file = resolve(path ?? defaultConfig);
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    if (path === undefined && errno(cause) === 'ENOENT')
      return { file: undefined, settings: {}, backends: {} };
    throw new CfsyncError(
      exit.failed,
      `cannot read the configuration ${escape(file)}: ${errno(cause)}; nothing was changed`,
      { cause },
    );
  }
  await mustBeTrusted(file, 'configuration');
  const { parse } = await import('yaml');
  let content: unknown;
  try {
    content = parse(text);
  } catch (cause) {
    throw new CfsyncError(
      exit.usage,
      `${escape(file)}: ${escape((cause as Error).message.split('\n')[0] ?? '')}`,
      { cause },
    );
  }
  const top = section(content ?? {}, file);
  checkKeys(top, [...settingKeys, 'extra', 'probe', 'backends'], file);
  const backends = section(top.backends ?? {}, `${file}: backends`);
  return {
    file,
    settings: top,
    backends: Object.fromEntries(
      Object.entries(backends).map(([name, value]) => [
        name,
        section(value ?? {}, `${file}: backends: ${escape(name)}`),
      ]),
    ),
  };
}

function section(value: unknown, where: string): Section {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Section;
  throw new CfsyncError(exit.usage, `${escape(where)}: must be a mapping of names to values`);
}
