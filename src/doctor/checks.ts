/** All checks, each loaded only when it is made. */
import { checkNames, type CheckName } from '../cli/flags.ts';
import { CfsyncError, exit } from '../errors.ts';
import { escape, suggest } from '../text.ts';
import type { Check } from './check.ts';

type Load = () => Promise<{ readonly default: Check<any> }>;

const checks: Readonly<Record<CheckName, Load>> = {
  'firewall-state': () => import('./checks/firewall-state.ts'),
  'two-firewalls': () => import('./checks/two-firewalls.ts'),
  bans: () => import('./checks/bans.ts'),
  'allow-list': () => import('./checks/allow-list.ts'),
  ipv6: () => import('./checks/ipv6.ts'),
  'packet-filter': () => import('./checks/packet-filter.ts'),
  'published-ports': () => import('./checks/published-ports.ts'),
  'open-to-all': () => import('./checks/open-to-all.ts'),
  'way-out': () => import('./checks/way-out.ts'),
  service: () => import('./checks/service.ts'),
  listening: () => import('./checks/listening.ts'),
  tls: () => import('./checks/tls.ts'),
  dns: () => import('./checks/dns.ts'),
  'real-ip': () => import('./checks/real-ip.ts'),
  ingress: () => import('./checks/ingress.ts'),
  'keep-alive': () => import('./checks/keep-alive.ts'),
  overload: () => import('./checks/overload.ts'),
  'error-log': () => import('./checks/error-log.ts'),
};

/**
 * The names to run, in order.
 * @throws CfsyncError with code `usage` for a name that no check has.
 */
export function chosen(
  only: readonly string[] | undefined,
  skip: readonly string[] | undefined,
): readonly CheckName[] {
  const known: readonly string[] = checkNames;
  for (const [flag, names] of Object.entries({ only, skip }))
    for (const name of names ?? [])
      if (!known.includes(name))
        throw new CfsyncError(
          exit.usage,
          `--${flag}: there is no check ${escape(name)}${suggest(name, known)}; cfsync doctor --list names them`,
        );
  return checkNames.filter(
    (name) => only?.includes(name) !== false && skip?.includes(name) !== true,
  );
}

export async function loadCheck(name: CheckName): Promise<Check<any>> {
  return (await checks[name]()).default;
}
