/** Looks at the running nginx: is there one, and is it younger than a file. */
import { resolve } from 'node:path';
import type { Running } from '../../src/plugin/file-renderer.ts';
import { ofProcess, statField } from '../../src/host/proc.ts';
import type { Host } from '../../src/renderer.ts';
import type { Directive } from './configuration.ts';

/** Ticks per second of /proc/PID/stat (USER_HZ) on every architecture that Debian 12 has. */
const ticks = 100;
/** When a process started, in /proc/PID/stat. */
const startTime = 22;
/** Seconds; the ages of files and processes are read one after the other. */
const tolerance = 1;

/**
 * nginx does not tell which configuration it runs with. What can be read: its workers are started anew by
 * every reload, so they use the files if they are younger.
 */
export async function processes(
  host: Host,
  directives: readonly Directive[],
  paths: readonly string[],
): Promise<{ pidFile: string | null; running?: Running }> {
  const pidFile = await pidPath(host, directives);
  const master = (await host.read(pidFile))?.trim();
  if (master === undefined || !/^[1-9]\d*$/.test(master)) return { pidFile: null };
  if ((await ofProcess(host.read(`/proc/${master}/comm`)))?.trim() !== 'nginx')
    return { pidFile: null };
  const workers: { pid: string; start: number }[] = [];
  for (const pid of words(await ofProcess(host.read(`/proc/${master}/task/${master}/children`)))) {
    const title = await ofProcess(host.read(`/proc/${pid}/cmdline`));
    const start = statField(await ofProcess(host.read(`/proc/${pid}/stat`)), startTime);
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
  const start = statField(stat, startTime);
  if (start === undefined || ![now!, ...times].every((time) => /^\d+\.\d+$/.test(time)))
    return undefined;
  // Without a file there is nothing that is younger than the workers.
  const last = times.map(Number).reduce((a, b) => Math.max(a, b), -Infinity);
  return start / ticks - (Number(now) - last);
}

async function pidPath(host: Host, directives: readonly Directive[]): Promise<string> {
  const given = directives.find(({ words, blocks }) => words[0] === 'pid' && blocks.length === 0);
  const path = given?.words[1];
  if (path?.startsWith('/')) return path;
  const { stderr } = await host.query({ argv: ['nginx', '-V'] });
  const built = (name: string): string => new RegExp(`--${name}=(\\S+)`).exec(stderr)?.[1] ?? '';
  return resolve(built('prefix'), path ?? built('pid-path'));
}

function words(list: string | undefined): string[] {
  return (list ?? '').split(/\s+/).filter((word) => word !== '');
}
