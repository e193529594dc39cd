/** What the recorded hosts do not show: CSF, limits, what is not understood, sets and single rules that ban. */
import { describe, expect, it } from 'vitest';
import allowList from '../../src/doctor/checks/allow-list.ts';
import bans from '../../src/doctor/checks/bans.ts';
import firewallState from '../../src/doctor/checks/firewall-state.ts';
import ipv6 from '../../src/doctor/checks/ipv6.ts';
import packetFilter from '../../src/doctor/checks/packet-filter.ts';
import twoFirewalls from '../../src/doctor/checks/two-firewalls.ts';
import type { Finding } from '../../src/doctor/check.ts';
import type { FilterSeen } from '../../src/filters/observe.ts';
import { doctorContext } from '../helpers/doctor.ts';
import { lenient } from '../helpers/hostile-host.ts';

const open = '*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n';
const input = (policy: string, ...rules: readonly string[]): string =>
  `*filter\n:INPUT ${policy} [0:0]\n${rules.map((rule) => `-A INPUT ${rule}\n`).join('')}COMMIT\n`;

/** A host with one address of each family, behind eth0, and these rules of iptables-legacy. */
const host = (v4: string, v6 = open, ipset = ''): FilterSeen => ({
  nft: null,
  saves: [
    { program: 'iptables-save', family: 'v4', variant: 'legacy', text: v4 },
    { program: 'ip6tables-save', family: 'v6', variant: 'legacy', text: v6 },
  ],
  ipset,
  interfaces: ['eth0'],
  addresses: { v4: ['203.0.113.5'], v6: ['2001:db8:5::5'] },
  routes: [],
});

const titles = (findings: readonly Finding[]): readonly string[] =>
  findings.map(({ level, title }) => `${level}: ${title}`);

const context = doctorContext();

describe('packet-filter', () => {
  it('tells of a limit on new connections, which is not reached by one', () => {
    const seen = host(
      input(
        'ACCEPT',
        '-p tcp -m multiport --dports 80,443 -m hashlimit --hashlimit-above 20/sec --hashlimit-name web -j DROP',
      ),
    );
    const [found, ...more] = packetFilter.judge({ filters: seen, tunnel: false }, context);
    expect(more).toEqual([]);
    expect(found).toMatchObject({
      level: 'warning',
      share: 'maybe',
      causes: [522],
      title: 'New connections from Cloudflare to ports 80, 443 are limited in number',
      evidence: [
        'iptables filter INPUT: -A INPUT -p tcp -m multiport --dports 80,443 -m hashlimit --hashlimit-above 20/sec --hashlimit-name web -j DROP',
        'concerned: 2 of 2 IPv4 ranges, on ports 80, 443',
      ],
    });
    expect(found!.command).toBeUndefined();
  });

  it('names what it does not understand, and does not guess', () => {
    const geo = '-m geoip --source-country CN,RU -j DROP';
    const [found, ...more] = packetFilter.judge(
      { filters: host(input('ACCEPT', geo)), tunnel: false },
      context,
    );
    expect(more).toEqual([]);
    expect(found).toMatchObject({ level: 'warning', share: 'maybe' });
    expect(found!.evidence[0]).toBe(
      `not understood (-m geoip): iptables filter INPUT: -A INPUT ${geo}`,
    );
    expect(found!.command).toBeUndefined();
  });

  it('does not mind it where it makes no difference', () => {
    const seen = host(input('ACCEPT', '-m geoip --source-country DE -j ACCEPT'));
    expect(packetFilter.judge({ filters: seen, tunnel: false }, context)).toEqual([]);
  });

  it('tells which part is kept out, on which port, with the ports in the command', () => {
    const seen = host(input('ACCEPT', '-s 104.16.0.0/13 -p tcp -m tcp --dport 8443 -j DROP'));
    const [found] = packetFilter.judge(
      { filters: seen, tunnel: false },
      doctorContext({ ports: [443, 8443] }),
    );
    expect(found).toMatchObject({
      share: 'part',
      title: "The packet filter drops Cloudflare's connections to port 8443",
      command: 'cfsync apply --backend iptables --ports 443,8443',
    });
    expect(found!.evidence[1]).toBe('concerned: 104.16.0.0/13, on port 8443');
  });

  it('says less where a tunnel runs and nobody gets in', () => {
    const levels = (...rules: readonly string[]): readonly string[] =>
      packetFilter
        .judge({ filters: host(input('DROP', ...rules)), tunnel: true }, context)
        .map(({ level }) => level);
    expect(levels()).toEqual(['note']);
    // A stale list, or a port that is open to others: somebody is meant to come in.
    expect(levels('-s 104.16.0.0/13 -j ACCEPT')).toEqual(['problem']);
    const banned = ['173.245.48.0/20', '104.16.0.0/13'].map((range) => `-s ${range} -j DROP`);
    expect(levels(...banned, '-p tcp -j ACCEPT')).toEqual(['problem', 'problem']);
  });

  it('keeps the mode that was applied', () => {
    const applied = [{ name: 'iptables', mode: 'lockdown', ports: [80, 443] }] as const;
    const [found] = packetFilter.judge(
      { filters: host(input('DROP')), tunnel: false },
      doctorContext({ applied }),
    );
    expect(found).toMatchObject({
      share: 'all',
      command: 'cfsync apply --backend iptables --mode lockdown',
    });
  });
});

