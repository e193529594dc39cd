/** What was last applied to each backend. */
import { join } from 'node:path';
import { removeFile } from '../host/files.ts';
import { host } from '../host/host.ts';
import { parsePorts } from '../plugin/ports.ts';
import type { Desired, Notice } from '../renderer.ts';
import { fields, isUnusable, rangesOf, readRecord, tolerant, writeRecord } from './store.ts';

/** The values by which an apply can let strangers in on a port that was locked. */
export type Given = Pick<Desired, 'mode' | 'tcpPorts' | 'udpPorts'>;

/** The last apply of a backend that was verified. */
export interface Applied {
  readonly desired: Desired;
  /** What the configuration said then, whatever flags said; 0.1.0 did not write it down. */
  readonly given?: Given;
  /** The backend's section of the configuration. */
  readonly options: Readonly<Record<string, unknown>>;
}

function appliedPath(stateDir: string, name: string): string {
  return join(stateDir, 'applied', `${name}.json`);
}

export function validApplied(content: unknown): Applied {
  const { desired, options, given } = fields(content);
  const { ranges, extra } = fields(desired);
  return {
    desired: { ranges: rangesOf(ranges), extra: rangesOf(extra), ...givenOf(desired) },
    ...(given !== undefined && { given: givenOf(given) }),
    options: fields(options),
  };
}

function givenOf(value: unknown): Given {
  const { tcpPorts, udpPorts, mode } = fields(value);
  if (mode !== 'allow' && mode !== 'lockdown') throw new Error('the mode is missing');
  return { tcpPorts: portsOf(tcpPorts), udpPorts: portsOf(udpPorts), mode };
}

function portsOf(value: unknown): readonly number[] {
  if (!Array.isArray(value)) throw new Error('a list of ports is missing');
  return value.length === 0 ? [] : parsePorts(value, 'ports');
}

/** What follows when the record cannot be used. */
const keptAside = 'it is not used, and kept aside when the next one is written';

/** As `readApplied`; a record that cannot be used counts as none, which a notice says. */
export function readUsable(
  stateDir: string,
  name: string,
): Promise<{ readonly content: Applied | undefined; readonly notices: readonly Notice[] }> {
  return tolerant(() => readApplied(stateDir, name), keptAside);
}

/** As `readUsable`, without a word; one of a later release counts as none as well. */
export async function readKnown(stateDir: string, name: string): Promise<Applied | undefined> {
  try {
    return await readApplied(stateDir, name);
  } catch (error) {
    if (isUnusable(error)) return undefined;
    throw error;
  }
}

export function readApplied(stateDir: string, name: string): Promise<Applied | undefined> {
  return readRecord(appliedPath(stateDir, name), 'applied', validApplied);
}

/** Records an apply; undefined takes the record away. The same record again writes nothing. */
export async function writeApplied(
  stateDir: string,
  name: string,
  applied: Applied | undefined,
): Promise<readonly Notice[]> {
  const path = appliedPath(stateDir, name);
  if (applied === undefined) {
    await removeFile(path);
    return [];
  }
  const { content } = await readUsable(stateDir, name);
  if (JSON.stringify(content) === JSON.stringify(applied)) return [];
  return writeRecord(path, 'applied', applied, validApplied);
}

/** The names of the backends that an apply was recorded for. */
export async function appliedNames(stateDir: string): Promise<string[]> {
  const names = (await host.list(join(stateDir, 'applied'))) ?? [];
  return names
    .filter((name) => name.endsWith('.json'))
    .map((name) => name.slice(0, -'.json'.length))
    .sort();
}
