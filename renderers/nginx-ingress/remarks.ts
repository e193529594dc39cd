/** Says what the admin should know of the controller as it is. */
import type { Notice } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { flavours, isTrue } from './controllers.ts';
import { foreignValues } from './foreign.ts';
import type { Data, IngressAround, Target } from './state.ts';

export function notices(
  flavour: Target['flavour'],
  wanted: Data,
  around: IngressAround | undefined,
): Notice[] {
  const list: Notice[] = [];
  const add = (level: Notice['level'], text: string): void => void list.push({ level, text });
  if (flavour === 'community')
    add(
      'note',
      'ingress-nginx is retired: no releases and no security fixes after March 2026; plan to move to another controller',
    );
  else
    add(
      'note',
      'with TLS passthrough switched on the controller ignores real-ip-header and expects the PROXY protocol',
    );
  if (around === undefined) return list;
  const { data, force } = around;
  if (data === null) return list;
  if (force)
    for (const value of foreignValues(wanted, around))
      add(
        'warning',
        `${value}: taken over, as asked; what set it, a chart or a manifest, may set it again: let it say what cfsync render does`,
      );
  for (const key of flavours[flavour].foreign)
    if (data[key] !== undefined)
      add(
        'warning',
        `the ConfigMap has ${key}, which this controller (flavour ${flavour}) does not know; is it the other one?`,
      );
  if (flavour === 'community' && isTrue(data['use-forwarded-headers']))
    add(
      'warning',
      'use-forwarded-headers is on: X-Forwarded-* headers are believed from everybody, not from Cloudflare alone',
    );
  if (flavour === 'f5' && isTrue(data['proxy-protocol']))
    add(
      'warning',
      'proxy-protocol is on: connections come from the load balancer, so the header of Cloudflare is never believed',
    );
  for (const service of around.hiding)
    add(
      'warning',
      `Service ${escape(service)} has externalTrafficPolicy Cluster: the controller sees addresses of nodes, never Cloudflare's, and the ranges have no effect; set it to Local`,
    );
  return list;
}
