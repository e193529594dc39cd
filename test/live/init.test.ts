/** `init` beside real programs: what it finds, what it writes, and that an apply takes it from there. */
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { parse } from 'yaml';
import { exit } from '../../src/errors.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const program = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));
const config = '/etc/cfsync/config.yaml';
const units = '/etc/systemd/system';
/** A server of fail2ban or nginx must not leave its bans and logs on this machine. */
const privateDirs = ['/var/log', '/var/lib/fail2ban', '/var/lib/nginx'];
const programs = [
  'nft',
  'iptables',
  'ufw',
  'fail2ban-client',
  'nginx',
  'systemctl',
  'systemd-analyze',
];

describeLive('init', { programs }, () => {
  let lab: Lab;
  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);
  const init = (...args: string[]) => lab.cfsync(['init', ...args]);

  beforeEach(async () => {
    lab = await Lab.create({ privateDirs });
    // The packages enable their services; a test that wants one says so.
    await shell(`rm -f ${units}/*.wants/fail2ban.service ${units}/*.wants/nginx.service`);
  });
  afterEach(() => lab.close());

  /** Runs init, holds what it wrote to `config check`, and answers it. */
  async function written(): Promise<{ file: Record<string, unknown>; said: string; text: string }> {
    const { code, stdout, stderr } = await init();
    expect(code, stderr).toBe(exit.ok);
    expect(await lab.cfsync(['config', 'check'])).toMatchObject({ code: exit.ok, stderr: '' });
    const text = await shell(`cat ${config}`);
    return { file: parse(text) as Record<string, unknown>, said: stdout + stderr, text };
  }

  test('a host with UFW, fail2ban and nginx', async () => {
    await shell(`
      ufw allow 22/tcp; ufw --force enable
      sed -i 's/^backend *=.*/backend = polling/' /etc/fail2ban/jail.conf
      touch /run/auth.log
      printf '[sshd]\\nenabled = true\\nbackend = polling\\nlogpath = /run/auth.log\\nbanaction = nftables\\n' >/etc/fail2ban/jail.d/zz.local
      mkdir -p /run/fail2ban; fail2ban-client start
      fail2ban-client set sshd banip 192.0.2.66
      printf 'events {}\\npid /run/nginx.pid;\\nerror_log /run/nginx.log;\\nhttp { access_log off; include /etc/nginx/conf.d/*.conf; server { listen 80; } }\\n' >/etc/nginx/nginx.conf
      nginx`);
    const before = await shell('nft -s list ruleset; find /etc -newer /run/nginx.pid -type f');
    const { file, said, text } = await written();
    expect(file).toEqual({
      mode: 'allow',
      ports: [80, 443],
      backends: { ufw: null, fail2ban: null, nginx: null },
    });
    expect(said).toMatch(/^ {2}ufw +UFW is enabled/m);
    expect(said).toMatch(/^ {2}fail2ban +its server answers$/m);
    expect(said).toMatch(/^ {2}nginx +it runs$/m);
    expect(said).not.toContain('warning');
    expect((await shell(`stat -c '%a %u' ${config}`)).trim()).toBe('644 0');
    // Nothing else was touched.
    expect(
      (await shell('nft -s list ruleset; find /etc -newer /run/nginx.pid -type f')).replace(
        `${config}\n`,
        '',
      ),
    ).toBe(before);

    // It is not overwritten, whatever is in it by then.
    await shell(`echo 'mode: [' >>${config}`);
    const again = await init();
    expect(again).toMatchObject({ code: exit.failed, stdout: '' });
    expect(again.stderr).toContain(`${config} is there already; nothing was changed`);
    expect(await shell(`cat ${config}`)).toBe(`${text}mode: [\n`);
    await shell(`sed -i '$d' ${config}`);

    const applied = await lab.cfsync(['apply', '--source', 'bundled']);
    expect(applied, applied.stderr).toMatchObject({ code: exit.ok });
    for (const name of ['ufw', 'fail2ban', 'nginx'])
      expect(applied.stdout).toContain(`${name}: applied and read back`);
  });

  test('a host with a rule set of nft, in which fail2ban and Docker are not the admin', async () => {
    await shell('iptables -t nat -N DOCKER; iptables -N DOCKER-USER; iptables -P FORWARD DROP');
    expect((await init('--dry-run')).stdout).toContain('# no packet filter is in use');
    await lab.origin.nft(
      'table inet f2b-table { chain f2b-chain { type filter hook input priority -1; }; }',
    );
    expect((await init('--dry-run')).stdout).toContain('# no packet filter is in use');
    await lab.origin.nft(
      'table inet filter { chain input { type filter hook input priority 0; policy drop; ct state established accept; meta l4proto ipv6-icmp accept; tcp dport 22 accept; }; }',
    );
    const { file, said } = await written();
    expect(file).toMatchObject({ backends: { nftables: null } });
    expect(said).toMatch(/^ {2}nftables +table inet filter filters what comes in$/m);
    await lab.origin.listen({ tcp: [443] });
    expect(await lab.cfsync(['apply', '--source', 'bundled'])).toMatchObject({ code: exit.ok });
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
  });

  test('a host with rules of iptables, also after an apply', async () => {
    await shell(`
      for i in iptables ip6tables; do
        $i -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; $i -P INPUT DROP
      done`);
    const { file, said } = await written();
    expect(file).toMatchObject({ backends: { iptables: null } });
    expect(said).toMatch(/^ {2}iptables +INPUT has 2 rules$/m);
    expect(await lab.cfsync(['apply', '--source', 'bundled'])).toMatchObject({ code: exit.ok });
    expect((await init('--dry-run', '--config', '/etc/other.yaml')).stdout).toContain(
      '  iptables:\n',
    );
  });

  test('a host that flags have locked: the weekly run keeps it so, and is silent', async () => {
    await shell('iptables -P INPUT DROP; iptables -A INPUT -p tcp --dport 8443 -j ACCEPT');
    const flags = ['-b', 'iptables', '--ipset', '--mode', 'lockdown', '--ports', '443,8443'];
    const locked = await lab.cfsync(['apply', '--source', 'bundled', ...flags]);
    expect(locked.code, locked.stderr).toBe(exit.ok);
    const bare = await lab.cfsync(['apply', '--source', 'bundled', '-b', 'iptables', '--ipset']);
    expect(bare).toMatchObject({ code: exit.refused, stdout: '' });
    expect(bare.stderr).toContain('iptables: lockdown of 443, 8443 stays as it was applied');
    const { file, said } = await written();
    expect(file).toEqual({
      mode: 'lockdown',
      ports: [443, 8443],
      backends: { iptables: { set: true } },
    });
    expect(said).toMatch(/^ {2}iptables +applied here before: lockdown of 443, 8443$/m);
    const weekly = await lab.cfsync(['apply', '--source', 'bundled']);
    expect(weekly).toEqual({ code: exit.ok, stdout: '', stderr: '' });
    await lab.origin.listen({ tcp: [8443] });
    await lab.expectVerdict(8443, { edge: 'open', stranger: 'closed' });
  });

  test('a backend that is in use and cannot be worked on is left out, and that is said', async () => {
    await shell(`
      ln -s /lib/systemd/system/nginx.service ${units}/multi-user.target.wants/
      echo 'http {' >/etc/nginx/nginx.conf`);
    const { file, said, text } = await written();
    expect(Object.keys(file.backends as object)).not.toContain('nginx');
    expect(said).toMatch(/warning: nginx is left out for now: ./);
    expect(text).toMatch(/^ {2}# nginx: nginx.service is enabled; left out for now: /m);
  });

  test('a backend that would be refused at every run is left out, with the way to mend it', async () => {
    const write = async (script: string) =>
      shell(`rm -rf ${config} /run/lab/state; nginx -s quit 2>/dev/null || true; sleep 0.3
        rm -f /etc/nginx/sites-enabled/* /etc/nginx/conf.d/*; ${script}; nginx; sleep 0.2`);
    const ranges = "sed 's/.*/set_real_ip_from &;/' /run/lab/ips-v4";
    await shell(`printf '173.245.48.0/20\\n104.16.0.0/13\\n' >/run/lab/ips-v4`);
    const timer = async () => {
      const { code, stderr } = await lab.cfsync(['apply', '--source', 'bundled']);
      expect(stderr).not.toContain('nginx');
      expect(code).toBe(exit.ok);
    };
    await write(
      `{ ${ranges}; echo 'real_ip_header CF-Connecting-IP;'; } >/etc/nginx/conf.d/cloudflare.conf`,
    );
    const kept = await written();
    expect(Object.keys(kept.file.backends as object)).not.toContain('nginx');
    expect(kept.said).toMatch(/warning: nginx is left out for now: .*cfsync adopt --backend nginx/);
    expect(kept.said).toContain('stands there behind #');
    expect(kept.text).toMatch(/^ {2}# nginx:$/m);
    await timer();
    // As it says.
    await lab.cfsync(['adopt', '--backend', 'nginx', '--source', 'bundled']);
    await shell(`sed -i 's/^  # nginx:$/  nginx:/' ${config}`);
    await timer();
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);

    await write(
      `printf 'geo $cf { default 0; 173.245.48.0/20 1; }\n' >/etc/nginx/conf.d/only.conf`,
    );
    const gated = await written();
    expect(Object.keys(gated.file.backends as object)).not.toContain('nginx');
    expect(gated.said).toContain('write "geo $realip_remote_addr $cf {" there');
    await timer();
  });

  test('under firewalld nothing is promised that mode allow could not keep', async () => {
    // Known by its name, as any process.
    await shell(
      'cp /bin/sleep /run/lab/firewalld; setsid /run/lab/firewalld 600 >/dev/null 2>&1 &',
    );
    await lab.origin.nft(
      'table inet firewalld { chain filter_INPUT { type filter hook input priority 10; tcp dport 22 accept; drop; }; }',
    );
    const { file, said, text } = await written();
    expect(file).toMatchObject({ backends: null });
    expect(said).toContain('warning: nftables is left out for now: the ports are opened with fire');
    // As it says: in lockdown it is right.
    const locked = text
      .replace('mode: allow\n', 'mode: lockdown\n')
      .replace('  # nftables:\n  #   chain: none\n', '  nftables:\n    chain: none\n');
    await lab.origin.must(['tee', config], { stdin: locked });
    await shell('nft insert rule inet firewalld filter_INPUT tcp dport "{ 80, 443 }" accept');
    const applied = await lab.cfsync(['apply', '--source', 'bundled']);
    expect(applied.code, applied.stderr).toBe(exit.ok);
    expect(applied.stdout).toContain('nftables: applied and read back');
  });

  test('--dry-run prints the file alone, and writes nothing', async () => {
    const etc = () => shell('find /etc -printf "%p %s %T@\\n"');
    const before = await etc();
    const { code, stdout, stderr } = await init('--dry-run');
    expect({ code, stderr }).toEqual({ code: exit.ok, stderr: '' });
    expect(parse(stdout)).toMatchObject({ mode: 'allow' });
    const both = await init('--dry-run', '--install-timer');
    expect(both.stdout.startsWith(stdout)).toBe(true);
    expect(both.stdout).toContain('[Timer]');
    expect(await etc()).toBe(before);
  });

  test('as an ordinary user it says what to do', async () => {
    const { code, stderr } = await lab.origin.run([
      'setpriv',
      '--reuid=65534',
      '--regid=65534',
      '--clear-groups',
      process.execPath,
      program,
      'init',
      '--dry-run',
    ]);
    expect(code).toBe(exit.failed);
    expect(stderr).toContain('nothing was changed; run cfsync init as root');
  });

  test('a folder that others can write to is refused before anything is written', async () => {
    await shell('mkdir -m 777 /etc/shared');
    const { code, stderr } = await init('--config', '/etc/shared/cfsync.yaml');
    expect(code).toBe(exit.failed);
    expect(stderr).toContain('/etc/shared is not to be trusted as root');
    expect(await shell('ls /etc/shared')).toBe('');
  });
});

