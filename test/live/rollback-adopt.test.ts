/** The way back from `adopt`, and on, with every backend that has it: before an apply, after one, and after an admin's edits. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { csfLab } from '../helpers/csf/lab.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';
import { ruleset } from './ruleset.ts';

/** What a script wrote for Cloudflare, and what an admin writes between the adopt and the rollback. */
const stray = '173.245.48.0/20';
const later = { cloudflare: '103.22.200.0/22', own: '198.51.100.0/24' };

interface Case {
  readonly name: string;
  readonly more?: string;
  readonly lab: () => Promise<Lab>;
  /** Makes the host, with the stray on it. */
  readonly start: string;
  /** Adds both of `later` to it. */
  readonly edit: string;
  /** Prints what must be the same, beside the rules of all packet filters. */
  readonly state: string;
  /** Prints what others wrote. */
  readonly own: string;
}

const jail = '/etc/fail2ban/jail.local';
const value = `ignoreip = 127.0.0.1/8 ${stray}`;
const fail2ban = {
  name: 'fail2ban',
  lab: () => Lab.create({ privateDirs: ['/var/log', '/var/lib/fail2ban'] }),
  start: `touch /var/log/auth.log; printf '[DEFAULT]\\n${value}\\n[sshd]\\nenabled = true\\nbackend = polling\\n' >${jail}`,
  edit: `sed -i 's,^ignoreip =,& ${later.own} ${later.cloudflare},' ${jail}`,
  state: 'cat /etc/fail2ban/jail.local; find /etc/fail2ban -name "*cfsync*" -exec cat {} +',
  own: `cat ${jail}`,
};

const cases: readonly Case[] = [
  { ...fail2ban, more: ' without a server' },
  {
    ...fail2ban,
    start: `${fail2ban.start}; mkdir -p /run/fail2ban; fail2ban-server start`,
    edit: `${fail2ban.edit}; fail2ban-client reload`,
    state: `${fail2ban.state}; fail2ban-client get sshd ignoreip | sort`,
  },
  {
    name: 'nftables',
    lab: () => Lab.create(),
    start: `nft 'table inet filter { chain input { type filter hook input priority 0; ct state established accept; ip saddr ${stray} tcp dport 443 accept; tcp dport 443 drop; }; }'`,
    edit: `for from in ${later.own} ${later.cloudflare}; do nft insert rule inet filter input ip saddr $from tcp dport 443 accept; done`,
    state: 'true',
    own: 'nft list chain inet filter input',
  },
  {
    name: 'iptables',
    lab: () => Lab.create(),
    start: `iptables -A INPUT -s ${stray} -p tcp --dport 443 -j ACCEPT; iptables -A INPUT -p tcp --dport 443 -j DROP`,
    edit: `for from in ${later.own} ${later.cloudflare}; do iptables -I INPUT -s $from -p tcp --dport 443 -j ACCEPT; done`,
    state: 'true',
    own: 'iptables -S INPUT',
  },
  {
    name: 'ufw',
    lab: () => Lab.create(),
    start: `ufw allow from ${stray} to any port 443 proto tcp; ufw --force enable; ufw reload`,
    edit: `for from in ${later.own} ${later.cloudflare}; do ufw allow from $from to any port 443 proto tcp; done`,
    state: 'cat /etc/ufw/user.rules /etc/ufw/user6.rules',
    own: 'grep tuple /etc/ufw/user.rules | grep -v comment=636673796e63',
  },
  {
    name: 'csf',
    lab: () => csfLab(),
    start: `echo 'tcp|in|d=443|s=${stray}' >>/etc/csf/csf.allow; csf -r`,
    edit: `for from in ${later.own} ${later.cloudflare}; do echo "tcp|in|d=443|s=$from" >>/etc/csf/csf.allow; done; csf -r`,
    state: 'cat /etc/csf/*.allow /etc/csf/*.ignore',
    own: "grep '^tcp' /etc/csf/csf.allow",
  },
];

const programs = 'fail2ban-server flock ipset iptables nft perl python3 ufw'.split(' ');

describeLive('rollback of an adopt', { programs }, () => {
  describe.for(cases.map((one) => [`${one.name}${one.more ?? ''}`, one] as const))(
    '%s',
    ([, one]) => {
      const { name } = one;
      let lab: Lab;
      const shell = (script: string) => lab.origin.must(['sh', '-c', script]);
      /** Which of two accepts comes first in a chain says nothing. */
      const state = async () => [
        await shell(one.state),
        ...(await ruleset(lab.origin)).split('\n').toSorted(),
      ];
      const cfsync = async (...args: string[]): Promise<string> => {
        const { code, stdout, stderr } = await lab.cfsync(args);
        expect(code, stdout + stderr).toBe(exit.ok);
        return stdout;
      };
      const apply = () => cfsync('apply', '-b', name, '--source', 'bundled');
      const adopt = async () =>
        expect(await cfsync('adopt', '-b', name, '--source', 'bundled')).toMatch(
          /to be taken over:\n.*173\.245\.48\.0/,
        );
      const rollback = () => cfsync('rollback');
      /** As a person does who applies at a terminal. */
      const endHold = () => shell('rm /run/lab/state/hold.json');

      beforeEach(async () => {
        lab = await one.lab();
        await shell(`set -e; ${one.start}`);
      });
      afterEach(() => lab.close());

      it('leads to what an apply had made, then to a host without cfsync, and an apply leads on', async () => {
        const states = [await state()];
        await apply();
        states.push(await state());
        await adopt();
        expect(states).not.toContainEqual(await state());
        for (const before of states.toReversed()) {
          await rollback();
          expect(await state()).toEqual(before);
        }
        expect((await lab.cfsync(['rollback'])).code).toBe(exit.failed);
        await endHold();
        await apply();
        expect(await state()).toEqual(states[1]);
        await cfsync('verify');
      });

      it('leads to a host without cfsync', async () => {
        const before = await state();
        await adopt();
        await rollback();
        expect(await state()).toEqual(before);
      });

      it('does not begin over an apply that was cut off, behind which there was no way back', async () => {
        const before = await state();
        await apply();
        // As if the power had gone before the last of it was written down.
        await shell(`cd /run/lab/state && mv history/*-${name}.json journal/${name}.json`);
        const applied = await state();
        const refused = await lab.cfsync(['adopt', '-b', name, '--source', 'bundled']);
        expect(refused).toMatchObject({ code: exit.failed });
        expect(refused.stderr).toContain(
          'was cut off; nothing was changed; cfsync apply or cfsync rollback settles it, then',
        );
        expect(await state()).toEqual(applied);
        await rollback();
        expect(await state()).toEqual(before);
      });

      it('leads back over an apply that came after an edit of the admin, which stays', async () => {
        await apply();
        await shell(`set -e; ${one.edit}`);
        await apply();
        await rollback();
        const theirs = (await shell(one.own)).split(/[\s=]+/);
        for (const prefix of [stray, later.cloudflare, later.own]) expect(theirs).toContain(prefix);
      });

      it('leaves what the admin wrote since then', async () => {
        await apply();
        await adopt();
        await shell(`set -e; ${one.edit}`);
        await rollback();
        const theirs = (await shell(one.own)).split(/[\s=]+/);
        for (const prefix of [stray, later.cloudflare, later.own]) expect(theirs).toContain(prefix);
        // What our own way back wrote by his edit is ours to take away.
        await rollback();
        expect((await state()).join('\n')).not.toMatch(/cfsync/i);
        await endHold();
        await apply();
        await cfsync('verify');
      });
    },
  );
});
