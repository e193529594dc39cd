/** Looks at nginx: does it run, and what does its configuration say. */
import { BackendError, CfsyncError, exit } from '../errors.ts';
import {
  dumpedFiles,
  parse,
  serversOf,
  type Directive,
} from '../../renderers/nginx/configuration.ts';
import type { Outcome } from '../renderer.ts';
import { firstLines } from '../text.ts';
import { onceFor, type DoctorHost } from './check.ts';
import { askSealed } from './sealed.ts';
import { pidsOf, unlessMissing } from '../host/programs.ts';

export interface Nginx {
  readonly running: boolean;
  /** What nginx says of its configuration when it refuses it; else null. */
  readonly refused: readonly string[] | null;
  /** Through includes; none when it is refused. */
  readonly directives: readonly Directive[];
}

/**
 * Undefined where there is no nginx.
 * @throws CfsyncError when there is one that cannot be asked.
 */
export const lookAtNginx = onceFor(look);

async function look(host: DoctorHost): Promise<Nginx | undefined> {
  const running = (await pidsOf(host, ['nginx'])).length > 0;
  const outcome = await dump(host, running);
  if (outcome === undefined) {
    if (!running) return undefined;
    throw new CfsyncError(
      exit.failed,
      'nginx runs, and is no program of this host (in a container?); its configuration cannot be read here',
    );
  }
  if (outcome.code === 0)
    return { running, refused: null, directives: parse(dumpedFiles(outcome.stdout)).directives };
  if (outcome.stderr.includes('(13: Permission denied)'))
    throw new BackendError('no permission', 'nginx -T needs root');
  return { running, refused: firstLines(outcome.stderr), directives: [] };
}

async function dump(host: DoctorHost, running: boolean): Promise<Outcome | undefined> {
  if ((await unlessMissing(host, ['nginx', '-v'])) === undefined) return undefined;
  const argv = ['nginx', '-T', '-q'] as const;
  return (running ? undefined : await askSealed(host, argv)) ?? host.query({ argv });
}

/**
 * A directive that an inner block overrides: the ones that count, each once. Those of http only where a server has
 * none of its own; whether there is such a server, and so perhaps none that counts, is `unset`.
 */
export function counting(
  directives: readonly Directive[],
  name: string,
): { readonly http: Directive | undefined; readonly inner: readonly Directive[]; unset: boolean } {
  const named = directives.filter(
    ({ words, blocks }) =>
      words[0] === name &&
      blocks[0]?.startsWith('http#') === true &&
      // There it is about the connections to the upstream.
      blocks[1]?.startsWith('upstream#') !== true,
  );
  const inner = named.filter(({ blocks }) => blocks.length > 1);
  const own = new Set(
    inner.filter(({ blocks }) => blocks.length === 2).map(({ blocks }) => blocks.join()),
  );
  const servers = serversOf(directives);
  const unset = servers.length === 0 || servers.some((server) => !own.has(server));
  const http = named.find(({ blocks }) => blocks.length === 1);
  return { http: unset ? http : undefined, inner, unset: unset && http === undefined };
}

/** Seconds, as ngx_parse_time reads `1m 30s`; undefined for what is not one. */
export function seconds(words: string): number | undefined {
  if (/^\d+$/.test(words)) return Number(words);
  const parts = [...words.matchAll(/(\d+)(ms|[smhdwMy])\s*/g)];
  if (parts.length === 0 || parts.map(([all]) => all).join('') !== words) return undefined;
  return parts.reduce((sum, [, n, unit]) => sum + Number(n) * units[unit!]!, 0);
}

const units: Readonly<Record<string, number>> = {
  ms: 0.001,
  s: 1,
  m: 60,
  h: 3600,
  d: 86_400,
  w: 604_800,
  M: 2_592_000,
  y: 31_536_000,
};
