/** Keeps what a run would open to strangers in silence as it was applied. */
import { defaultConfig } from '../settings/config.ts';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import type { Job } from '../engine/job.ts';
import type { Context } from './context.ts';
import { isAttended } from '../cli/output.ts';
import { readApplied, type Applied, type Given } from '../state/records.ts';
import type { Settings } from '../settings/settings.ts';
import { escape } from '../text.ts';

/** A value that lets strangers in on ports that were locked. */
interface Opening {
  /** The setting, and its name in `Given`. */
  readonly setting: 'mode' | 'ports' | 'udp-ports';
  readonly key: keyof Given;
  /** What becomes of the ports, for people. */
  readonly text: string;
  /** Whether a configuration said that they are to be locked. */
  wasSaidIn(given: Given): boolean;
}

/**
 * What of `wanted` is weaker than what was applied. In lockdown the UDP of all its ports is closed as well, whether
 * Cloudflare is let in there or not.
 */
export function openings(applied: Given, wanted: Given): readonly Opening[] {
  if (applied.mode !== 'lockdown') return [];
  if (wanted.mode !== 'lockdown')
    return [
      {
        setting: 'mode',
        key: 'mode',
        text: `mode ${wanted.mode} would let others in`,
        wasSaidIn: ({ mode }) => mode === 'lockdown',
      },
    ];
  const closed = [...wanted.tcpPorts, ...wanted.udpPorts];
  const tcp = applied.tcpPorts.filter((port) => !wanted.tcpPorts.includes(port));
  const udp = applied.udpPorts.filter(
    (port) => !closed.includes(port) && !applied.tcpPorts.includes(port),
  );
  const lost = [
    { setting: 'ports', key: 'tcpPorts', ports: tcp, what: '' },
    { setting: 'udp-ports', key: 'udpPorts', ports: udp, what: 'UDP ' },
  ] as const;
  return lost
    .filter(({ ports }) => ports.length > 0)
    .map(({ setting, key, ports, what }) => ({
      setting,
      key,
      text: `others would get in on ${what}${list(ports)}`,
      wasSaidIn: (given) => ports.every((port) => given[key].includes(port)),
    }));
}

/**
 * The backends as they are to be brought: where that would be weaker than what was applied, and neither a person nor a
 * change of the configuration says so, with the mode and ports that were applied. One of which it is not known what was
 * applied is left out.
 * @param codes Gets the codes that follow.
 * @throws CfsyncError with code `refused` for a saved plan, which is applied as it is or not at all.
 */
export async function keepLocked(
  jobs: readonly Job[],
  { settings, output, record }: Context,
  codes: ExitCode[],
): Promise<readonly Job[]> {
  const kept: Job[] = [];
  for (const job of jobs) {
    const { message, kept: one } = await judge(job, settings);
    if (one !== undefined) kept.push(one);
    if (message === undefined) continue;
    if (settings.values.plan !== undefined) throw new CfsyncError(exit.refused, message);
    output.error(message, { backend: job.name });
    record.backend(job.name, { code: exit.refused, message });
    codes.push(exit.refused);
  }
  return kept;
}

/** How a backend is to be brought, if at all, and what there is to say of it. */
async function judge(
  job: Job,
  settings: Settings,
): Promise<{ readonly kept: Job | undefined; readonly message?: string }> {
  if (job.renderer.kind !== 'filter') return { kept: job };
  const applied = await readApplied(settings.stateDir, job.name).catch((error: unknown) => {
    if (error instanceof CfsyncError) return error;
    throw error;
  });
  if (applied === undefined) return { kept: job };
  if (applied instanceof CfsyncError) {
    if (job.desired.mode === 'lockdown' || isNamed('mode', settings)) return { kept: job };
    const message = `${job.name}: refused: ${applied.message}, so it is not known whether its ports were locked; nothing was changed; say which mode it is, with --mode lockdown, or with --mode ${job.desired.mode} at a terminal or beside --allow-weaker`;
    return { kept: undefined, message };
  }
  const silent = openings(applied.desired, job.desired).filter(
    (opening) => !isMeant(opening, applied, job, settings),
  );
  if (silent.length === 0) return { kept: job };
  return { kept: asApplied(job, applied), message: explain(job, applied, silent, settings) };
}

/** Whether somebody said so for this run. */
function isNamed(setting: Opening['setting'], { values }: Settings): boolean {
  return values['allow-weaker'] === true || (values[setting] !== undefined && isAttended());
}

/** Whether somebody said so: for this run, or by a configuration that had them locked and has not any more. */
function isMeant(opening: Opening, { given }: Applied, job: Job, settings: Settings): boolean {
  const { setting, key } = opening;
  if (isNamed(setting, settings)) return true;
  // A configuration that is not there says nothing.
  if (given === undefined || job.given === undefined || settings.config.file === undefined)
    return false;
  const says = JSON.stringify(job.given[key]) === JSON.stringify(job.desired[key]);
  return says && opening.wasSaidIn(given);
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
  return `${name}: ${modeText(desired)} stays as it was applied: ${what}, and neither a person nor a change of the configuration says so; to keep it, write mode: lockdown, ports: [${ports}]${udp} for ${name} into ${file}; to open it, give ${named} at a terminal, or --allow-weaker`;
}

/** `lockdown of 80, 443`. */
export function modeText({ mode, tcpPorts, udpPorts }: Given): string {
  const udp = udpPorts.length === 0 ? '' : ` and UDP ${list(udpPorts)}`;
  return `${mode} ${mode === 'lockdown' ? 'of' : 'for'} ${list(tcpPorts)}${udp}`;
}

function list(ports: readonly number[]): string {
  return ports.join(', ');
}
