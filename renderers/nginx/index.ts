/**
 * nginx: the visitor's address from Cloudflare's header, and a variable that tells whether a
 * connection comes from Cloudflare, in one file at http level.
 *
 * The file cannot say "only Cloudflare" with allow and deny: once the visitor's address has taken the
 * place of the connection's (ngx_http_realip_module), these see the visitor. `$realip_remote_addr`
 * keeps the address of the connection.
 */
import { basename, dirname, resolve } from 'node:path';
import { BackendError, CfsyncError, exit } from '../../src/errors.ts';
import { fileRenderer, type Changes, type Look } from '../../src/plugin/file-renderer.ts';
import { decisions } from './by-address.ts';
import { dumpedFiles, globbed, isHttp, parse, serversOf, type Directive } from './configuration.ts';
import { processes } from './processes.ts';
import type { HttpLevel } from './real-ip.ts';
import { mendOf, shutOut, type Findings, type Surroundings } from './shut-out.ts';
import { checkKeys, text } from '../../src/plugin/options.ts';
import { network, parseRanges } from '../../src/prefix.ts';
import type { Command, Desired, Host, Notice } from '../../src/renderer.ts';
import { count, escape, firstLines } from '../../src/text.ts';

export interface NginxOptions {
  /** The header that carries the visitor's address. */
  readonly header: string;
  readonly path: string;
}

export interface NginxAround extends Surroundings {
  /** What nginx says of the present configuration when it refuses it. */
  readonly broken: readonly string[] | null;
  /** Whether the configuration includes our file at http level. */
  readonly included: boolean;
  /** Whether a changed configuration can be tried in a mount namespace before it is in place. */
  readonly stage: boolean;
  /** The pid file of a running master. */
  readonly pidFile: string | null;
  /** Whether the age of nginx's workers can be read. */
  readonly readable: boolean;
}

const mark = '# Written by cfsync; changes are overwritten.';
const variable = '$from_cloudflare';

export default fileRenderer<NginxOptions, NginxAround>({
  name: 'nginx',

  options(raw) {
    checkKeys(raw, ['header', 'path'], 'nginx');
    const header = text(raw.header ?? 'CF-Connecting-IP', 'nginx: header');
    // nginx drops headers with an underscore unless told otherwise; `proxy_protocol` is no header.
    if (!/^[A-Za-z][A-Za-z0-9-]{0,63}$/.test(header))
      throw new CfsyncError(
        exit.usage,
        `nginx: header: ${escape(header)} is not the name of a header; CF-Connecting-IP is Cloudflare's`,
      );
    const path = text(raw.path ?? '/etc/nginx/conf.d/cfsync.conf', 'nginx: path');
    if (!/^(\/[\w.@+-]+)+$/.test(path) || resolve(path) !== path || !isOurName(path))
      throw new CfsyncError(
        exit.usage,
        `nginx: path: ${escape(path)} is not an absolute path of a file with cfsync in its name, such as /etc/nginx/conf.d/cfsync.conf`,
      );
    return { header, path };
  },

  want(desired, options, around) {
    const files = [{ path: options.path, content: configuration(desired, options) }];
    if (around === undefined) return { files, notices: [] };
    refuse(options, around);
    const ours = { header: options.header, ranges: desired.ranges };
    const found = shutOut(ours, around, variable);
    refuseShutOut(found);
    return { files, notices: [...notices(options, around), ...standing(found)] };
  },

  async look(host, options): Promise<Look<NginxAround>> {
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
      },
    };
  },

  check(changes, { stage }) {
    return stage ? staged(changes, ['nginx', '-t', '-q']) : undefined;
  },

  finish({ pidFile, stage }) {
    const argv = ['nginx', '-t', '-q'] as const;
    if (pidFile === null)
      return stage ? undefined : { summary: 'test the configuration', command: { argv } };
    return {
      summary: 'reload and wait for new workers',
      command: { argv: ['sh', '-c', reloadScript, 'sh', pidFile], timeout: 60_000 },
    };
  },
});

