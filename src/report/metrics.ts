/** Keeps a file of metrics for the textfile collector of Prometheus' node_exporter. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { CfsyncError, errno, exit, why } from '../errors.ts';
import { writeFileAtomic } from '../host/files.ts';
import { digest } from '../digest.ts';
import { withFlock } from '../state/lock.ts';
import { hasChanged, type RunReport } from './run-report.ts';
import type { Settings } from '../settings/settings.ts';
import { asOf } from '../feed/source.ts';
import { readHold } from '../state/pending.ts';
import { readState } from '../state/store.ts';
import { escape } from '../text.ts';

/** All are gauges. Help has no backslash and no line break, which would have to be escaped. */
const families = {
  cfsync_changed: 'Whether the last apply changed a backend.',
  cfsync_drift: 'Whether the backend differs from what was last applied to it.',
  cfsync_held: 'Whether a rollback holds, so that timer runs change nothing.',
  cfsync_judged_in:
    'Whether Cloudflare gets in, and in lockdown nobody else, by the rules of the whole host.',
  cfsync_last_exit_code: 'Exit code of the last run of the command.',
  cfsync_last_run_timestamp_seconds: 'When the command was last run, in Unix time.',
  cfsync_last_success_timestamp_seconds:
    'When a run of the command last ended with exit code 0, in Unix time.',
  cfsync_ranges: 'Prefixes in the list that was last used.',
  cfsync_snapshot_age_seconds:
    'Age of cfsync_snapshot_timestamp_seconds when this file was written.',
  cfsync_snapshot_timestamp_seconds:
    'When the snapshot was last known to be what Cloudflare publishes, in Unix time.',
} as const;

type Family = keyof typeof families;

/** Samples by family, and by the text of their labels (`{family="ipv4"}`, or nothing). */
type Samples = ReadonlyMap<Family, ReadonlyMap<string, string>>;

/** What a run makes of the samples; those of which it says nothing are kept. */
export interface Update {
  /** Families that are told anew. */
  readonly anew: readonly Family[];
  /** Without a value it is not known any more. */
  readonly samples: readonly Sample[];
}

interface Sample {
  readonly family: Family;
  readonly labels?: Readonly<Record<string, string>>;
  readonly value: number | undefined;
}

/** node_exporter is not root. */
const mode = 0o644;

/** Bytes; above what 10,000 backends need. */
const largest = 2 ** 20;

/**
 * Brings the file up to date with a run; what other commands wrote there is kept.
 * @throws CfsyncError when it cannot be written, or is none of cfsync's.
 */
export async function writeMetrics(
  path: string,
  report: RunReport,
  { stateDir, lockTimeout, values }: Settings,
): Promise<void> {
  const { snapshot, check } = await readState(stateDir);
  const since = snapshot && new Date(asOf(snapshot, check));
  const update = updateOf(report, { allBackends: values.backend === undefined, since });
  const busy = (): string =>
    `the metrics are not written: another cfsync has ${escape(path)} for more than ${lockTimeout} s`;
  await withFlock(stateDir, 'metrics.lock', lockTimeout, busy, async () => {
    const old = await read(path);
    if (!isOurs(old ?? ''))
      throw new CfsyncError(
        exit.failed,
        `the metrics are not written: ${escape(path)} has content that is not cfsync's; it is left as it is: name another file, or delete it`,
      );
    const expect = old === undefined ? null : digest(old);
    const { content: hold } = await readHold(stateDir);
    const held = { family: 'cfsync_held', value: hold === undefined ? 0 : 1 } as const;
    const all = { ...update, samples: [...update.samples, held] };
    await writeFileAtomic(path, updated(old ?? '', all), { mode, expect });
  });
}

/** As text; undefined when there is none. Nothing that others could lay there is waited for, or followed. */
async function read(path: string): Promise<string | undefined> {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  try {
    const file = await open(path, flags);
    try {
      const stats = await file.stat();
      if (!stats.isFile() || stats.size > largest)
        throw new CfsyncError(
          exit.failed,
          `the metrics are not written: ${escape(path)} is not a file of cfsync's; it is left as it is`,
        );
      return await file.readFile('utf8');
    } finally {
      await file.close();
    }
  } catch (cause) {
    if (errno(cause) === 'ENOENT') return undefined;
    if (cause instanceof CfsyncError) throw cause;
    throw new CfsyncError(
      exit.failed,
      escape(`the metrics are not written: cannot read ${path}: ${why(cause)}`),
      { cause },
    );
  }
}

