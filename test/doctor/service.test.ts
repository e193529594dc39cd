import { describe, expect, it } from 'vitest';
import service from '../../src/doctor/checks/service.ts';
import { fixture, lines, look, web, type Web } from '../helpers/web.ts';

const show =
  'systemctl show nginx.service apache2.service httpd.service caddy.service haproxy.service lighttpd.service lshttpd.service --property=Id,LoadState,ActiveState,SubState,UnitFileState,Result,ExecMainStatus,NRestarts,ActiveEnterTimestampMonotonic,StateChangeTimestamp';

/** A line of /proc/net/tcp: a socket on 0.0.0.0:80 that listens. */
const on80 = '   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1\n';
const on80Loopback = on80.replace(': 00000000:', ': 0100007F:');

/** As systemctl(1) shows properties: a line each, the units apart by an empty one. */
const unit = (
  name: string,
  active: string,
  sub: string,
  more: Readonly<Record<string, string>> = {},
) =>
  Object.entries({
    NRestarts: '0',
    ExecMainStatus: '0',
    Result: 'success',
    Id: `${name}.service`,
    LoadState: 'loaded',
    ActiveState: active,
    SubState: sub,
    StateChangeTimestamp: 'Sat 2026-11-21 18:00:00 UTC',
    ActiveEnterTimestampMonotonic: '100000000',
    UnitFileState: 'enabled',
    ...more,
  })
    .map(([key, value]) => `${key}=${value}\n`)
    .join('');

const missing = unit('httpd', 'inactive', 'dead', { LoadState: 'not-found', UnitFileState: '' });

const on = ({ units, tcp = '', ...more }: Web & { units?: readonly string[]; tcp?: string }) =>
  web({
    ...more,
    answers: {
      ...(units !== undefined && { [show]: [missing, ...units].join('\n') }),
      ...more.answers,
    },
    files: { '/proc/net/tcp': tcp, '/proc/uptime': '1000.00 2000.00\n', ...more.files },
    folders: units === undefined ? {} : { '/run/systemd/system': [] },
  });

const said = 'nginx: [emerg] unexpected "}" in /etc/nginx/conf.d/site.conf:2\n';
const refused = { code: 1, stdout: '', stderr: said };
const files = { '/etc/nginx/conf.d/site.conf': 'server {\n  listen 80 }\n' };

