/** Has the host what it takes to answer: processors, memory, disks, queues, descriptors, workers? */
import { ofProcess } from '../../host/proc.ts';
import { count, number } from '../../text.ts';
import { defineCheck, type DoctorContext, type DoctorHost, type Finding } from '../check.ts';
import { lastDay, logs, type Log } from '../logs.ts';
import { directiveText } from '../configuration.ts';
import { lookAtNginx } from '../nginx.ts';
import { pidsOf, unlessMissing } from '../../host/programs.ts';

/** An nginx worker. */
interface Worker {
  readonly pid: number;
  readonly descriptors: number;
  /** The soft limit "Max open files"; null where it is not told. */
  readonly limit: number | null;
}

interface Seen {
  /** Files of proc(5), by path; those that are not there are left out. */
  readonly proc: Readonly<Record<string, string>>;
  /** What `df -lP -k` and `df -lP -i` print; null where there is no df. */
  readonly blocks: string | null;
  readonly inodes: string | null;
  /** What `ss -Hltn` prints; null where there is no ss. */
  readonly queues: string | null;
  readonly workers: readonly Worker[];
  /** `worker_connections` with where it stands, or nginx's default of 512; null where none runs, or it is not known. */
  readonly workerConnections: { readonly value: number; readonly line: string } | null;
  readonly phpLogs: readonly Log[];
}

const files = [
  '/proc/loadavg',
  '/proc/stat',
  '/proc/meminfo',
  '/proc/vmstat',
  '/proc/net/netstat',
  '/proc/net/snmp',
  '/proc/sys/fs/file-nr',
  '/proc/sys/net/netfilter/nf_conntrack_count',
  '/proc/sys/net/netfilter/nf_conntrack_max',
];

/** Of what there is of a thing: from here on a warning, and from there on a problem. */
const [tight, full] = [0.85, 0.97];

export default defineCheck<Seen>({
  name: 'overload',
  title: 'load, memory, disks, queues, connection tracking, descriptors and workers',

  async observe(host) {
    const [proc, blocks, inodes, queues, nginx, phpLogs] = await Promise.all([
      readAll(host),
      unlessMissing(host, ['df', '-lP', '-k']),
      unlessMissing(host, ['df', '-lP', '-i']),
      unlessMissing(host, ['ss', '-Hltn']),
      lookAtWorkers(host),
      phpFpm(host),
    ]);
    return {
      proc,
      blocks: blocks?.stdout ?? null,
      inodes: inodes?.stdout ?? null,
      queues: queues?.stdout ?? null,
      ...nginx,
      phpLogs,
    };
  },

  judge(seen, context) {
    return [
      ...load(seen),
      ...memory(seen),
      ...disks(seen.blocks, 'space'),
      ...disks(seen.inodes, 'inodes'),
      ...queues(seen, context),
      ...conntrack(seen),
      ...descriptors(seen),
      ...workers(seen),
      ...php(seen, context),
    ];
  },
});

// ---- observed ----

async function readAll(host: DoctorHost): Promise<Seen['proc']> {
  const texts = await Promise.all(
    files.map(async (file) => [file, await ofProcess(host.read(file))] as const),
  );
  return Object.fromEntries(
    texts.flatMap(([file, text]) => (text === undefined ? [] : [[file, text]])),
  );
}

async function lookAtWorkers(
  host: DoctorHost,
): Promise<Pick<Seen, 'workers' | 'workerConnections'>> {
  const found: Worker[] = [];
  for (const pid of await pidsOf(host, ['nginx'])) {
    const title = await ofProcess(host.read(`/proc/${pid}/cmdline`));
    const open = await ofProcess(host.list(`/proc/${pid}/fd`));
    if (title?.includes('worker process') !== true || open === undefined) continue;
    const limits = (await ofProcess(host.read(`/proc/${pid}/limits`))) ?? '';
    const [, limit] = /^Max open files +(\d+)/m.exec(limits) ?? [];
    found.push({
      pid,
      descriptors: open.length,
      limit: limit === undefined ? null : Number(limit),
    });
  }
  if (found.length === 0) return { workers: [], workerConnections: null };
  const nginx = await ofProcess(lookAtNginx(host));
  if (nginx === undefined || nginx.refused !== null)
    return { workers: found, workerConnections: null };
  const directive = nginx.directives.find(({ words }) => words[0] === 'worker_connections');
  return {
    workers: found,
    workerConnections:
      directive === undefined
        ? { value: 512, line: 'no worker_connections; nginx comes with 512' }
        : {
            value: Number(directive.words[1]),
            line: directiveText(directive),
          },
  };
}

