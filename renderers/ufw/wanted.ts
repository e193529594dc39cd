/** Composes the rules of ours that should be. */
import { CfsyncError, exit } from '../../src/errors.ts';
import { protocols } from '../../src/plugin/ports.ts';
import { parseRanges, type Family } from '../../src/prefix.ts';
import type { Desired, Ranges } from '../../src/renderer.ts';
import { block, claimsOf } from './rules.ts';
import type { FamilyState } from './state.ts';

/** `-m multiport` takes 15, and so does ufw. */
const mostPorts = 15;

export function refuseManyPorts(protocol: string, ports: readonly number[]): void {
  if (ports.length <= mostPorts) return;
  throw new CfsyncError(
    exit.failed,
    `ufw: ${ports.length} ${protocol} ports, and a ufw rule takes ${mostPorts}; nothing was changed; name fewer, or use --backend nftables`,
  );
}

export function blocksFor(family: Family, desired: Desired, ranges: Ranges): readonly string[] {
  return protocols(desired)
    .filter(([, ports]) => ports.length > 0)
    .flatMap(([protocol, ports]) =>
      ranges[family].map((prefix) => block(family, protocol, ports.join(','), prefix)),
    )
    .sort();
}

/** What our blocks hold in addresses. */
export function held(v4: FamilyState, v6: FamilyState): Ranges {
  return parseRanges(claimsOf([...v4.blocks, ...v6.blocks]).flatMap((claim) => claim.sources));
}
