import { describe, expect, it } from 'vitest';
import { sections } from '../../fixtures/ufw/hosts.ts';
import { observe, refusal, rules, settings, wantOn } from './given.ts';

describe('what is refused', () => {
  it('rules of the admin with the identity of ours, by name', async () => {
    expect(await refusal('clash', {})).toEqual([
      'ufw: 2 rules without the comment cfsync have the ports and the source of one of ours, and ufw takes the two for one; nothing was changed; cfsync adopt takes over those that allow, or run what stands below, then cfsync again',
      "ufw allow from 173.245.48.0/20 to any port 80,443 proto tcp: make it cfsync's with: ufw allow from 173.245.48.0/20 to any port 80,443 proto tcp comment 'cfsync'",
      'ufw deny from 2400:cb00::/32 to any port 80,443 proto tcp: delete it with: ufw delete deny from 2400:cb00::/32 to any port 80,443 proto tcp',
    ]);
    // Other ports are another rule.
    expect((await wantOn('clash', { tcpPorts: [443] })).steps).toHaveLength(4);
  });

  it('lockdown while rules let others in, each with its command', async () => {
    expect(await refusal('open', { mode: 'lockdown' })).toEqual([
      expect.stringContaining('11 rules of UFW let others than Cloudflare in; nothing was changed'),
      'delete it with: ufw delete allow 443',
      "delete it with: ufw delete allow 'WWW Full'",
      'delete it with: ufw delete limit 80/tcp',
      'delete it with: ufw delete allow in on eth0 to any port 443 proto tcp',
      'delete it with: ufw delete allow from 198.51.100.0/24',
      'delete it with: ufw delete allow 443/udp',
    ]);
  });

  it('no interface without a default route, and no source that is named as extra', async () => {
    const extra = { v4: ['198.51.100.0/24'], v6: [] };
    const lines = await refusal('open', { mode: 'lockdown', extra }, { '/proc/net/route': '' });
    expect(lines.join('\n')).not.toMatch(/eth0|198\.51/);
    expect((await wantOn('denied', { mode: 'lockdown' })).notices).toEqual([]);
  });

  it.each([
    ['inactive', {}, 'UFW is inactive, everybody gets in'],
    [
      'enabled',
      { [settings]: sections('enabled')[settings]!.replace('"DROP"', '"ACCEPT"') },
      'run ufw default deny incoming',
    ],
    [
      'enabled',
      { 'ip6tables -w 10 -S': '-P INPUT ACCEPT\n' },
      "the kernel's policy for incoming IPv6 is ACCEPT",
    ],
    [
      'enabled',
      {
        'iptables -w 10 -S': `${sections('enabled')['iptables -w 10 -S']}-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT\n`,
      },
      'iptables -A INPUT -p tcp -m tcp --dport 443 -j ACCEPT',
    ],
  ] as const)('lockdown on a host that is open otherwise (%s, %#)', async (name, files, said) => {
    expect((await refusal(name, { mode: 'lockdown' }, files)).join('\n')).toContain(said);
  });

  it.each([
    ['### RULES ###\n', '', 'it lacks *filter, ### RULES ### or COMMIT'],
    ['COMMIT\n', '', 'it lacks'],
    ['*filter\n', '*filter\n### tuple ### allow any any any any any in\n', 'above the line'],
    ['### RULES ###\n', '### RULES ###\n\n### tuple ### allow tcp\n', 'ufw skips this line'],
    ['tcp 22 0.0.0.0/0 any 0.0.0.0/0 in', 'tcp 22 0.0.0.0/0 any 0.0.0.0/0 up', 'ufw skips'],
  ])('a file that ufw did not write so (%#)', async (from, to, said) => {
    const text = sections('admin')[rules]!;
    expect(text).toContain(from);
    const attempt = observe('admin', { [rules]: text.replace(from, to) });
    await expect(attempt).rejects.toMatchObject({
      reason: 'misconfigured',
      message: expect.stringContaining(said),
    });
  });
});
