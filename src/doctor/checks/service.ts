/** Is the web server's service up, and would it start with the configuration that it has? */
import { CfsyncError, exit } from '../../errors.ts';
import type { Host } from '../../renderer.ts';
import { runningFolder } from '../../host/systemd.ts';
import { lookAtApache } from '../apache.ts';
import { defineCheck, type DoctorContext, type DoctorHost, type Finding } from '../check.ts';
import { lookAtNginx } from '../nginx.ts';
import { isLoopback } from '../../host/proc.ts';
import { listeners } from '../listeners.ts';
import { hasTunnel } from '../tunnel.ts';

/** A unit as `systemctl show` prints it: names and values of org.freedesktop.systemd1(5). */
type Unit = Readonly<Record<string, string>>;

interface Refusal {
  readonly server: 'nginx' | 'Apache';
  readonly running: boolean;
  readonly said: readonly string[];
  /** The line that it is about, as `FILE:LINE: text`, where it names one. */
  readonly line: string | null;
}

interface Seen {
  /** Null where systemd does not run. */
  readonly units: readonly Unit[] | null;
  /** Seconds since boot. */
  readonly uptime: number;
  readonly refusals: readonly Refusal[];
  /** TCP ports that others can reach, and those of loopback. */
  readonly open: readonly number[];
  readonly inner: readonly number[];
  /** Whether a tunnel runs: then any port, or none of this host's, may be what it serves. */
  readonly tunnel: boolean;
  /** Why a configuration could not be tested. */
  readonly untested: string | null;
}

const services = ['nginx', 'apache2', 'httpd', 'caddy', 'haproxy', 'lighttpd', 'lshttpd'];

const properties = [
  'Id',
  'LoadState',
  'ActiveState',
  'SubState',
  'UnitFileState',
  'Result',
  'ExecMainStatus',
  'NRestarts',
  'ActiveEnterTimestampMonotonic',
  'StateChangeTimestamp',
];

/** Seconds for which a service must have been up to count as settled after it was restarted. */
const settled = 600;

export default defineCheck<Seen>({
  name: 'service',
  title: "the web server's service is up, and its configuration passes its test",

  async observe(host) {
    const tests = await Promise.allSettled([
      lookAtNginx(host).then((seen) => refusal(host, 'nginx', seen)),
      lookAtApache(host).then((seen) => refusal(host, 'Apache', seen)),
    ]);
    const heard = await listeners(host);
    const failed = tests.flatMap((test) => (test.status === 'rejected' ? [test.reason] : []));
    const broken: unknown = failed.find((error) => !(error instanceof CfsyncError));
    if (broken !== undefined) throw broken;
    return {
      units: await units(host),
      uptime: Number.parseFloat((await host.read('/proc/uptime')) ?? ''),
      refusals: tests.flatMap((test) => (test.status === 'fulfilled' ? test.value : [])),
      open: heard.filter((one) => !isLoopback(one.address)).map(({ port }) => port),
      inner: heard.filter((one) => isLoopback(one.address)).map(({ port }) => port),
      tunnel: await hasTunnel(host),
      untested: failed.length === 0 ? null : (failed[0] as CfsyncError).message,
    };
  },

  judge(seen, { ports }: DoctorContext) {
    const served = seen.tunnel || ports.some((port) => seen.open.includes(port));
    // That it listens on loopback alone is a finding of check `listening`.
    const isHeard = served || ports.some((port) => seen.inner.includes(port));
    const refused = seen.refusals.map((one) => configuration(one, served));
    const blamed = seen.refusals.flatMap(({ server }) => unitsOf[server]);
    const rest = (seen.units ?? []).filter(
      ({ Id, LoadState }) => LoadState === 'loaded' && !blamed.includes(Id ?? ''),
    );
    const found = [...refused, ...rest.flatMap((unit) => failing(unit, served, seen.uptime))];
    const stopped = rest.filter(({ ActiveState }) => ActiveState === 'inactive');
    const enabled = stopped.filter(isEnabled);
    if (found.length === 0 && !isHeard)
      for (const unit of enabled.length > 0 ? enabled : stopped) found.push(idle(unit));
    if (found.length === 0 && seen.untested !== null)
      throw new CfsyncError(exit.failed, seen.untested);
    return found;
  },
});

const unitsOf: Readonly<Record<Refusal['server'], readonly string[]>> = {
  nginx: ['nginx.service'],
  Apache: ['apache2.service', 'httpd.service'],
};

// ---- observed ----

