/** Keeps an error of one backend from stopping the others of a run. */
import { CfsyncError, type ExitCode } from '../errors.ts';
import type { Context } from './context.ts';

/** Runs the part of one backend; an error is said and does not stop the others. */
export async function attempt<T>(
  { output, record }: Context,
  name: string,
  codes: ExitCode[],
  work: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    output.error(error.message, { backend: name, detail: error.detail });
    record.backend(name, { code: error.code, message: error.message });
    codes.push(error.code);
    return undefined;
  }
}
