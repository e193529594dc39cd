/** The keys of the two controllers. */
import { canonical } from '../../src/prefix.ts';
import type { Desired } from '../../src/renderer.ts';
import type { Data, Target } from './state.ts';

export const manager = 'cfsync';

export const flavours = {
  // kubernetes/ingress-nginx dbb11b9 (controller 1.15.1): proxy-real-ip-cidr alone does nothing, and
  // there is no key real-ip-header.
  community: {
    namespace: 'ingress-nginx',
    name: 'ingress-nginx-controller',
    values: ['controller', 'config'],
    cidrs: 'proxy-real-ip-cidr',
    header: 'forwarded-for-header',
    fixed: { 'enable-real-ip': 'true', 'forwarded-for-header': 'CF-Connecting-IP' },
    foreign: ['real-ip-header', 'set-real-ip-from'],
  },
  // nginx/kubernetes-ingress b7e6252: splits the list at commas and trims nothing.
  f5: {
    namespace: 'nginx-ingress',
    name: 'nginx-config',
    values: ['controller', 'config', 'entries'],
    cidrs: 'set-real-ip-from',
    header: 'real-ip-header',
    fixed: { 'real-ip-header': 'CF-Connecting-IP', 'real-ip-recursive': 'True' },
    foreign: ['proxy-real-ip-cidr', 'forwarded-for-header', 'enable-real-ip'],
  },
} as const;

/**
 * All that we ever wrote. Where kubectl was cut off between the two halves of what 0.1.0 had it do, keys of the
 * admin's are recorded as ours.
 */
export const known: ReadonlySet<string> = new Set(
  Object.values(flavours).flatMap(({ cidrs, fixed }) => [cidrs, ...Object.keys(fixed)]),
);

export function keysOf({ ranges }: Desired, flavour: Target['flavour']): Data {
  const { cidrs, fixed } = flavours[flavour];
  return { ...fixed, [cidrs]: [...ranges.v4, ...ranges.v6].join(',') };
}

export function isTrue(value: string | undefined): boolean {
  return value?.toLowerCase() === 'true';
}

/** The prefixes of a list with commas, blanks around them or not; what is none is left out. */
export function listed(list = ''): readonly string[] {
  return list.split(',').flatMap((word) => canonical(word.trim())?.text ?? []);
}