describeLive('init --install-timer', { programs }, () => {
  let lab: Lab;
  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);
  const init = (...args: string[]) => lab.cfsync(['init', '--install-timer', ...args]);

  beforeAll(async () => {
    lab = await Lab.create({ privateDirs });
  });
  afterAll(() => lab.close());

  test('installs units that systemd takes, and does it once', async () => {
    const first = await init();
    expect(first, first.stderr).toMatchObject({ code: exit.ok });
    expect(first.stdout).toContain(
      'systemd does not run here now, so it begins with the next boot',
    );
    const link = `${units}/timers.target.wants/cfsync.timer`;
    expect((await shell(`readlink -f ${link}`)).trim()).toBe(`${units}/cfsync.timer`);
    for (const unit of ['cfsync.service', 'cfsync.timer']) {
      const verified = await lab.origin.run([
        'systemd-analyze',
        'verify',
        '--man=no',
        `${units}/${unit}`,
      ]);
      expect(verified.code, verified.stderr).toBe(0);
      expect(verified.stderr).not.toContain('cfsync');
    }
    // The line of the unit is one that runs.
    const line = /^ExecStart=(.*)$/m.exec(await shell(`cat ${units}/cfsync.service`))![1]!;
    const ran = await lab.origin.run(
      ['sh', '-c', `${line} --source bundled --backend nftables --dry-run`],
      { env: { CFSYNC_STATE_DIR: '/run/lab/state' } },
    );
    expect(ran.code, ran.stderr).toBe(exit.ok);

    const stat = () => shell(`stat -c '%n %i %Y' ${units}/cfsync.* ${config}`);
    const before = await stat();
    expect(await init()).toMatchObject({ code: exit.ok });
    expect(await stat()).toBe(before);
  });

  test('leaves a unit that somebody wrote, and then writes nothing at all', async () => {
    await shell(`echo '# mine' >>${units}/cfsync.timer; rm ${config}`);
    const { code, stderr } = await init();
    expect(code).toBe(exit.failed);
    expect(stderr).toContain(`${units}/cfsync.timer is there already, with other content`);
    await shell(
      `test ! -e ${config}; tail -n 1 ${units}/cfsync.timer | grep mine; rm ${units}/cfsync.*`,
    );
  });

  test('tells a running systemd, and says when that fails', async () => {
    await shell(`
      mkdir -p /run/systemd/system /run/fake
      printf '#!/bin/sh\\necho "$@" >>/run/fake/calls\\ntest ! -e /run/fake/fail\\n' >/run/fake/systemctl
      chmod 755 /run/fake/systemctl
      mount --bind /run/fake/systemctl /usr/bin/systemctl`);
    const { code, stdout } = await init();
    expect(code).toBe(exit.ok);
    expect(stdout).toContain('systemctl list-timers cfsync.timer says when next');
    expect(await shell('cat /run/fake/calls')).toBe('daemon-reload\nenable --now cfsync.timer\n');
    await shell('touch /run/fake/fail');
    const failed = await init();
    expect(failed.code).toBe(exit.failed);
    expect(failed.stderr).toContain(
      'the timer does not run yet: systemctl daemon-reload ended with code 1',
    );
    expect(failed.stderr).toContain(
      'then run systemctl daemon-reload && systemctl enable --now cfsync.timer',
    );
    await shell('umount /usr/bin/systemctl; rm -r /run/systemd/system');
  });

  test('without systemd it is a line for cron; without that, nothing is written', async () => {
    await shell(`mv ${units} /etc/systemd/away; rm ${config}`);
    const { code, stdout } = await init('--config', '/etc/cfsync/other.yaml');
    expect(code).toBe(exit.ok);
    expect(stdout).toContain('/etc/cron.d/cfsync: installed; cron runs it every week');
    const [, line = ''] = / root {2}(.*)$/m.exec(await shell('cat /etc/cron.d/cfsync'))!;
    expect(line).toMatch(/ apply --config \/etc\/cfsync\/other\.yaml$/);
    expect((await lab.origin.run(['sh', '-c', `${line} --source bundled --dry-run`])).code).toBe(0);
    await shell('mv /etc/cron.d /etc/away');
    const none = await init();
    expect(none).toMatchObject({ code: exit.failed, stdout: '' });
    expect(none.stderr).toContain('neither systemd nor /etc/cron.d here');
    await shell(`test ! -e ${config}`);
  });
});
