/** Says why a program that reads the rules has ended with an error. */
import { BackendError } from '../errors.ts';
import type { Outcome } from '../renderer.ts';
import { firstLines } from '../text.ts';

/** @param unsupported What it says where the kernel lacks what it needs, and what is said then. */
export function unusable(
  backend: string,
  argv: readonly string[],
  { code, stderr }: Outcome,
  unsupported: readonly [says: RegExp, text: string],
): BackendError {
  const detail = firstLines(stderr);
  if (/you must be root|Permission denied|Operation not permitted/.test(stderr))
    return new BackendError(
      'no permission',
      `${backend}: reading the rules needs root (CAP_NET_ADMIN); run it with sudo`,
      { detail },
    );
  const [says, text] = unsupported;
  if (says.test(stderr))
    return new BackendError('not supported', `${backend}: ${text}`, { detail });
  return new BackendError('broken', `${backend}: ${argv.join(' ')} failed with code ${code}`, {
    detail,
  });
}
