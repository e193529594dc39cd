/** `confirm`: keep an apply that waits for it. */
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { bootId } from '../host/host.ts';
import { withRunLock } from '../state/lock.ts';
import type { Context } from '../run/context.ts';
import { endPending, secondsLeft, takePending } from '../state/pending.ts';

export async function run({ settings, output }: Context): Promise<ExitCode> {
  const { stateDir, lockTimeout } = settings;
  return withRunLock(stateDir, lockTimeout, 'confirm', async () => {
    const { content: pending, notices } = await takePending(stateDir);
    output.notices('', notices);
    if (pending === undefined && notices.length === 0)
      throw new CfsyncError(
        exit.failed,
        'no apply waits for its confirmation: it has gone back already, or was kept; cfsync verify says what holds',
      );
    const late = pending !== undefined && secondsLeft(pending, await bootId()) <= 0;
    await endPending(stateDir);
    output.print(late ? 'confirmed, just before it went back; it stays' : 'confirmed; it stays');
    return exit.ok;
  });
}
