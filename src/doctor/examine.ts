/** Makes the checks side by side, each within its time, and puts what they find in order. */
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import type { Check, DoctorContext, DoctorHost, Finding } from './check.ts';

/** Milliseconds for one program, unless its command says less; `nft -j` needs 0.6 s for 100,000 elements. */
const programLimit = 4000;

/** Milliseconds for one check, which may run several programs one after the other. */
const checkLimit = 9000;

export interface Named extends Finding {
  readonly check: string;
}

export interface Report {
  /** The checks that were made. */
  readonly checked: readonly string[];
  /** Most likely cause first. */
  readonly findings: readonly Named[];
  /** The checks that cannot be made here, and why. */
  readonly unchecked: readonly { readonly check: string; readonly why: string }[];
  /** Checks that failed by a mistake of their own. */
  readonly failed: readonly { readonly check: string; readonly error: unknown }[];
}

export async function examine(
  checks: readonly Check<any>[],
  host: DoctorHost,
  context: DoctorContext,
): Promise<Report> {
  const shared = remembering(host);
  const ends = await Promise.all(checks.map((check) => make(check, shared, context)));
  const all = ends.flatMap(({ check, findings = [] }) =>
    findings.map((finding) => ({ ...finding, check })),
  );
  const explained = new Set(all.flatMap(({ explains = [] }) => explains));
  const findings = all.filter(({ effect }) => effect === undefined || !explained.has(effect));
  return {
    checked: ends.flatMap(({ check, findings }) => (findings === undefined ? [] : [check])),
    findings: ranked(findings),
    unchecked: ends.flatMap(({ check, why }) => (why === undefined ? [] : [{ check, why }])),
    failed: ends.flatMap((end) => ('error' in end ? [{ check: end.check, error: end.error }] : [])),
  };
}

/** 0 nothing found, where notes do not count; 2 findings; 1 the doctor itself failed. */
export function codeOf({ findings, failed }: Report): ExitCode {
  if (failed.length > 0) return exit.failed;
  return findings.some(({ level }) => level !== 'note') ? exit.pending : exit.ok;
}

/** How one check ended: with findings, with the reason why it cannot be made, or with an error. */
interface End {
  readonly check: string;
  readonly findings?: readonly Finding[];
  readonly why?: string;
  readonly error?: unknown;
}

async function make(check: Check<any>, host: DoctorHost, context: DoctorContext): Promise<End> {
  const { name } = check;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new CfsyncError(exit.failed, `it did not end within ${checkLimit / 1000} s`));
    }, checkLimit);
  });
  try {
    const seen: unknown = await Promise.race([check.observe(host, context), late]);
    return { check: name, findings: check.judge(seen, context) };
  } catch (error) {
    if (!(error instanceof CfsyncError)) return { check: name, error };
    const hint = context.isRoot || error.message.includes('root') ? '' : '; run it as root';
    return { check: name, why: `${error.message}${hint}` };
  } finally {
    clearTimeout(timer);
  }
}

const levels = ['problem', 'warning', 'note'] as const;
const shares = ['all', 'part', 'maybe'] as const;

/**
 * Most likely cause first: by level; then by how much of Cloudflare's traffic it takes away; then a finding that
 * causes an error before one that causes none; then in the order of the checks.
 */
export function ranked<F extends Finding>(findings: readonly F[]): readonly F[] {
  const weight = ({ level, share, causes }: Finding): number =>
    levels.indexOf(level) * 100 + shares.indexOf(share) * 10 + (causes.length === 0 ? 1 : 0);
  return [...findings].sort((a, b) => weight(a) - weight(b));
}

/** The same host, asked once for each thing: checks that look at the same rules do not wait for them twice. */
function remembering(host: DoctorHost): DoctorHost {
  const answers = new Map<string, Promise<unknown>>();
  const once = <Answer>(key: string, ask: () => Promise<Answer>): Promise<Answer> => {
    let answer = answers.get(key) as Promise<Answer> | undefined;
    if (answer === undefined) answers.set(key, (answer = ask()));
    return answer;
  };
  return {
    query: (command) => {
      const timeout = Math.min(command.timeout ?? programLimit, programLimit);
      return once(`query ${JSON.stringify(command)}`, () => host.query({ ...command, timeout }));
    },
    read: (path) => once(`read ${path}`, () => host.read(path)),
    list: (path) => once(`list ${path}`, () => host.list(path)),
    link: (path) => once(`link ${path}`, () => host.link(path)),
  };
}
