/** Finds the programs that run here, or could. */
import { BackendError } from '../errors.ts';
import { ofProcess } from './proc.ts';
import type { Command, Host, Outcome } from '../renderer.ts';

/**
 * The ids of the processes of which a file below /proc/PID says so. One that may not be read is another user's,
 * and one may end while it is looked at.
 */
export async function processes(
  host: Pick<Host, 'read' | 'list'>,
  file: 'comm' | 'environ',
  isOne: (text: string) => boolean,
): Promise<readonly number[]> {
  const pids = ((await host.list('/proc')) ?? []).filter((entry) => /^\d+$/.test(entry));
  const found = await Promise.all(
    pids.map(async (pid) => {
      const text = await ofProcess(host.read(`/proc/${pid}/${file}`));
      return text !== undefined && isOne(text) ? [Number(pid)] : [];
    }),
  );
  return found.flat();
}

/** The ids of the processes with one of these names (comm in proc(5), at most 15 bytes). */
export function pidsOf(
  host: Pick<Host, 'read' | 'list'>,
  names: readonly string[],
): Promise<readonly number[]> {
  return processes(host, 'comm', (comm) => names.includes(comm.trim()));
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
