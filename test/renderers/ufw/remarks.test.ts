import { describe, expect, it } from 'vitest';
import ufw from '../../../renderers/ufw/index.ts';
import { recordedUfw, sections } from '../../fixtures/ufw/hosts.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded } from '../../helpers/host.ts';
import { settings, wantOn } from './given.ts';

describe('what is said', () => {
  it('that a wider rule makes allow pointless', async () => {
    const { notices } = await wantOn('open');
    expect(notices).toEqual([
      expect.stringContaining(
        "note: the ports are open to everybody (ufw allow 443, ufw allow 'WWW Full', ufw limit 80/tcp, ufw allow in on eth0 to any port 443 proto tcp)",
      ),
    ]);
  });

  it('that an open policy does', async () => {
    const open = sections('enabled')[settings]!.replace('"DROP"', '"ACCEPT"');
    const { notices } = await wantOn('enabled', {}, { [settings]: open });
    expect(notices).toEqual([expect.stringContaining('ufw default deny incoming closes')]);
  });

  it('that IPv6 is left out, and leaves user6.rules as it is', async () => {
    const { steps, notices } = await wantOn('no-ipv6');
    expect(notices).toEqual([expect.stringContaining('note: UFW leaves IPv6 alone')]);
    expect(steps.map((s) => s.summary).join('\n')).not.toContain('user6');

    const host = { ...recordedUfw('enabled'), folders: {} };
    const observed = await ufw.observe(recorded(host), null);
    const { owned, notices: more } = ufw.want(desired(), null, observed.around);
    expect(more.map((n) => n.text)).toEqual([expect.stringContaining('kernel has no IPv6')]);
    expect(
      ufw
        .plan(owned, observed)
        .map((s) => s.summary)
        .join('\n'),
    ).not.toContain('user6');
  });

  it('keeps rules of ours in user6.rules while IPv6 is off, and removes them all the same', async () => {
    const off = sections('ours')[settings]!.replace('IPV6=yes', 'IPV6=no');
    const { steps, observed } = await wantOn('ours', {}, { [settings]: off });
    expect(steps).toEqual([]);
    expect(ufw.plan(ufw.nothing, observed).map((s) => s.summary)).toEqual([
      expect.stringContaining('write /etc/ufw/user.rules'),
      expect.stringContaining('write /etc/ufw/user6.rules'),
      'ufw: load the change of /etc/ufw/user.rules',
    ]);
  });

  it.each(['allow', 'lockdown'] as const)('that Docker bypasses UFW (%s)', async (mode) => {
    const host = recordedUfw('enabled');
    const folders = {
      ...host.folders,
      '/sys/class/net': ['br-ex', 'docker0', 'eth0'],
      '/sys/class/net/docker0/bridge': [],
    };
    const { around } = await ufw.observe(recorded({ ...host, folders }), null);
    expect(ufw.want(desired({ mode }), null, around).notices).toEqual([
      {
        level: mode === 'lockdown' ? 'warning' : 'note',
        text: expect.stringContaining('Docker publishes (docker0) bypass UFW'),
      },
    ]);
  });

  it('that a long list is slow', async () => {
    const v4 = Array.from({ length: 1001 }, (_, i) => `10.${i >> 7}.${(i & 127) * 2}.0/24`);
    const { notices } = await wantOn('enabled', { ranges: { v4, v6: [] } });
    expect(notices).toEqual([expect.stringContaining('1,001 rules are walked one by one')]);
  });
});