/** What a run has to say; `since` is when the snapshot was last known to be right. */
export function updateOf(
  report: RunReport,
  around: { readonly allBackends: boolean; readonly since: Date | undefined },
): Update {
  const { command, code, source, ended, backends } = report;
  const { since } = around;
  const now = seconds(ended);
  const isVerify = command === 'verify';
  const samples: Sample[] = [
    { family: 'cfsync_last_run_timestamp_seconds', labels: { command }, value: now },
    { family: 'cfsync_last_exit_code', labels: { command }, value: code },
  ];
  if (code === exit.ok)
    samples.push({
      family: 'cfsync_last_success_timestamp_seconds',
      labels: { command },
      value: now,
    });
  if (source !== undefined)
    for (const [family, list] of [
      ['ipv4', source.ranges.v4],
      ['ipv6', source.ranges.v6],
    ] as const)
      samples.push({ family: 'cfsync_ranges', labels: { family }, value: list.length });
  if (command === 'apply')
    samples.push({ family: 'cfsync_changed', value: hasChanged(report) ? 1 : 0 });
  for (const { name, code: its } of backends) {
    // What is there after these is another thing than what was last applied, or is gone.
    const goes = command === 'rollback' || command === 'remove';
    const known = !goes && (its === exit.ok || its === exit.pending);
    // An apply that was verified is the end of a drift; of one that failed, the next verify tells.
    if (known || isVerify || goes)
      samples.push({
        family: 'cfsync_drift',
        labels: { backend: name },
        value: known ? (its === exit.pending ? 1 : 0) : undefined,
      });
  }
  const { verdict, backends: judged = [] } = report.judged ?? {};
  const known = verdict === 'in' ? 1 : verdict === 'out' || verdict === 'others' ? 0 : undefined;
  for (const backend of judged)
    samples.push({ family: 'cfsync_judged_in', labels: { backend }, value: known });
  const at = since && seconds(since);
  samples.push(
    { family: 'cfsync_snapshot_timestamp_seconds', value: at },
    { family: 'cfsync_snapshot_age_seconds', value: at && Math.max(0, now - at) },
  );
  return { anew: isVerify && around.allBackends ? ['cfsync_drift'] : [], samples };
}

function seconds(date: Date): number {
  return Math.floor(date.getTime() / 1000);
}

const metricName = Object.keys(families).join('|');
const label = String.raw`[a-z]+="(?:[^"\\\n]|\\[\\"n])*"`;
const sample = new RegExp(`^(${metricName})((?:\\{${label}\\})?) (-?\\d+)$`);

/** Whether there is nothing in it that cfsync, of any release, would not have written. */
function isOurs(text: string): boolean {
  return text
    .split('\n')
    .every((line) => line === '' || /^(# (HELP|TYPE) )?cfsync_[a-z_]+[ {]/.test(line));
}

/** The text of the file, in the exposition format, from what it was before. */
export function updated(old: string, { anew, samples }: Update): string {
  const all = new Map(
    Object.keys(families).map((name) => [name as Family, new Map<string, string>()]),
  );
  for (const line of old.split('\n')) {
    const [, name, labels = '', value = ''] = sample.exec(line) ?? [];
    if (name !== undefined && !anew.includes(name as Family))
      all.get(name as Family)!.set(labels, value);
  }
  for (const { family, labels = {}, value } of samples) {
    const key = labelText(labels);
    if (value === undefined) all.get(family)!.delete(key);
    else all.get(family)!.set(key, String(value));
  }
  return print(all);
}

function print(samples: Samples): string {
  return [...samples]
    .filter(([, of]) => of.size > 0)
    .map(([name, of]) => {
      const lines = [...of].sort(([a], [b]) => (a < b ? -1 : 1));
      return [
        `# HELP ${name} ${families[name]}\n`,
        `# TYPE ${name} gauge\n`,
        ...lines.map(([labels, value]) => `${name}${labels} ${value}\n`),
      ].join('');
    })
    .join('');
}

/** `{backend="nginx"}`: in a value, backslash, quote and line break are escaped. */
function labelText(labels: Readonly<Record<string, string>>): string {
  const parts = Object.entries(labels).map(([name, value]) => {
    const text = value.replaceAll(/["\\]/g, '\\$&').replaceAll('\n', '\\n');
    return `${name}="${text}"`;
  });
  return parts.length === 0 ? '' : `{${parts.join(',')}}`;
}
