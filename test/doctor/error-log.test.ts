import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import errorLog from '../../src/doctor/checks/error-log.ts';
import { lastDay } from '../../src/doctor/logs.ts';
import { dumped, fixture, lines, look, web } from '../helpers/web.ts';

const path = '/var/log/nginx/error.log';
const apachePath = '/var/log/apache2/error.log';
const now = new Date('2026-11-21T20:00:00Z');
const gone = (of: string) => ({
  code: 1,
  stdout: '',
  stderr: `tail: cannot open '${of}' for reading: No such file or directory\n`,
});
const tail = (of: string) => `tail -c 4194304 -- ${of}`;

const nginx = (log: string, more = '', older?: string) =>
  web({
    nginx: dumped(`error_log ${path};\nerror_log stderr;\nhttp { ${more} }`),
    running: ['nginx'],
    answers: {
      'nginx -V': { code: 0, stdout: '', stderr: 'configure arguments: --prefix=/usr/share/nginx' },
      [tail(path)]: log,
      [tail(`${path}.1`)]: older ?? gone(`${path}.1`),
    },
  });
const apache = (log: string) =>
  web({
    apache: fixture('doctor/apache/package.txt'),
    running: ['apache2'],
    answers: { [tail(apachePath)]: log, [tail(`${apachePath}.1`)]: gone(`${apachePath}.1`) },
  });

/** The same line, so many times. */
const times = (n: number, line: string): string => `${line}\n`.repeat(n);
const line = (part: string, of = 'nginx'): string =>
  fixture(`doctor/logs/${of}-error.log`)
    .split('\n')
    .find((text) => text.includes(part))!;

// The logs were written in UTC.
let zone: string | undefined;
beforeAll(() => {
  zone = process.env.TZ;
  process.env.TZ = 'UTC';
});
afterAll(() => {
  if (zone === undefined) delete process.env.TZ;
  else process.env.TZ = zone;
});

