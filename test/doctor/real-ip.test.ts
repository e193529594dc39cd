import { describe, expect, it } from 'vitest';
import realIp from '../../src/doctor/checks/real-ip.ts';
import { doctorContext } from '../helpers/doctor.ts';
import { dumped, fixture, lines, look, web, type Web } from '../helpers/web.ts';

const { ranges } = doctorContext();
const all = [...ranges.v4, ...ranges.v6];
const trusts = all.map((prefix) => `set_real_ip_from ${prefix};`).join(' ');
const realIpOn = `${trusts} real_ip_header CF-Connecting-IP;`;

const nginx = (http: string, more: Web = {}) =>
  look(
    realIp,
    web({ nginx: dumped(`events {}\nhttp {\n${http}\n}`), running: ['nginx'], ...more }),
  );
const titles = async (http: string, more: Web = {}) => lines(await nginx(http, more));

const zone = 'limit_req_zone $binary_remote_addr zone=z:1m rate=1r/s;';
const limited = 'server { listen 80; limit_req zone=z burst=5; }';
const counts =
  'limit_req counts all visitors behind one address of Cloudflare as one: they get 503';
const onlyCloudflare = `server { listen 80; ${all.map((p) => `allow ${p};`).join(' ')} deny all; }`;
const shutOut =
  "nginx lets in Cloudflare's addresses alone, and sees the visitors': every visitor gets 403";
const office = 'allow 198.51.100.0/24; deny all;';
const officeShut =
  "nginx lets in a few addresses, and sees Cloudflare's: everybody who comes through it gets 403";

describe('limits of nginx', () => {
  it('count Cloudflare where no real-IP is set, and visitors where it is', async () => {
    const [found] = await nginx(`${zone}\n${limited}`);
    expect(lines([found!])).toEqual([`warning all -: ${counts}`]);
    expect(found!.command).toBe('cfsync apply --backend nginx');
    expect(found!.evidence).toEqual([
      '/etc/nginx/nginx.conf:4: limit_req zone=z burst=5',
      '/etc/nginx/nginx.conf:3: limit_req_zone $binary_remote_addr zone=z:1m rate=1r/s',
      'no set_real_ip_from counts there',
    ]);
    expect(await titles(`${realIpOn}\n${zone}\n${limited}`)).toEqual([]);
  });

  it.each([
    [
      'a header that Cloudflare does not send',
      `${trusts} real_ip_header X-Client;`,
      'real_ip_header is X-Client (/etc/nginx/nginx.conf:3), which Cloudflare does not send',
    ],
    [
      "nginx's own default",
      trusts,
      'real_ip_header is X-Real-IP by default, which Cloudflare does not send',
    ],
    [
      'a range less',
      realIpOn.replace('set_real_ip_from 104.16.0.0/13;', ''),
      "set_real_ip_from lacks 104.16.0.0/13 of Cloudflare's ranges",
    ],
  ])('count Cloudflare with %s', async (_name, http, why) => {
    const [found] = await nginx(`${http}\n${zone}\n${limited}`);
    expect(found).toMatchObject({ level: 'warning' });
    expect(found!.evidence.at(-1)).toBe(why);
  });

  it('a server that believes another proxy does not inherit', async () => {
    const own = limited.replace('{', '{ set_real_ip_from 10.0.0.0/8;');
    expect(await titles(`${realIpOn}\n${zone}\n${own}`)).toEqual([`warning all -: ${counts}`]);
  });

  it.each([
    [
      'limit_conn',
      'limit_conn_zone $remote_addr zone=z:1m;',
      'server { location / { limit_conn z 5; } }',
      [`warning part -: ${counts.replace('limit_req', 'limit_conn')}`],
    ],
    ['another key', 'limit_req_zone $server_name zone=z:1m rate=1r/s;', limited, []],
    [
      'a variable',
      'limit_req_zone $limit zone=z:1m rate=1r/s;',
      limited,
      ['note maybe -: What limit_req counts by, $limit, is not understood; is it the visitor?'],
    ],
    ["the header's own", 'limit_req_zone $http_cf_connecting_ip zone=z:1m rate=1r/s;', limited, []],
    ['loopback alone', zone, limited.replace('listen 80;', 'listen 127.0.0.1:80;'), []],
  ])('%s', async (_name, declared, server, expected) => {
    expect(await titles(`${declared}\n${server}`)).toEqual(expected);
  });
});

