/** Reads the end of log files, bounded, and tells how long ago each line was written. */
import { CfsyncError, exit } from '../errors.ts';
import type { DoctorHost } from './check.ts';

/** The end of one file. */
export interface Log {
  readonly path: string;
  readonly text: string;
  /** Whether there is more before it. */
  readonly cut: boolean;
}

export interface Line {
  /** Undefined where the line does not say. */
  readonly time: Date | undefined;
  readonly text: string;
}

/** Bytes of one file: some ten thousand lines, which take a tenth of a second. */
const most = 4 * 1024 * 1024;
const mostFiles = 12;

/**
 * The ends of these files, and of those that logrotate(8) has put beside them last: a day may begin there. One that
 * is not there is left out.
 * @throws CfsyncError when one may not be read.
 */
export async function logs(
  host: Pick<DoctorHost, 'query'>,
  paths: readonly string[],
): Promise<readonly Log[]> {
  const all = [...new Set(paths)].slice(0, mostFiles).flatMap((path) => [`${path}.1`, path]);
  const ends = await Promise.all(all.map((path) => end(host, path)));
  return ends.flatMap((log) => (log === undefined ? [] : [log]));
}

async function end(host: Pick<DoctorHost, 'query'>, path: string): Promise<Log | undefined> {
  const { code, stdout, stderr } = await host.query({
    argv: ['tail', '-c', String(most), '--', path],
  });
  if (code === 0) {
    const cut = Buffer.byteLength(stdout) >= most;
    // The first line may have lost its beginning.
    return { path, text: cut ? stdout.slice(stdout.indexOf('\n') + 1) : stdout, cut };
  }
  if (stderr.includes('No such file or directory')) return undefined;
  throw new CfsyncError(
    exit.failed,
    `cannot read ${path}${stderr.includes('Permission denied') ? ': needs root' : ''}`,
  );
}

const months = 'JanFebMarAprMayJunJulAugSepOctNovDec';
/** `2026/11/21 19:06:19` of nginx, in the time of the host. */
const ofNginx = /^(\d{4})\/(\d\d)\/(\d\d) (\d\d):(\d\d):(\d\d) /;
/** `[Sat Nov 21 19:05:17.665954 2026]` of Apache. */
const ofApache = /^\[\w{3} (\w{3}) (\d\d) (\d\d):(\d\d):(\d\d)(?:\.\d+)? (\d{4})\] /;
/** `[21-Nov-2026 19:05:17]` of php-fpm. */
const ofFpm = /^\[(\d\d)-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d)(?:\.\d+)?\] /;

/** The lines of the day before `now`. */
export function lastDay({ text }: Log, now: Date): readonly Line[] {
  const since = now.getTime() - 86_400_000;
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => ({ time: timeOf(line), text: line }))
    .filter(({ time }) => time !== undefined && time.getTime() >= since);
}

function timeOf(line: string): Date | undefined {
  const nginx = ofNginx.exec(line);
  if (nginx !== null) {
    const [, year, month, ...rest] = nginx;
    return date(year!, Number(month) - 1, rest);
  }
  const apache = ofApache.exec(line);
  if (apache !== null) {
    const [, month, day, hour, minute, second, year] = apache;
    return date(year!, months.indexOf(month!) / 3, [day!, hour!, minute!, second!]);
  }
  const fpm = ofFpm.exec(line);
  if (fpm === null) return undefined;
  const [, day, month, year, ...rest] = fpm;
  return date(year!, months.indexOf(month!) / 3, [day!, ...rest]);
}

/** @param rest Day, hour, minute and second. */
function date(year: string, month: number, rest: readonly string[]): Date {
  const [day, hour, minute, second] = rest.map(Number);
  return new Date(Number(year), month, day, hour, minute, second);
}