describe('bans', () => {
  const seen = (filters: FilterSeen | null, more: object = {}) => ({
    filters,
    fail2ban: [],
    csf: { deny: '', temporary: '' },
    ...more,
  });

  it('are found in ipsets, with the command that lifts one', () => {
    const ipset =
      'create bad hash:ip family inet hashsize 1024\nadd bad 173.245.48.9\nadd bad 8.8.8.8\n';
    const rule = '-m set --match-set bad src -j DROP';
    const [found, ...more] = bans.judge(seen(host(input('ACCEPT', rule), open, ipset)), context);
    expect(more).toEqual([]);
    expect(found).toMatchObject({
      level: 'problem',
      share: 'part',
      causes: [522],
      title: "The set bad bans 1 address or network of Cloudflare's",
      evidence: ['173.245.48.9', `iptables filter INPUT: -A INPUT ${rule}`],
      command: 'ipset del bad 173.245.48.9',
    });
  });

  it('are found in single rules, one finding for a chain', () => {
    const rules = ['-s 173.245.48.9/32 -j REJECT', '-s 104.16.0.0/16 -j REJECT'];
    const [found, ...more] = bans.judge(seen(host(input('ACCEPT', ...rules))), context);
    expect(more).toEqual([]);
    expect(found).toMatchObject({
      causes: [521],
      title: "Rules of iptables filter INPUT ban 2 addresses and networks of Cloudflare's",
      command:
        'iptables-legacy -D INPUT -s 173.245.48.9/32 -j REJECT && iptables-legacy -D INPUT -s 104.16.0.0/16 -j REJECT',
    });
  });

  it('are found in the files of CSF, with the time of a temporary one', () => {
    const csf = {
      deny: '# comment\n173.245.48.9 # lfd: (sshd) Failed SSH login - Sat Nov 21 10:00:00 2026\n8.8.8.8 # x\n',
      temporary: '1795255200|2400:cb00::7||in|3600|lfd - again\n',
    };
    const rule = '-s 173.245.48.9/32 ! -i lo -j DROP';
    const [found, ...more] = bans.judge(seen(host(input('ACCEPT', rule)), { csf }), context);
    expect(more).toEqual([]);
    expect(found).toMatchObject({
      causes: [522],
      title: "CSF bans 2 addresses of Cloudflare's",
      evidence: [
        '173.245.48.9: /etc/csf/csf.deny: 173.245.48.9 # lfd: (sshd) Failed SSH login - Sat Nov 21 10:00:00 2026',
        '2400:cb00::7: /var/lib/csf/csf.tempban, since 2026-11-21T10:00:00.000Z',
        `iptables filter INPUT: -A INPUT ${rule}`,
      ],
      command: 'csf -dr 173.245.48.9 && csf -trd 2400:cb00::7',
    });
  });

  it('of fail2ban are not judged where its answer is cut off', async () => {
    const look = (answer: string) =>
      bans.observe(lenient({ answers: { 'fail2ban-client banned': answer } }), context);
    const whole = "[{'sshd': ['173.245.48.9']}]\n";
    expect((await look(whole)).fail2ban).toEqual([
      { jail: 'sshd', addresses: ['173.245.48.9'], times: '' },
    ]);
    for (const cut of ['', "[{'sshd': [", "[{'sshd': ['173.245.48.9'"])
      await expect(look(cut)).rejects.toThrow('what fail2ban-client banned printed cannot be read');
  });

  it('are told of fail2ban alone where the rules cannot be read', () => {
    const fail2ban = [{ jail: 'sshd', addresses: ['173.245.48.9', '192.0.2.1'], times: '' }];
    expect(bans.judge(seen(null, { fail2ban }), context)).toMatchObject([
      { causes: [521, 522], evidence: ['173.245.48.9: jail sshd'] },
    ]);
  });

  it("of others are nobody's business", () => {
    const rules = ['-s 192.0.2.1/32 -j DROP', '-s 10.0.0.0/8 -j DROP'];
    expect(bans.judge(seen(host(input('ACCEPT', ...rules))), context)).toEqual([]);
  });
});

