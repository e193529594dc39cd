/** Collects what a run came to, for hooks and metrics. */
import { exit, worst, type ExitCode } from '../errors.ts';
import { withoutName } from '../cli/log.ts';
import { none } from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import type { Answer } from '../feed/source.ts';

/** Where the ranges came from, and which they were. */
type Source = Pick<Answer, 'ranges' | 'fallback'> & {
  /** `plan` for a saved plan, whose path is the detail. */
  readonly origin: { readonly kind: Answer['origin']['kind'] | 'plan'; readonly detail: string };
};

/** How one backend came out of the run. */
interface BackendReport {
  readonly name: string;
  readonly code: ExitCode;
  /** For people, one line, without the name of the backend in front. */
  readonly message: string;
  /** Whether it is another one than before the run, as far as is known. */
  readonly changed: boolean;
  /** The address space that came and went. */
  readonly gained: Ranges;
  readonly lost: Ranges;
}

/** Whether Cloudflare gets in, by the rules of the whole host. */
export interface Judged {
  /** `out`: it is kept out; `others`: strangers get in where it is locked; `unclear`: a rule is not understood. */
  readonly verdict: 'in' | 'out' | 'others' | 'unclear' | 'not judged';
  /** What keeps it from being known; empty where it is. */
  readonly reason: string;
  /** A line each. */
  readonly findings: readonly string[];
  /** The packet filters that the run was about. */
  readonly backends: readonly string[];
}

export interface RunReport {
  readonly command: string;
  readonly code: ExitCode;
  readonly started: Date;
  readonly ended: Date;
  /** Undefined when there was none to be had, or none was needed. */
  readonly source: Source | undefined;
  /** What was said to have gone wrong. */
  readonly errors: readonly string[];
  /** By name. */
  readonly backends: readonly BackendReport[];
  /** Undefined for a run without a packet filter, and one that did not come so far. */
  readonly judged: Judged | undefined;
  /** Where a rollback holds, so that the run left everything as it is: whether for more than seven days. */
  readonly held: { readonly isOld: boolean } | undefined;
}

/** A backend that is what it was. */
export const unchanged = { changed: false, gained: none, lost: none } as const;

/** What happened to a backend; what went before stays true where nothing is said of it. */
type Progress = Pick<BackendReport, 'code' | 'message'> & Partial<BackendReport>;

/** What the commands tell of their run while it goes on. */
export interface Recorder {
  source(source: Source): void;
  /** The backends to be worked on; one that nothing else is said of was not reached. */
  expect(names: readonly string[]): void;
  backend(name: string, event: Progress): void;
  judged(judged: Judged): void;
  held(held: NonNullable<RunReport['held']>): void;
  end(command: string, code: ExitCode, errors: readonly string[]): RunReport;
}

export function makeRecorder(started: Date): Recorder {
  let source: Source | undefined;
  let judged: Judged | undefined;
  let held: RunReport['held'];
  const events = new Map<string, Progress[]>();
  return {
    source: (its) => {
      source = its;
    },
    expect: (names) => {
      for (const name of names) events.set(name, events.get(name) ?? []);
    },
    backend: (name, event) => {
      events.set(name, [...(events.get(name) ?? []), event]);
    },
    judged: (its) => {
      judged = its;
    },
    held: (its) => {
      held = its;
    },
    end: (command, code, errors) => ({
      command,
      code,
      started,
      ended: new Date(),
      source,
      errors,
      judged,
      held,
      backends: [...events]
        .map(([name, list]) => summary(name, list))
        .sort((a, b) => (a.name < b.name ? -1 : 1)),
    }),
  };
}

function summary(name: string, events: readonly Progress[]): BackendReport {
  const start: BackendReport = {
    name,
    code: events.length === 0 ? exit.failed : exit.ok,
    message: events.length === 0 ? 'not reached' : '',
    ...unchanged,
  };
  return {
    ...events.reduce<BackendReport>((so, event) => ({ ...so, ...event }), start),
    code: worst([start.code, ...events.map(({ code }) => code)]),
    message: [start.message, ...events.map(({ message }) => withoutName(message, name))]
      .filter((message) => message !== '')
      .join('; '),
  };
}

export function hasChanged({ backends }: RunReport): boolean {
  return backends.some(({ changed }) => changed);
}
