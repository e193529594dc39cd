/** Does the web server close idle connections sooner than Cloudflare uses them again? */
import type { Directive } from '../../../renderers/nginx/configuration.ts';
import { defineCheck, type Finding } from '../check.ts';
import { directiveText, readable, runningServers, type Servers } from '../configuration.ts';
import { fronted, socketStatistics } from '../listeners.ts';
import { counting, seconds } from '../nginx.ts';

/**
 * Seconds. Cloudflare uses a connection again for up to 900 s after its last request ("Proxy Idle Timeout" in
 * https://developers.cloudflare.com/fundamentals/reference/connection-limits/); a request that is on its way when the
 * server closes gets a 520.
 */
const enough = 300;
/** Shorter than what any web server comes with: Apache's 5 s; nginx has 75 s. */
const least = 5;
/** Requests on one connection; Apache comes with 100. */
const fewRequests = 100;

interface Seen extends Servers {
  /** What `ss -Hltnp` printed; null where there is no ss. */
  readonly ss: string | null;
}

export default defineCheck<Seen>({
  name: 'keep-alive',
  title: 'idle connections are kept long enough for Cloudflare to use them again',

  async observe(host) {
    const [servers, ss] = await Promise.all([runningServers(host), socketStatistics(host)]);
    return { ...servers, ss };
  },

  judge({ nginx, apache, ss }, { ports }) {
    const inner = fronted(ss, ports).map(({ server }) => server);
    const isInner = (...names: readonly string[]): boolean =>
      names.some((name) => inner.includes(name));
    return [
      // Who is reached over loopback alone never closes a connection of Cloudflare's.
      ...(nginx === null || isInner('nginx') ? [] : nginxFindings(readable('nginx', nginx))),
      ...(apache === null || isInner('apache2', 'httpd')
        ? []
        : apacheFindings(readable('Apache', apache))),
    ];
  },
});

function nginxFindings(directives: readonly Directive[]): readonly Finding[] {
  const timeout = counting(directives, 'keepalive_timeout');
  const requests = counting(directives, 'keepalive_requests');
  const all = <T>({ http, inner }: { http: T | undefined; inner: readonly T[] }): readonly T[] =>
    http === undefined ? inner : [http, ...inner];
  return [
    ...all(timeout).flatMap((directive) =>
      short(directive, seconds(directive.words[1] ?? ''), 'nginx', 'keepalive_timeout 300s;'),
    ),
    ...(timeout.unset ? short(undefined, 75, 'nginx', 'keepalive_timeout 300s; in http { }') : []),
    ...all(requests).flatMap((directive) =>
      few(directive, Number(directive.words[1]), 'nginx', 'keepalive_requests 1000;'),
    ),
  ];
}

function apacheFindings(directives: readonly Directive[]): readonly Finding[] {
  const named = (name: string): readonly Directive[] =>
    directives.filter(({ words }) => words[0]?.toLowerCase() === name.toLowerCase());
  const off = last(named('KeepAlive')).filter(({ words }) => words[1]?.toLowerCase() === 'off');
  const findings = off.flatMap((directive) =>
    short(directive, 0, 'Apache', 'KeepAlive On and KeepAliveTimeout 300'),
  );
  // Then no timeout counts.
  if (off.some(({ blocks }) => blocks.length === 0)) return findings;
  const timeouts = last(named('KeepAliveTimeout'));
  return [
    ...findings,
    ...timeouts.flatMap((directive) =>
      short(directive, apacheSeconds(directive.words[1]), 'Apache', 'KeepAliveTimeout 300'),
    ),
    ...(timeouts.some(({ blocks }) => blocks.length === 0)
      ? []
      : short(undefined, 5, 'Apache', 'KeepAliveTimeout 300')),
    ...last(named('MaxKeepAliveRequests'))
      // 0 is without end.
      .filter(({ words }) => words[1] !== '0')
      .flatMap((directive) =>
        few(directive, Number(directive.words[1]), 'Apache', 'MaxKeepAliveRequests 1000'),
      ),
  ];
}

/** Of several in one place the last one counts in Apache. */
function last(directives: readonly Directive[]): readonly Directive[] {
  return [...new Map(directives.map((one) => [one.blocks.join(), one])).values()];
}

/** `5`, or `500ms`. */
function apacheSeconds(word = ''): number | undefined {
  if (/^\d+$/.test(word)) return Number(word);
  return /^\d+ms$/.test(word) ? Number(word.slice(0, -2)) / 1000 : undefined;
}

/** @param directive Undefined: none, and the value is what the server comes with. */
function short(
  directive: Directive | undefined,
  value: number | undefined,
  server: string,
  better: string,
): readonly Finding[] {
  if (directive !== undefined && value === undefined)
    return [
      {
        level: 'note',
        share: 'maybe',
        causes: [],
        title: `${server}: how long connections are kept is not understood`,
        evidence: [directiveText(directive)],
      },
    ];
  if (value === undefined || value >= enough) return [];
  const reload = server === 'nginx' ? 'nginx' : 'apache2 (or httpd)';
  return [
    {
      level: value < least ? 'warning' : 'note',
      share: share(directive),
      causes: [520],
      title:
        value === 0
          ? `${server} closes connections after each request`
          : `${server} closes idle connections after ${value} s`,
      evidence: [
        directive === undefined
          ? `no directive; ${server} comes with ${value} s`
          : directiveText(directive),
        'Cloudflare uses an idle connection again for up to 900 s; a request that meets its end fails',
      ],
      advice: `Say ${better}${directive === undefined ? '' : ` at ${directive.at}`}, then reload: systemctl reload ${reload}.`,
    },
  ];
}

function few(
  directive: Directive,
  value: number,
  server: string,
  better: string,
): readonly Finding[] {
  if (!(value < fewRequests)) return [];
  return [
    {
      level: value <= 1 ? 'warning' : 'note',
      share: share(directive),
      causes: [520],
      title: `${server} closes connections after ${value <= 1 ? 'each request' : `${value} requests`}`,
      evidence: [directiveText(directive)],
      advice: `Say ${better} at ${directive.at}, then reload ${server}.`,
    },
  ];
}

/** What stands in a block is about a part of the sites. */
function share(directive: Directive | undefined): Finding['share'] {
  const depth = directive?.blocks.filter((block) => !block.startsWith('http#')).length ?? 0;
  return depth === 0 ? 'all' : 'part';
}
