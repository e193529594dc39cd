/** What packet filters say in the same words of the rules around ours. */
import { CfsyncError, exit } from '../errors.ts';
import type { Notice } from '../renderer.ts';

/** @param where The program or the chain. */
export function opensToAll(where: string, rule: string): Notice {
  return {
    level: 'note',
    text: `${where} accepts a port from everywhere (${rule}), so strangers get in as well; delete that rule or use --mode lockdown`,
  };
}

/** @param rules The rules that there are none of. */
export function changesNothing(rules: string): Notice {
  return {
    level: 'note',
    text: `no ${rules} drops the ports, so mode allow changes nothing today; --mode lockdown keeps everybody but Cloudflare out`,
  };
}

/** @throws CfsyncError when something with our names has a shape that this version does not make. */
export function refuseMismatches(mismatches: readonly string[], backend: string): void {
  if (mismatches.length > 0)
    throw new CfsyncError(
      exit.failed,
      `${backend}: ${mismatches[0]}, which cfsync does not make; nothing was changed; cfsync remove --backend ${backend} clears the way`,
      { detail: mismatches.slice(1) },
    );
}