/** Where Debian and Red Hat have php-fpm's log; only what may be read. */
async function phpFpm(host: DoctorHost): Promise<readonly Log[]> {
  const names = (await ofProcess(host.list('/var/log'))) ?? [];
  const paths = names
    .filter((name) => /^php[\d.]*-fpm\.log$/.test(name))
    .map((name) => `/var/log/${name}`);
  if (names.includes('php-fpm')) paths.push('/var/log/php-fpm/error.log');
  return (await ofProcess(logs(host, paths))) ?? [];
}

// ---- judged ----

function load({ proc }: Seen): readonly Finding[] {
  const [one, five] = (proc['/proc/loadavg'] ?? '').split(' ').map(Number);
  const cores = (proc['/proc/stat'] ?? '').match(/^cpu\d+ /gm)?.length ?? 0;
  // For five minutes and still: a short burst, as of a backup, keeps nobody out.
  const least = Math.min(one ?? 0, five ?? 0);
  if (cores === 0 || !(least > cores * 4)) return [];
  return [
    {
      level: least > cores * 10 ? 'problem' : 'warning',
      share: 'maybe',
      causes: [522, 524],
      title: `The load is ${five} with ${count(cores, 'core')}`,
      evidence: [`/proc/loadavg: ${proc['/proc/loadavg']!.trim()}`],
      advice: 'See what takes the time: ps -eo pcpu,stat,args --sort=-pcpu | head.',
    },
  ];
}

function memory({ proc }: Seen): readonly Finding[] {
  const kib = (name: string): number =>
    Number(new RegExp(`^${name}: +(\\d+) kB$`, 'm').exec(proc['/proc/meminfo'] ?? '')?.[1]);
  const [total, available] = [kib('MemTotal'), kib('MemAvailable')];
  const [swap, swapFree] = [kib('SwapTotal'), kib('SwapFree')];
  const findings: Finding[] = [];
  const left = available / total;
  if (left < 0.05)
    findings.push({
      level: left < 0.02 ? 'problem' : 'warning',
      share: 'maybe',
      causes: [522, 524],
      title: `Of ${mib(total)} of memory ${mib(available)} are left`,
      evidence: [
        `/proc/meminfo: MemAvailable ${number(available)} kB, SwapFree ${number(swapFree)} of ${number(swap)} kB`,
      ],
      advice:
        'See what takes it: ps -eo rss,args --sort=-rss | head; give it less, or the host more.',
    });
  else if (swap > 0 && swapFree / swap < 0.05 && left < 0.15)
    findings.push({
      level: 'warning',
      share: 'maybe',
      causes: [522, 524],
      title: 'The swap space is full, and little memory is left',
      evidence: [
        `/proc/meminfo: SwapFree ${number(swapFree)} of ${number(swap)} kB, MemAvailable ${number(available)} of ${number(total)} kB`,
      ],
      advice: 'See what takes it: ps -eo rss,args --sort=-rss | head.',
    });
  const [, kills = '0'] = /^oom_kill (\d+)$/m.exec(proc['/proc/vmstat'] ?? '') ?? [];
  if (Number(kills) > 0)
    findings.push({
      // When it was is not told; the kernel log says it, and what was ended.
      level: 'note',
      share: 'maybe',
      causes: [521],
      title: `The kernel has ended ${count(Number(kills), 'process', 'processes')} since boot, for want of memory`,
      evidence: [`/proc/vmstat: oom_kill ${kills}`],
      advice: "Which and when: journalctl -k -g 'Out of memory|oom-kill' --no-pager.",
    });
  return findings;
}

function mib(kib: number): string {
  return `${number(Math.round(kib / 1024))} MiB`;
}

