/** rollback, across applies, boots and removals; and --all-or-nothing. */

import { readFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { boot, haltDir } from './halt.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';
import { ruleset } from './ruleset.ts';

const programs = ['nft', 'iptables', 'ipset', 'ufw', 'fail2ban-client', 'python3'];
const prefixes = ['104.16.0.0/13', '108.162.192.0/18', '131.0.72.0/22', '141.101.64.0/18'];

describeLive('rollback', { programs }, () => {
  let lab: Lab;
  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);
  const rules = () => ruleset(lab.origin);
  const both = ['-b', 'nftables', '-b', 'iptables'];
  /** List n has n prefixes beside the edge's. */
  const apply = (list: number, ...more: string[]) =>
    lab.cfsync(['apply', `--source=/run/lab/${list}`, '--accept-large-change', ...more]);
  const rollback = (...more: string[]) => lab.cfsync(['rollback', ...more]);
  const none = {
    code: exit.failed,
    stdout: '',
    stderr:
      'cfsync: there is no apply to go back from, as far as /run/lab/state knows; nothing was changed\n',
  };

  beforeEach(async () => {
    lab = await Lab.create({ privateDirs: [haltDir] });
    for (let n = 0; n <= 6; n++)
      await shell(
        `mkdir /run/lab/${n}; printf '%s\\n' 173.245.48.0/20 ${[...prefixes, '162.158.0.0/15', '172.64.0.0/13'].slice(0, n).join(' ')} >/run/lab/${n}/ips-v4; printf '%s\\n' 2400:cb00::/32 ${n > 1 ? '2606:4700::/32' : ''} >/run/lab/${n}/ips-v6`,
      );
  });

  afterEach(() => lab.close());

  it('goes back through five applies, and not a sixth', async () => {
    const states: string[] = [await rules()];
    for (let n = 1; n <= 6; n++) {
      expect((await apply(n, ...both, '--mode=lockdown')).code).toBe(exit.ok);
      // A run that changes nothing is none to go back from.
      if (n === 3) await apply(n, ...both, '--mode=lockdown');
      states.push(await rules());
    }
    expect(new Set(states).size).toBe(7);
    for (let n = 5; n >= 1; n--) {
      const { code, stdout, stderr } = await rollback();
      expect(stderr).toMatch(
        /^cfsync: iptables: goes back to before the apply of \S+\ncfsync: nftables: goes back to before the apply of \S+\ncfsync: timer runs change nothing /,
      );
      expect(stdout).toMatch(/^iptables is back to what it was before, verified; /m);
      expect(code).toBe(exit.ok);
      expect(await rules()).toBe(states[n]);
      expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
    }
    expect(await rollback()).toEqual(none);
    expect(await rules()).toBe(states[1]);
  });

  it('goes back to a host without cfsync', async () => {
    const before = await rules();
    await apply(1, ...both);
    expect((await rollback()).code).toBe(exit.ok);
    expect(await rules()).toBe(before);
    expect((await lab.cfsync(['verify'])).stderr).toContain('nothing was applied yet');
    expect(await rollback()).toEqual(none);
  });

  it('is the same after a boot that lost the rules', async () => {
    const states: string[] = [];
    for (const n of [1, 2, 3]) {
      await apply(n, ...both, '--mode=lockdown');
      states.push(await rules());
    }
    await boot(lab.origin);
    await lab.origin.nft('flush ruleset');
    expect((await rollback()).code).toBe(exit.ok);
    expect(await rules()).toBe(states[1]);
    await lab.origin.nft('flush ruleset');
    expect((await rollback()).code).toBe(exit.ok);
    expect(await rules()).toBe(states[0]);
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
  });

  it('brings back what remove took away', async () => {
    const before = await rules();
    await apply(2, ...both, '--mode=lockdown');
    const applied = await rules();
    expect((await lab.cfsync(['remove'])).code).toBe(exit.ok);
    expect(await rules()).toBe(before);
    const { code, stderr } = await rollback();
    expect(stderr).toContain('goes back to before the remove of ');
    expect(code).toBe(exit.ok);
    expect(await rules()).toBe(applied);
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
  });

  it('prints what it would do, and does one backend alone', async () => {
    await apply(1, ...both);
    const first = await rules();
    await apply(2, ...both);
    const second = await rules();
    const { code, stdout } = await rollback('--dry-run');
    expect(stdout).toMatch(
      /^step 1: .*[^]*^iptables: removed: .*[^]*^plan \w+: nothing was changed$/m,
    );
    expect(code).toBe(exit.ok);
    expect(await rules()).toBe(second);
    expect((await rollback('-b', 'iptables')).code).toBe(exit.ok);
    const half = await rules();
    expect([first, second]).not.toContain(half);
    expect((await rollback('-b', 'nftables')).code).toBe(exit.ok);
    expect(await rules()).toBe(first);
  });

  it('leaves alone what the admin did in between', async () => {
    await shell('ufw allow 22/tcp; ufw --force enable');
    const backends = ['-b', 'nftables', '-b', 'ufw', '--nft-chain=none', '--mode=lockdown'];
    const files = () => shell('cat /etc/ufw/user.rules /etc/ufw/user6.rules');
    const kernel = () => shell('nft list table inet cfsync; iptables -S; ip6tables -S');
    await apply(1, ...backends);
    await shell('ufw allow 2222/tcp');
    const before = [await kernel(), await files()];
    await apply(2, ...backends);
    // Before and after ours, in the files and in the kernel alone.
    await shell(
      'ufw insert 1 deny from 192.0.2.1; ufw allow 3333/tcp; ufw delete allow 2222/tcp; iptables -I INPUT -s 192.0.2.2 -j DROP; nft add table inet admin',
    );
    expect((await rollback()).code).toBe(exit.ok);
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
    const listed = await shell('iptables -S; nft list tables; ufw status');
    for (const part of [
      '-A INPUT -s 192.0.2.2/32 -j DROP',
      'table inet admin',
      '3333/tcp',
      '192.0.2.1',
    ])
      expect(listed).toContain(part);
    expect(listed).not.toContain('2222');
    expect(listed).not.toContain(prefixes[1]);
    await shell(
      'ufw delete deny from 192.0.2.1; ufw delete allow 3333/tcp; ufw allow 2222/tcp; iptables -D INPUT 1; nft delete table inet admin',
    );
    const sorted = (text: string): string => text.split('\n').sort().join('\n');
    expect([await kernel(), await files()].map(sorted)).toEqual(before.map(sorted));
  });

  it('leaves a file of its own alone that somebody else has replaced', async () => {
    const ours = '/etc/fail2ban/jail.d/00-cfsync.conf';
    await shell(
      'touch /var/log/auth.log; printf "[sshd]\\nbackend = polling\\n" > /etc/fail2ban/jail.d/defaults.local',
    );
    expect((await apply(1, '-b', 'fail2ban')).code).toBe(exit.ok);
    const theirs = '[DEFAULT]\nignoreip = 127.0.0.1/8 192.0.2.7\n';
    await lab.origin.must(['tee', ours], { stdin: theirs });
    const { code, stderr } = await rollback();
    expect(stderr).toContain('fail2ban');
    expect(code).toBe(exit.ok);
    expect(await readFile(lab.origin.path(ours), 'utf8')).toBe(theirs);
  });

  it('goes back also where the hold cannot be written down', async () => {
    await apply(1, ...both);
    const first = await rules();
    await apply(2, ...both);
    await shell('mkdir /run/lab/state/hold.json');
    const { code, stderr } = await rollback();
    expect(stderr).toMatch(
      /^cfsync: warning: .*hold\.json.*; so the next timer run applies again$/m,
    );
    expect(code).toBe(exit.ok);
    expect(await rules()).toBe(first);
  });

  describe('--all-or-nothing', () => {
    beforeEach(() => apply(1, ...both));

    it('changes nothing when one backend cannot be planned', async () => {
      const before = await rules();
      // Forwarding without a listing of sets.
      await shell(
        `printf '#!/bin/sh\\nexit 1\\n' >${haltDir}/iptables-save; chmod 755 ${haltDir}/iptables-save`,
      );
      const { code, stdout, stderr } = await apply(2, ...both, '--all-or-nothing');
      expect(stderr).toContain('cfsync: nothing else was changed, because of --all-or-nothing\n');
      expect({ code, stdout }).toEqual({ code: exit.failed, stdout: '' });
      await shell(`rm ${haltDir}/iptables-save`);
      expect(await rules()).toBe(before);
      expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
    });

    it.for([[true], [false]] as const)(
      'takes back what is done when one fails: %s',
      async ([together]) => {
        const before = await rules();
        const standIn = `${haltDir}/ip6tables-restore`;
        await shell(
          `printf '%s\\n' '#!/bin/sh' 'case "$*" in *--test*|*--version*) exec /usr/sbin/ip6tables-restore "$@";; esac' 'exit 1' >${standIn}; chmod 755 ${standIn}`,
        );
        const { code, stderr } = await apply(2, ...both, ...(together ? ['--all-or-nothing'] : []));
        expect(stderr).toContain('iptables is back to what it was before');
        expect(stderr.includes('nftables is back to what it was before')).toBe(together);
        expect(code).toBe(exit.rolledBack);
        await shell(`rm ${standIn}`);
        expect((await rules()) === before).toBe(together);
        expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
      },
    );
  });
});
