/** Says what the admin should know of nginx as it is. */
import { groupBy } from '../../src/group.ts';
import type { Notice, Ranges } from '../../src/renderer.ts';
import { isEmpty, network, parseRanges, subtract } from '../../src/prefix.ts';
import { localSpace } from '../../src/special-purpose.ts';
import { count } from '../../src/text.ts';
import { takeable } from './adopt.ts';
import { isHttp, type Directive } from './configuration.ts';
import type { Findings } from './shut-out.ts';
import type { NginxAround, NginxOptions } from './state.ts';

export function notices({ header }: NginxOptions, around: NginxAround, known: Ranges): Notice[] {
  const trusted = named(around, 'set_real_ip_from');
  const beside = trusted.filter(({ blocks }) => isHttp(blocks));
  const below = trusted.filter(({ blocks }) => !isHttp(blocks));
  const headers = named(around, 'real_ip_header').filter(({ blocks }) => !isHttp(blocks));
  const list: Notice[] = adopting(around);
  const { taken } = takeable(around, known);
  if (beside.length > 0)
    list.push({
      level: beside.every(isPrivate) ? 'note' : 'warning',
      text: `${places(beside)} at http level: these are believed as well, in ${header}${beside.some((one) => taken.includes(one)) ? "; cfsync adopt --backend nginx takes over those that are Cloudflare's" : ''}`,
    });
  if (below.length > 0)
    list.push({
      level: 'note',
      text: `${places(below)}: nginx does not inherit the ranges there, visitors through Cloudflare keep its address`,
    });
  if (headers.length > 0)
    list.push({
      level: 'note',
      text: `${places(headers)}: there the ranges apply with that header instead of ${header}`,
    });
  if (around.pidFile === null)
    list.push({ level: 'note', text: 'nginx is not running; it will use the file when it starts' });
  if (!around.readable)
    list.push({
      level: 'note',
      text: 'nginx has no workers whose age can be read; whether it uses the file is not known, only what the file says',
    });
  return list;
}

/** What is to be said of a take-over. */
function adopting({ taken = [], left = [] }: NginxAround): Notice[] {
  const list: Notice[] = [];
  const [first] = taken;
  if (first !== undefined)
    list.push({
      level: 'warning',
      text: `${places(taken)} ${taken.length > 1 ? 'go' : 'goes'}: a script that writes this again would give nginx a second real_ip_header, which it refuses; stop that script`,
    });
  const reasons = groupBy(
    left.filter(({ directive }) => directive.words[0] === 'set_real_ip_from'),
    ({ why }) => why,
  );
  for (const [why, same] of reasons)
    list.push({
      level: 'warning',
      text: `left alone: ${places(same.map(({ directive }) => directive))}: ${why}`,
    });
  return list;
}

export function standing({ shut, unclear, news }: Findings, around: NginxAround): Notice[] {
  const list: Notice[] = [];
  const [first] = shut;
  if (first !== undefined)
    list.push({
      level: news ? 'warning' : 'note',
      text: `${places(shut.map(({ directive }) => directive))}: this is for Cloudflare's addresses, and sees the visitors', because real-IP is in force already; ${first.mend}`,
    });
  if (news) list.push(...otherwise(around));
  const [one] = unclear;
  if (one !== undefined && news)
    list.push({
      level: 'note',
      text: `${places(unclear.map(({ directive }) => directive))}: ${one.why}; it will see the visitor's address; is it about Cloudflare's? then ${one.mend}`,
    });
  return list;
}

/** What goes by the address, and shuts nobody out or cannot be told. */
function otherwise(around: NginxAround): Notice[] {
  const zones = [...named(around, 'limit_req_zone'), ...named(around, 'limit_conn_zone')];
  const asked = named(around, 'auth_request').filter(({ words }) => words[1] !== 'off');
  const list: Notice[] = [];
  if (zones.length > 0)
    list.push({
      level: 'note',
      text: `${places(zones)}: each visitor is counted by himself from now on, and no more all behind one address of Cloudflare's as one`,
    });
  if (asked.length > 0)
    list.push({
      level: 'note',
      text: `${places(asked)}: not judged: what is asked there may go by the address, which will be the visitor's`,
    });
  return list;
}

/** Nobody on the Internet has such an address: a load balancer of the admin's own. */
function isPrivate({ words }: Directive): boolean {
  const prefix = network(words[1] ?? '');
  return prefix !== undefined && isEmpty(subtract(parseRanges([prefix]), localSpace));
}

function places(list: readonly Directive[]): string {
  const [{ at, words }, ...more] = list as [Directive, ...Directive[]];
  const others = more.length === 0 ? '' : ` and ${count(more.length, 'other place')}`;
  return `"${words.join(' ')}" at ${at}${others}`;
}

export function named(around: NginxAround, name: string): readonly Directive[] {
  return around.directives.filter(({ words }) => words[0] === name);
}
