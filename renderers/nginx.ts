/**
 * nginx: the visitor's address from Cloudflare's header, and a variable that tells whether a
 * connection comes from Cloudflare, in one file at http level.
 *
 * The file cannot say "only Cloudflare" with allow and deny: once the visitor's address has taken the
 * place of the connection's (ngx_http_realip_module), these see the visitor. `$realip_remote_addr`
 * keeps the address of the connection.
 */
import { basename, dirname, resolve } from 'node:path';
import { BackendError, CfsyncError, exit } from '../src/errors.ts';
import {
  fileRenderer,
  type Changes,
  type Look,
  type OwnedFile,
  type Running,
} from '../src/file-renderer.ts';
import { checkKeys, text } from '../src/options.ts';
import { canonical, intersect, isEmpty, parseRanges } from '../src/prefix.ts';
import type { Command, Desired, Host, Notice, Ranges } from '../src/renderer.ts';
import { count, escape, firstLines } from '../src/text.ts';

export interface NginxOptions {
  /** The header that carries the visitor's address. */
  readonly header: string;
  readonly path: string;
}

/** A directive of the admin's, with where it stands. */
export interface Directive {
  readonly words: readonly string[];
  /** `FILE:LINE`. */
  readonly at: string;
  /** The blocks around it from outside in, as `http#1`, `server#7`. */
  readonly blocks: readonly string[];
}