describe('error log of nginx', () => {
  it('is told by kind, a few lines as notes', async () => {
    const found = await look(errorLog, nginx(fixture('doctor/logs/nginx-error.log')), { now });
    expect(lines(found)).toEqual([
      'note part -: nginx waited in vain for its upstream: visitors see 504',
      'note part -: nginx cannot connect to its upstream: visitors see 502',
      "note part -: nginx's upstream ended the connection without an answer: visitors see 502",
      'note part 520: nginx had no connection left and reset new ones',
      "note part -: nginx refused Cloudflare's addresses by limit_req or limit_conn",
      "note part -: nginx refused Cloudflare's addresses by allow and deny: visitors see 403",
    ]);
    expect(found[0]!.evidence[0]).toBe(
      `4 lines in the last day, 4 of them for an address of Cloudflare; the latest in ${path}:`,
    );
    expect(found[0]!.evidence[1]).toMatch(/^2026\/11\/21 19:06:22 \[error\] .* upstream timed out/);
    expect(found[1]!.evidence[0]).toMatch(/^2 lines/);
    expect(found[3]!.evidence[0]).toBe(`8 lines in the last day; the latest in ${path}:`);
  });

  it.each([
    [
      'upstream timed out',
      10,
      ['warning part -: nginx waited in vain for its upstream: visitors see 504'],
    ],
    [
      'upstream timed out',
      9,
      ['note part -: nginx waited in vain for its upstream: visitors see 504'],
    ],
    ['[alert]', 10, ['warning part 520: nginx had no connection left and reset new ones']],
    ['[warn]', 10, []],
    [
      'limiting requests',
      10,
      ["warning part -: nginx refused Cloudflare's addresses by limit_req or limit_conn"],
    ],
    [
      'forbidden by rule',
      500,
      ["note part -: nginx refused Cloudflare's addresses by allow and deny: visitors see 403"],
    ],
  ])('%s, %i times', async (part, n, expected) => {
    expect(lines(await look(errorLog, nginx(times(n, line(part))), { now }))).toEqual(expected);
  });

  it('of other visitors tells of upstreams, and not of refusals', async () => {
    const others = fixture('doctor/logs/nginx-error.log').replaceAll(
      '173.245.48.10',
      '198.51.100.7',
    );
    const found = await look(errorLog, nginx(others), { now });
    expect(
      found.map(({ title }) => title).filter((title) => title.includes("Cloudflare's")),
    ).toEqual([]);
    expect(found[0]!.evidence[0]).toBe(`4 lines in the last day; the latest in ${path}:`);
  });

  it('older than a day does not count, wherever logrotate has put it', async () => {
    const log = fixture('doctor/logs/nginx-error.log');
    expect(await look(errorLog, nginx(log), { now: new Date('2026-11-22T19:07:00Z') })).toEqual([]);
    const [one] = await look(errorLog, nginx('', '', log), { now });
    expect(one!.evidence[0]).toContain(`the latest in ${path}.1:`);
    const late = await look(errorLog, nginx(log), { now: new Date('2026-11-22T19:06:20Z') });
    expect(late[0]!.evidence[0]).toMatch(/^3 lines/);
  });

  it('causes 524 where nginx waits for longer than Cloudflare does', async () => {
    const log = times(1, line('upstream timed out'));
    const on = (value: string) =>
      look(errorLog, nginx(log, `server { proxy_read_timeout ${value}; }`), { now });
    expect((await on('2m'))[0]).toMatchObject({ causes: [524] });
    expect((await on('2m'))[0]!.evidence[2]).toBe(
      '/etc/nginx/nginx.conf:3: proxy_read_timeout 2m, and Cloudflare waits for 120 s',
    );
    expect((await on('119s'))[0]).toMatchObject({ causes: [] });
  });

  it('is read from its end, and says so', async () => {
    const big = `broken upstream timed out\n${times(20_000, line('upstream timed out'))}`;
    const [found] = await look(errorLog, nginx(big.slice(-4_194_304)), { now });
    expect(found!.evidence[0]).toMatch(/ or more in the last day/);
  });

  it('that may not be read is named', async () => {
    const denied = {
      code: 1,
      stdout: '',
      stderr: `tail: cannot open '${path}' for reading: Permission denied\n`,
    };
    const host = web({
      nginx: dumped(`error_log ${path};`),
      running: ['nginx'],
      answers: {
        'nginx -V': '',
        [tail(path)]: denied,
        [tail(`${path}.1`)]: gone(`${path}.1`),
      },
    });
    await expect(look(errorLog, host, { now })).rejects.toThrow(`cannot read ${path}: needs root`);
  });
});

describe('error log of Apache', () => {
  it('is told by kind', async () => {
    const found = await look(errorLog, apache(fixture('doctor/logs/apache-error.log')), { now });
    expect(lines(found)).toEqual([
      'note part -: Apache waited in vain for its upstream: visitors see 502 or 504',
      'note part -: Apache cannot connect to its upstream: visitors see 503',
      "note part -: Apache's upstream ended the connection without an answer: visitors see 502",
      'warning part 522,524: Apache had all its workers busy, and new connections waited',
      "note part -: mod_evasive refused Cloudflare's addresses: visitors see 403",
      "note part -: Apache refused Cloudflare's addresses by Require or Deny: visitors see 403",
    ]);
    expect(found.map(({ evidence }) => /^\d+/.exec(evidence[0]!)![0])).toEqual([
      '7',
      '1',
      '1',
      '1',
      '8',
      '3',
    ]);
  });

  it('is about Cloudflare where the client is', async () => {
    const others = fixture('doctor/logs/apache-error.log').replaceAll(
      '173.245.48.10',
      '198.51.100.7',
    );
    expect((await look(errorLog, apache(others), { now })).map(({ title }) => title)).toHaveLength(
      4,
    );
  });
});

describe('times in logs', () => {
  it.each([
    ['2026/11/21 19:06:19 [error] x', 1],
    ['[Sat Nov 21 19:05:17.665954 2026] [core:notice] x', 1],
    ['[21-Nov-2026 19:05:17] WARNING: x', 1],
    ['2026/11/20 19:06:19 [error] x', 0],
    ['[Fri Nov 20 19:05:17.665954 2026] x', 0],
    ['[20-Nov-2026 19:05:17] x', 0],
    ['no time at all', 0],
  ])('%s', (text, n) => {
    expect(lastDay({ path, text, cut: false }, now)).toHaveLength(n);
  });
});
