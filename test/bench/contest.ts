/** Lets commands run in turns inside a host of the lab, and compares them pair by pair. */

import type { Host } from '../live/lab.ts';

export interface Contestant {
  /** Shell script that is not timed, run before each turn. */
  readonly prepare?: string;
  /** Shell script; it must succeed. */
  readonly run: string;
}

/** Milliseconds. */
export interface Times {
  readonly wall: number;
  /** Of all processes that were started and waited for. */
  readonly cpu: number;
}

/** Of each contestant a line for each round, in the order in which they ran. */
export async function contest(
  host: Host,
  contestants: readonly Contestant[],
  rounds: number,
): Promise<readonly (readonly Times[])[]> {
  const functions = contestants.map(
    ({ prepare = ':', run }, i) => `prepare${i}() {\n${prepare}\n}\nrun${i}() {\n${run}\n}`,
  );
  const turns = contestants.map(
    (_, i) => `  ( set -e; prepare${i} ) >"$log" 2>&1 || fail
  { time run${i} >"$log" 2>&1 </dev/null; } 2>"$log.time" || fail
  [ "$round" -eq 0 ] || echo "${i} $(cat "$log.time")"`,
  );
  const script = `
TIMEFORMAT='%3R %3U %3S'
log=/run/lab/contest
fail() { cat "$log" >&2; exit 1; }
${functions.join('\n')}
# The first round warms the caches up and does not count.
for ((round = 0; round <= ${rounds}; round++)); do
${turns.join('\n')}
done`;
  const printed = await host.must(['bash', '-c', script], { timeout: 600_000 });
  const times = contestants.map((): Times[] => []);
  for (const line of printed.trim().split('\n')) {
    const [i, wall, user, system] = line.split(' ').map(Number);
    times[i!]!.push({ wall: wall! * 1000, cpu: (user! + system!) * 1000 });
  }
  return times;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The median of the ratios of the rounds: what slows the machine down meanwhile slows both down. */
export function ratio(ours: readonly number[], theirs: readonly number[]): number {
  return median(ours.map((value, i) => value / theirs[i]!));
}
