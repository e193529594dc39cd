/** `cfsync doctor`, live: real nginx (1.22.1 of Debian 12) that is broken in one way each, and one that is well. */
import { writeFile } from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { checkNames } from '../../src/cli/flags.ts';
import { Lab, type Host } from './lab.ts';
import { describeLive } from './privileges.ts';

interface Found {
  readonly check: string;
  readonly level: string;
  readonly title: string;
  readonly causes: readonly number[];
  readonly evidence: readonly string[];
}

interface Report {
  readonly findings: readonly Found[];
  readonly unchecked: readonly { readonly check: string; readonly why: string }[];
  readonly failed: readonly unknown[];
}

const site = '/etc/nginx/conf.d/site.conf';

const checks = ['service', 'listening', 'real-ip', 'keep-alive', 'tls', 'error-log'];
/** All but what is about the machine that the tests run on. */
const all = checkNames.filter((name) => name !== 'overload');

/** A site as it should be: both ports, both families, TLS, real-IP. */
const healthy = `
server {
  listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;
  ssl_certificate /etc/nginx/cert.pem; ssl_certificate_key /etc/nginx/key.pem;
  location / { return 200 "x"; }
  location /slow { proxy_read_timeout 1s; proxy_pass http://127.0.0.1:9001; }
  location /gone { proxy_pass http://127.0.0.1:9002; }
}
`;

