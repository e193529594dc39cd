/** Refuses what would break nginx, or a site. */
import { dirname } from 'node:path';
import { BackendError, CfsyncError, exit } from '../../src/errors.ts';
import type { Ranges } from '../../src/renderer.ts';
import { takeable } from './adopt.ts';
import { isHttp } from './configuration.ts';
import { variable } from './file.ts';
import { named } from './remarks.ts';
import type { Findings } from './shut-out.ts';
import type { NginxAround, NginxOptions } from './state.ts';

/** What would break nginx, or a site, is found before anything is written. */
export function refuse({ path }: NginxOptions, around: NginxAround, known: Ranges): void {
  if (around.broken !== null) throw refusal(around.broken);
  if (!around.included)
    throw new CfsyncError(
      exit.failed,
      `nginx: the configuration does not include ${path} at http level, so it would have no effect; nothing was changed; add "include ${dirname(path)}/*.conf;" inside http { }, or set path`,
    );
  const second = named(around, 'real_ip_header').find(({ blocks }) => isHttp(blocks));
  if (second !== undefined) {
    const mend = takeable(around, known).taken.includes(second)
      ? 'cfsync adopt --backend nginx takes it over, with the ranges that it is for'
      : 'delete that line, or move it into the server that needs it';
    throw new CfsyncError(
      exit.failed,
      `nginx: ${second.at} already says "${second.words.join(' ')}" at http level, and nginx takes one alone; nothing was changed; ${mend}`,
    );
  }
  const taken = around.directives.find(({ words }) => words.slice(1).includes(variable));
  if (taken !== undefined)
    throw new CfsyncError(
      exit.failed,
      `nginx: ${taken.at} gives ${variable} a value of its own, and of two nginx silently takes one; nothing was changed; rename the variable there`,
    );
}

export function refuseShutOut({ shut }: Findings): void {
  // A file that is included in many places counts once.
  const fresh = [...new Map(shut.filter((one) => one.fresh).map((one) => [one.directive.at, one]))];
  const [first, ...more] = fresh.map(([, one]) => one);
  if (first === undefined) return;
  const { directive, what, mend } = first;
  throw new CfsyncError(
    exit.refused,
    `nginx: ${directive.at} ${what}; nothing was changed; ${mend}${mend.startsWith('write') ? ', which is the address of the connection, and run this again' : ''}`,
    {
      detail: more.map(
        (one) => `${one.directive.at} says "${one.directive.words.join(' ')}": ${one.mend}`,
      ),
    },
  );
}

export function refusal(detail: readonly string[]): BackendError {
  return new BackendError(
    'misconfigured',
    'nginx: nginx refuses its present configuration; nothing was changed; mend it first, nginx -t says where',
    { detail },
  );
}
