/**
 * Counts what a program does to files and which programs it starts, and acts at one of these: loaded with
 * `node --import`, for instance by NODE_OPTIONS, so that cfsync itself knows nothing of it. Environment:
 *
 * CFSYNC_TEST_LOG=FILE  Every operation is appended before it begins, one JSON object a line:
 *     {"kind":"file","n":7,"op":"rename","what":"/from /to","changes":true}
 *     {"kind":"run","n":3,"op":"spawn","what":"nft -f -","changes":true}
 *   `kind` and `n` say which one it is; each kind is counted by itself, from 1. `file` is a function of
 *   node:fs/promises or a method of a FileHandle; what one does inside is not counted again. `changes` is
 *   false for what only reads; of a program that is not known, and it always is true.
 *
 * CFSYNC_TEST_ACT='ACTION KIND N'  Acts at that operation:
 *   both kinds
 *     kill-before    SIGKILL to this process, in place of the operation
 *     kill-after     SIGKILL to this process when the operation, or the program, has ended
 *     signal:NAME    this process gets that signal, as in signal:SIGINT, just before the operation
 *   files
 *     fail:ERRNO     it fails, as in fail:ENOSPC; a write has written half by then, and a close has closed
 *     fail-on:ERRNO  and so does all that follows and changes files: ENOSPC what needs space, EROFS and others all
 *   programs
 *     kill-started   SIGKILL to this process as soon as the program has its input; the program lives on
 *     fail:ERRNO     ENOENT or EACCES: it cannot be started
 *     exit-before:CODE, exit-after:CODE   it ends with this code, in place of its work or when that is done
 *     hang-before, hang-after   it does not end by itself, in place of its work or when that is done; time
 *                    limits of 30 s and more pass 30 times faster then
 *     truncate       it prints the first half of what it would
 *   A line {"acted":"kill-before run 3"} says that the operation was reached.
 *
 * CFSYNC_TEST_FROM=TEXT  Nothing is counted before the first operation with this text in its `what`: what comes
 *   before may differ from run to run.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import childProcess from 'node:child_process';
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { getSystemErrorMap } from 'node:util';

const { CFSYNC_TEST_LOG: log, CFSYNC_TEST_ACT: act = '', CFSYNC_TEST_FROM: from } = process.env;
const [action = '', kindToActAt, number] = act.split(' ');
const [verb, parameter] = action.split(':');

const counts = { file: 0, run: 0 };
let counting = from === undefined;

function say(record) {
  if (log !== undefined) fs.appendFileSync(log, `${JSON.stringify(record)}\n`);
}

/** Counts an operation, and says whether it is the one to act at. */
function reach(kind, op, what, changes) {
  counting ||= what.includes(from);
  if (!counting) return false;
  const n = ++counts[kind];
  say({ kind, n, op, what, changes });
  if (kind !== kindToActAt || n !== Number(number)) return false;
  say({ acted: act });
  if (verb === 'kill-before') die();
  if (verb === 'signal') process.kill(process.pid, parameter);
  return true;
}

function die() {
  process.kill(process.pid, 'SIGKILL');
}

// ---- files ----

/** Set within an operation: what calls others of the kind, as cp does, counts once. */
const inside = new AsyncLocalStorage();

const reading = new Set(
  'access close lstat opendir read readFile readdir readlink realpath stat statfs'.split(' '),
);

/** Where the content is among the arguments of what writes some. */
const content = { appendFile: [1, 0], write: [undefined, 0], writeFile: [1, 0] };

function changes(op, args) {
  if (op !== 'open') return !reading.has(op);
  const { O_WRONLY, O_RDWR, O_CREAT, O_TRUNC } = fs.constants;
  const flags = args[1] ?? 'r';
  return typeof flags === 'number'
    ? (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) !== 0
    : flags !== 'r';
}

/** What a disk that is full still takes, and one that can only be read. */
const spared = {
  ENOSPC: ['chmod', 'chown', 'rename', 'rm', 'truncate', 'unlink'],
  EROFS: ['sync'],
};
let failing = false;

