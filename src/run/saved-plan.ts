/** A plan in a file: what was desired when it was reviewed, and the id that ties the apply to that. */
import { planned } from '../cli/flags.ts';
import { planId, type Plan } from '../engine/plan.ts';
import { CfsyncError, exit } from '../errors.ts';
import { parseExtra, parseList } from '../feed/gate.ts';
import type { Job } from '../engine/job.ts';
import { whyNoName } from '../plugin/options.ts';
import { isEmpty, none, subtract } from '../prefix.ts';
import { validApplied } from '../state/records.ts';
import type { Desired, Notice } from '../renderer.ts';
import { makeJob, type Settings } from '../settings/settings.ts';
import { fields, readRecord, textOf, writeRecord } from '../state/store.ts';
import { escape } from '../text.ts';
import { readTrusted } from '../host/trust.ts';

/** What the file holds. Nothing of it is run: what is applied, or shown, is planned anew and compared by `id`. */
interface Saved {
  readonly id: string;
  readonly backends: readonly { readonly name: string; readonly desired: Desired }[];
}

export interface SavedPlan extends Saved {
  /** As the admin named it. */
  readonly path: string;
}

/** @param path As the admin named it. */
export function savePlan(path: string, plans: readonly Plan[]): Promise<readonly Notice[]> {
  const saved: Saved = {
    id: planId(plans),
    backends: plans.map(({ job, desired }) => ({ name: job.name, desired })),
  };
  return writeRecord(path, 'plan', saved, validPlan);
}

/** @throws CfsyncError when there is none, or when it cannot be used. */
export async function readPlan(
  path: string,
  read?: (path: string) => Promise<string>,
): Promise<SavedPlan> {
  const plan = await readRecord(path, 'plan', validPlan, read);
  if (plan !== undefined) return { ...plan, path };
  throw new CfsyncError(
    exit.failed,
    `there is no plan ${escape(path)}; cfsync diff --out saves one`,
  );
}

/** One that is to be applied; as root, whoever could write the file could choose what gets in. */
export function readTrustedPlan(path: string): Promise<SavedPlan> {
  return readPlan(path, (file) => readTrusted(file, 'plan'));
}

/**
 * The backends of a saved plan. Their options, and with them what is run, are those of the configuration and of flags,
 * whatever the file says.
 */
export async function savedJobs(
  { path, backends }: SavedPlan,
  settings: Settings,
): Promise<readonly Job[]> {
  for (const { name } of backends) {
    const wrong = whyNoName(name);
    if (wrong !== undefined)
      throw new CfsyncError(
        exit.usage,
        `the plan ${escape(path)} names a backend that it cannot: ${wrong}; nothing was changed`,
      );
  }
  return Promise.all(
    backends.map(async ({ name, desired }) => {
      const job = await makeJob(settings, name);
      const more = subtract(desired.extra, job.desired.extra);
      const unknown = [...more.v4, ...more.v6].map((prefix) => ({
        prefix,
        comment: 'in the plan, and not in the configuration',
      }));
      return { ...job, desired, comments: [...(job.comments ?? []), ...unknown] };
    }),
  );
}

/** Whether a saved plan would still do what was reviewed. */
export function isSame(plans: readonly Plan[], { id }: SavedPlan): boolean {
  return planId(plans) === id;
}

/**
 * What a right plan would be called is not said: whoever made up a file would only have to copy it.
 * @throws CfsyncError with code `refused` when the host or the configuration is not as it was reviewed.
 */
export function mustBeSame(plans: readonly Plan[], saved: SavedPlan): void {
  if (isSame(plans, saved)) return;
  throw new CfsyncError(
    exit.refused,
    `${staleText(saved)}; nothing was changed; save it again with cfsync diff --out, and review that`,
  );
}

export function staleText({ path, id }: SavedPlan): string {
  return `the plan ${escape(path)} is stale: from the state of now something else than ${escape(id)} would be done`;
}

function validPlan(content: unknown): Saved {
  const { id, backends } = fields(content);
  if (!Array.isArray(backends)) throw new Error('the backends are missing');
  const saved = backends.map((backend: unknown) => {
    const { name, desired: said } = fields(backend);
    // The first release kept options as well.
    const { desired } = validApplied({ desired: said, options: {} });
    const { ranges, extra } = desired;
    return {
      name: textOf(name),
      desired: {
        ...desired,
        // The same gate as for a download: nothing but a public list gets in.
        ranges: parseList([...ranges.v4, ...ranges.v6].join('\n'), 'any', 'ranges'),
        extra: isEmpty(extra) ? none : parseExtra([...extra.v4, ...extra.v6]),
      },
    };
  });
  if (new Set(saved.map(({ name }) => name)).size < saved.length)
    throw new Error('a backend is named twice');
  return { id: textOf(id), backends: saved };
}

/** A saved plan says what is desired, and of which backends. */
export function refuseBesidePlan({ values }: Settings): void {
  const given = planned.find((name) => values[name] !== undefined);
  if (given !== undefined)
    throw new CfsyncError(
      exit.usage,
      `--${given} cannot be given with --plan, which says what is desired; nothing was changed`,
    );
}
