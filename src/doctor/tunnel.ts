/** Whether a tunnel of Cloudflare's runs here, which fetches its visitors from inside. */
import { ofProcess } from '../host/proc.ts';
import { pidsOf } from '../host/programs.ts';
import { onceFor, type DoctorHost, type Finding } from './check.ts';

/**
 * cloudflared with the command `tunnel`: it also is a client (`access`) and, in older releases, a resolver
 * (`proxy-dns`). One in a container is a process of the host as well.
 */
export const hasTunnel = onceFor(async (host: DoctorHost): Promise<boolean> => {
  const pids = await pidsOf(host, ['cloudflared']);
  const lines = await Promise.all(pids.map((pid) => ofProcess(host.read(`/proc/${pid}/cmdline`))));
  return lines.some((line) => line?.split('\0').includes('tunnel') === true);
});

/** As it stands in evidence. */
export const tunnelRuns =
  "cloudflared runs a tunnel: Cloudflare's visitors come through it, and need no open port";

/** What keeps Cloudflare from coming in is no reason to act where its visitors come through a tunnel. */
export function unlessTunnel(tunnel: boolean, findings: readonly Finding[]): readonly Finding[] {
  if (!tunnel) return findings;
  return findings.map(({ command, ...finding }) =>
    finding.level === 'note'
      ? { ...finding, ...(command !== undefined && { command }) }
      : { ...finding, level: 'note', evidence: [...finding.evidence, tunnelRuns] },
  );
}
