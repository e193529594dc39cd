/** Several backends in one run: each is brought as far as it goes, and the worst exit code wins. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const programs = ['ufw', 'iptables', 'nft', 'fail2ban-server', 'nginx', 'python3'];

describeLive('several backends', { programs }, () => {
  let lab: Lab;
  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);
  const apply = (...args: string[]) => lab.cfsync(['apply', '--source', 'bundled', ...args]);
  const each = ['-b', 'ufw', '-b', 'fail2ban', '-b', 'nginx'];
  const etc = () => shell('find /etc -type f | sort | xargs md5sum');

  beforeEach(async () => {
    lab = await Lab.create({
      privateDirs: ['/var/log', '/var/lib/fail2ban', '/var/lib/nginx', '/usr/local/bin'],
    });
    await lab.origin.listen({ tcp: [22, 443] });
    await shell(
      'touch /var/log/auth.log; printf "[sshd]\\nbackend = polling\\n" > /etc/fail2ban/jail.d/defaults.local; ufw allow 22/tcp; ufw --force enable',
    );
  });

  afterEach(() => lab.close());

  it('applies all of them, one line each, and has nothing to do then', async () => {
    const before = await etc();
    const { code, stdout, stderr } = await apply(...each, '--mode', 'lockdown');
    expect(code, stderr).toBe(exit.ok);
    for (const name of ['ufw', 'fail2ban', 'nginx'])
      expect(stdout).toMatch(new RegExp(`^${name}: applied and read back`, 'm'));
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
    expect(await apply(...each, '--mode', 'lockdown')).toMatchObject({ code: exit.ok, stdout: '' });
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
    const listed = await lab.cfsync(['backends']);
    for (const name of ['ufw', 'fail2ban', 'nginx'])
      expect(listed.stdout).toMatch(new RegExp(`^${name} +usable +holds 15 IPv4`, 'm'));
    expect(listed.stdout).toMatch(/^csf +not installed/m);
    expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
    expect(await etc()).toBe(before);
  });

  it('applies the others when one cannot be, and says which', async () => {
    await shell('echo broken >> /etc/nginx/nginx.conf');
    const { code, stdout, stderr } = await apply(...each);
    expect(code).toBe(exit.failed);
    expect(stderr).toMatch(/^cfsync: nginx: /m);
    expect(stdout).toMatch(/^ufw: applied and read back/m);
    expect(stdout).toMatch(/^fail2ban: applied and read back/m);
    expect(stdout).not.toContain('nginx');
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
  });

  it('restricts with nftables what UFW opens, ports of Docker included', async () => {
    const args = ['-b', 'ufw', '-b', 'nftables', '--mode', 'lockdown', '--nft-chain', 'none'];
    expect(await apply(...args)).toMatchObject({ code: exit.ok });
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
    expect(await lab.origin.must(['nft', 'list', 'chain', 'inet', 'cfsync', 'guard'])).toContain(
      'drop',
    );
    // Without UFW's own default deny, the restriction holds by itself.
    await shell('ufw --force disable');
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
    await lab.expectVerdict(22, { edge: 'open', stranger: 'open' });
  });

  it('tells nft apart from what it would break', async () => {
    const { code, stderr } = await apply('-b', 'nftables');
    expect(code).toBe(exit.failed);
    expect(stderr).toContain('use --backend ufw where UFW runs');
  });
});
