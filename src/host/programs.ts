/** Finds the programs that run here, or could. */
import { BackendError } from '../errors.ts';
import { ofProcess } from './proc.ts';
import type { Command, Host, Outcome } from '../renderer.ts';

/** The ids of the processes with one of these names (comm in proc(5), at most 15 bytes). */
export async function pidsOf(
  host: Pick<Host, 'read' | 'list'>,
  names: readonly string[],
): Promise<readonly string[]> {
  const pids = ((await host.list('/proc')) ?? []).filter((entry) => /^\d+$/.test(entry));
  const found = await Promise.all(
    pids.map(async (pid) => {
      const name = (await ofProcess(host.read(`/proc/${pid}/comm`)))?.trim();
      return name !== undefined && names.includes(name) ? [pid] : [];
    }),
  );
  return found.flat();
}

/** How a program ended, or undefined where it is not installed. */
export async function unlessMissing(
  host: Pick<Host, 'query'>,
  argv: Command['argv'],
): Promise<Outcome | undefined> {
  try {
    return await host.query({ argv });
  } catch (error) {
    if (error instanceof BackendError && error.reason === 'not installed') return undefined;
    throw error;
  }
}