// ---- wanted ----

function configuration({ ranges }: Desired, { header }: NginxOptions): string {
  const prefixes = [...ranges.v4, ...ranges.v6];
  return [
    `${mark} cfsync remove --backend nginx takes it away.`,
    '',
    ...prefixes.map((prefix) => `set_real_ip_from ${prefix};`),
    `real_ip_header ${header};`,
    '',
    '# 1 when the connection comes from Cloudflare, whoever the visitor is. Only Cloudflare, in a server:',
    `#     if (${variable} = 0) { return 403; }`,
    '# allow and deny do not do it: they see the visitor.',
    `geo $realip_remote_addr ${variable} {`,
    '    default 0;',
    ...prefixes.map((prefix) => `    ${prefix} 1;`),
    '}',
    '',
  ].join('\n');
}

/** What would break nginx, or a site, is found before anything is written. */
function refuse({ path }: NginxOptions, around: NginxAround): void {
  if (around.broken !== null) throw refusal(around.broken);
  if (!around.included)
    throw new CfsyncError(
      exit.failed,
      `nginx: the configuration does not include ${path} at http level, so it would have no effect; nothing was changed; add "include ${dirname(path)}/*.conf;" inside http { }, or set path`,
    );
  const second = named(around, 'real_ip_header').find(({ blocks }) => isHttp(blocks));
  if (second !== undefined)
    throw new CfsyncError(
      exit.failed,
      `nginx: ${second.at} already says "${second.words.join(' ')}" at http level, and nginx takes one alone; nothing was changed; delete that line, or move it into the server that needs it`,
    );
  const taken = around.directives.find(({ words }) => words.slice(1).includes(variable));
  if (taken !== undefined)
    throw new CfsyncError(
      exit.failed,
      `nginx: ${taken.at} gives ${variable} a value of its own, and of two nginx silently takes one; nothing was changed; rename the variable there`,
    );
}

function notices({ header }: NginxOptions, around: NginxAround): Notice[] {
  const trusted = named(around, 'set_real_ip_from');
  const beside = trusted.filter(({ blocks }) => isHttp(blocks));
  const below = trusted.filter(({ blocks }) => !isHttp(blocks));
  const headers = named(around, 'real_ip_header').filter(({ blocks }) => !isHttp(blocks));
  const list: Notice[] = [];
  if (beside.length > 0)
    list.push({
      level: 'warning',
      text: `${places(beside)} at http level: these are believed as well, in ${header}; delete those that are Cloudflare's`,
    });
  if (below.length > 0)
    list.push({
      level: 'note',
      text: `${places(below)}: nginx does not inherit the ranges there, visitors through Cloudflare keep its address`,
    });
  if (headers.length > 0)
    list.push({
      level: 'note',
      text: `${places(headers)}: there the ranges apply with that header instead of ${header}`,
    });
  if (around.pidFile === null)
    list.push({ level: 'note', text: 'nginx is not running; it will use the file when it starts' });
  if (!around.readable)
    list.push({
      level: 'note',
      text: 'nginx has no workers whose age can be read; whether it uses the file is not known, only what the file says',
    });
  return list;
}

// ---- who is shut out ----

function refuseShutOut({ shut }: Findings): void {
  // A file that is included in many places counts once.
  const fresh = [...new Map(shut.filter((one) => one.fresh).map((one) => [one.directive.at, one]))];
  const [first, ...more] = fresh.map(([, one]) => one);
  if (first === undefined) return;
  const { directive, what, mend } = first;
  throw new CfsyncError(
    exit.refused,
    `nginx: ${directive.at} ${what}; nothing was changed; ${mend}${mend.startsWith('write') ? ', which is the address of the connection, and run this again' : ''}`,
    {
      detail: more.map(
        (one) => `${one.directive.at} says "${one.directive.words.join(' ')}": ${one.mend}`,
      ),
    },
  );
}

