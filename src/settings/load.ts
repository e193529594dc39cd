/** Finds the renderer of a backend: a built-in one, a file, or a package, seen from the configuration file. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { CfsyncError, exit } from '../errors.ts';
import { mustBeTrusted } from '../host/trust.ts';
import type { Renderer } from '../renderer.ts';
import { escape, suggest } from '../text.ts';

type Module = { readonly default: unknown };

/** The renderers that come with cfsync; one line each. */
export const builtIn: Readonly<Record<string, () => Promise<Module>>> = {
  'nginx-ingress': () => import('../../renderers/nginx-ingress/index.ts'),
  csf: () => import('../../renderers/csf/index.ts'),
  fail2ban: () => import('../../renderers/fail2ban/index.ts'),
  iptables: () => import('../../renderers/iptables/index.ts'),
  nftables: () => import('../../renderers/nftables/index.ts'),
  nginx: () => import('../../renderers/nginx/index.ts'),
  ufw: () => import('../../renderers/ufw/index.ts'),
};

/**
 * @param name As in `--backend NAME`.
 * @param where `renderer` of the backend's section: a path (`./x.js`, `/x.js`) or the name of a package.
 * @param configFile Paths and packages are resolved from here, never from the working directory.
 */
export async function loadRenderer(
  name: string,
  where: string | undefined,
  configFile: string | undefined,
): Promise<Renderer> {
  if (where === undefined) {
    const load = Object.hasOwn(builtIn, name) ? builtIn[name] : undefined;
    if (load === undefined)
      throw new CfsyncError(
        exit.usage,
        `there is no backend ${escape(name)}${suggest(name, Object.keys(builtIn))}; cfsync backends lists them`,
      );
    return (await load()).default as Renderer;
  }
  if (configFile === undefined)
    throw new CfsyncError(exit.usage, `backend ${name}: a renderer needs a configuration file`);
  const file = find(where, configFile, name);
  const what = `renderer of backend ${name}`;
  const home = packageFolder(where, configFile);
  if (home !== undefined) await mustBeTrusted(home, what);
  const real = await mustBeTrusted(file, what);
  let loaded: Module;
  try {
    loaded = (await import(pathToFileURL(real).href)) as Module;
  } catch (cause) {
    throw new CfsyncError(
      exit.failed,
      `backend ${name}: the renderer ${escape(file)} cannot be loaded: ${escape(cause instanceof Error ? cause.message : String(cause))}; nothing was changed; mend it, or take the backend out of the configuration`,
      { cause },
    );
  }
  return checked(loaded.default, name, file);
}

/** A part of the core that is planned and applied like a backend; only cfsync itself asks for it. */
export async function loadBoot(): Promise<Renderer> {
  return (await import('../../renderers/boot/index.ts')).default;
}

function isPath(where: string): boolean {
  return /^\.{0,2}\//.test(where);
}

/** Where a package is found, before the links there are followed: who can write there chooses what is loaded. */
function packageFolder(where: string, configFile: string): string | undefined {
  const [name] = /^(@[^/]+\/)?[^/]+/.exec(where) ?? [];
  if (isPath(where) || name === undefined) return undefined;
  const folders = createRequire(configFile).resolve.paths(name) ?? [];
  return folders.map((folder) => join(folder, name)).find((folder) => existsSync(folder));
}

function find(where: string, configFile: string, name: string): string {
  if (isPath(where)) return resolve(dirname(configFile), where);
  try {
    return createRequire(configFile).resolve(where);
  } catch (cause) {
    throw new CfsyncError(
      exit.failed,
      `backend ${name}: the package ${escape(where)} is not installed beside ${escape(configFile)}; nothing was changed; install it there, or name a file as ./FILE`,
      { cause },
    );
  }
}

const functions = ['options', 'want', 'observe', 'plan', 'print'];

function checked(value: unknown, name: string, file: string): Renderer {
  const renderer = value as Record<string, unknown> | undefined;
  const missing = functions.filter((f) => typeof renderer?.[f] !== 'function');
  if (renderer?.api !== 1 || missing.length > 0)
    throw new CfsyncError(
      exit.failed,
      `backend ${name}: ${escape(file)} is not a renderer for this cfsync: ${
        renderer?.api === 1
          ? `it has no function ${missing.join(', ')}`
          : 'its default export needs api: 1'
      }; nothing was changed; cfsync/testing checks a renderer`,
    );
  return renderer as unknown as Renderer;
}
