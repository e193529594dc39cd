/** Refuses what the controller would misread, or what is somebody else's. */
import { CfsyncError, exit } from '../../src/errors.ts';
import { retired } from '../../src/feed/published.ts';
import { intersect, isEmpty, merge, parseRanges } from '../../src/prefix.ts';
import type { Ranges } from '../../src/renderer.ts';
import { believed } from './adopt.ts';
import { foreignValues } from './foreign.ts';
import { isTrue, listed } from './controllers.ts';
import type { Data, IngressAround, IngressOptions, Target } from './state.ts';

export function refuse(
  ranges: Ranges,
  options: IngressOptions,
  around: IngressAround,
  wanted: Data,
): void {
  const place = `ConfigMap ${options.namespace}/${options.name}`;
  if (options.helm)
    throw new CfsyncError(
      exit.usage,
      'nginx-ingress: helm values are for render and diff --dir only; nothing was changed; leave helm out',
    );
  const { data } = around;
  if (data === null)
    throw new CfsyncError(
      exit.failed,
      `nginx-ingress: there is no ${place}, and one that no controller reads would be of no use; nothing was changed; set namespace and name to those of the controller's own (its argument ${options.flavour === 'f5' ? '-nginx-configmaps' : '--configmap'})`,
    );
  refuseMisread(place, ranges, options, data);
  const theirs = around.force ? [] : foreignValues(wanted, around);
  if (theirs.length === 0) return;
  const way =
    believed(around, merge(ranges, retired)).length > 0
      ? 'cfsync adopt --backend nginx-ingress'
      : '--force-conflicts';
  const [stays, them] =
    theirs.length > 1 ? ['they stay as they are', 'them'] : ['it stays as it is', 'it'];
  throw new CfsyncError(
    exit.failed,
    `nginx-ingress: ${place}: ${theirs.join(', and ')}; ${stays}; ${way} takes ${them} over`,
  );
}

/** What the controller would take in another way than it is meant. */
function refuseMisread(place: string, ranges: Ranges, options: Target, data: Data): void {
  if (options.flavour !== 'community') return;
  if (isTrue(data['use-proxy-protocol']) && !isTrue(data['use-forwarded-headers']))
    throw new CfsyncError(
      exit.failed,
      `nginx-ingress: ${place} has use-proxy-protocol: the controller then takes the visitor from the PROXY protocol and not from a header, and would believe it from Cloudflare's ranges alone; nothing was changed; the load balancer must be believed there, not Cloudflare`,
    );
  const allowed = listed(data['whitelist-source-range']).filter((prefix) => !prefix.endsWith('/0'));
  if (!isEmpty(intersect(parseRanges(allowed), ranges)))
    throw new CfsyncError(
      exit.refused,
      `nginx-ingress: ${place} has Cloudflare's ranges in whitelist-source-range: the controller will compare the visitor's address with it and refuse every visitor; nothing was changed; take them out of it, and let only Cloudflare in with loadBalancerSourceRanges of the Service or a firewall`,
    );
}
