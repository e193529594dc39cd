/** Asks a server that does not run for its configuration, so that nothing it writes for that stays. */
import { inNamespace } from '../../renderers/nginx/stage.ts';
import { unlessMissing } from '../host/programs.ts';
import type { Command, Outcome } from '../renderer.ts';
import type { DoctorHost } from './check.ts';

/**
 * `nginx -T` leaves an empty pid file behind, and empty logs (1.22.1); apache2ctl makes /run/apache2, and a folder
 * in /run/lock that must be there (2.4 of Debian). What is written goes into a layer of a mount namespace; code 77 where
 * that cannot be made, as in many containers.
 */
const script = `
mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir a b c d &&
mount -t overlay o -o lowerdir=/run,upperdir=a,workdir=b /run &&
mount -t overlay o -o lowerdir=/var/log,upperdir=c,workdir=d /var/log || exit 77
mkdir -p /run/lock
cd / && exec "$@"`;

/** Undefined where it cannot be asked so. */
export async function askSealed(
  host: DoctorHost,
  argv: Command['argv'],
): Promise<Outcome | undefined> {
  const outcome = await unlessMissing(host, inNamespace('sh', '-c', script, 'sh', ...argv));
  // unshare itself ends with 1 when it may not.
  const failed =
    outcome === undefined || outcome.code === 77 || outcome.stderr.startsWith('unshare:');
  return failed ? undefined : outcome;
}
