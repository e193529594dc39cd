/** Connections while applies fail and go back, and while `cfsync rollback` does: none lost, and no stranger in. */

import { rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { basics, Origin } from './iptables-origin.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const preload = new URL('preload.mjs', import.meta.url).href;
const data = fileURLToPath(new URL('../../data', import.meta.url));

/** Each way, so 20 in all, with two to three changes of the backend in each. */
const times = 10;

/** The ports are open to everybody where lockdown is to keep strangers out, and closed where we are to let Cloudflare in. */
const firewalls: Readonly<Record<string, (lab: Lab) => Promise<unknown>>> = {
  nftables: (lab) =>
    lab.origin.nft(`table inet filter {
      chain input {
        type filter hook input priority filter; policy drop
        iifname lo accept
        ct state established,related accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport { 80, 443 } accept
      }
    }
`),
  iptables: (lab) =>
    new Origin(lab).load(
      'filter',
      'DROP',
      ...basics,
      '-A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT',
    ),
  ufw: (lab) => lab.origin.must(['ufw', '--force', 'enable']),
};

describeLive('traffic', { programs: ['nft', 'iptables', 'ufw', 'python3'] }, () => {
  let lab: Lab;

  beforeEach(async () => {
    lab = await Lab.create();
    await lab.origin.listen({ tcp: [443] });
    await lab.origin.must(['cp', '-r', data, '/run/lab/lists']);
    await lab.origin.must(['sed', '-i', '/^131.0.72/d', '/run/lab/lists/ips-v4']);
    await lab.origin.must(['sed', '-i', '/^2c0f:f248/d', '/run/lab/lists/ips-v6']);
  });

  afterEach(() => lab.close());

  describe.each(Object.entries(firewalls))('%s', (name, build) => {
    const apply = (
      source: 'bundled' | '/run/lab/lists',
      env: Readonly<Record<string, string>> = {},
    ) => {
      const ports = source === 'bundled' ? '80,443' : '443,8443';
      const args = ['-b', name, '--mode', 'lockdown', '--source', source, '--ports', ports];
      return lab.cfsync(['apply', '--allow-weaker', ...args], { env });
    };

    it('loses no connection and lets no stranger in on the way back', async () => {
      await build(lab);
      expect(await apply('bundled')).toMatchObject({ code: exit.ok });
      await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
      const edge = await lab.edge.hammer(lab.origin, 443, { workers: 3 });
      // Each waits 0.9 s for its answer, so some are needed to see a short hole.
      const stranger = await lab.stranger.hammer(lab.origin, 443, { workers: 16 });
      for (let i = 0; i < times; i++) {
        const { code, stderr } = await apply('/run/lab/lists', {
          NODE_OPTIONS: `--import=${preload}`,
          CFSYNC_TEST_FROM: '/state/journal/.cfsync-',
          // The second program from the journal on is the last step, for each of the backends.
          CFSYNC_TEST_ACT: `exit-${i % 2 === 0 ? 'before' : 'after'}:1 run 2`,
        });
        expect(stderr).toContain('injected');
        expect(stderr).toContain(`${name} is back to what it was before`);
        expect(code).toBe(exit.rolledBack);
      }
      for (let i = 0; i < times; i++) {
        expect(await apply('/run/lab/lists')).toMatchObject({ code: exit.ok });
        const { code, stdout } = await lab.cfsync(['rollback']);
        expect(stdout).toContain(`${name} is back to what it was before, verified`);
        expect(code).toBe(exit.ok);
        // Nobody is at a terminal here, so a hold would never end.
        await rm(lab.origin.path('/run/lab/state/hold.json'));
      }
      const [lost, got] = [await edge.stop(), await stranger.stop()];
      for (const family of ['v4', 'v6'] as const) {
        expect(lost[family]!.open).toBeGreaterThan(200);
        expect(lost[family]!.first).toMatchObject({ refused: [], timeout: [], reset: [] });
        expect(got[family]!.first.open).toEqual([]);
        expect(got[family]!.timeout).toBeGreaterThan(20);
      }
      expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
      await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
    });
  });
});
