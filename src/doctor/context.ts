/** Gathers what is known before the host is looked at. */
import { CfsyncError } from '../errors.ts';
import { parsePorts } from '../plugin/ports.ts';
import { appliedNames, readUsable } from '../state/records.ts';
import { makeJob, sourceOptions, type Settings } from '../settings/settings.ts';
import { resolveSource } from '../feed/source.ts';
import { readState } from '../state/store.ts';
import type { DoctorContext } from './check.ts';

/** Nothing is downloaded: the doctor is asked when the network may be what is broken. */
export async function gatherContext(settings: Settings): Promise<DoctorContext> {
  const applied = await appliedHere(settings.stateDir);
  return {
    ...(await list(settings)),
    maxAge: settings.maxAge,
    ports: ports(settings, applied),
    applied,
    now: new Date(),
    isRoot: process.geteuid?.() === 0,
    ingress: await ingress(settings, applied),
    values: settings.values,
  };
}

async function list(settings: Settings): Promise<Pick<DoctorContext, 'ranges' | 'list'>> {
  const { snapshot, check } = (await readable(() => readState(settings.stateDir))) ?? {};
  if (snapshot !== undefined) {
    const { ranges, origin, acceptedAt } = snapshot;
    const asOf = origin.kind === 'bundled' ? origin.detail : (check?.believed?.at ?? acceptedAt);
    const ages = check?.believed !== undefined || check?.problem !== undefined;
    return { ranges, list: { kind: 'snapshot', asOf, ages } };
  }
  const { ranges, origin } = await resolveSource({ ...sourceOptions(settings), source: 'bundled' });
  return { ranges, list: { kind: 'bundled', asOf: origin.detail, ages: false } };
}

async function appliedHere(stateDir: string): Promise<DoctorContext['applied']> {
  const names = (await readable(() => appliedNames(stateDir))) ?? [];
  const records = await Promise.all(
    names.map(async (name) => {
      const { content } = (await readable(() => readUsable(stateDir, name))) ?? {};
      return content === undefined
        ? []
        : [{ name, mode: content.desired.mode, ports: content.desired.tcpPorts }];
    }),
  );
  return records.flat();
}

/** What only root may read is not there for others: they get as much as can be had without. */
async function readable<T>(read: () => Promise<T>): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof CfsyncError) return undefined;
    throw error;
  }
}

function ports({ values, config }: Settings, applied: DoctorContext['applied']): readonly number[] {
  if (values.ports !== undefined) return parsePorts(values.ports, '--ports');
  if (config.settings.ports !== undefined) return parsePorts(config.settings.ports, 'ports');
  const all = applied.flatMap((backend) => backend.ports);
  return all.length === 0 ? [80, 443] : [...new Set(all)].sort((a, b) => a - b);
}

/** A cluster is configured by a section, by --kubeconfig or KUBECONFIG, or by an apply; kubectl's own default is not. */
async function ingress(
  settings: Settings,
  applied: DoctorContext['applied'],
): Promise<DoctorContext['ingress']> {
  const name = 'nginx-ingress';
  const given =
    settings.config.backends[name] ?? settings.values.kubeconfig ?? process.env.KUBECONFIG;
  if (!given && !applied.some((backend) => backend.name === name)) return null;
  return (await makeJob(settings, name)).options as DoctorContext['ingress'];
}