function standing({ shut, unclear, news }: Findings): Notice[] {
  const list: Notice[] = [];
  const [first] = shut;
  if (first !== undefined)
    list.push({
      level: news ? 'warning' : 'note',
      text: `${places(shut.map(({ directive }) => directive))}: this is for Cloudflare's addresses, and sees the visitors', because real-IP is in force already; ${first.mend}`,
    });
  const [one] = unclear;
  if (one !== undefined && news)
    list.push({
      level: 'note',
      text: `${places(unclear.map(({ directive }) => directive))}: ${one.why}; it will see the visitor's address; is it about Cloudflare's? then ${mendOf(one.directive.words)}`,
    });
  return list;
}

function places(list: readonly Directive[]): string {
  const [{ at, words }, ...more] = list as [Directive, ...Directive[]];
  const others = more.length === 0 ? '' : ` and ${count(more.length, 'other place')}`;
  return `"${words.join(' ')}" at ${at}${others}`;
}

function named(around: NginxAround, name: string): readonly Directive[] {
  return around.directives.filter(({ words }) => words[0] === name);
}

function isRelevant([name, ...words]: readonly string[]): boolean {
  if (['geo', 'map', 'set'].includes(name!)) return words.includes(variable);
  return ['set_real_ip_from', 'real_ip_header', 'allow', 'deny'].includes(name!);
}

/** What our file says, whatever made it say that. */
function presentIn(directives: readonly Directive[]): HttpLevel | null {
  const said = (name: string): readonly string[] =>
    directives
      .filter(({ words, blocks }) => words[0] === name && isHttp(blocks))
      .map(({ words }) => words[1] ?? '');
  const [header] = said('real_ip_header');
  if (header === undefined) return null;
  const prefixes = said('set_real_ip_from').flatMap((word) => network(word) ?? []);
  return { header, ranges: parseRanges(prefixes) };
}

function isOurName(path: string): boolean {
  return basename(path).includes('cfsync');
}

// ---- how nginx is asked ----

/** In a mount namespace of its own the changed folder stands where nginx looks for it, and nobody else sees it. */
function inNamespace(...argv: readonly string[]): [string, ...string[]] {
  return ['unshare', '--mount', '--propagation', 'private', ...argv];
}

/** Runs a program as if the changes were made; undefined when they are in more than one folder. */
function staged(changes: Changes, argv: readonly string[]): Command | undefined {
  const [folder, ...more] = new Set([...changes.keys()].map((path) => dirname(path)));
  if (folder === undefined || more.length > 0) return undefined;
  const files = [...changes].map(([path, content]) => [basename(path), content] as const);
  const script = `mount --bind "$1" "$2" && shift 2 && exec "$@"`;
  return {
    argv: inNamespace('sh', '-c', script, 'sh', '{stage}', folder, ...argv),
    stage: { copy: folder, files: Object.fromEntries(files) },
  };
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

function refusal(detail: readonly string[]): BackendError {
  return new BackendError(
    'misconfigured',
    'nginx: nginx refuses its present configuration; nothing was changed; mend it first, nginx -t says where',
    { detail },
  );
}

/**
 * `nginx -s reload` ends before the master has read anything, and well even when the master then cannot
 * load the configuration and goes on with the old one (nginx 1.22.1: a port that is taken passes nginx -t).
 * So this waits until the old workers have been told to go: that happens once new ones are running.
 */
const reloadScript = `nginx -t -q || exit
pid=$(cat "$1") || exit
old=$(cat "/proc/$pid/task/$pid/children")
nginx -s reload || exit
tries=0
while [ $tries -lt 150 ]; do
  left=
  for worker in $old; do
    [ ! -e "/proc/$worker" ] || grep -qs 'shutting down' "/proc/$worker/cmdline" || left=1
  done
  [ -n "$left" ] || exit 0
  sleep 0.1
  tries=$((tries + 1))
done
echo "nginx goes on with its old workers: it cannot load the configuration, and its error log says why" >&2
exit 1`;