describe('allow and deny of nginx', () => {
  it('of Cloudflare alone lock until real-IP is on; then they shut every visitor out', async () => {
    expect(await titles(onlyCloudflare)).toEqual([]);
    const [found] = await nginx(`${realIpOn}\n${onlyCloudflare}`);
    expect(lines([found!])).toEqual([`problem all -: ${shutOut}`]);
    expect(found!.evidence.at(-1)).toBe('/etc/nginx/nginx.conf:4: deny all');
    expect(
      await titles(`${realIpOn}\n${onlyCloudflare.replace('deny all', 'allow all; deny all')}`),
    ).toEqual([]);
    expect(await titles(`${realIpOn}\n${onlyCloudflare.replace('deny all;', '')}`)).toEqual([]);
    const inside = onlyCloudflare.replace('listen 80;', 'listen 80; location /x {').concat(' }');
    expect(await titles(`${realIpOn}\n${inside}`)).toEqual([`problem part -: ${shutOut}`]);
  });

  it.each([
    ['an office', `server { listen 80; ${office} }`, [`problem all -: ${officeShut}`]],
    [
      'an office, in a location',
      `server { listen 80; location /admin { ${office} } }`,
      [`warning part -: ${officeShut}`],
    ],
    [
      'this host itself',
      'server { location /status { allow 127.0.0.1; allow ::1; allow 10.0.0.0/8; deny all; } }',
      [],
    ],
    ['an office, on loopback', `server { listen 127.0.0.1:80; listen unix:/run/x; ${office} }`, []],
    ['nobody', 'server { location ~ /\\.ht { deny all; } }', []],
    [
      'all but one',
      'server { deny 198.51.100.7; }',
      ['note maybe -: nginx refuses addresses that it never sees through Cloudflare'],
    ],
    [
      'all but one of Cloudflare',
      'server { deny 173.245.48.7; }',
      ["warning part -: nginx refuses addresses of Cloudflare's: the visitors behind them get 403"],
    ],
  ])('let in %s', async (_name, server, expected) => {
    expect(await titles(server)).toEqual(expected);
    expect(await titles(`${realIpOn}\n${server}`)).toEqual([]);
  });
});