/** `FILESYSTEM BLOCKS USED AVAILABLE CAPACITY% MOUNTED`, as POSIX has it. */
const row = /^\S+ +(\d+) +(\d+) +(\d+) +(\d+)% (.+)$/gm;

/** Where a full file system stops a web server, or what is behind it. */
const vital = /^\/(?:$|run|tmp|var|srv|home|opt|usr|etc|mnt|data|www)(?:\/|$)/;

function disks(text: string | null, what: 'space' | 'inodes'): readonly Finding[] {
  return [...(text ?? '').matchAll(row)].flatMap(([, total, used, available, , mount]) => {
    // Those of a snap or an image are full by nature.
    if (Number(total) === 0 || !vital.test(mount!) || mount!.startsWith('/snap/')) return [];
    const share = Number(used) / (Number(used) + Number(available));
    // A file system that holds some kilobytes alone is a mount that hides something.
    if (share < full || Number(total) < 1024) return [];
    const empty = Number(available) === 0;
    return [
      {
        level: empty ? ('problem' as const) : ('warning' as const),
        share: 'maybe' as const,
        causes: [520, 521] as const,
        title: `${mount} has ${empty ? 'no' : 'hardly any'} ${what === 'space' ? 'space' : 'inodes'} left`,
        evidence: [
          `df -lP ${what === 'space' ? '-k' : '-i'}: ${number(Number(available))} of ${number(Number(total))} left on ${mount}`,
        ],
        advice:
          what === 'space'
            ? `See what takes it: du -xh --max-depth=2 ${mount} | sort -h | tail.`
            : `See where they are: du -x --inodes --max-depth=2 ${mount} | sort -n | tail.`,
      },
    ];
  });
}

/** A line of names and a line of values, for each group. */
function counter(text: string | undefined, group: string, name: string): number {
  const lines = (text ?? '').split('\n').filter((line) => line.startsWith(`${group}: `));
  const at = lines[0]?.split(' ').indexOf(name) ?? -1;
  return at < 0 ? 0 : Number(lines[1]?.split(' ')[at]);
}

function queues({ proc, queues: ss }: Seen, { ports }: DoctorContext): readonly Finding[] {
  const findings: Finding[] = [];
  // LISTEN: Recv-Q is what waits to be accepted, Send-Q how much may (ss(8)); the kernel takes one more than that.
  for (const text of (ss ?? '').split('\n')) {
    const [, waiting, most, local] = /^LISTEN +(\d+) +(\d+) +(\S+)/.exec(text) ?? [];
    const port = Number(local?.split(':').at(-1));
    if (!ports.includes(port) || Number(most) === 0 || Number(waiting) <= Number(most)) continue;
    findings.push({
      level: 'problem',
      share: 'all',
      causes: [522],
      title: `The listen queue of port ${port} is full: new connections are dropped`,
      evidence: [`ss -ltn: ${text.trim().replaceAll(/ +/g, ' ')}`],
      advice:
        'The server does not accept fast enough: is it stuck, or has it too few workers? Restart it; then raise its workers, its backlog and net.core.somaxconn.',
    });
  }
  const overflows = counter(proc['/proc/net/netstat'], 'TcpExt', 'ListenOverflows');
  const accepted = counter(proc['/proc/net/snmp'], 'Tcp', 'PassiveOpens');
  const share = overflows / (overflows + accepted);
  if (findings.length === 0 && overflows > 0)
    findings.push({
      // Of all since boot: one burst long ago is no reason to act.
      level: overflows >= 100 && share > 0.001 ? 'warning' : 'note',
      share: 'maybe',
      causes: [522],
      title: `${count(overflows, 'connection')} came while a listen queue was full, since boot`,
      evidence: [
        `/proc/net/netstat: ListenOverflows ${overflows}, ListenDrops ${counter(proc['/proc/net/netstat'], 'TcpExt', 'ListenDrops')}; /proc/net/snmp: PassiveOpens ${accepted}`,
      ],
      advice:
        'Raise the backlog (nginx: listen 443 ssl backlog=4096;) and net.core.somaxconn; watch it with nstat -az TcpExtListenOverflows.',
    });
  return findings;
}

