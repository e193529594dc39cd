/** `cfsync doctor` beside a real Apache (2.4 of Debian): it finds what a visitor through Cloudflare meets. */
import { writeFile } from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { Lab, type Host } from './lab.ts';
import { describeLive } from './privileges.ts';

const all = '173.245.48.0/20 2400:cb00::/32';
const remote = `RemoteIPHeader CF-Connecting-IP\nRemoteIPTrustedProxy ${all} 103.21.244.0/22 103.22.200.0/22 103.31.4.0/22 141.101.64.0/18 108.162.192.0/18 190.93.240.0/20 188.114.96.0/20 197.234.240.0/22 198.41.128.0/17 162.158.0.0/15 104.16.0.0/13 104.24.0.0/14 172.64.0.0/13 131.0.72.0/22 2606:4700::/32 2803:f800::/32 2405:b500::/32 2405:8100::/32 2a06:98c0::/29 2c0f:f248::/32\n`;
const require = `Require ip ${all}`;

interface Case {
  readonly htaccess?: string;
  readonly override?: string;
  readonly inside?: string;
}

const cases: readonly (readonly [string, Case])[] = [
  ['Require ip', { inside: require }],
  ['a mask that is written out', { inside: 'Require ip 173.245.48.0/255.255.240.0' }],
  ['the beginning of an address', { inside: 'Require ip 173.245' }],
  [
    '<RequireAny>',
    {
      inside: `<RequireAny>\n${all
        .split(' ')
        .map((one) => `Require ip ${one}\n`)
        .join('')}</RequireAny>`,
    },
  ],
  [
    'Deny from all',
    { inside: `Require all granted\nOrder deny,allow\nDeny from all\nAllow from ${all}` },
  ],
  ['Order allow,deny', { inside: `Require all granted\nOrder allow,deny\nAllow from ${all}` }],
  ['.htaccess, where all is allowed', { htaccess: require, override: 'All' }],
  ['.htaccess with AuthConfig', { htaccess: require, override: 'AuthConfig' }],
  [
    '.htaccess for both versions',
    {
      htaccess: `<IfModule mod_authz_core.c>\n${require}\n</IfModule>\n<IfModule !mod_authz_core.c>\nDeny from all\n</IfModule>`,
      override: 'All',
    },
  ],
  [
    '.htaccess with Limit',
    { htaccess: `Order deny,allow\nDeny from all\nAllow from ${all}`, override: 'Limit' },
  ],
  ['.htaccess that is not read', { htaccess: require, override: 'None' }],
  [
    'what the doctor advises',
    { inside: 'Require expr "%{CONN_REMOTE_ADDR} -ipmatch \'173.245.48.0/20\'"' },
  ],
];

describeLive('doctor and Apache', { programs: ['apache2ctl', 'curl', 'ss'] }, () => {
  let lab: Lab;
  let origin: Host;
  const sh = (script: string): Promise<string> => origin.must(['sh', '-ec', script]);
  const begin = async ({ htaccess, override = 'None', inside = '' }: Case, http = '') => {
    const open = htaccess === undefined ? inside : 'Require all granted';
    await writeFile(
      origin.path('/etc/apache2/sites-enabled/000-default.conf'),
      `ServerName x\n${http}DocumentRoot /etc/apache2/www\n<Directory /etc/apache2/www>\nAllowOverride ${override}\n${open}\n</Directory>\n`,
    );
    await sh(
      'mkdir -p /etc/apache2/www; rm -f /etc/apache2/www/.htaccess; echo x >/etc/apache2/www/x',
    );
    if (htaccess !== undefined)
      await writeFile(origin.path('/etc/apache2/www/.htaccess'), `${htaccess}\n`);
    await sh('apache2ctl start');
  };
  const stop = () =>
    sh(
      'p=$(cat /run/apache2/apache2.pid 2>/dev/null) || exit 0; kill $p; for i in $(seq 400); do [ -e /proc/$p ] || exit 0; sleep 0.05; done; exit 1',
    );
  const status = (): Promise<string> =>
    lab.edge.must([
      'curl',
      ...'-s -o /dev/null -w %{http_code} --retry 5 --retry-connrefused'.split(' '),
      '-H',
      'CF-Connecting-IP: 192.0.2.77',
      `http://${origin.v4}/x`,
    ]);
  const problems = async (): Promise<readonly string[]> => {
    const { code, stdout, stderr } = await lab.cfsync(
      'doctor --format json --only real-ip'.split(' '),
    );
    expect([0, 2], stderr).toContain(code);
    const report = JSON.parse(stdout) as {
      findings: { level: string; title: string }[];
      unchecked: unknown[];
    };
    expect(report.unchecked).toEqual([]);
    return report.findings.filter(({ level }) => level === 'problem').map(({ title }) => title);
  };

  beforeAll(async () => {
    lab = await Lab.create({ privateDirs: ['/var/log', '/var/lib/apache2'] });
    ({ origin } = lab);
    await sh('mkdir -p /var/log/apache2 /run/lock; a2enmod -q remoteip access_compat');
  });
  afterAll(() => lab.close());
  afterEach(() => stop());

  test.each(cases)('%s', async (name, one) => {
    await begin(one);
    expect(await status()).toBe('200');
    expect(await problems()).toEqual([]);
    await stop();
    await begin(one, remote);
    const shut = (await status()) === '403';
    expect(shut).toBe(!/not read|advises/.test(name));
    expect(await problems()).toEqual(
      shut
        ? [
            "Apache lets in Cloudflare's addresses alone, and sees the visitors': every visitor gets 403",
          ]
        : [],
    );
  });
});