describe('jails of fail2ban', () => {
  const log = '/var/log/nginx/access.log';
  /** As fail2ban 1.0.2 answers. */
  const jail = (ignored: readonly string[], path = log) => ({
    answers: {
      'fail2ban-client status': 'Status\n|- Number of jail:\t1\n`- Jail list:\tbots\n',
      'fail2ban-client get bots logpath': `Current monitored log file(s):\n\`- ${path}\n`,
      'fail2ban-client get bots ignoreip':
        ignored.length === 0
          ? 'No IP address/network is ignored\n'
          : `These IP addresses/networks are ignored:\n${ignored.map((one, i) => `${i === ignored.length - 1 ? '`' : '|'}- ${one}\n`).join('')}`,
    },
  });
  const server = 'server { listen 80; }';

  it('on a web log will ban Cloudflare where the log has its addresses', async () => {
    const [found] = await nginx(server, jail(['127.0.0.0/8']));
    expect(lines([found!])).toEqual([
      "warning part 521,522: The jail bots of fail2ban will ban addresses of Cloudflare's for what their visitors do",
    ]);
    expect(found!.evidence).toEqual([
      `it reads ${log}`,
      'no set_real_ip_from counts there',
      'its ignoreip lacks 104.16.0.0/13; 173.245.48.0/20; 2400:cb00::/32; and 1 more',
    ]);
  });

  it('bans nobody where it ignores Cloudflare, and visitors where the log has those', async () => {
    expect(await titles(server, jail(all))).toEqual([
      "note maybe -: The jail bots of fail2ban sees Cloudflare's addresses, which it ignores: it bans nobody behind them",
    ]);
    expect(await titles(server, jail(all.slice(1)))).toEqual([expect.stringContaining('warning')]);
    expect(await titles(`${realIpOn}\n${server}`, jail([]))).toEqual([]);
  });

  it.each([
    ['status', 'Status\n|- Number of jail:\t2\n`- Jail list:\tbots\n'],
    ['status', 'Status\n|- Number of jail:\t1\n`- Jail list:\tbo'],
    ['status', ''],
    ['get bots logpath', `Current monitored log file(s):\n|- ${log}\n`],
    ['get bots ignoreip', 'These IP addresses/networks are ignored:\n|- 104.16.0.0/13\n'],
  ])('that are not all in the answer to %s are not judged', async (words, answer) => {
    const { answers } = jail(all);
    const cut = { answers: { ...answers, [`fail2ban-client ${words}`]: answer } };
    await expect(titles(server, cut)).rejects.toThrow(
      `what fail2ban-client ${words} printed cannot be read`,
    );
  });

  it('may be none', async () => {
    const answers = {
      'fail2ban-client status': 'Status\n|- Number of jail:\t0\n`- Jail list:\t\n',
    };
    expect(await titles(server, { answers })).toEqual([]);
  });

  it('on another log is another matter, unless nginx writes it', async () => {
    expect(await titles(server, jail([], '/var/log/auth.log'))).toEqual([]);
    expect(await titles(`access_log /srv/a.log;\n${server}`, jail([], '/srv/a.log'))).toHaveLength(
      1,
    );
    expect(await titles('server { listen 127.0.0.1:80; }', jail([]))).toEqual([]);
  });
});

describe('what nginx decides by the address', () => {
  const geo = `geo $cf { default 0; ${all.map((prefix) => `${prefix} 1;`).join(' ')} }`;
  const gated = 'server { listen 80; if ($cf = 0) { return 403; } }';
  const title =
    "nginx singles out Cloudflare's addresses, and sees the visitors': every visitor gets what strangers get";

  it('is right until real-IP is on; then every visitor is a stranger', async () => {
    expect(await titles(`${geo}\n${gated}`)).toEqual([]);
    const [found, ...more] = await nginx(`${realIpOn}\n${geo}\n${gated}`);
    expect(more).toEqual([]);
    expect(lines([found!])).toEqual([`problem all -: ${title}`]);
    expect(found!.evidence[0]).toBe('/etc/nginx/nginx.conf:4: geo $cf');
    expect(found!.evidence.at(-1)).toBe('/etc/nginx/nginx.conf:5: if ($cf = 0)');
    expect(found!.advice).toContain('write "geo $realip_remote_addr $cf {" there');
    const mended = geo.replace('geo $cf', 'geo $realip_remote_addr $cf');
    expect(await titles(`${realIpOn}\n${mended}\n${gated}`)).toEqual([]);
  });

  it.each([
    ['in no if', `${realIpOn} ${geo} server { listen 80; }`, [`warning all -: ${title}`]],
    ['for another list', `${realIpOn} geo $cf { 198.51.100.0/24 1; } ${gated}`, []],
    [
      'on loopback alone',
      `${realIpOn} server { listen 127.0.0.1:80; if ($remote_addr !~ ^(104|172|162|173)) { } }`,
      [],
    ],
    [
      'in a location',
      `${realIpOn} server { listen 80; location /x { if ($remote_addr ~ ^104\\.(1[6-9]|2[0-7])\\.) { return 200; } } }`,
      [`problem part -: ${title}`],
    ],
    [
      'that only a server without real-IP has',
      `${geo} server { listen 80; ${realIpOn.replace('CF-Connecting-IP', 'X-Other')} }`,
      [],
    ],
  ])('%s', async (_, http, expected) => {
    expect(await titles(http)).toEqual(expected);
  });
});

