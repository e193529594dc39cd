/** Refuses where rules of ours could not be, or would not count. */
import { CfsyncError, exit } from '../../src/errors.ts';
import { refuseMismatches } from '../../src/filters/notices.ts';
import { protocols } from '../../src/plugin/ports.ts';
import { refuseOpen } from '../../src/filters/trusted.ts';
import type { Desired } from '../../src/renderer.ts';
import type { IptAround } from './around.ts';
import { judge } from './drops.ts';
import { entry, families, tool } from './names.ts';
import { ownedTables } from './observe.ts';
import type { IptOptions } from './options.ts';

/** xt_multiport.h, XT_MULTI_PORTS. */
const mostPorts = 15;

export function refusePorts(desired: Desired): void {
  for (const [protocol, list] of protocols(desired))
    if (list.length > mostPorts)
      throw new CfsyncError(
        exit.failed,
        `iptables: ${list.length} ${protocol.toUpperCase()} ports are more than the ${mostPorts} that a rule of iptables takes; nothing was changed; name fewer, or use --backend nftables`,
      );
}

export function refuse(desired: Desired, options: IptOptions, around: IptAround): void {
  if (options.set) refuseMismatches(around.mismatches, 'iptables');
  refuseOpen(options.trusted, around.defaultRoutes, 'iptables');
  for (const family of families) {
    const { other } = around[family] ?? {};
    if (other === undefined) continue;
    const command = `${tool[family]}-${other.variant}`;
    if (ownedTables(family, other.tables).length > 0)
      throw new CfsyncError(
        exit.failed,
        `iptables: chain ${entry} is also in the tables of ${command}, from before ${tool[family]} was switched to its other variant; nothing was changed; switch back with update-alternatives, run cfsync remove --backend iptables, and switch again`,
      );
    const filter = other.tables.find((t) => t.name === 'filter');
    const dropped = filter && judge(family, filter, desired, around).drops[0];
    if (dropped !== undefined)
      throw new CfsyncError(
        exit.failed,
        `iptables: the tables of ${command} drop the ports (${dropped}), and an accept of ${tool[family]} does not count there; nothing was changed; keep the rules in one variant: ${command}-save shows those of the other`,
      );
  }
}
