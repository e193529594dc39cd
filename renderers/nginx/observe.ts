/** Looks at nginx: its configuration, its processes. */
import { dirname } from 'node:path';
import { BackendError } from '../../src/errors.ts';
import type { Look } from '../../src/plugin/file-renderer.ts';
import type { Host } from '../../src/renderer.ts';
import { firstLines } from '../../src/text.ts';
import {
  dumpedFiles,
  globbed,
  isHttp,
  parse,
  serversOf,
  type ConfigFile,
  type Directive,
} from './configuration.ts';
import { decisions } from './decisions.ts';
import { isOurName, mark, presentIn, variable } from './file.ts';
import { processes } from './processes.ts';
import { refusal } from './refuse.ts';
import { inNamespace, staged } from './stage.ts';
import type { NginxAround, NginxOptions } from './state.ts';

export async function look(host: Host, options: NginxOptions): Promise<Look<NginxAround>> {
  if ((await host.list(dirname(options.path))) === undefined) {
    await host.query({ argv: ['nginx', '-v'] }); // throws when it is not installed
    throw new BackendError(
      'misconfigured',
      `nginx: there is no folder ${dirname(options.path)}; nothing was changed; set path to a file in a folder that the configuration includes at http level`,
    );
  }
  const stage = await canStage(host, options.path);
  const dump = await dumped(host, options.path, stage);
  const broken = dump instanceof BackendError ? dump : null;
  // Going back must work while our own file is what nginx refuses; `want` refuses it.
  if (broken !== null && (await host.read(options.path)) === undefined) throw broken;
  const files = typeof dump === 'string' ? dumpedFiles(dump) : [];
  const ours = files
    .filter((file) => isOurName(file.path) && file.content.startsWith(mark))
    .map((file) => file.path);
  const paths = [...new Set([...ours, options.path])];
  const { directives, includes } = parse(files);
  const { pidFile, running } = await processes(host, directives, paths);
  const isOurs = ({ at }: Directive): boolean => paths.some((path) => at.startsWith(`${path}:`));
  const inHttp = directives.filter(({ blocks }) => blocks[0]?.startsWith('http#') === true);
  const admins = inHttp.filter((directive) => !isOurs(directive));
  return {
    paths,
    running,
    around: {
      broken: broken?.detail ?? null,
      included: includes.some(
        ({ pattern, blocks }) => isHttp(blocks) && globbed(pattern).test(options.path),
      ),
      directives: admins.filter(({ words }) => isRelevant(words)),
      decisions: decisions(admins),
      servers: serversOf(inHttp),
      present: running?.loaded === false ? null : presentIn(inHttp.filter(isOurs)),
      stage,
      pidFile,
      readable: pidFile === null || running !== undefined,
      header: options.header,
      texts: textsOf(files, paths),
      links: await linksAmong(host, admins),
    },
  };
}

/** nginx ends each file with a line feed of its own. */
function textsOf(
  files: readonly ConfigFile[],
  ours: readonly string[],
): Readonly<Record<string, string>> {
  const theirs = files.filter(({ path }) => !ours.includes(path));
  return Object.fromEntries(theirs.map(({ path, content }) => [path, content.slice(0, -1)]));
}

/** Of the files that set real-IP. */
async function linksAmong(
  host: Host,
  directives: readonly Directive[],
): Promise<readonly string[]> {
  const named = directives.filter(({ words }) => isRealIp(words));
  const files = [...new Set(named.map(({ at }) => at.replace(/:\d+$/, '')))];
  if (files.length === 0) return [];
  const argv = ['find', ...files, '-maxdepth', '0', '-type', 'l', '-print0'] as const;
  const { stdout } = await host.query({ argv });
  return stdout.split('\0').filter((file) => file !== '');
}

function isRealIp([name]: readonly string[]): boolean {
  return name === 'set_real_ip_from' || name === 'real_ip_header';
}

function isRelevant([name, ...words]: readonly string[]): boolean {
  if (['geo', 'map', 'set'].includes(name!)) return words.includes(variable);
  if (name === 'limit_req_zone' || name === 'limit_conn_zone')
    return /^\$(?:binary_)?remote_addr$/.test(words[0] ?? '');
  return [
    'set_real_ip_from',
    'real_ip_header',
    'allow',
    'deny',
    'satisfy',
    'auth_request',
  ].includes(name!);
}

/** Needs root with CAP_SYS_ADMIN, which containers often lack. */
async function canStage(host: Host, path: string): Promise<boolean> {
  const folder = dirname(path);
  try {
    const { code } = await host.query({ argv: inNamespace('mount', '--bind', folder, folder) });
    return code === 0;
  } catch (error) {
    if (error instanceof BackendError) return false;
    throw error;
  }
}

/**
 * All of the configuration. Where our file was broken by hand, or is gone while the admin's configuration
 * uses its variable, it is read with a stand-in for our file.
 */
async function dumped(host: Host, path: string, stage: boolean): Promise<string | BackendError> {
  const argv = ['nginx', '-T', '-q'] as const;
  const outcome = await host.query({ argv });
  if (outcome.code === 0) return outcome.stdout;
  const standIn = `geo $realip_remote_addr ${variable} { default 0; }\n`;
  const again = stage ? staged(new Map([[path, standIn]]), argv) : undefined;
  const second = again === undefined ? outcome : await host.query(again);
  if (second.code === 0) return second.stdout;
  const detail = firstLines(outcome.stderr);
  if (!outcome.stderr.includes('(13: Permission denied)')) return refusal(detail);
  throw new BackendError('no permission', 'nginx: nginx -T needs root; nothing was changed', {
    detail,
  });
}
