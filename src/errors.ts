/** The exit codes, and the errors that carry them to the command line. */
import { escape } from './text.ts';

/** Exit codes of the command line. */
export const exit = {
  ok: 0,
  /** Failed; nothing was changed, or nothing but what the message names. */
  failed: 1,
  /** Changes are pending, drift, or the answer is no. */
  pending: 2,
  /** Refused: not to be believed, too large, a lock-out, or a stale plan. */
  refused: 3,
  /** An apply failed or did not settle and was rolled back. */
  rolledBack: 4,
  /** A rollback failed: a person must look. */
  broken: 5,
  usage: 64,
  /** Another cfsync is at work, or a confirm is pending. */
  busy: 75,
} as const;

export type ExitCode = (typeof exit)[keyof typeof exit];

/** The code that wins when several backends end differently. */
export function worst(codes: readonly ExitCode[]): ExitCode {
  const order: readonly ExitCode[] = [
    exit.broken,
    exit.rolledBack,
    exit.refused,
    exit.failed,
    exit.busy,
    exit.usage,
    exit.pending,
    exit.ok,
  ];
  return order.find((code) => codes.includes(code)) ?? exit.ok;
}

/**
 * An error that a person is meant to read: what failed, on which input, what is unchanged, what to do. It may name
 * what others wrote: what cannot be seen is made visible here.
 */
export class CfsyncError extends Error {
  readonly code: ExitCode;
  /** Further lines, printed below the first one. */
  readonly detail: readonly string[];

  constructor(
    code: ExitCode,
    message: string,
    options: { detail?: readonly string[]; cause?: unknown } = {},
  ) {
    super(escape(message), options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CfsyncError';
    this.code = code;
    this.detail = (options.detail ?? []).map(escape);
  }
}

/** Why a backend cannot be used on this host. */
export type Unusable =
  'not installed' | 'misconfigured' | 'not supported' | 'no permission' | 'broken';

/** Thrown by a renderer's `observe` when the backend cannot be used here; `message` ends with what to do. */
export class BackendError extends CfsyncError {
  readonly reason: Unusable;

  constructor(
    reason: Unusable,
    message: string,
    options: { detail?: readonly string[]; cause?: unknown } = {},
  ) {
    super(exit.failed, message, options);
    this.name = 'BackendError';
    this.reason = reason;
  }
}

/** The errno name of a failed system call, or undefined for any other error. */
export function errno(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string'
    ? error.code
    : undefined;
}

/** `ENOSPC: no space left on device`, without the call and the (temporary) file that Node adds. */
export function why(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return errno(error) === undefined ? message : message.replace(/, [a-z]+( '.*)?$/s, '');
}