/** sd_booted(3): this folder is there where systemd is the init. */
async function units(host: DoctorHost): Promise<readonly Unit[] | null> {
  if ((await host.list(runningFolder)) === undefined) return null;
  const names = services.map((name) => `${name}.service`);
  const { stdout } = await host.query({
    argv: ['systemctl', 'show', ...names, `--property=${properties.join(',')}`],
  });
  return stdout
    .split('\n\n')
    .map((block) =>
      Object.fromEntries(
        [...block.matchAll(/^(\w+)=(.*)$/gm)].map(([, key, value]) => [key, value]),
      ),
    );
}

async function refusal(
  host: Pick<Host, 'read'>,
  server: Refusal['server'],
  seen: { readonly running: boolean; readonly refused: readonly string[] | null } | undefined,
): Promise<readonly Refusal[]> {
  if (seen === undefined || seen.refused === null) return [];
  const { running, refused: said } = seen;
  const [path, number] = placeOf(said.join('\n')) ?? [];
  const text = path === undefined ? undefined : (await host.read(path))?.split('\n')[number! - 1];
  return [
    {
      server,
      running,
      said,
      line: text === undefined ? null : `${path}:${number}: ${text.trim()}`,
    },
  ];
}

/** `in FILE:LINE` of nginx, `on line LINE of FILE:` of Apache. */
function placeOf(said: string): readonly [path: string, line: number] | undefined {
  const nginx = / in (\/\S+):(\d+)$/m.exec(said);
  if (nginx !== null) return [nginx[1]!, Number(nginx[2])];
  const apache = / on line (\d+) of (\/\S+):$/m.exec(said);
  return apache === null ? undefined : [apache[2]!, Number(apache[1])];
}

// ---- judged ----

function configuration({ server, running, said, line }: Refusal, served: boolean): Finding {
  const test = server === 'nginx' ? 'nginx -t' : 'apachectl configtest';
  const unit = server === 'nginx' ? 'nginx' : 'apache2 (or httpd)';
  const next = `Mend it there; ${test} must pass, then: systemctl restart ${unit}.`;
  const of = {
    causes: [521],
    evidence: [...said, ...(line === null ? [] : [line])],
  } as const;
  if (running)
    return {
      ...of,
      level: 'warning',
      share: 'all',
      title: `${server} refuses its configuration, and runs on with an older one until it is restarted`,
      advice: next,
    };
  if (served)
    return {
      ...of,
      level: 'note',
      share: 'maybe',
      title: `${server} refuses its configuration, and does not run; something else serves`,
      advice: next,
    };
  return {
    ...of,
    level: 'problem',
    share: 'all',
    title: `${server} does not run, and refuses its configuration`,
    advice: next,
  };
}

function failing(unit: Unit, served: boolean, uptime: number): readonly Finding[] {
  const { Id, ActiveState, SubState } = unit;
  const name = Id!.replace(/\.service$/, '');
  const weight = served
    ? ({ level: 'warning', share: 'maybe' } as const)
    : ({ level: 'problem', share: 'all' } as const);
  const look = `journalctl -u ${name} -n 30 --no-pager says why; mend that, then: systemctl restart ${name}.`;
  const of = { ...weight, causes: [521], evidence: [stateOf(unit)], advice: look } as const;
  if (ActiveState === 'failed') return [{ ...of, title: `The service ${name} has failed` }];
  if (SubState === 'auto-restart')
    return [{ ...of, title: `The service ${name} ends again and again, and systemd restarts it` }];
  const since = uptime - Number(unit.ActiveEnterTimestampMonotonic) / 1e6;
  if (ActiveState === 'active' && Number(unit.NRestarts) > 0 && since < settled)
    return [
      {
        ...of,
        level: 'warning',
        share: 'maybe',
        title: `The service ${name} was restarted by systemd ${Math.round(since)} s ago, after it had ended by itself`,
      },
    ];
  return [];
}

function idle(unit: Unit): Finding {
  const name = unit.Id!.replace(/\.service$/, '');
  return {
    level: 'problem',
    share: 'all',
    causes: [521],
    title: `The service ${name} is stopped`,
    evidence: [stateOf(unit)],
    command: isEnabled(unit) ? `systemctl start ${name}` : `systemctl enable --now ${name}`,
  };
}

function isEnabled({ UnitFileState }: Unit): boolean {
  return UnitFileState?.startsWith('enabled') === true;
}

function stateOf(unit: Unit): string {
  const since = unit.StateChangeTimestamp ? ` since ${unit.StateChangeTimestamp}` : '';
  const restarts = Number(unit.NRestarts) > 0 ? `, restarts ${unit.NRestarts}` : '';
  return `${unit.Id}: ${unit.ActiveState} (${unit.SubState})${since}; ${unit.UnitFileState}, result ${unit.Result}, exit status ${unit.ExecMainStatus}${restarts}`;
}
