/** Says what the admin should know of nginx as it is. */
import type { Notice } from '../../src/renderer.ts';
import { count } from '../../src/text.ts';
import { isHttp, type Directive } from './configuration.ts';
import { mendOf, type Findings } from './shut-out.ts';
import type { NginxAround, NginxOptions } from './state.ts';

export function notices({ header }: NginxOptions, around: NginxAround): Notice[] {
  const trusted = named(around, 'set_real_ip_from');
  const beside = trusted.filter(({ blocks }) => isHttp(blocks));
  const below = trusted.filter(({ blocks }) => !isHttp(blocks));
  const headers = named(around, 'real_ip_header').filter(({ blocks }) => !isHttp(blocks));
  const list: Notice[] = [];
  if (beside.length > 0)
    list.push({
      level: 'warning',
      text: `${places(beside)} at http level: these are believed as well, in ${header}; delete those that are Cloudflare's`,
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

export function standing({ shut, unclear, news }: Findings): Notice[] {
  const list: Notice[] = [];
  const [first] = shut;
  if (first !== undefined)
    list.push({
      level: news ? 'warning' : 'note',
      text: `${places(shut.map(({ directive }) => directive))}: this is for Cloudflare's addresses, and sees the visitors', because real-IP is in force already; ${first.mend}`,
    });
  const [one] = unclear;
  if (one !== undefined && news)
    list.push({
      level: 'note',
      text: `${places(unclear.map(({ directive }) => directive))}: ${one.why}; it will see the visitor's address; is it about Cloudflare's? then ${mendOf(one.directive.words)}`,
    });
  return list;
}

function places(list: readonly Directive[]): string {
  const [{ at, words }, ...more] = list as [Directive, ...Directive[]];
  const others = more.length === 0 ? '' : ` and ${count(more.length, 'other place')}`;
  return `"${words.join(' ')}" at ${at}${others}`;
}

export function named(around: NginxAround, name: string): readonly Directive[] {
  return around.directives.filter(({ words }) => words[0] === name);
}
