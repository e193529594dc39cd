import { describe, expect, it } from 'vitest';
import overload from '../../src/doctor/checks/overload.ts';
import { dumped, fixture, lines, look, web, type Web } from '../helpers/web.ts';

const proc = (name: string): string => fixture(`doctor/proc/${name}`);
/** Two cores at rest. */
const calm: Readonly<Record<string, string>> = {
  '/proc/loadavg': '0.11 0.20 0.21 1/508 18876\n',
  '/proc/stat': proc('stat'),
  '/proc/meminfo': proc('meminfo'),
  '/proc/vmstat': proc('vmstat'),
  '/proc/net/netstat': proc('netstat'),
  '/proc/net/snmp': proc('snmp'),
  '/proc/sys/fs/file-nr': proc('file-nr'),
  '/proc/sys/net/netfilter/nf_conntrack_count': '310\n',
  '/proc/sys/net/netfilter/nf_conntrack_max': '262144\n',
};
const df = (which: 'k' | 'i'): string => fixture(`doctor/df-${which}.txt`);

const on = ({ files = {}, answers = {}, ...more }: Web = {}) =>
  look(
    overload,
    web({
      ...more,
      files: { ...calm, ...files },
      answers: { 'df -lP -k': df('k'), 'df -lP -i': df('i'), 'ss -Hltn': '', ...answers },
    }),
    { now: new Date('2026-11-21T20:00:00') },
  );
const titles = async (more: Web) => lines(await on(more));

const meminfo = (values: Readonly<Record<string, number>>) => ({
  files: {
    '/proc/meminfo': Object.entries({ MemTotal: 1_000_000, ...values }).reduce(
      (text, [name, value]) =>
        text.replace(new RegExp(`^${name}:.*$`, 'm'), `${name}: ${value} kB`),
      proc('meminfo'),
    ),
  },
});

it('has nothing to say of a host at rest, nor of one where nothing can be read', async () => {
  expect(await on()).toEqual([]);
  expect(await look(overload, web({}))).toEqual([]);
});

it.each([
  ['8.00 8.00 1.00', []],
  ['8.10 8.10 1.00', ['warning maybe 522,524: The load is 8.1 with 2 cores']],
  ['40.00 2.00 1.00', []],
  ['2.00 40.00 40.00', []],
  ['21.00 22.00 1.00', ['problem maybe 522,524: The load is 22 with 2 cores']],
])('load %s', async (text, expected) => {
  expect(await titles({ files: { '/proc/loadavg': `${text} 1/508 18876\n` } })).toEqual(expected);
});

it.each([
  [{ MemAvailable: 50_000 }, []],
  [{ MemAvailable: 49_000 }, ['warning maybe 522,524: Of 977 MiB of memory 48 MiB are left']],
  [{ MemAvailable: 19_000 }, ['problem maybe 522,524: Of 977 MiB of memory 19 MiB are left']],
  [
    { MemAvailable: 140_000, SwapTotal: 1000, SwapFree: 40 },
    ['warning maybe 522,524: The swap space is full, and little memory is left'],
  ],
  [{ MemAvailable: 160_000, SwapTotal: 1000, SwapFree: 40 }, []],
  [{ MemAvailable: 140_000, SwapTotal: 1000, SwapFree: 60 }, []],
])('memory %j', async (values, expected) => {
  expect(await titles(meminfo(values))).toEqual(expected);
});

it('notes what the kernel ended for want of memory', async () => {
  const vmstat = proc('vmstat').replace(/^oom_kill 0$/m, 'oom_kill 2');
  expect(await titles({ files: { '/proc/vmstat': vmstat } })).toEqual([
    'note maybe 521: The kernel has ended 2 processes since boot, for want of memory',
  ]);
});

describe('disks', () => {
  const root = (used: number, available: number, mount = '/') =>
    df('k').replace(/^\/dev\/vda.*$/m, `/dev/vda 1000000 ${used} ${available} 9% ${mount}`);
  const at = (used: number, available: number, mount?: string) =>
    titles({ answers: { 'df -lP -k': root(used, available, mount) } });

  it('that are full are a problem, nearly full a warning', async () => {
    expect(await at(950_000, 0)).toEqual(['problem maybe 520,521: / has no space left']);
    expect(await at(970_001, 30_000, '/var/my files')).toEqual([
      'warning maybe 520,521: /var/my files has hardly any space left',
    ]);
    expect(await at(960_000, 40_000)).toEqual([]);
    // A disk in an image is full by nature.
    expect(await at(950_000, 0, '/snap/core/1')).toEqual([]);
    expect(await at(950_000, 0, '/media/cdrom')).toEqual([]);
  });

  it('have inodes too', async () => {
    const inodes = df('i').replace(/^\/dev\/vda.*$/m, '/dev/vda 16777216 16777216 0 100% /');
    expect(await titles({ answers: { 'df -lP -i': inodes } })).toEqual([
      'problem maybe 520,521: / has no inodes left',
    ]);
  });
});

