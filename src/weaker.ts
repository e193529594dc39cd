/** Keeps what a run would open to strangers in silence as it was applied. */
import { defaultConfig } from './config.ts';
import { CfsyncError, exit, type ExitCode } from './errors.ts';
import type { Job } from './job.ts';
import type { Context } from './main.ts';
import { isAttended } from './output.ts';
import { readUsable, type Applied, type Given } from './records.ts';
import type { Settings } from './settings.ts';
import { escape } from './text.ts';

/** A value that lets strangers in on ports that were locked. */
interface Opening {
  /** The setting, and its name in `Given`. */
  readonly setting: 'mode' | 'ports' | 'udp-ports';
  readonly key: keyof Given;
  /** What becomes of the ports, for people. */
  readonly text: string;
}

/**
 * What of `wanted` is weaker than what was applied. In lockdown the UDP of all its ports is closed as well, whether
 * Cloudflare is let in there or not.
 */
export function openings(applied: Given, wanted: Given): readonly Opening[] {
  if (applied.mode !== 'lockdown') return [];
  if (wanted.mode !== 'lockdown')
    return [{ setting: 'mode', key: 'mode', text: `mode ${wanted.mode} would let others in` }];
  const closed = [...wanted.tcpPorts, ...wanted.udpPorts];
  const tcp = applied.tcpPorts.filter((port) => !wanted.tcpPorts.includes(port));
  const udp = applied.udpPorts.filter(
    (port) => !closed.includes(port) && !applied.tcpPorts.includes(port),
  );
  return [
    ...(tcp.length > 0
      ? [
          {
            setting: 'ports',
            key: 'tcpPorts',
            text: `others would get in on ${list(tcp)}`,
          } as const,
        ]
      : []),
    ...(udp.length > 0
      ? [
          {
            setting: 'udp-ports',
            key: 'udpPorts',
            text: `others would get in on UDP ${list(udp)}`,
          } as const,
        ]
      : []),
  ];
}

/**
 * The backends as they are to be brought: where that would be weaker than what was applied, and neither a person nor a
 * change of the configuration says so, with the mode and ports that were applied.
 * @param codes Gets the code that follows.
 * @throws CfsyncError with code `refused` for a saved plan, which is applied as it is or not at all.
 */
export async function keepLocked(
  jobs: readonly Job[],
  { settings, output, record }: Context,
  codes: ExitCode[],
): Promise<readonly Job[]> {
  const kept: Job[] = [];
  for (const job of jobs) {
    const { content: applied } = await readUsable(settings.stateDir, job.name);
    const silent =
      applied === undefined || job.renderer.kind !== 'filter'
        ? []
        : openings(applied.desired, job.desired).filter(
            (opening) => !isMeant(opening, applied, job, settings),
          );
    if (silent.length === 0) {
      kept.push(job);
      continue;
    }
    const message = explain(job, applied!, silent, settings);
    if (settings.values.plan !== undefined) throw new CfsyncError(exit.refused, message);
    output.error(message, { backend: job.name });
    record.backend(job.name, { code: exit.refused, message });
    codes.push(exit.refused);
    kept.push(asApplied(job, applied!));
  }
  return kept;
}

/** Whether somebody said so: at a terminal, for this run, or by another value in the configuration than it had then. */
function isMeant(
  { setting, key }: Opening,
  { given }: Applied,
  job: Job,
  { values }: Settings,
): boolean {
  if (values['allow-weaker'] === true) return true;
  if (values[setting] !== undefined && isAttended()) return true;
  const now = job.given?.[key];
  return given !== undefined && !isSame(given[key], now) && isSame(job.desired[key], now);
}

function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

/** What the configuration said then stays written down, so that a change of it still counts when the rest is settled. */
function asApplied(job: Job, { desired, given }: Applied): Job {
  const { given: _, ...rest } = job;
  const { mode, tcpPorts, udpPorts } = desired;
  return {
    ...rest,
    desired: { ...job.desired, mode, tcpPorts, udpPorts },
    ...(given && { given }),
  };
}

function explain(
  { name }: Job,
  { desired }: Applied,
  silent: readonly Opening[],
  { config, values }: Settings,
): string {
  const what = silent.map(({ text }) => text).join(', and ');
  if (values.plan !== undefined)
    return `${name}: refused: ${what}, who were locked out when it was applied last; nothing was changed; apply the plan with --allow-weaker if that is meant`;
  const file = escape(config.file ?? defaultConfig);
  const ports = desired.tcpPorts.join(', ');
  const udp = desired.udpPorts.length === 0 ? '' : `, udp-ports: [${desired.udpPorts.join(', ')}]`;
  const named = silent.map(({ setting }) => `--${setting}`).join(' and ');
  return `${name}: ${modeText(desired)} stays as it was applied: ${what}, which neither a change of the configuration nor a person asks for; to keep it, write mode: lockdown, ports: [${ports}]${udp} into ${file}; to open it, give ${named} at a terminal, or --allow-weaker`;
}

/** `lockdown of 80, 443`. */
export function modeText({ mode, tcpPorts, udpPorts }: Given): string {
  const udp = udpPorts.length === 0 ? '' : ` and UDP ${list(udpPorts)}`;
  return `${mode} ${mode === 'lockdown' ? 'of' : 'for'} ${list(tcpPorts)}${udp}`;
}

function list(ports: readonly number[]): string {
  return ports.join(', ');
}
