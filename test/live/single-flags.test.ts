/** nft 1.1.4 prints a single flag without brackets: with a program that rewrites what nft prints, all is as without. */
import { afterEach, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { singleFlagsProgram } from '../helpers/nft.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

/** Sets of the admin's to adopt from, and a port that Docker would publish. */
const admin = `
table inet filter {
	set office { type ipv4_addr; flags interval; elements = { 173.245.48.0/20, 192.0.2.0/24 }
	}
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		fib daddr type broadcast drop
		ip saddr @office tcp dport { 80, 443 } accept
		tcp dport 22 accept
	}
}
table ip nat {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local tcp dport 8443 dnat to 172.17.0.2:443
	}
}
`;

interface Told {
  readonly args: string;
  readonly code: number;
  readonly said: string;
  readonly rules: string;
}

describeLive('flags without brackets', { programs: ['nft', 'iptables', 'sed'] }, () => {
  let lab: Lab;
  afterEach(() => lab.close());

  const source = ['--source', 'bundled'];
  const nft = ['-b', 'nftables', ...source];
  const checks = ['packet-filter', 'published-ports', 'open-to-all', 'allow-list'];
  const doctor = ['doctor', ...checks.flatMap((check) => ['--only', check])];
  const lives: Readonly<Record<string, readonly (readonly string[])[]>> = {
    allow: [
      ['diff', ...nft],
      ['apply', ...nft],
      ['diff', ...nft, '--exit-code'],
      ['apply', ...nft],
      ['verify'],
      doctor,
      ['rollback'],
    ],
    lockdown: [
      ['apply', ...nft, '--mode', 'lockdown'],
      ['diff', ...nft, '--mode', 'lockdown', '--exit-code'],
      ['verify'],
      doctor,
      ['remove'],
    ],
    adopt: [['adopt', '--dry-run', ...nft], ['adopt', ...nft], ['verify'], ['rollback']],
    iptables: [['apply', '-b', 'iptables', ...source], ['verify'], ['remove']],
  };

  it.each(Object.keys(lives))('%s', async (name) => {
    lab = await Lab.create({ privateDirs: ['/usr/local/sbin'] });
    await lab.origin.listen({ tcp: [80, 443] });
    const must = (script: string) => lab.origin.must(['sh', '-ec', script]);
    const live = async (): Promise<readonly Told[]> => {
      await must('nft flush ruleset; rm -rf /run/lab/state');
      await lab.origin.nft(admin);
      const told: Told[] = [];
      for (const args of lives[name]!) {
        const { code, stdout, stderr } = await lab.cfsync(args);
        const rules = await must('nft -s list ruleset');
        const said = `${stdout}${stderr}`.replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME');
        told.push({ args: args.join(' '), code, said, rules });
      }
      return told;
    };
    const before = await live();
    await lab.origin.must(['tee', '/usr/local/sbin/nft'], { stdin: singleFlagsProgram });
    await must('chmod 755 /usr/local/sbin/nft');
    expect(await must('nft -j list ruleset')).not.toContain('"flags": [');
    expect(await live()).toEqual(before);
    for (const { args, code, said } of before) {
      // Rules of iptables do not let in what a table of nftables drops.
      const isShut = name === 'iptables' && !args.startsWith('remove');
      expect(code, `${args}: ${said}`).toBe(isShut ? exit.pending : exit.ok);
    }
  });
});
