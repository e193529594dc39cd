/** Looks at UFW: its settings, its rules files, the rules in the kernel. */
import { BackendError, errno } from '../../src/errors.ts';
import { defaultRouteInterfaces, dockerBridges } from '../../src/host/interfaces.ts';
import type { Family } from '../../src/prefix.ts';
import type { Host, Observed, Outcome } from '../../src/renderer.ts';
import { firstLines } from '../../src/text.ts';
import { parseListing, type Listing } from './chains.ts';
import { observed } from './in-force.ts';
import { parseRules } from './rules.ts';
import { paths, programs, type Perhaps, type UfwAround, type UfwOwned } from './state.ts';
import { held } from './wanted.ts';

export async function observe(host: Host): Promise<Observed<UfwOwned, UfwAround>> {
  const settings = await readSettings(host);
  const enabled = settings.get('enabled') === 'yes';
  const stack = (await host.list('/proc/sys/net/ipv6')) !== undefined;
  const [kernel, [texts, files], docker, defaultRoutes] = await Promise.all([
    enabled ? readKernel(host, stack) : undefined,
    readFiles(host),
    dockerBridges(host),
    defaultRouteInterfaces(host),
  ]);
  const around: UfwAround = {
    texts,
    files,
    enabled,
    ipv6: !stack ? 'no kernel support' : settings.get('ipv6') === 'yes' ? 'yes' : 'no',
    policy: settings.get('default_input_policy') ?? '',
    ...(kernel && { kernel }),
    docker,
    defaultRoutes,
  };
  const [v4, v6] = [observed('v4', around), observed('v6', around)];
  return { owned: { ranges: held(v4, v6), v4, v6 }, around };
}

/** /etc/default/ufw and ufw.conf, as `_get_defaults` of ufw 0.36.2 reads them. */
async function readSettings(host: Host): Promise<ReadonlyMap<string, string>> {
  const settings = new Map<string, string>();
  for (const path of ['/etc/default/ufw', '/etc/ufw/ufw.conf']) {
    const text = await host.read(path);
    if (text === undefined)
      throw new BackendError(
        'not installed',
        `ufw is not installed (there is no ${path}); install it (Debian: apt-get install ufw)`,
      );
    for (const line of text.split('\n')) {
      const match = /^(\w+)="?(\w+)"?/.exec(line);
      if (match !== null) settings.set(match[1]!.toLowerCase(), match[2]!.toLowerCase());
    }
  }
  // A package that was removed and not purged leaves its configuration behind.
  if ((await host.read('/usr/sbin/ufw')) === undefined)
    await host.query({ argv: ['ufw', '--version'] });
  return settings;
}

async function readRules(host: Host, path: string): Promise<string> {
  let text: string | undefined;
  try {
    text = await host.read(path);
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    if (errno(cause) !== 'EACCES') throw error;
    throw new BackendError('no permission', `ufw: reading ${path} needs root; run it with sudo`, {
      cause: error,
    });
  }
  if (text !== undefined) return text;
  throw new BackendError(
    'misconfigured',
    `ufw: there is no ${path}, without which no ufw command works; nothing was changed; install the package ufw again`,
  );
}

/** Read and parsed while programs run. */
async function readFiles(host: Host): Promise<readonly [UfwAround['texts'], UfwAround['files']]> {
  const texts = { v4: await readRules(host, paths.v4), v6: await readRules(host, paths.v6) };
  return [texts, { v4: parseRules(texts.v4, paths.v4), v6: parseRules(texts.v6, paths.v6) }];
}

async function readKernel(host: Host, stack: boolean): Promise<Perhaps<Listing>> {
  const [v4, v6] = await Promise.all([ask(host, 'v4'), stack ? ask(host, 'v6') : undefined]);
  return { v4, ...(v6 && { v6 }) };
}

async function ask(host: Host, family: Family): Promise<Listing> {
  const argv = [programs[family], '-w', '10', '-S'] as const;
  const outcome = await host.query({ argv });
  if (outcome.code !== 0) throw unusable(argv, outcome);
  return parseListing(outcome.stdout, `${programs[family]} -S`);
}

function unusable(argv: readonly string[], { code, stderr }: Outcome): BackendError {
  const detail = firstLines(stderr);
  if (/Permission denied|Operation not permitted/.test(stderr))
    return new BackendError(
      'no permission',
      'ufw: reading the rules needs root (CAP_NET_ADMIN); run it with sudo',
      { detail },
    );
  return new BackendError(
    'broken',
    `ufw: ${argv.join(' ')} failed with code ${code}; nothing was changed; ufw itself cannot work before that does`,
    { detail },
  );
}