function conntrack({ proc }: Seen): readonly Finding[] {
  const used = Number(proc['/proc/sys/net/netfilter/nf_conntrack_count']);
  const most = Number(proc['/proc/sys/net/netfilter/nf_conntrack_max']);
  // 0 is without end.
  if (!(most > 0) || !(used / most >= tight)) return [];
  const over = used / most >= full;
  return [
    {
      level: over ? 'problem' : 'warning',
      share: over ? 'all' : 'maybe',
      causes: [522],
      title: `The table of tracked connections is ${over ? 'full' : 'nearly full'}: new ones are dropped`,
      evidence: [`nf_conntrack_count ${number(used)} of nf_conntrack_max ${number(most)}`],
      command: `sysctl -w net.netfilter.nf_conntrack_max=${most * 4}`,
      advice: 'Put it in /etc/sysctl.d as well, or it is gone at the next boot.',
    },
  ];
}

function descriptors({ proc }: Seen): readonly Finding[] {
  const [used, , most] = (proc['/proc/sys/fs/file-nr'] ?? '').trim().split(/\s+/).map(Number);
  if (used === undefined || most === undefined || !(used / most >= tight)) return [];
  return [
    {
      level: used / most >= full ? 'problem' : 'warning',
      share: 'maybe',
      causes: [520, 522],
      title: 'The host has hardly any file handles left',
      evidence: [`/proc/sys/fs/file-nr: ${number(used)} of ${number(most)}`],
      command: `sysctl -w fs.file-max=${most * 2}`,
    },
  ];
}

function workers({ workers: all, workerConnections: setting }: Seen): readonly Finding[] {
  const findings: Finding[] = [];
  const busy = [...all].sort((a, b) => b.descriptors - a.descriptors)[0];
  if (busy === undefined) return [];
  const open = `worker ${busy.pid} of nginx has ${count(busy.descriptors, 'open file')}`;
  // Each connection is a file; logs, listening sockets and files served are some more.
  const crowded = setting !== null && busy.descriptors >= setting.value * tight;
  if (crowded)
    findings.push({
      level: busy.descriptors >= setting.value ? 'problem' : 'warning',
      share: 'part',
      causes: [520],
      title: 'nginx has hardly any worker connections left',
      evidence: [open, setting.line],
      advice: `Say worker_connections ${setting.value * 4}; in events { }, then: systemctl reload nginx.`,
    });
  if (busy.limit !== null && busy.descriptors >= busy.limit * tight)
    findings.push({
      level: busy.descriptors >= busy.limit * full ? 'problem' : 'warning',
      share: 'part',
      causes: [520, 522],
      title: 'nginx has hardly any file descriptors left',
      evidence: [open, `/proc/${busy.pid}/limits: Max open files ${busy.limit}`],
      advice: `Say worker_rlimit_nofile ${busy.limit * 4}; at the top of nginx.conf, then: systemctl reload nginx.`,
    });
  else if (setting !== null && busy.limit !== null && busy.limit < setting.value)
    findings.push({
      level: 'note',
      share: 'maybe',
      causes: [520, 522],
      title: 'nginx may open fewer files than it may have connections',
      evidence: [setting.line, `/proc/${busy.pid}/limits: Max open files ${busy.limit}`],
      advice: `Say worker_rlimit_nofile ${setting.value * 2}; at the top of nginx.conf, then: systemctl reload nginx.`,
    });
  return findings;
}

function php({ phpLogs }: Seen, { now }: DoctorContext): readonly Finding[] {
  const lines = phpLogs.flatMap((log) =>
    lastDay(log, now)
      .filter(({ text }) => text.includes('server reached pm.max_children setting'))
      .map(({ text }) => ({ text, path: log.path })),
  );
  const last = lines.at(-1);
  if (last === undefined) return [];
  return [
    {
      // Once or twice a day happens where all is well; Debian comes with 5 children.
      level: lines.length >= 10 ? 'warning' : 'note',
      share: 'part',
      causes: [524],
      title: 'php-fpm had all its children busy, and requests waited',
      evidence: [
        `${count(lines.length, 'line')} in the last day; the latest in ${last.path}:`,
        last.text,
      ],
      advice:
        'Raise pm.max_children of the pool as far as memory allows, or find what is slow (request_slowlog_timeout); then: systemctl reload php-fpm.',
    },
  ];
}