describeLive(
  'doctor and nginx',
  { programs: ['nginx', 'curl', 'fail2ban-client', 'openssl', 'ss', 'tail'] },
  () => {
    let lab: Lab;
    let origin: Host;

    const write = (file: string, content: string): Promise<void> =>
      writeFile(origin.path(file), content);
    const sh = (script: string): Promise<string> => origin.must(['sh', '-c', script]);
    const doctor = async (only = checks): Promise<{ code: number; report: Report }> => {
      const words = only.flatMap((name) => ['--only', name]);
      const { code, stdout, stderr } = await lab.cfsync(['doctor', '--format', 'json', ...words]);
      expect([0, 2], stderr).toContain(code);
      const report = JSON.parse(stdout) as Report;
      expect(report.failed).toEqual([]);
      return { code, report };
    };
    const first = async (): Promise<Found> => {
      const { code, report } = await doctor();
      expect(code).toBe(2);
      return report.findings[0]!;
    };
    const start = () => origin.must(['nginx']);
    const stop = () =>
      sh(
        'kill "$(cat /run/nginx.pid)" 2>/dev/null; for i in $(seq 2000); do pgrep -x nginx >/dev/null || exit 0; sleep 0.05; done; exit 1',
      );
    const apply = async (): Promise<void> => {
      const outcome = await lab.cfsync(['apply', '-b', 'nginx', '--source', 'bundled']);
      expect(outcome, outcome.stderr).toMatchObject({ code: 0 });
    };
    beforeAll(async () => {
      lab = await Lab.create({ privateDirs: ['/var/log', '/var/lib/nginx', '/var/lib/fail2ban'] });
      ({ origin } = lab);
      await origin.must(['rm', '-f', '/etc/nginx/sites-enabled/default']);
      await sh(
        'openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=example.com -days 90 -keyout /etc/nginx/key.pem -out /etc/nginx/cert.pem',
      );
      await sh('cp -a /etc/nginx /run/lab/nginx');
    });
    afterAll(() => lab.close());
    const begin = async (content = healthy): Promise<void> => {
      await write(site, content);
      await start();
    };
    afterEach(async () => {
      await stop();
      await sh(
        'rm -rf /etc/nginx/* /run/lab/state/* /var/log/nginx/* && cp -a /run/lab/nginx/. /etc/nginx/',
      );
    });

    test('a healthy host has notes at most, and stays as it is', async () => {
      await begin();
      await apply();
      const state = (): Promise<string> =>
        sh(
          'find /etc/nginx /var/log/nginx /run /var/lib/nginx -path /run/lab -prune -o -printf "%p %m %s %T@\\n" | sort; pgrep -x nginx',
        );
      const before = await state();
      const { code, report } = await doctor(all);
      expect(report.findings.filter(({ level }) => level !== 'note')).toEqual([]);
      expect(report.unchecked).toEqual([]);
      expect(code).toBe(0);
      expect(await state()).toBe(before);
    });

    test('so has one whose default server turns away who names no site', async () => {
      const named = healthy.replace('server {', 'server {\n  server_name example.com;');
      await begin(
        `server { listen 443 ssl default_server; listen [::]:443 ssl default_server; ssl_reject_handshake on; }\n${named}`,
      );
      await apply();
      const { code, report } = await doctor(all);
      expect(report.findings.filter(({ level }) => level !== 'note')).toEqual([]);
      expect(code).toBe(0);
      const [tls] = report.findings.filter(({ check }) => check === 'tls');
      expect(tls!.evidence[1]).toBe('asked for example.com');
    });

    test('nothing is left behind where nginx does not run', async () => {
      await write(site, healthy);
      const state = (): Promise<string> =>
        sh(
          'find /etc/nginx /var/log/nginx /run -path /run/lab -prune -o -printf "%p %m %s %T@\\n" | sort',
        );
      const before = await state();
      const { report } = await doctor();
      expect(report.findings[0]).toMatchObject({ check: 'listening', causes: [521] });
      expect(await state()).toBe(before);
    });

    test('where no resolver answers, that is said', async () => {
      await write('/etc/resolv.conf', `nameserver ${origin.v4}\n`);
      const { code, stdout } = await lab.cfsync(
        'doctor --format json --only dns --host www.example.com'.split(' '),
      );
      expect(code).toBe(0);
      expect((JSON.parse(stdout) as Report).unchecked).toEqual([
        { check: 'dns', why: expect.stringMatching(/^no resolver answers \(E\w+\)/) },
      ]);
    });

    describe('the first finding is', () => {
      test('a keep-alive that is too short', async () => {
        await begin(`keepalive_timeout 2s;\n${healthy}`);
        await apply();
        expect(await first()).toMatchObject({
          check: 'keep-alive',
          causes: [520],
          evidence: [`${site}:1: keepalive_timeout 2s`, expect.any(String)],
        });
      });

      test('a configuration that nginx refuses, while it runs and when it does not', async () => {
        await begin();
        await apply();
        await write(site, `${healthy}nonsense on;\n`);
        const running = await first();
        expect(running).toMatchObject({ check: 'service', level: 'warning', causes: [521] });
        expect(running.evidence).toContain(`${site}:${healthy.split('\n').length}: nonsense on;`);
        await stop();
        const stopped = await first();
        expect(stopped).toMatchObject({
          check: 'service',
          level: 'problem',
          title: 'nginx does not run, and refuses its configuration',
        });
      });

      test('an upstream that does not answer, and one that is not there', async () => {
        await begin();
        await apply();
        await origin.listen({ tcp: [9001] });
        const ask = (path: string): Promise<string> =>
          lab.edge.must([
            'curl',
            '-s',
            '-o',
            '/dev/null',
            '-w',
            '%{http_code}',
            `http://${origin.v4}${path}`,
          ]);
        for (let i = 0; i < 9; i++) expect(await ask('/gone')).toBe('502');
        expect((await doctor()).report.findings[0]).toMatchObject({ level: 'note' });
        expect(await ask('/gone')).toBe('502');
        const found = await first();
        expect(found).toMatchObject({
          check: 'error-log',
          title: 'nginx cannot connect to its upstream: visitors see 502',
        });
        expect(found.evidence[0]).toContain('10 lines in the last day, 10 of them for');
        expect(found.evidence[1]).toContain(`client: ${lab.edge.v4}`);
      });

      test('a certificate that has expired', async () => {
        // `openssl req` takes no day in the past.
        await write(
          '/etc/nginx/ca.cnf',
          '[ca]\ndefault_ca = d\n[d]\ndatabase = /etc/nginx/index\nnew_certs_dir = /etc/nginx\ndefault_md = sha256\nrand_serial = yes\npolicy = p\n[p]\ncommonName = supplied\n',
        );
        await sh(
          'cd /etc/nginx && : >index && openssl req -new -key key.pem -subj /CN=example.com -out csr && openssl ca -batch -selfsign -config ca.cnf -keyfile key.pem -in csr -out cert.pem -notext -startdate 20250101000000Z -enddate 20250201000000Z',
        );
        await begin();
        await apply();
        expect(await first()).toMatchObject({
          check: 'tls',
          causes: [526],
          title: 'The certificate has expired',
        });
      });

      test('no TLS on the port of https', async () => {
        await begin(healthy.replaceAll('443 ssl', '443'));
        await apply();
        expect(await first()).toMatchObject({ check: 'tls', level: 'problem', causes: [525] });
      });

      test('limits that count Cloudflare for one visitor, until real-IP is on', async () => {
        await begin(
          `limit_req_zone $binary_remote_addr zone=z:1m rate=1r/s;\n${healthy.replace('location / {', 'limit_req zone=z; location / {')}`,
        );
        const found = await first();
        expect(found).toMatchObject({ check: 'real-ip', level: 'warning', causes: [] });
        // What it says is what happens: another visitor behind the same edge is refused.
        const ask = (visitor: string): Promise<string> =>
          lab.edge.must([
            'curl',
            '-s',
            '-o',
            '/dev/null',
            '-w',
            '%{http_code}',
            '-H',
            `CF-Connecting-IP: ${visitor}`,
            `http://${origin.v4}/gone`,
          ]);
        await Promise.all([ask('192.0.2.1'), ask('192.0.2.2'), ask('192.0.2.3')]).then((codes) =>
          expect(codes).toContain('503'),
        );
        await apply();
        expect((await doctor(['real-ip'])).report.findings).toEqual([]);
        const codes = await Promise.all([ask('192.0.2.11'), ask('192.0.2.12'), ask('192.0.2.13')]);
        expect(codes).not.toContain('503');
      });

      test('a jail that will ban Cloudflare, until the log has the visitors', async () => {
        await begin();
        await write(
          '/etc/fail2ban/jail.local',
          '[DEFAULT]\nbackend = polling\nbanaction = dummy\n[nginx-http-auth]\nenabled = true\nlogpath = /var/log/nginx/error.log\n',
        );
        await sh(
          'rm -f /etc/fail2ban/jail.d/*; mkdir -p /run/fail2ban; fail2ban-client start >/dev/null; for i in $(seq 1000); do fail2ban-client ping >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1',
        );
        try {
          const found = await first();
          expect(found).toMatchObject({ check: 'real-ip', level: 'warning', causes: [521, 522] });
          expect(found.title).toContain('The jail nginx-http-auth of fail2ban will ban');
          await apply();
          expect((await doctor(['real-ip'])).report.findings).toEqual([]);
        } finally {
          await origin.run(['fail2ban-client', 'stop']);
        }
      });

      test('a geo of Cloudflare alone that sees the visitors, until what is advised is done', async () => {
        const geo = 'geo $cf { default 0; 173.245.48.0/20 1; 2400:cb00::/32 1; }\n';
        const gated = healthy.replace('location / {', 'if ($cf = 0) { return 403; } location / {');
        await begin();
        await apply();
        await write(site, geo + gated);
        await origin.must(['nginx', '-s', 'reload']);
        const asked = () =>
          lab.edge.must(
            `curl -s -o /dev/null -w %{http_code} -H CF-Connecting-IP:192.0.2.77 http://${origin.v4}/`.split(
              ' ',
            ) as [string],
          );
        await expect.poll(asked).toBe('403');
        expect(await first()).toMatchObject({ check: 'real-ip', level: 'problem' });
        await write(site, geo.replace('geo', 'geo $realip_remote_addr') + gated);
        await origin.must(['nginx', '-s', 'reload']);
        await expect.poll(asked).toBe('200');
        expect((await doctor()).code).toBe(0);
      });

      test('an allow of Cloudflare alone that sees the visitors', async () => {
        await begin();
        await apply();
        await write(
          site,
          healthy.replace('location / {', 'allow 173.245.48.0/20; deny all; location / {'),
        );
        await origin.must(['nginx', '-s', 'reload']);
        expect(await first()).toMatchObject({
          check: 'real-ip',
          level: 'problem',
          title:
            "nginx lets in Cloudflare's addresses alone, and sees the visitors': every visitor gets 403",
        });
      });
    });
  },
);
