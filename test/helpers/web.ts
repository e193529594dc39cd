/** A host with web servers, made of recorded answers. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Check, DoctorContext, DoctorHost, Finding } from '../../src/doctor/check.ts';
import { BackendError } from '../../src/errors.ts';
import type { Outcome } from '../../src/renderer.ts';
import { doctorContext } from './doctor.ts';
import { recorded, type Recorded } from './host.ts';

export interface Web extends Recorded {
  /** What `nginx -T -q` prints; or how it ends. */
  readonly nginx?: string | Outcome;
  /** What mod_info prints; or how it ends. */
  readonly apache?: string | Outcome;
  /** Names (comm) of what runs. */
  readonly running?: readonly string[];
}

const dumpConfig =
  'apache2ctl -t -D DUMP_CONFIG -c LoadModule info_module /usr/lib/apache2/modules/mod_info.so';

/** A program that was given no answer is not installed. */
export function web({ nginx, apache, running = [], ...more }: Web): DoctorHost {
  const pids = running.map((_, i) => String(100 + i));
  const processes = running.map((name, i) => [`/proc/${pids[i]}/comm`, `${name}\n`]);
  const refuses = (text: string): string => `unshare: unshare failed: ${text}`;
  const answers: Readonly<Record<string, string | Outcome>> = {
    ...(nginx !== undefined && { 'nginx -v': '', 'nginx -T -q': nginx }),
    ...(apache !== undefined && { [dumpConfig]: apache }),
    ...more.answers,
  };
  const host = recorded({
    ...more,
    answers,
    files: { ...Object.fromEntries(processes), ...more.files },
    folders: { '/proc': pids, ...more.folders },
  });
  return {
    ...host,
    async query(command) {
      const { argv } = command;
      if (argv[0] === 'unshare')
        return { code: 1, stdout: '', stderr: refuses('Operation not permitted') };
      if (answers[argv.join(' ')] === undefined)
        throw new BackendError('not installed', `${argv[0]} is not installed`);
      return host.query(command);
    },
  };
}

/** A configuration of one file, as `nginx -T` prints it. */
export function dumped(content: string, path = '/etc/nginx/nginx.conf'): string {
  return `# configuration file ${path}:\n${content}\n`;
}

export async function look<Seen>(
  check: Check<Seen>,
  host: DoctorHost,
  more: Partial<DoctorContext> = {},
): Promise<readonly Finding[]> {
  const context = doctorContext(more);
  return check.judge(await check.observe(host, context), context);
}

/** `level causes: title`, a line each. */
export function lines(findings: readonly Finding[]): readonly string[] {
  return findings.map(
    ({ level, share, causes, title }) => `${level} ${share} ${causes.join() || '-'}: ${title}`,
  );
}

export function fixture(name: string): string {
  return readFileSync(join(import.meta.dirname, '..', 'fixtures', name), 'utf8');
}
