/**
 * Programs that refuse a socket as their standard input, as nft 1.0.9 (Ubuntu 24.04) does: stand-ins that look at what
 * they are given before the real programs run, and a whole life of each backend on top of them.
 */
import { afterEach, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { csfLab } from '../helpers/csf/lab.ts';
import { Lab, smallFail2ban } from './lab.ts';
import { describeLive } from './privileges.ts';

const given = '/run/lab/given';

/** As nft 1.0.9: what stat(2) says of /dev/stdin. Notes down who was given a file. */
const standIn = (name: string): string => `#!/bin/sh
if [ ! -f /dev/stdin ] && [ ! -p /dev/stdin ] && [ ! -c /dev/stdin ]; then
  echo 'Error: Not a regular file: "/dev/stdin"' >&2
  exit 1
fi
[ ! -f /dev/stdin ] || echo ${name} >>${given}
PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec "$(command -v ${name})" "$@"
`;

const rules = 'iptables -S; ip6tables -S';
const filter = 'for t in iptables ip6tables; do $t -A INPUT -p tcp --dport 22 -j ACCEPT; done';

const lives: Readonly<
  Record<
    string,
    {
      readonly args: readonly string[];
      /** What is there before. */
      readonly setup: string;
      /** Prints what the backend holds; the same before and after. */
      readonly holds: string;
      /** Who has to have been given input. */
      readonly readers: readonly string[];
      readonly lockdown?: false;
    }
  >
> = {
  nftables: {
    args: ['-b', 'nftables'],
    setup: `nft 'table inet filter { chain input { type filter hook input priority filter; policy drop; iifname "lo" accept; tcp dport 22 accept; }; }'`,
    holds: 'nft -s list ruleset',
    readers: ['nft'],
  },
  iptables: {
    args: ['-b', 'iptables'],
    setup: filter,
    holds: rules,
    readers: ['ip6tables-restore', 'iptables-restore'],
  },
  'iptables with sets': {
    args: ['-b', 'iptables', '--ipset'],
    setup: filter,
    holds: `${rules}; ipset list -n`,
    readers: ['ip6tables-restore', 'ipset', 'iptables-restore'],
  },
  ufw: {
    args: ['-b', 'ufw'],
    setup: 'ufw allow 22/tcp; ufw --force enable',
    holds: `cat /etc/ufw/user*.rules; ${rules}`,
    readers: ['ip6tables-restore', 'iptables-restore'],
  },
  csf: {
    args: ['-b', 'csf'],
    setup: ':',
    holds: `cat /etc/csf/csf.allow /etc/csf/csf.ignore; ${rules}`,
    readers: ['ip6tables-restore', 'iptables-restore'],
  },
  fail2ban: {
    args: ['-b', 'fail2ban'],
    setup: smallFail2ban,
    holds: 'cd /etc/fail2ban; ls jail.d; cat jail.local; fail2ban-client get lab ignoreip',
    readers: ['python3'],
    lockdown: false,
  },
};
const readers = [...new Set(Object.values(lives).flatMap((life) => life.readers))];
const programs = [...readers, 'ufw', 'fail2ban-server', 'perl', 'flock'];

describeLive('standard input', { programs }, () => {
  let lab: Lab;
  afterEach(() => lab.close());

  const shell = (script: string) =>
    lab.origin.must(['sh', '-ec', `exec </dev/null\n${script}`], { timeout: 60_000 });

  /** Found before the real ones, by cfsync too. */
  async function install(): Promise<void> {
    for (const name of readers) {
      const file = `/usr/local/sbin/${name}`;
      await lab.origin.must(['tee', file], { stdin: standIn(name) });
      await lab.origin.must(['chmod', '755', file]);
    }
  }

  it.for(Object.entries(lives))(
    'of a socket is given to no program by %s',
    async ([name, life]) => {
      const privateDirs = ['/var/log', '/var/lib/fail2ban', '/usr/local/sbin'];
      lab = name === 'csf' ? await csfLab({}, { privateDirs }) : await Lab.create({ privateDirs });
      await shell(life.setup);
      const before = await shell(life.holds);
      await install();
      const ends = async (...args: string[]): Promise<void> => {
        const { code, stdout, stderr } = await lab.cfsync(args);
        expect(code, `${args.join(' ')}: ${stdout}${stderr}`).toBe(exit.ok);
      };
      const apply = (...args: string[]) =>
        ends('apply', '--source', 'bundled', ...life.args, ...args);
      await apply();
      await apply();
      await ends('verify');
      if (life.lockdown !== false) {
        await apply('--mode', 'lockdown');
        await ends('verify');
      }
      await ends('remove');
      expect(await shell(life.holds)).toBe(before);
      await apply();
      await ends('rollback');
      expect(await shell(life.holds)).toBe(before);
      const names = (await shell(`cat ${given}`)).trim().split('\n');
      expect([...new Set(names)].sort()).toEqual(life.readers);
    },
  );

  it('is a file again for a hook that opens it by name', async () => {
    lab = await Lab.create();
    const config = '/etc/cfsync/config.yaml';
    await lab.origin.must(['mkdir', '/etc/cfsync']);
    const hook = "[sh, -c, 'cat /dev/stdin >/run/lab/report']";
    await lab.origin.must(['tee', config], {
      stdin: `on-change: ${hook}\nbackends: { nftables: {} }\n`,
    });
    const { code, stderr } = await lab.cfsync(['apply', '--source', 'bundled']);
    expect(code, stderr).toBe(exit.ok);
    expect(stderr).toBe('');
    expect(JSON.parse(await shell('cat /run/lab/report'))).toMatchObject({ command: 'apply' });
  });
});