describe('listen queues', () => {
  it('that are full now are a problem on the web ports', async () => {
    const ss = fixture('doctor/queue-full.ss');
    const found = await on({ answers: { 'ss -Hltn': ss } });
    expect(lines(found)).toEqual([
      'problem all 522: The listen queue of port 80 is full: new connections are dropped',
    ]);
    expect(found[0]!.evidence).toEqual(['ss -ltn: LISTEN 3 2 0.0.0.0:80 0.0.0.0:*']);
    expect(await on({ answers: { 'ss -Hltn': ss.replace(':80', ':8081') } })).toEqual([]);
    expect(await on({ answers: { 'ss -Hltn': ss.replace(/3 +2/, '2 2') } })).toEqual([]);
  });

  it('that ran over since boot are a note, and a warning when often', async () => {
    const overflow = proc('netstat-overflow');
    const files = {
      '/proc/net/netstat': overflow,
      '/proc/net/snmp': proc('snmp-overflow'),
    };
    const [found] = await on({ files });
    expect(found).toMatchObject({ level: 'note', causes: [522] });
    const n = Number(/\d+/.exec(found!.evidence[0]!)![0]);
    expect(n).toBeGreaterThan(0);
    expect(found!.title).toMatch(new RegExp(`^${n} connection`));
    const often = overflow.split('\n');
    const column = often[0]!.split(' ').indexOf('ListenOverflows');
    const values = often[1]!.split(' ');
    values[column] = '100';
    often[1] = values.join(' ');
    const many = { ...files, '/proc/net/netstat': often.join('\n') };
    expect((await on({ files: many }))[0]).toMatchObject({ level: 'warning' });
    const busy = {
      ...many,
      '/proc/net/snmp': proc('snmp').replace(/(Tcp: 1 200 \d+ -1 \d+ )\d+/, '$1900000'),
    };
    expect((await on({ files: busy }))[0]).toMatchObject({ level: 'note' });
  });
});

it.each([
  [222_000, []],
  [
    224_000,
    ['warning maybe 522: The table of tracked connections is nearly full: new ones are dropped'],
  ],
  [262_144, ['problem all 522: The table of tracked connections is full: new ones are dropped']],
])('%i tracked connections', async (n, expected) => {
  const found = await on({ files: { '/proc/sys/net/netfilter/nf_conntrack_count': `${n}\n` } });
  expect(lines(found)).toEqual(expected);
  for (const { command } of found)
    expect(command).toBe('sysctl -w net.netfilter.nf_conntrack_max=1048576');
});

it('file handles', async () => {
  expect(await titles({ files: { '/proc/sys/fs/file-nr': '990\t0\t1000\n' } })).toEqual([
    'problem maybe 520,522: The host has hardly any file handles left',
  ]);
});

describe('workers of nginx', () => {
  const worker = (open: number, limit: number, connections = 'worker_connections 100;') => ({
    nginx: dumped(`events { ${connections} }\nhttp { }`),
    running: ['nginx', 'nginx'],
    files: {
      '/proc/100/cmdline': 'nginx: master process nginx',
      '/proc/101/cmdline': 'nginx: worker process',
      '/proc/101/limits': `Limit  Soft Limit  Hard Limit  Units\nMax open files            ${limit}                20000                files     \n`,
    },
    folders: {
      '/proc/101/fd': Array.from({ length: open }, (_, i) => String(i)),
      '/proc/100/fd': Array.from({ length: 5000 }, String),
    },
  });

  it.each([
    [80, 20_000, []],
    [85, 20_000, ['warning part 520: nginx has hardly any worker connections left']],
    [100, 20_000, ['problem part 520: nginx has hardly any worker connections left']],
    [60, 70, ['warning part 520,522: nginx has hardly any file descriptors left']],
    [69, 70, ['problem part 520,522: nginx has hardly any file descriptors left']],
    [10, 70, ['note maybe 520,522: nginx may open fewer files than it may have connections']],
  ])('%i open files of %i', async (open, limit, expected) => {
    expect(await titles(worker(open, limit))).toEqual(expected);
  });

  it('have 512 connections each where nothing is said', async () => {
    const [found] = await on(worker(500, 20_000, ''));
    expect(found!.evidence).toEqual([
      'worker 101 of nginx has 500 open files',
      'no worker_connections; nginx comes with 512',
    ]);
  });
});

it('php-fpm had no child free', async () => {
  const path = '/var/log/php8.2-fpm.log';
  const answers = {
    [`tail -c 4194304 -- ${path}`]: fixture('doctor/logs/php8.2-fpm.log'),
    [`tail -c 4194304 -- ${path}.1`]: { code: 1, stdout: '', stderr: 'No such file or directory' },
  };
  const [found] = await on({ folders: { '/var/log': ['php8.2-fpm.log', 'syslog'] }, answers });
  expect(found).toMatchObject({ level: 'note', causes: [524] });
  expect(found!.evidence[1]).toContain('server reached pm.max_children setting (1)');
});
