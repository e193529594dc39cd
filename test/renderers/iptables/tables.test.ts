import { describe, expect, it } from 'vitest';
import { bridge, printed, wantOn } from './host.ts';

describe('lockdown', () => {
  it("leaves lo and Docker's bridges alone, and no other bridge", async () => {
    const { owned } = await wantOn({ folders: bridge }, { mode: 'lockdown' });
    const raw = owned.tables.find((t) => t.family === 'v6' && t.name === 'raw')!;
    expect(raw.chains[0]!.rules.filter((r) => r.endsWith('RETURN'))).toEqual([
      '-i lo -j RETURN',
      '-i br-0123456789ab -j RETURN',
      '-i docker0 -j RETURN',
    ]);
  });

  it('opens before it closes', async () => {
    const { steps } = await wantOn({ v4: printed('policy-drop.save') }, { mode: 'lockdown' });
    const { stdin } = steps[0]!.command;
    expect(stdin!.indexOf('*filter')).toBeLessThan(stdin!.indexOf('*raw'));
  });
});
