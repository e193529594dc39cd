import { describe, expect, it } from 'vitest';
import { jump, placed, printed, wantOn } from './host.ts';

describe('where the jump stands', () => {
  it.each([
    ['policy-drop', `-A INPUT ${jump}`],
    ['terminal-reject', `-I INPUT 6 ${jump}`],
    ['drop-through-jump', `-I INPUT 2 ${jump}`],
    ['open-port', `-A INPUT ${jump}`],
    ['accept-all', `-A INPUT ${jump}`],
    ['interface', `-I INPUT 2 ${jump}`],
    ['unclear', `-A INPUT ${jump}`],
    ['ufw', `-A INPUT ${jump}`],
  ])('%s', async (name, line) => {
    const { steps } = await wantOn({ v4: printed(`${name}.save`) });
    expect(placed(steps)).toBe(line);
  });

  it('says the same of the legacy variant', async () => {
    const v4 = printed('policy-drop-legacy.save');
    const { steps } = await wantOn({ v4, variant: 'legacy' });
    expect(placed(steps)).toBe(`-A INPUT ${jump}`);
  });

  it('takes misplaced and foreign jumps away in the same transaction', async () => {
    const { observed, steps } = await wantOn({ v4: printed('misplaced.save') });
    expect(observed.owned.ranges.v4).toEqual(['173.245.48.0/20']);
    const lines = steps[0]!.command.stdin!.split('\n');
    const own = lines.filter((line) => line.includes(' INPUT '));
    expect(own).toEqual([`-D INPUT ${jump}`, '-D INPUT -i eth1 -j CFSYNC', `-I INPUT 1 ${jump}`]);
    expect(lines.filter((line) => line === 'COMMIT')).toHaveLength(1);
  });

  it('stands first in raw, where an accept would let strangers pass', async () => {
    const first = await wantOn({ v4: printed('raw.save') }, { mode: 'lockdown' });
    expect(placed(first.steps, 'PREROUTING')).toBe(`-I PREROUTING 1 ${jump}`);
    // Behind what lets nobody pass it may stay, behind an accept it may not.
    const behind = (n: number): string => {
      const lines = printed('raw.save').split('\n');
      const at = lines.findIndex((line) => line.startsWith('-A PREROUTING')) + n;
      return [...lines.slice(0, at), `-A PREROUTING ${jump}`, ...lines.slice(at)]
        .join('\n')
        .replace(':OUTPUT', ':CFSYNC - [0:0]\n:OUTPUT');
    };
    const at = async (n: number) =>
      placed((await wantOn({ v4: behind(n) }, { mode: 'lockdown' })).steps, 'PREROUTING');
    expect(await at(3)).toBeUndefined();
    expect(await at(4)).toBe(`-I PREROUTING 1 ${jump}`);
  });

  it('guards a jump that stands well, so that a run without it fails as a whole', async () => {
    const { steps } = await wantOn(
      { v4: printed('ours.save'), v6: printed('ours6.save') },
      { mode: 'lockdown', tcpPorts: [443] },
    );
    expect(steps.map((s) => s.command.argv[0])).toEqual(['iptables-restore', 'ip6tables-restore']);
    expect(steps[0]!.command.stdin).toContain(`-C INPUT ${jump}\nCOMMIT`);
    expect(steps[0]!.command.argv).toEqual(['iptables-restore', '-w', '10', '--noflush']);
    // The chains that are right already are left alone.
    expect(steps[0]!.command.stdin).not.toContain('CFSYNC-ALLOW -s');
  });
});