describe('service', () => {
  it('does not ask for a second web server where one listens on loopback, or a tunnel runs', async () => {
    const units = [unit('apache2', 'inactive', 'dead', { UnitFileState: 'disabled' })];
    expect(lines(await look(service, on({ units })))).toEqual([
      'problem all 521: The service apache2 is stopped',
    ]);
    expect(await look(service, on({ units, tcp: on80Loopback }))).toEqual([]);
    const tunnel = {
      running: ['cloudflared'],
      files: { '/proc/100/cmdline': 'cloudflared\0tunnel\0--url\0http://127.0.0.1\0' },
    };
    const host = on({ units, ...tunnel });
    const list = async (path: string) =>
      path === '/proc' ? ['100'] : path === '/run/systemd/system' ? [] : undefined;
    expect(await look(service, { ...host, list })).toEqual([]);
  });

  it('is up: nothing to say, with systemd and without', async () => {
    expect(
      await look(service, on({ units: [unit('nginx', 'active', 'running')], tcp: on80 })),
    ).toEqual([]);
    expect(await look(service, on({ nginx: fixture('nginx/package.txt') }))).toEqual([]);
    expect(await look(service, on({}))).toEqual([]);
  });

  it.each([
    ['failed', 'failed', 'has failed'],
    ['activating', 'auto-restart', 'ends again and again, and systemd restarts it'],
  ])('%s', async (active, sub, what) => {
    const one = unit('nginx', active, sub, {
      Result: 'exit-code',
      ExecMainStatus: '1',
      NRestarts: '7',
    });
    const [found] = await look(service, on({ units: [one] }));
    expect(lines([found!])).toEqual([`problem all 521: The service nginx ${what}`]);
    expect(found!.evidence).toEqual([
      `nginx.service: ${active} (${sub}) since Sat 2026-11-21 18:00:00 UTC; enabled, result exit-code, exit status 1, restarts 7`,
    ]);
    // Another one serves.
    expect(lines(await look(service, on({ units: [one], tcp: on80 })))).toEqual([
      `warning maybe 521: The service nginx ${what}`,
    ]);
    expect(lines(await look(service, on({ units: [one], tcp: on80Loopback })))).toEqual([
      `problem all 521: The service nginx ${what}`,
    ]);
  });

  it('that was restarted of late is a warning, and later is none', async () => {
    const at = (seconds: number, restarts = '1') =>
      unit('caddy', 'active', 'running', {
        NRestarts: restarts,
        ActiveEnterTimestampMonotonic: String(seconds * 1e6),
      });
    expect(lines(await look(service, on({ units: [at(900)], tcp: on80 })))).toEqual([
      'warning maybe 521: The service caddy was restarted by systemd 100 s ago, after it had ended by itself',
    ]);
    expect(await look(service, on({ units: [at(390)], tcp: on80 }))).toEqual([]);
    expect(await look(service, on({ units: [at(900, '0')], tcp: on80 }))).toEqual([]);
  });

  it('that is stopped is started, unless another one serves', async () => {
    const units = [
      unit('nginx', 'inactive', 'dead'),
      unit('apache2', 'inactive', 'dead', { UnitFileState: 'disabled' }),
    ];
    const found = await look(service, on({ units }));
    expect(lines(found)).toEqual(['problem all 521: The service nginx is stopped']);
    expect(found[0]!.command).toBe('systemctl start nginx');
    expect(await look(service, on({ units, tcp: on80 }))).toEqual([]);
    const [disabled] = await look(service, on({ units: [units[1]!] }));
    expect(disabled!.command).toBe('systemctl enable --now apache2');
  });

  it('whose configuration is refused says where, once', async () => {
    const units = [unit('nginx', 'failed', 'failed')];
    const found = await look(service, on({ nginx: refused, files, units }));
    expect(lines(found)).toEqual([
      'problem all 521: nginx does not run, and refuses its configuration',
    ]);
    expect(found[0]!.evidence).toEqual([said.trim(), '/etc/nginx/conf.d/site.conf:2: listen 80 }']);
    expect(lines(await look(service, on({ nginx: refused, running: ['nginx'] })))).toEqual([
      'warning all 521: nginx refuses its configuration, and runs on with an older one until it is restarted',
    ]);
    expect(lines(await look(service, on({ nginx: refused, tcp: on80 })))).toEqual([
      'note maybe 521: nginx refuses its configuration, and does not run; something else serves',
    ]);
  });

  it('Apache says it in its own way', async () => {
    const apache = { code: 1, stdout: '', stderr: fixture('doctor/apache/refused.txt') };
    const path = '/etc/apache2/sites-enabled/site.conf';
    const found = await look(
      service,
      on({
        apache,
        files: { [path]: `${'#\n'.repeat(13)}Bogus\n` },
        units: [unit('apache2', 'failed', 'failed')],
      }),
    );
    expect(lines(found)).toEqual([
      'problem all 521: Apache does not run, and refuses its configuration',
    ]);
    expect(found[0]!.evidence).toEqual([
      `AH00526: Syntax error on line 14 of ${path}:`,
      "Invalid command 'Bogus', perhaps misspelled or defined by a module not included in the server configuration",
      `${path}:14: Bogus`,
    ]);
  });

  it('that could not be tested is no reason to say nothing of the unit', async () => {
    const nginx = {
      ...refused,
      stderr: 'nginx: [emerg] open() "/x" failed (13: Permission denied)',
    };
    const failed = on({ nginx, units: [unit('nginx', 'failed', 'failed')] });
    expect(lines(await look(service, failed))).toEqual([
      'problem all 521: The service nginx has failed',
    ]);
    await expect(look(service, on({ nginx, running: ['nginx'] }))).rejects.toThrow(
      'nginx -T needs root',
    );
  });
});
