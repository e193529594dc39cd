/** A plan in a file: what was desired when it was reviewed, and the id that ties the apply to that. */
import { unified } from './diff.ts';
import { planDiff, planId, type Plan } from './engine.ts';
import { CfsyncError, exit } from './errors.ts';
import { parseExtra, parseList } from './gate.ts';
import type { Job } from './job.ts';
import { isEmpty, none } from './prefix.ts';
import { validApplied, type Applied } from './records.ts';
import type { Notice } from './renderer.ts';
import { makeJob, type Settings } from './settings.ts';
import { fields, readRecord, textOf, texts, writeRecord } from './store.ts';
import { escape } from './text.ts';
import { mustBeTrusted } from './trust.ts';

/** Nothing of it is ever executed: what is applied is planned anew from `backends`, and compared by `id`. */
export interface SavedPlan {
  readonly id: string;
  readonly backends: readonly (Applied & { readonly name: string })[];
  /** For people: the unified diffs and the steps, a line each. */
  readonly lines: readonly string[];
}

/** @param path As the admin named it. */
export function savePlan(path: string, plans: readonly Plan[]): Promise<readonly Notice[]> {
  const saved: SavedPlan = {
    id: planId(plans),
    backends: plans.map(({ job, desired }) => ({ name: job.name, desired, options: job.raw })),
    lines: plans.flatMap((plan) => [
      ...planDiff(plan).flatMap((file) => unified(file, ['a', 'b']).trimEnd().split('\n')),
      ...plan.steps.map((step) => `step: ${step.summary}`),
    ]),
  };
  return writeRecord(path, 'plan', saved, validPlan);
}

/** @throws CfsyncError when there is none, or when it cannot be used. */
export async function readPlan(path: string): Promise<SavedPlan> {
  const plan = await readRecord(path, 'plan', validPlan);
  if (plan !== undefined) return plan;
  throw new CfsyncError(
    exit.failed,
    `there is no plan ${escape(path)}; cfsync diff --out saves one`,
  );
}

/** The backends of a saved plan; as root, whoever could write the file could choose what gets in. */
export async function savedJobs(path: string, settings: Settings): Promise<readonly Job[]> {
  await mustBeTrusted(path, 'plan');
  const { backends } = await readPlan(path);
  return Promise.all(
    backends.map(async ({ name, desired, options }) => {
      const job = await makeJob(settings, name);
      return { ...job, raw: options, options: job.renderer.options(options), desired };
    }),
  );
}

/** @throws CfsyncError with code `refused` when the host or the configuration is not as it was reviewed. */
export function mustBeSame(plans: readonly Plan[], { id }: SavedPlan, path: string): void {
  const now = planId(plans);
  if (now === id) return;
  throw new CfsyncError(
    exit.refused,
    `the plan ${escape(path)} is stale: it was ${escape(id)}, and from the state of now it would be ${now}; nothing was changed; save it again with cfsync diff --out, and review that`,
  );
}

function validPlan(content: unknown): SavedPlan {
  const { id, backends, lines } = fields(content);
  if (!Array.isArray(backends)) throw new Error('the backends are missing');
  return {
    id: textOf(id),
    backends: backends.map((backend: unknown) => {
      const { name } = fields(backend);
      const { desired, options } = validApplied(backend);
      const { ranges, extra } = desired;
      return {
        name: textOf(name),
        options,
        desired: {
          ...desired,
          // The same gate as for a download: nothing but a public list gets in.
          ranges: parseList([...ranges.v4, ...ranges.v6].join('\n'), 'any', 'ranges'),
          extra: isEmpty(extra) ? none : parseExtra([...extra.v4, ...extra.v6]),
        },
      };
    }),
    lines: texts(lines),
  };
}