describe('allow-list', () => {
  const old = { kind: 'snapshot', asOf: '2026-09-01T00:00:00.000Z', ages: true } as const;
  const applied = [{ name: 'iptables', mode: 'allow', ports: [80, 443] }] as const;

  it.each([
    ['in use', applied, 'warning'],
    ['that nothing was made of', [], 'note'],
  ] as const)('a snapshot that is too old and %s is a %s', (_name, list, level) => {
    const findings = allowList.judge(host(open), doctorContext({ list: old, applied: list }));
    expect(findings).toMatchObject([{ level, command: 'cfsync fetch' }]);
    expect(findings[0]!.title).toContain('81 days ago');
  });

  it('a list that a person named does not age', () => {
    const list = { ...old, ages: false };
    expect(allowList.judge(host(open), doctorContext({ list, applied }))).toEqual([]);
  });

  it('lacks a range of the one family', () => {
    const v4 = input('DROP', '-s 173.245.48.0/20 -p tcp -m multiport --dports 80,443 -j ACCEPT');
    expect(allowList.judge(host(v4), context)).toMatchObject([
      {
        level: 'problem',
        causes: [522],
        title: "The allow-list for ports 80, 443 lacks 1 range of Cloudflare's",
        evidence: [
          'not let in: 104.16.0.0/13',
          'kept out by iptables filter INPUT: -P INPUT DROP',
          'judged by the snapshot of 2026-11-20',
        ],
        explains: ['iptables filter INPUT policy'],
      },
    ]);
  });

  it('that keeps out all of it is none', () => {
    expect(allowList.judge(host(input('DROP')), context)).toEqual([]);
  });
});

describe('ipv6', () => {
  const listeners = [80, 443].map((port) => ({ address: '::', port }));
  const seen = (v4: string, v6: string, more: object = {}) => ({
    filters: host(v4, v6),
    listeners,
    ufw: { defaults: '', enabled: false },
    csf: '',
    ...more,
  });
  const cloudflare = input(
    'DROP',
    '-s 173.245.48.0/20 -p tcp -j ACCEPT',
    '-s 104.16.0.0/13 -p tcp -j ACCEPT',
  );

  it('is open where IPv4 is locked', () => {
    const [found, ...more] = ipv6.judge(seen(cloudflare, open), context);
    expect(more).toEqual([]);
    expect(found).toMatchObject({
      level: 'warning',
      causes: [],
      title: 'The lock on ports 80, 443 is for IPv4 alone: anybody gets in over IPv6',
      command: 'cfsync apply --backend iptables --mode lockdown',
    });
    expect(found!.evidence).toContain('over IPv6, no rule and no policy drops');
  });

  it('is left out by CSF, which is said', () => {
    const csf = 'TESTING = "0"\nIPV6 = "0"\n';
    const [found] = ipv6.judge(seen(cloudflare, input('DROP'), { csf }), context);
    expect(found).toMatchObject({ level: 'problem', causes: [522], share: 'part' });
    expect(found!.evidence[0]).toBe('/etc/csf/csf.conf: IPV6 = "0"');
    expect(found!.command).toContain('csf -r');
  });

  it('does not matter where nothing listens on it', () => {
    const only = { listeners: [{ address: '0.0.0.0', port: 443 }] };
    expect(ipv6.judge(seen(cloudflare, open, only), context)).toEqual([]);
    expect(ipv6.judge(seen(cloudflare, input('DROP'), only), context)).toEqual([]);
  });
});

