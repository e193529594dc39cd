/** Which backends are in use: decided from what real programs printed. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BackendError } from '../../src/errors.ts';
import { choose, iptablesSign, lookForBackends, nftSign } from '../../src/setup/in-use.ts';
import { parseSave } from '../../src/filters/iptables/save.ts';
import { parseListing } from '../../src/filters/nft/listing.ts';
import { none, parseRanges } from '../../src/prefix.ts';
import { recorded, type Recorded } from '../helpers/host.ts';

const fixture = (name: string): string =>
  readFileSync(join(import.meta.dirname, '..', 'fixtures', name), 'utf8');
const nft = (name: string) => nftSign(parseListing(fixture(`nftables/${name}.json`)));
const iptables = (name: string, ufw = false) =>
  iptablesSign(parseSave(fixture(`iptables/${name}.save`), 'iptables-save'), ufw);

describe('nftables', () => {
  it.each(['policy-drop', 'accept-all', 'two-families', 'ours'])('is in use: %s', (name) => {
    expect(nft(name)).toMatch(/^table (inet|ip6?) \w+ filters what comes in$/);
  });

  // Rules of iptables, Docker, UFW and firewalld, and of a program that lets nobody else change them.
  it.each(['empty', 'docker', 'iptables-nft', 'ufw', 'firewalld', 'owner'])(
    'is not in use: %s',
    (name) => {
      expect(nft(name)).toBeUndefined();
    },
  );
});

describe('iptables', () => {
  it('is in use where INPUT has rules that no program keeps there', () => {
    expect(iptables('accept-all')).toBe('INPUT has 2 rules');
    expect(iptables('policy-drop')).toMatch(/^INPUT has \d+ rules$/);
    expect(iptables('policy-drop', true)).toMatch(/^INPUT has \d+ rules$/);
  });

  it('is in use where the policy drops, unless UFW sets it', () => {
    const text = '*filter\n:INPUT DROP [0:0]\nCOMMIT\n';
    expect(iptablesSign(parseSave(text, 'iptables-save'), false)).toBe(
      'the policy of INPUT is DROP',
    );
    expect(iptablesSign(parseSave(text, 'iptables-save'), true)).toBeUndefined();
  });

  it('is not in use where programs filter with it', () => {
    expect(iptables('docker')).toBeUndefined();
    expect(iptables('raw')).toBeUndefined();
    expect(iptables('ufw', true)).toBeUndefined();
    expect(iptables('ufw6', true)).toBeUndefined();
  });
});

describe('the choice', () => {
  const installed = ['nftables', 'iptables'] as const;
  const names = (signs: Partial<Parameters<typeof choose>[0]>) =>
    choose({ installed, ...signs }).choices.map(({ name }) => name);

  it('is one packet filter, and all that do not filter', () => {
    expect(names({ ufw: 'x', iptables: 'x', nginx: 'x', fail2ban: 'x' })).toEqual([
      'ufw',
      'fail2ban',
      'nginx',
    ]);
    expect(names({ csf: 'x', ufw: 'x' })).toEqual(['csf']);
    expect(names({ nftables: 'x', iptables: 'x' })).toEqual(['nftables']);
    expect(names({ iptables: 'x' })).toEqual(['iptables']);
  });

  it('says what else filters', () => {
    expect(choose({ installed, ufw: 'it is on', nftables: 'table inet x' }).besides).toEqual([
      'nftables is in use as well: table inet x',
    ]);
  });

  it('is what is installed, where nothing filters', () => {
    expect(names({})).toEqual(['nftables']);
    expect(names({ installed: ['iptables'], nginx: 'x' })).toEqual(['iptables', 'nginx']);
    expect(names({ installed: [] })).toEqual([]);
  });

  it('only restricts under firewalld', () => {
    const { choices } = choose({ installed, firewalld: 'firewalld runs' });
    expect(choices).toEqual([
      expect.objectContaining({
        name: 'nftables',
        options: { chain: 'none' },
        later: expect.stringContaining('mode: lockdown') as string,
      }),
    ]);
  });
});

describe('what was applied already', () => {
  const installed = ['nftables', 'iptables'] as const;
  const desired = {
    ranges: none,
    extra: parseRanges(['198.51.100.0/24']),
    tcpPorts: [80, 8443],
    udpPorts: [],
    mode: 'lockdown',
  } as const;

  it('is taken over as it was, and takes the place of what is found', () => {
    const signs = { installed, ufw: 'it is on', nftables: 'table inet x', nginx: 'it runs' };
    const { choices, besides } = choose(signs, [
      { name: 'nftables', desired, options: { chain: 'none' } },
      { name: 'nginx-ingress', desired, options: { helm: true, 'force-conflicts': true } },
    ]);
    expect(choices).toEqual([
      {
        name: 'nftables',
        why: 'applied here before: lockdown of 80, 8443',
        options: { chain: 'none' },
        desired,
      },
      { name: 'nginx-ingress', why: 'applied here before', options: { helm: true } },
      { name: 'nginx', why: 'it runs' },
    ]);
    expect(besides).toEqual(['ufw is in use as well: it is on']);
  });

  it('of other kinds alone leaves the packet filter to what is found', () => {
    const { choices } = choose({ installed, ufw: 'it is on' }, [
      { name: 'fail2ban', desired, options: {} },
    ]);
    expect(choices.map(({ name }) => name)).toEqual(['fail2ban', 'ufw']);
  });
});

describe('a look at the host', () => {
  const missing = { code: 1, stdout: '', stderr: '' };
  const quiet: Recorded = {
    answers: {
      'nft -j -t list ruleset': fixture('nftables/empty.json'),
      'iptables-save': '',
      'ip6tables-save': '',
      'fail2ban-client ping': missing,
    },
  };
  const look = (host: Recorded) =>
    lookForBackends(
      recorded({ ...quiet, ...host, answers: { ...quiet.answers, ...host.answers } }),
    );

  it('sees nothing where nothing is', async () => {
    expect(await look({})).toEqual({ installed: ['nftables', 'iptables'] });
  });

  it('sees what runs', async () => {
    expect(
      await look({
        answers: { 'fail2ban-client ping': 'Server replied: pong\n' },
        folders: { '/proc': ['1', '77', '78', 'self'] },
        files: {
          '/proc/1/comm': 'init\n',
          '/proc/77/comm': 'nginx\n',
          '/proc/78/comm': 'firewalld\n',
        },
      }),
    ).toMatchObject({
      fail2ban: 'its server answers',
      nginx: 'it runs',
      firewalld: 'firewalld runs',
    });
  });

  it('sees what is enabled and installed, not what a purge left out', async () => {
    const folders = {
      '/etc/systemd/system': ['multi-user.target.wants', 'sysinit.target.wants', 'x.service'],
      '/etc/systemd/system/multi-user.target.wants': ['fail2ban.service', 'nginx.service'],
      '/etc/systemd/system/sysinit.target.wants': ['nftables.service'],
    };
    const files = { '/etc/ufw/ufw.conf': '# comment\nENABLED=yes\nLOGLEVEL=low\n' };
    expect(await look({ folders, files })).toEqual({
      nftables: 'nftables.service is enabled',
      installed: ['nftables', 'iptables'],
    });
    const programs = { '/usr/bin': ['fail2ban-server'], '/usr/sbin': ['nginx', 'ufw'] };
    expect(await look({ folders: { ...folders, ...programs }, files })).toMatchObject({
      ufw: 'UFW is enabled (/etc/ufw/ufw.conf)',
      fail2ban: 'fail2ban.service is enabled',
      nginx: 'nginx.service is enabled',
    });
    const off = { '/etc/ufw/ufw.conf': 'ENABLED=no\n' };
    expect((await look({ folders: programs, files: off })).ufw).toBeUndefined();
  });

  it('takes all of iptables for what CSF made, where that is enabled', async () => {
    const answers = { 'iptables-save': fixture('iptables/policy-drop.save') };
    const csf = { '/etc/csf': ['csf.allow', 'csf.conf'] };
    const seen = await look({ answers, folders: csf });
    expect(seen).toMatchObject({ csf: 'CSF is installed and enabled' });
    expect(seen.iptables).toBeUndefined();
    const off = await look({ answers, folders: { '/etc/csf': ['csf.conf', 'csf.disable'] } });
    expect(off.csf).toBeUndefined();
    expect(off.iptables).toMatch(/^INPUT has/);
  });

  it('fails where it may not look, and what to do', async () => {
    const answers = {
      'nft -j -t list ruleset': {
        code: 1,
        stdout: '',
        stderr:
          'Operation not permitted (you must be root)\nnetlink: Error: cache initialization failed: Operation not permitted\n',
      },
    };
    await expect(look({ answers })).rejects.toThrow(BackendError);
    await expect(look({ answers })).rejects.toThrow('run cfsync init as root');
  });
});
