import { describe, expect, it } from 'vitest';
import { printed, wantOn, type Situation } from './host.ts';

describe('the other variant', () => {
  const legacy = (save: string): Situation => ({
    answers: { 'iptables-legacy-save': save },
    files: { '/proc/net/ip_tables_names': 'filter\n' },
  });

  it('is refused where it drops the ports', async () => {
    await expect(wantOn(legacy(printed('policy-drop-legacy.save')))).rejects.toThrow(
      /tables of iptables-legacy drop the ports \(policy of INPUT\).*nothing was changed/,
    );
  });

  it('is refused where it has our chains', async () => {
    await expect(wantOn(legacy(printed('ours.save')))).rejects.toThrow('update-alternatives');
  });

  it('is named where it has rules, and not where it is empty', async () => {
    expect(
      (await wantOn(legacy(printed('open-port.save').replace('DROP', 'ACCEPT')))).notices,
    ).toContain('there are also rules of iptables-legacy');
    expect((await wantOn(legacy(printed('empty-legacy.save')))).notices).not.toContain('legacy');
  });
});