describe('firewall-state', () => {
  const files = { 'csf.conf': 'TESTING = "0"\n', 'csf.disable': null, 'csf.error': null };
  const seen = (csf: object, filters = host(open), ufw: string | null = null) => ({
    filters,
    csf: { ...files, ...csf },
    ufw,
  });

  it.each([
    [{}, []],
    [{ 'csf.conf': null }, []],
    [
      { 'csf.conf': 'TESTING = "1"\n' },
      ['warning: CSF is in testing mode: it takes all of its rules away every few minutes'],
    ],
    [{ 'csf.disable': '' }, ['warning: CSF is disabled: none of its rules is in force']],
    [
      { 'csf.error': '\nError: FASTSTART\n' },
      ['warning: CSF failed when it last started, and left the firewall open'],
    ],
  ])('of CSF with %j: %j', (csf, expected) => {
    expect(titles(firewallState.judge(seen(csf), context))).toEqual(expected);
  });

  it('of ufw without its chains', () => {
    const conf = 'ENABLED=yes\nLOGLEVEL=low\n';
    const csf = { 'csf.conf': null };
    expect(titles(firewallState.judge(seen(csf, host(open), conf), context))).toEqual([
      'warning: ufw is on, and its chains are missing: none of its rules is in force',
    ]);
    const dropping = host(input('DROP'), input('DROP'));
    expect(firewallState.judge(seen(csf, dropping, conf), context)).toMatchObject([
      {
        level: 'problem',
        causes: [522],
        title: 'ufw is on, and its chains are missing: its policies keep everybody out',
        explains: ['iptables filter INPUT policy'],
      },
    ]);
    expect(firewallState.judge(seen(csf, host(open), 'ENABLED=no\n'), context)).toEqual([]);
  });
});

describe('two-firewalls', () => {
  const seen = (wanted: readonly string[] | null, more: object = {}) => ({
    filters: { ...host(open), saves: [] },
    wanted,
    runs: true,
    ufw: false,
    ...more,
  });

  it('are two services that restore rules at boot', () => {
    const units = [
      'nftables.service',
      'netfilter-persistent.service',
      'ssh.service',
      'ufw.service',
    ];
    expect(titles(twoFirewalls.judge(seen(units), context))).toEqual([
      'warning: 2 services restore packet filter rules at boot: nftables, netfilter-persistent',
    ]);
    expect(titles(twoFirewalls.judge(seen(units, { ufw: true }), context))[0]).toContain(
      '3 services',
    );
    expect(twoFirewalls.judge(seen(['nftables.service']), context)).toEqual([]);
  });

  it('is none at the next boot where nothing restores the rules', () => {
    const filters = host(input('DROP'), input('DROP'));
    const lost = titles(twoFirewalls.judge(seen([], { filters }), context));
    expect(lost).toEqual([
      'note: Nothing restores the packet filter rules at boot: the lock ends with the next one',
    ]);
    expect(twoFirewalls.judge(seen(['cfsync-boot.service'], { filters }), context)).toEqual([]);
    expect(twoFirewalls.judge(seen([], { filters, runs: false }), context)).toEqual([]);
  });
});
