/** Refuses what the controller would misread, or what is somebody else's. */
import { CfsyncError, exit } from '../../src/errors.ts';
import { intersect, isEmpty, parseRanges } from '../../src/prefix.ts';
import type { Ranges } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { isTrue, listed } from './controllers.ts';
import {
  isForeign,
  type Data,
  type IngressAround,
  type IngressOptions,
  type Target,
} from './state.ts';

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
  if (theirs.length > 0)
    throw new CfsyncError(
      exit.failed,
      `nginx-ingress: ${place}: ${theirs.join(', and ')}; ${theirs.length > 1 ? 'they stay as they are; --force-conflicts takes them over' : 'it stays as it is; --force-conflicts takes it over'}`,
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

/** Of our keys those that somebody else has set to something else, in words. */
export function foreignValues(wanted: Data, around: IngressAround): string[] {
  const { data, owners } = around;
  return Object.entries(wanted).flatMap(([key, value]) => {
    const there = data?.[key];
    if (there === undefined || there === value || !isForeign(key, around)) return [];
    const names = owners[key]?.map((name) => `"${escape(name)}"`).join(' and ');
    return [`${key} is "${escape(shorten(there))}", set by ${names ?? 'somebody else'}`];
  });
}

function shorten(value: string): string {
  return value.length > 60 ? `${value.slice(0, 60)}...` : value;
}