describe('Apache', () => {
  const dump = (...directives: readonly string[]): string =>
    directives.map((one, i) => `# In file: /etc/apache2/a.conf\n#  ${i + 1}:\n${one}\n`).join('');
  const apache = (dumpText: string, more: Web = {}) =>
    look(realIp, web({ apache: dumpText, running: ['apache2'], ...more }));
  const on = (...directives: readonly string[]) => apache(dump(...directives));
  const remote = ['RemoteIPHeader CF-Connecting-IP', `RemoteIPTrustedProxy ${all.join(' ')}`];

  it('with mod_evasive as the package has it counts Cloudflare', async () => {
    const found = await apache(fixture('doctor/apache/site.txt'));
    expect(lines(found)).toEqual([
      'warning all -: mod_evasive counts all visitors behind one address of Cloudflare as one: they get 403',
    ]);
    expect(found[0]!.evidence[0]).toMatch(/site\.conf:\d+: DOSPageCount 5$/);
  });

  it('with mod_evasive that spares every range in its own way does not', async () => {
    const few = { ranges: { v4: ['104.16.0.0/16', '173.245.48.0/24'], v6: [] } };
    const at = (...list: readonly string[]) =>
      look(realIp, web({ apache: dump('DOSPageCount 5', ...list), running: ['apache2'] }), few);
    expect(await at('DOSWhitelist 104.16.*.* 173.245.48.*')).toEqual([]);
    expect(await at('DOSWhitelist 104.16.*.*', 'DOSWhitelist 173.245.48.*')).toEqual([]);
    expect(await at('DOSWhitelist 104.16.*.*')).toHaveLength(1);
    expect(await at('DOSWhitelist 104.16.0.0/16 173.245.48.*')).toHaveLength(1);
    expect(await at('DOSWhitelist 104.16.* 173.245.48.*')).toHaveLength(1);
    expect(await on('DOSWhitelist 127.0.0.1')).toEqual([]);
  });

  it('lets in Cloudflare alone: right without mod_remoteip, a 403 for all with it', async () => {
    const require = [`<VirtualHost *:80>\n#  9:\nRequire ip ${all.join(' ')}\n</VirtualHost>`];
    expect(await on(...require)).toEqual([]);
    expect(lines(await on(...remote, ...require))).toEqual([
      "problem all -: Apache lets in Cloudflare's addresses alone, and sees the visitors': every visitor gets 403",
    ]);
    expect(
      lines(await on('<RequireAll>\n# 3:\nRequire ip 173.245.48.0/20\n</RequireAll>')),
    ).toEqual([
      'note maybe -: A list of Require directives is not understood; is it about visitors?',
    ]);
    expect(
      lines(await on('<Location "/admin">\n# 3:\nRequire ip 198.51.100.7\n</Location>')),
    ).toEqual([
      "warning part -: Apache lets in a few addresses, and sees Cloudflare's: everybody who comes through it gets 403",
    ]);
  });

  it('believes the ranges of a list in a file', async () => {
    const directives = [
      'RemoteIPHeader CF-Connecting-IP',
      'RemoteIPTrustedProxyList /etc/cf.lst',
      `Require ip ${all.join(' ')}`,
    ];
    const files = (list: readonly string[]) => ({
      files: { '/etc/cf.lst': `# all\n${list.join('\n')} # end\n` },
    });
    expect(await apache(dump(...directives), files(all))).toHaveLength(1);
    expect(await apache(dump(...directives), files(all.slice(1)))).toEqual([]);
  });
});

it('says nothing of what does not run', async () => {
  expect(await look(realIp, web({}))).toEqual([]);
  expect(await look(realIp, web({ nginx: dumped(`http { ${zone} ${limited} }`) }))).toEqual([]);
});