export interface NginxAround {
  /** What nginx says of the present configuration when it refuses it. */
  readonly broken: readonly string[] | null;
  /** Whether the configuration includes our file at http level. */
  readonly included: boolean;
  /** The admin's directives that touch ours. */
  readonly directives: readonly Directive[];
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
    if (around !== undefined) refuse(desired.ranges, options, around);
    return {
      files: [{ path: options.path, content: configuration(desired, options) }],
      notices: around === undefined ? [] : notices(options, around),
    };
  },

  async look(host, options): Promise<Look<NginxAround>> {
    if ((await host.list(dirname(options.path))) === undefined)
      throw new BackendError(
        'misconfigured',
        `nginx: there is no folder ${dirname(options.path)}; nothing was changed; nginx is not installed, or path must name the folder of its configuration`,
      );
    const stage = await canStage(host, options.path);
    const dump = await dumped(host, options.path, stage);
    const broken = dump instanceof BackendError ? dump : null;
    // Going back must work while our own file is what nginx refuses; `want` refuses it.
    if (broken !== null && (await host.read(options.path)) === undefined) throw broken;
    const files = dumpedFiles(typeof dump === 'string' ? dump : '');
    const ours = files
      .filter((file) => isOurName(file.path) && file.content.startsWith(mark))
      .map((file) => file.path);
    const paths = [...new Set([...ours, options.path])];
    const { directives, includes } = parse(files);
    const { pidFile, running } = await processes(host, directives, paths);
    return {
      paths,
      running,
      around: {
        broken: broken?.detail ?? null,
        included: includes.some(
          ({ pattern, blocks }) => isHttp(blocks) && globbed(pattern).test(options.path),
        ),
        directives: directives.filter(
          ({ words, at }) => isRelevant(words) && !paths.some((path) => at.startsWith(`${path}:`)),
        ),
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
function refuse(ranges: Ranges, { path }: NginxOptions, around: NginxAround): void {
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
  const shut = lockedOut(ranges, around);
  if (shut !== undefined)
    throw new CfsyncError(
      exit.refused,
      `nginx: ${shut.at} says "${shut.words.join(' ')}" in a block with "deny all": nginx will compare the visitor's address with it and refuse every visitor; nothing was changed; say "if (${variable} = 0) { return 403; }" there instead`,
    );
}

/** An `allow` of Cloudflare's addresses with a `deny all` beside it, where the visitor's address counts. */
function lockedOut(ranges: Ranges, around: NginxAround): Directive | undefined {
  const shut = named(around, 'deny').filter(({ words }) => words[1] === 'all');
  const own = named(around, 'set_real_ip_from').filter(({ blocks }) => !isHttp(blocks));
  return named(around, 'allow').find(({ words, blocks }) => {
    const block = blocks.join();
    const prefix = canonical(words[1] ?? '');
    return (
      prefix !== undefined &&
      !isEmpty(intersect(parseRanges([prefix.text]), ranges)) &&
      // Everybody is let in.
      !prefix.text.endsWith('/0') &&
      shut.some((directive) => directive.blocks.join() === block) &&
      // Our ranges are not inherited there, so nothing changes.
      !own.some((directive) => `${block},`.startsWith(`${directive.blocks.join()},`))
    );
  });
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

function isHttp(blocks: readonly string[]): boolean {
  return blocks.length === 1 && blocks[0]!.startsWith('http#');
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

// ---- the running nginx ----

/** Ticks per second of /proc/PID/stat (USER_HZ) on every architecture that Debian 12 has. */
const ticks = 100;
/** Seconds; the ages of files and processes are read one after the other. */
const tolerance = 1;

/**
 * nginx does not tell which configuration it runs with. What can be read: its workers are started anew by
 * every reload, so they use the files if they are younger.
 */
async function processes(
  host: Host,
  directives: readonly Directive[],
  paths: readonly string[],
): Promise<{ pidFile: string | null; running?: Running }> {
  const pidFile = await pidPath(host, directives);
  const master = (await host.read(pidFile))?.trim();
  if (master === undefined || !/^[1-9]\d*$/.test(master)) return { pidFile: null };
  if ((await read(host, `/proc/${master}/comm`))?.trim() !== 'nginx') return { pidFile: null };
  const workers: { pid: string; start: number }[] = [];
  for (const pid of words(await read(host, `/proc/${master}/task/${master}/children`))) {
    const title = await read(host, `/proc/${pid}/cmdline`);
    const start = startOf(await read(host, `/proc/${pid}/stat`));
    if (title?.includes('worker process') !== true || title.includes('shutting down')) continue;
    if (start !== undefined) workers.push({ pid, start });
  }
  const changed = await lastChange(host, paths);
  if (workers.length === 0 || changed === undefined) return { pidFile };
  return {
    pidFile,
    running: {
      id: workers.map(({ pid, start }) => `${pid}@${start}`).join(' '),
      loaded: workers.every(({ start }) => start / ticks + tolerance >= changed),
    },
  };
}

/** When the files were last changed, in seconds since boot as /proc counts them; undefined if it cannot be told. */
async function lastChange(host: Host, paths: readonly string[]): Promise<number | undefined> {
  // The start of a process just started, not /proc/uptime: in LXC that is the container's.
  const script = 'date +%s.%N; cat /proc/self/stat; stat -c %.Z "$@" 2>/dev/null; true';
  const { stdout } = await host.query({ argv: ['sh', '-c', script, 'sh', ...paths] });
  const [now, stat, ...times] = stdout.trim().split('\n');
  const start = startOf(stat);
  if (start === undefined) return undefined;
  const last = Math.max(-Infinity, ...times.map(Number));
  const seconds = start / ticks - (Number(now) - last);
  return Number.isNaN(seconds) ? undefined : seconds;
}

/** Field 22 of proc(5); the name in field 2 may contain anything. */
function startOf(stat: string | undefined): number | undefined {
  const field = stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  return field === undefined ? undefined : Number(field);
}

async function pidPath(host: Host, directives: readonly Directive[]): Promise<string> {
  const given = directives.find(({ words, blocks }) => words[0] === 'pid' && blocks.length === 0);
  const path = given?.words[1];
  if (path?.startsWith('/')) return path;
  const { stderr } = await host.query({ argv: ['nginx', '-V'] });
  const built = (name: string): string => new RegExp(`--${name}=(\\S+)`).exec(stderr)?.[1] ?? '';
  return resolve(built('prefix'), path ?? built('pid-path'));
}

/** A process may end while it is looked at. */
async function read(host: Host, path: string): Promise<string | undefined> {
  try {
    return await host.read(path);
  } catch (error) {
    if (error instanceof CfsyncError) return undefined;
    throw error;
  }
}

function words(list: string | undefined): string[] {
  return (list ?? '').split(/\s+/).filter((word) => word !== '');
}

// ---- the configuration as `nginx -T` prints it ----

interface Include {
  /** Absolute; may hold wildcards. */
  readonly pattern: string;
  readonly blocks: readonly string[];
}

function dumpedFiles(dump: string): OwnedFile[] {
  const [, ...parts] = dump.split(/^# configuration file (.+):\n/m);
  const files: OwnedFile[] = [];
  for (let i = 0; i + 1 < parts.length; i += 2)
    files.push({ path: parts[i]!, content: parts[i + 1]! });
  return files;
}

/** All directives with the blocks they stand in, through includes. */
export function parse(files: readonly OwnedFile[]): {
  directives: readonly Directive[];
  includes: readonly Include[];
} {
  const directives: Directive[] = [];
  const includes: Include[] = [];
  const [main] = files;
  if (main === undefined) return { directives, includes };
  const folder = dirname(main.path);
  let blockCount = 0;

  const walk = (file: OwnedFile, outer: readonly string[], depth: number): void => {
    let blocks = outer;
    let words: string[] = [];
    let start = 0;
    for (const { word, line } of tokens(file.content)) {
      if (word === '}') blocks = blocks.slice(0, Math.max(outer.length, blocks.length - 1));
      if (word !== ';' && word !== '{' && word !== '}') {
        if (words.length === 0) start = line;
        words.push(unquote(word));
        continue;
      }
      if (words.length > 0) directives.push({ words, at: `${file.path}:${start}`, blocks });
      if (word === '{') blocks = [...blocks, `${words[0]}#${++blockCount}`];
      if (word === ';' && words[0] === 'include' && words[1] !== undefined) {
        const pattern = resolve(folder, words[1]);
        includes.push({ pattern, blocks });
        const matching = globbed(pattern);
        // nginx itself refuses a file that includes itself, at a depth of some hundreds.
        if (depth < 20)
          for (const next of files) if (matching.test(next.path)) walk(next, blocks, depth + 1);
      }
      words = [];
    }
  };
  walk(main, [], 0);
  return { directives, includes };
}

/** As ngx_conf_read_token: quotes and comments count at the start of a word alone, `${` does not open a block. */
const token =
  /(?<skip>\s+|#[^\n]*)|(?<word>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[;{}]|(?:\\.|\$\{|[^\s;{\\])+)/gs;
/** The Lua module reads the blocks of *_by_lua_block itself; braces count outside of strings and comments. */
const lua =
  /--\[(=*)\[.*?\]\1\]|--[^\n]*|\[(=*)\[.*?\]\2\]|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}]/gs;

function* tokens(content: string): Generator<{ readonly word: string; readonly line: number }> {
  const scan = new RegExp(token);
  let line = 1;
  let counted = 0;
  let before = '';
  for (let match = scan.exec(content); match !== null; match = scan.exec(content)) {
    const word = match.groups?.word;
    if (word === undefined) continue;
    line += content.slice(counted, match.index).split('\n').length - 1;
    counted = match.index;
    yield { word, line };
    if (word === '{' && before.endsWith('_by_lua_block')) scan.lastIndex = endOfLua(content, scan);
    before = word;
  }
}

/** The place of the brace that closes a block of Lua. */
function endOfLua(content: string, { lastIndex }: RegExp): number {
  const scan = new RegExp(lua);
  scan.lastIndex = lastIndex;
  let depth = 1;
  for (let match = scan.exec(content); match !== null; match = scan.exec(content)) {
    if (match[0] === '{') depth++;
    else if (match[0] === '}') depth--;
    if (depth === 0) return match.index;
  }
  return content.length;
}

function unquote(word: string): string {
  return /^(["']).*\1$/s.test(word) ? word.slice(1, -1) : word;
}

/** As glob(3), which nginx includes files with. */
function globbed(pattern: string): RegExp {
  const source = pattern.replaceAll(/\[!?[^\]/]+\]|[^\w/]/g, (piece) => {
    if (piece === '*') return '[^/]*';
    if (piece === '?') return '[^/]';
    return piece.startsWith('[') && piece.length > 1 ? piece.replace('[!', '[^') : `\\${piece}`;
  });
  return new RegExp(`^${source}$`);
}
