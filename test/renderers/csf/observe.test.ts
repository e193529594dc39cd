import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import csf from '../../../renderers/csf/index.ts';
import type { CsfAround } from '../../../renderers/csf/state.ts';
import { CfsyncError } from '../../../src/errors.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded } from '../../helpers/host.ts';
import { around, look, observed, path, skeleton, small, stdin, told, wanted } from './given.ts';

describe('observe', () => {
  it('says why CSF cannot be used', async () => {
    const absent = csf.observe(recorded({}), { reload: false });
    await expect(absent).rejects.toMatchObject({ reason: 'not installed' });
    const bare = csf.observe(recorded({ folders: { '/etc/csf': [] } }), { reload: false });
    await expect(bare).rejects.toMatchObject({ reason: 'misconfigured' });
    const broken = look({}, false, { 'iptables-save': { code: 4, stdout: '', stderr: 'why' } });
    await expect(broken).rejects.toMatchObject({ reason: 'broken', detail: ['why'] });
    const cause = Object.assign(new Error('x'), { code: 'EACCES' });
    const denied = {
      ...recorded({}),
      list: () => Promise.reject(new CfsyncError(1, 'x', { cause })),
    };
    await expect(csf.observe(denied, { reload: false })).rejects.toMatchObject({
      reason: 'no permission',
    });
  });

  it('finds what is loaded, and how often', async () => {
    const { owned } = await look({ '/etc/csf/cfsync.allow': wanted.allow! });
    expect(owned.ranges).toEqual(small.ranges);
    expect(owned.loaded).toEqual({
      v4: [
        'tcp|in|d=443|s=192.0.2.0/24',
        'tcp|in|d=443|s=192.0.2.0/24',
        'tcp|out|s=443|d=192.0.2.0/24',
      ],
      v6: [],
    });
    expect(csf.print(owned).at(-1)).toEqual({
      path: 'csf/running',
      content:
        'loaded 2 times: tcp|in|d=443|s=192.0.2.0/24\nnot loaded: tcp|in|d=443|s=2001:db8::/32\nnot loaded: tcp|out|s=443|d=2001:db8::/32\n',
    });
  });

  it('finds all of it in what iptables printed', async () => {
    const read = (name: string): string =>
      readFileSync(join(import.meta.dirname, '..', '..', 'fixtures', 'csf', name), 'utf8');
    const answers = {
      'iptables-save': read('iptables-save.txt'),
      'ip6tables-save': read('ip6tables-save.txt'),
    };
    const all = csf.want(desired(), { reload: false }).owned;
    const { owned, around } = await look({ [path]: all.allow! }, true, answers);
    expect(owned.ranges).toEqual(desired().ranges);
    expect(owned.loaded).toEqual({ v4: null, v6: null });
    expect(around.foreign).toEqual([]);
    expect(
      stdin(csf.plan(csf.nothing, { owned, around: { ...around, reload: false } })).match(/^-D /gm),
    ).toHaveLength(44);
  });

  it("knows the admin's lines, wherever they are", async () => {
    const { around } = await look({
      '/etc/csf/csf.allow': `tcp|in|d=443|s=192.0.2.0/24\nInclude /etc/csf/more\nInclude ${path}\ntcp|in|d=80|s=192.0.2.0/24 # Included by hand\n`,
      '/etc/csf/more': 'd=22|s=192.0.2.1\nInclude /etc/csf/more\n',
      [path]: 'tcp|in|d=1|s=192.0.2.0/24\n',
      '/var/lib/csf/csf.tempallow': '1700000000|192.0.2.2|443;udp,80|in|3600|x\n',
    });
    expect(around.others).toEqual([
      'tcp|in|d=443|s=192.0.2.0/24',
      'tcp|in|d=22|s=192.0.2.1/32',
      'udp|in|d=443|s=192.0.2.2/32',
      'tcp|in|d=80|s=192.0.2.2/32',
    ]);
  });

  it('tells whether CSF is being restarted', async () => {
    const locks = '1: FLOCK  ADVISORY  WRITE 12 fe:00:77 0 EOF\n';
    expect((await look({ '/proc/locks': locks })).around.restarting).toBe(true);
    expect((await look({ '/proc/locks': locks.replace('77', '177') })).around.restarting).toBe(
      false,
    );
  });

  it('leaves the rules to a CSF that is being restarted with the same lines', () => {
    const restarting = { restarting: true, own: wanted.allow };
    const want = (changes: Partial<CsfAround>) => () =>
      csf.want({ ...small, mode: 'lockdown' }, { reload: false }, around(changes));
    expect(want(restarting)).not.toThrow();
    expect(want({ ...restarting, own: 'other' })).toThrow('CSF is being restarted');
    for (const reload of [false, true])
      expect(told(csf.plan(wanted, observed({}, { ...restarting, reload })))).toHaveLength(4);
  });

  it('tells whether lfd has read the list', async () => {
    const running = { '/run/lfd.pid': '7\n', '/proc/7/cmdline': 'lfd - sleeping\0' };
    const current = { code: 1, stdout: '', stderr: '' };
    const answers = { 'test /etc/csf/cfsync.ignore -nt /run/lfd.pid': current };
    expect((await look(running)).around.lfd).toBe('stale');
    expect((await look(running, false, answers)).around.lfd).toBe('current');
    expect((await look({ '/run/lfd.pid': '7\n' })).around.lfd).toBe('stopped');
    expect((await look({ ...running, '/proc/7/cmdline': 'sshd' })).around.lfd).toBe('stopped');
  });

  it('names what csf -r would delete of others, and nothing of CSF', async () => {
    const tables = (...lines: string[]): string => `${skeleton()}${lines.join('\n')}\nCOMMIT\n`;
    const foreign = async (save: string, conf = ''): Promise<readonly string[]> =>
      (
        await look(
          {
            '/etc/csf/csf.conf': conf,
            '/etc/csf/csf.blocklists': '#OFF|1|1|u\nspamdrop|86400|0|https://x\n',
          },
          true,
          { 'iptables-save': save, 'ipset list -n': 'chain_DENY\ncc_de\nbl_SPAMDROP\nmine\n' },
        )
      ).around.foreign;
    const ownChains = [
      'SPAMDROP', 'CC_DENY', 'CC_ALLOWF', 'LOGDROPIN', 'GDENYOUT', 'ALLOWDYNIN', 'GDYNOUT', 'INVDROP', 'INVALID', 'SMTPOUTPUT', 'PK_22_S2_IN', 'SYNFLOOD',
    ]; // prettier-ignore
    expect(
      await foreign(tables('*filter', ...ownChains.map((name) => `:${name} - [0:0]`))),
    ).toEqual([]);
    expect(await foreign(tables('*filter', ':f2b-sshd - [0:0]', ':OFF - [0:0]'))).toEqual([
      'chain f2b-sshd in table filter of iptables',
      'chain OFF in table filter of iptables',
    ]);
    const nat = ['*nat', ':POSTROUTING ACCEPT [0:0]', '-A POSTROUTING -o eth0 -j MASQUERADE'];
    expect(await foreign(tables(...nat))).toEqual([
      'rule -A POSTROUTING -o eth0 -j MASQUERADE in table nat of iptables',
    ]);
    expect(await foreign(tables(...nat), 'DOCKER = "1"\n')).toEqual([]);
    const docker = ['*nat', ':DOCKER - [0:0]'];
    expect(await foreign(tables(...docker))).toHaveLength(1);
    expect(await foreign(tables(...docker), 'DOCKER = "1"\n')).toEqual([]);
    expect(await foreign(tables(...docker, '-A DOCKER -j RETURN'), 'DOCKER = "1"\n')).toHaveLength(
      1,
    );
    expect(
      await foreign(
        tables(
          '*raw',
          ':OUTPUT ACCEPT [0:0]',
          '-A OUTPUT -p tcp -m tcp --dport 21 -j CT --helper ftp',
        ),
      ),
    ).toEqual([]);
    expect(await foreign(tables('*filter'), 'LF_IPSET = "1"\n')).toEqual(['ipset mine']);
  });
});