/** A folder that is there need not be made. */
function isStruck(op, args) {
  if (spared[parameter]?.includes(op) || (op === 'mkdir' && fs.existsSync(args[0]))) return false;
  return failing && changes(op, args);
}

/** Node reads its modules by URL. */
function isModule(path) {
  return path instanceof URL && /\.[cm]?js$/.test(path.pathname);
}

/** The same function, counted; `path` is that of a handle. */
function counted(op, original, path) {
  return function (...args) {
    if (inside.getStore() || isModule(args[0])) return original.apply(this, args);
    const named = args.filter((arg) => typeof arg === 'string').slice(0, 2);
    const what =
      path ??
      (['rename', 'copyFile', 'cp', 'link', 'symlink'].includes(op)
        ? named
        : named.slice(0, 1)
      ).join(' ');
    return inside.run(true, async () => {
      const here = reach('file', op, what, changes(op, args));
      failing ||= here && verb === 'fail-on';
      if ((here && verb === 'fail') || isStruck(op, args)) {
        const at = content[op]?.[path === undefined ? 0 : 1];
        if (op === 'close') await original.apply(this, args);
        if (at !== undefined) {
          const bytes = Buffer.from(args[at]);
          await original.apply(this, args.with(at, bytes.subarray(0, bytes.length / 2)));
        }
        throw failure(parameter, op, what);
      }
      const result = await original.apply(this, args);
      if (here && verb === 'kill-after') die();
      return op === 'open' ? countHandle(result, what) : result;
    });
  };
}

function failure(code, syscall, path) {
  const errno = [...getSystemErrorMap()].find(([, [name]]) => name === code);
  if (errno === undefined) throw new Error(`CFSYNC_TEST_ACT: there is no ${code}`);
  const [value, [, message]] = errno;
  const error = new Error(`${code}: ${message}, ${syscall} '${path}'`);
  return Object.assign(error, { errno: value, code, syscall, path });
}

function countHandle(handle, path) {
  const methods =
    'appendFile chmod chown close datasync read readFile stat sync truncate utimes write writeFile';
  for (const op of methods.split(' ')) handle[op] = counted(op, handle[op], path);
  return handle;
}

for (const [op, original] of Object.entries(fs.promises))
  if (typeof original === 'function') fs.promises[op] = counted(op, original);

// ---- programs ----

/** What stands in for the program; "$@" is the program itself. */
const scripts = {
  'exit-before': `cat > /dev/null; echo injected >&2; exit ${parameter}`,
  'exit-after': `"$@"; echo injected >&2; exit ${parameter}`,
  'hang-before': 'exec sleep 1000000',
  'hang-after': '"$@"; exec sleep 1000000',
  truncate:
    'f=$(mktemp); "$@" > "$f"; code=$?; head -c $(($(wc -c < "$f") / 2)) "$f"; rm "$f"; exit $code',
};
/** A file of /proc cannot be executed. */
const unstartable = { ENOENT: '/proc/none', EACCES: '/proc/version' };

const { spawn } = childProcess;
childProcess.spawn = (program, args, options) => {
  const here = reach('run', 'spawn', [program, ...args].join(' '), true);
  if (!here) return spawn(program, args, options);
  if (verb === 'fail') return spawn(unstartable[parameter], args, options);
  const script = scripts[verb];
  if (script !== undefined) return spawn('sh', ['-c', script, 'sh', program, ...args], options);
  const child = spawn(program, args, options);
  if (verb === 'kill-after') child.on('exit', die);
  // It has all of its input; that it was started is seen in this turn, after the return.
  if (verb === 'kill-started') setImmediate(die);
  return child;
};

const faster = (time) => (time >= 30_000 ? Math.round(time / 30) : time);

if (verb.startsWith('hang-')) {
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (work, time, ...rest) => setTimeout(work, faster(time), ...rest);
  const timeout = AbortSignal.timeout.bind(AbortSignal);
  AbortSignal.timeout = (time) => timeout(faster(time));
}

syncBuiltinESMExports();
