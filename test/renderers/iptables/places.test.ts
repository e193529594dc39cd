import { describe, expect, it } from 'vitest';
import iptables from '../../../renderers/iptables/index.ts';
import type { IptOwned } from '../../../renderers/iptables/owned.ts';
import type { RunStep } from '../../../src/renderer.ts';
import { hostWith, jump, placed, printed, wantOn } from './host.ts';

describe('going back', () => {
  it('keeps what the admin did in between', async () => {
    const options = iptables.options({});
    const before = (await wantOn({ v4: printed('ours.save'), v6: printed('ours6.save') })).observed;
    const later = printed('ours.save').replace(
      /(-A INPUT .*\n)/,
      '-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n$1-A INPUT -s 192.0.2.1/32 -j DROP\n',
    );
    const now = await iptables.observe(hostWith({ v4: later, v6: printed('ours6.save') }), options);
    const steps = iptables.plan(iptables.nothing, now) as readonly RunStep[];
    const stdin = steps[0]!.command.stdin!;
    expect(stdin).not.toMatch(/dport 22|192\.0\.2\.1/);
    const back = iptables.plan(before.owned, { ...now, owned: iptables.nothing }) as RunStep[];
    expect(back[0]!.command.stdin).toContain(`-A INPUT ${jump}`);
  });

  it('leaves a jump where it stands, whatever the admin added below it or deleted', async () => {
    const options = iptables.options({});
    const saves = { v4: printed('ours.save'), v6: printed('ours6.save') };
    const ban = '-s 192.0.2.1/32 -j DROP';
    const around = saves.v4.replace(/(-A INPUT .*\n)/, `-A INPUT ${ban}\n$1-A INPUT -j DROP\n`);
    const now = await iptables.observe(hostWith({ ...saves, v4: around }), options);
    const then = (before: string | null) => ({
      ...now.owned,
      tables: now.owned.tables.map((t) => ({
        ...t,
        jumps: t.jumps.map((jump) => (t.family === 'v4' ? { ...jump, before } : jump)),
      })),
    });
    for (const before of [null, '-j DROP', '-s 192.0.2.99/32 -j DROP'])
      expect(iptables.plan(then(before), now)).toEqual([]);
    // Not where it would stand below what it stood before.
    const back = iptables.plan(then(ban), now) as readonly RunStep[];
    expect(placed(back)).toBe(`-I INPUT 1 ${jump}`);
  });

  it('is plain JSON', async () => {
    const { owned, observed } = await wantOn({ v4: printed('misplaced.save') });
    for (const state of [owned, observed.owned])
      expect(JSON.parse(JSON.stringify(state)) as IptOwned).toEqual(state);
  });
});
