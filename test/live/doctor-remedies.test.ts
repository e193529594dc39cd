/**
 * What the doctor names is tried: on a host that is broken in one way the command is run as it stands, and the finding
 * is gone. Where it names none, it says what to do.
 *
 * Not tried, for there is no such program here: what asks systemd (systemctl start, cfsync apply --persist), what is
 * the machine's and not a namespace's (sysctl of overload), a2dismod, firewall-cmd, cscli and docker. Those of nginx,
 * fail2ban and the ingress controller are in doctor-web.test.ts, doctor.test.ts and test/doctor/ingress.test.ts.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { fileURLToPath } from 'node:url';
import { configure, csfLab, put } from '../helpers/csf/lab.ts';
import { quoted } from '../helpers/program.ts';
import { Lab } from './lab.ts';
import { describeLive, path } from './privileges.ts';

interface Told {
  readonly check: string;
  readonly level: string;
  readonly title: string;
  readonly command: string | null;
  readonly advice: string | null;
}

/** Says on a host: this is broken, these are the words of the finding, and so it is mended. */
interface Case {
  readonly broken: string;
  readonly check: string;
  readonly title: RegExp;
  readonly command?: RegExp;
  /** In place of a command. */
  readonly words?: RegExp;
  /** A shell script. */
  readonly by: string;
  readonly args?: readonly string[];
}

const bin = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));

/** cfsync by its name, with the list that it comes with and a state directory of its own. */
const installCfsync = `mkdir -p /run/lab/bin /etc/cfsync; echo 'source: bundled' >/etc/cfsync/config.yaml
printf '#!/bin/sh\\nCFSYNC_STATE_DIR=/run/lab/state exec %s %s "$@"\\n' ${quoted(process.execPath)} ${quoted(bin)} >/run/lab/bin/cfsync
chmod +x /run/lab/bin/cfsync`;

/** The finding as it was, what it is mended with, and what is left of it. */
const mended = async (
  lab: Lab,
  one: Case,
): Promise<{ readonly found: Told | undefined; readonly left: readonly Told[] }> => {
  const shell = (script: string) =>
    lab.origin.must(['bash', '-ec', script], { env: { PATH: `/run/lab/bin:${path}` } });
  const look = async (): Promise<readonly Told[]> => {
    const args = ['doctor', '--format', 'json', '--only', one.check, ...(one.args ?? [])];
    const { stdout, stderr } = await lab.cfsync(args);
    expect(stderr).toBe('');
    const { findings } = JSON.parse(stdout) as { findings: readonly Told[] };
    return findings.filter(({ title }) => one.title.test(title));
  };
  await shell(one.by);
  const [found] = await look();
  if (typeof found?.command !== 'string') return { found, left: [] };
  await shell(found.command);
  return { found, left: await look() };
};

/** A command that mends it, or words. */
const expected = ({ command = /./, words }: Case): object =>
  words === undefined
    ? { command: expect.stringMatching(command) as string }
    : { command: null, advice: expect.stringMatching(words) as string };

const drop = (rules: string, more = '') => `nft -f - <<'END'
table inet filter {
${more}
chain input { type filter hook input priority 0; policy accept;
  iif lo accept
  ct state established,related accept
  meta l4proto icmpv6 accept
${rules}
}
}
END`;

/** Both families; a script for one has the word iptables in it. */
const both = (script: string): string => `${script}\n${script.replaceAll('iptables', 'ip6tables')}`;

const iptables = (rules: string): string =>
  both(`iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
${rules}`);

/** A container's port, as dockerd publishes it. */
const published = `iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 443 -j DNAT --to-destination 172.17.0.2:8443
ip6tables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 443 -j DNAT --to-destination '[fd00:17::2]:8443'
${both('iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT')}`;

const drops = /^The packet filter drops Cloudflare's connections/;
const limited = /^New connections from Cloudflare to .* limited/;

const cases: readonly Case[] = [
  {
    broken: 'nft, a policy',
    check: 'packet-filter',
    title: drops,
    command: /^cfsync apply --backend nftables$/,
    by: drop('tcp dport 22 accept').replace('policy accept', 'policy drop'),
  },
  {
    broken: 'nft, two tables',
    check: 'packet-filter',
    title: drops,
    by: `${drop('tcp dport { 80, 443 } drop')}\n${drop('tcp dport { 80, 443 } drop').replace('inet filter', 'inet second')}`,
  },
  {
    broken: 'nft, before prerouting is over',
    check: 'packet-filter',
    title: drops,
    words: /^No rule of cfsync's would come before this one/,
    by: "nft -f - <<'END'\ntable inet early { chain pre { type filter hook prerouting priority -300; tcp dport { 80, 443 } drop; }\n}\nEND",
  },
  {
    broken: 'nft, a table that would be mended and one that would not',
    check: 'packet-filter',
    title: drops,
    words: /^No rule of cfsync's would come before this one/,
    by: `${drop('tcp dport { 80, 443 } drop')}\nnft -f - <<'END'\ntable inet early { chain pre { type filter hook prerouting priority -300; tcp dport { 80, 443 } drop; }\n}\nEND`,
  },
  {
    broken: 'firewalld',
    check: 'packet-filter',
    title: /^The packet filter rejects/,
    words: /^firewalld keeps these rules.*--add-port=80\/tcp.*--add-port=443\/tcp.*--reload/,
    // As firewalld 1.3.3 has it, cut down to what a connection meets.
    by: `nft -f - <<'END'
table inet firewalld {
chain filter_IN_public_allow { tcp dport 22 accept; }
chain filter_IN_public { jump filter_IN_public_allow; }
chain filter_INPUT_ZONES { goto filter_IN_public; }
chain filter_INPUT { type filter hook input priority filter + 10; policy accept;
  ct state { established, related } accept
  iifname "lo" accept
  meta l4proto icmpv6 accept
  jump filter_INPUT_ZONES
  reject with icmpx admin-prohibited
}
}
END`,
  },
  {
    broken: 'nft, a chain behind an interface',
    check: 'packet-filter',
    title: drops,
    command: /^cfsync apply --backend nftables$/,
    by: drop('iifname "eth0" jump wan', 'chain wan { tcp dport { 80, 443 } drop; }'),
  },
  {
    broken: 'nft, a map of interfaces',
    check: 'packet-filter',
    title: drops,
    command: /^cfsync apply --backend nftables$/,
    by: drop('iifname vmap { "eth0" : jump wan }', 'chain wan { tcp dport { 80, 443 } drop; }'),
  },
  {
    broken: 'nft, a limit',
    check: 'packet-filter',
    title: limited,
    words: /Accept its ranges before the limit/,
    by: drop('tcp dport { 80, 443 } ct state new limit rate over 20/second burst 50 packets drop'),
  },
  {
    broken: 'iptables, a limit',
    check: 'packet-filter',
    title: limited,
    words: /Accept its ranges before the limit/,
    by: iptables(
      'iptables -A INPUT -p tcp -m multiport --dports 80,443 -m hashlimit --hashlimit-above 20/sec --hashlimit-name web -j DROP',
    ),
  },
  {
    broken: 'iptables, a chain behind an interface',
    check: 'packet-filter',
    title: drops,
    by: iptables(
      'iptables -N wan; iptables -A wan -p tcp -m multiport --dports 80,443 -j DROP; iptables -A INPUT -i eth0 -j wan',
    ),
  },
  {
    broken: 'iptables, a rule',
    check: 'packet-filter',
    title: drops,
    command: /^cfsync apply --backend iptables$/,
    by: iptables('iptables -A INPUT -p tcp -m multiport --dports 80,443 -j DROP'),
  },
  {
    broken: 'iptables, table raw',
    check: 'packet-filter',
    title: drops,
    words: /^No rule of cfsync's/,
    by: both('iptables -t raw -A PREROUTING -p tcp --dport 443 -j DROP'),
  },
  {
    broken: 'ufw, its policy',
    check: 'packet-filter',
    title: drops,
    command: /^cfsync apply --backend ufw$/,
    by: 'ufw --force enable >/dev/null',
  },
  {
    broken: 'ufw, a limit in before.rules',
    check: 'packet-filter',
    title: limited,
    words: /before\.rules.*ufw reload/,
    by: `for f in before before6; do p=ufw; test $f = before || p=ufw6
      sed -i "s/^COMMIT/-I $p-before-input 1 -p tcp --dport 443 -m conntrack --ctstate NEW -m hashlimit --hashlimit-above 20\\/sec --hashlimit-name web -j DROP\\nCOMMIT/" /etc/ufw/$f.rules; done
      ufw --force enable >/dev/null; ufw allow 443/tcp >/dev/null`,
  },
  {
    broken: 'ufw, a deny of the port',
    check: 'packet-filter',
    title: drops,
    words: /^UFW asks this rule before/,
    by: 'ufw --force enable >/dev/null; ufw deny 443/tcp >/dev/null; ufw allow 80/tcp >/dev/null',
  },
  {
    broken: 'a published port, the chain forward',
    check: 'packet-filter',
    title: drops,
    words: /^The port is published.*DOCKER-USER.*ufw route allow/,
    by: `${published}\n${both('iptables -A FORWARD -p tcp -j DROP')}`,
  },
  {
    broken: 'a set of ipset',
    check: 'bans',
    title: /^The set bad bans 2 addresses and networks/,
    command: /^ipset del bad .* && ipset del bad /,
    by: 'ipset create bad hash:net; ipset add bad 104.16.0.0/16; ipset add bad 173.245.48.9; ipset add bad 192.0.2.1; iptables -A INPUT -m set --match-set bad src -j DROP',
  },
  {
    broken: 'a set of ipset with more than Cloudflare',
    check: 'bans',
    title: /^The set bad bans 1/,
    words: /^What bad holds covers others as well/,
    by: 'ipset create bad hash:net; ipset add bad 173.0.0.0/8; iptables -A INPUT -m set --match-set bad src -j DROP',
  },
  {
    broken: 'a set of nft',
    check: 'bans',
    title: /^The set inet filter bad bans 2/,
    by: drop(
      'ip saddr @bad drop',
      'set bad { type ipv4_addr; flags interval; elements = { 104.16.0.0/16, 173.245.48.9, 192.0.2.1 }; }',
    ),
  },
  {
    broken: 'a set of nft with more than Cloudflare',
    check: 'bans',
    title: /^The set inet filter bad bans 1/,
    words: /^What inet filter bad holds covers others as well/,
    by: drop(
      'ip saddr @bad drop',
      'set bad { type ipv4_addr; flags interval; elements = { 173.0.0.0/8 }; }',
    ),
  },
  {
    broken: 'CrowdSec',
    check: 'bans',
    title: /^The set ip crowdsec crowdsec-blacklists bans 1/,
    words: /^CrowdSec decides.*cscli decisions delete/,
    by: `nft -f - <<'END'
table ip crowdsec {
set crowdsec-blacklists { type ipv4_addr; flags timeout; elements = { 173.245.48.10 timeout 4h }; }
chain crowdsec-chain { type filter hook input priority filter - 10; policy accept; ip saddr @crowdsec-blacklists drop; }
}
END`,
  },
  {
    broken: 'rules of nft',
    check: 'bans',
    title: /^Rules of nft inet filter input ban 2/,
    by: drop('ip saddr 104.16.0.0/16 drop\nip6 saddr 2606:4700::/48 drop'),
  },
  {
    broken: 'a rule of nft that bans others too',
    check: 'bans',
    title: /^Rules of nft inet filter input ban 1/,
    words: /^The rule bans others as well/,
    by: drop('ip saddr { 104.16.0.0/16, 192.0.2.1 } drop'),
  },
  {
    broken: 'rules of iptables',
    check: 'bans',
    title: /^Rules of iptables filter INPUT ban 2/,
    by: 'iptables -A INPUT -s 104.16.0.0/16 -j DROP; ip6tables -A INPUT -s 2606:4700::/48 -m comment --comment "a b" -j DROP',
  },
  {
    broken: 'a deny of ufw',
    check: 'bans',
    title: /^Rules of iptables filter ufw-user-input ban 1/,
    words: /^UFW asks this rule before.*ufw status numbered.*ufw delete NUMBER/,
    by: 'ufw --force enable >/dev/null; ufw allow 80,443/tcp >/dev/null; ufw insert 1 deny from 104.16.0.0/16 >/dev/null',
  },
  {
    broken: 'a list that is short',
    check: 'allow-list',
    title: /lacks \d+ ranges of Cloudflare's/,
    by: iptables(
      'iptables -P INPUT DROP; iptables -A INPUT -p icmp -j ACCEPT 2>/dev/null || iptables -A INPUT -p ipv6-icmp -j ACCEPT',
    ).concat(
      '\nfor r in 173.245.48.0/20 104.16.0.0/13; do iptables -A INPUT -s $r -p tcp -m multiport --dports 80,443 -j ACCEPT; done; ip6tables -P INPUT ACCEPT',
    ),
  },
  {
    broken: 'a range that Cloudflare gave up',
    check: 'allow-list',
    title: /no longer Cloudflare's$/,
    command: /^cfsync adopt --backend iptables$/,
    by: 'iptables -P INPUT DROP; iptables -A INPUT -i lo -j ACCEPT; for r in $(/run/lab/bin/cfsync show | grep -v :) 104.28.0.0/14; do iptables -A INPUT -s $r -p tcp -m multiport --dports 80,443 -j ACCEPT; done',
  },
  {
    broken: 'ufw without IPv6',
    check: 'ipv6',
    title: /^IPv6 is left out/,
    command: /^sed -i .* && ufw reload && cfsync apply --backend ufw$/,
    by: "sed -i 's/^IPV6=.*/IPV6=no/' /etc/default/ufw; ufw --force enable >/dev/null; cfsync apply --backend ufw >/dev/null || [ $? = 2 ]",
  },
  {
    broken: 'ip6tables without rules for Cloudflare',
    check: 'ipv6',
    title: /^IPv6 is left out/,
    command: /^cfsync apply --backend iptables$/,
    by: 'ip6tables -A INPUT -p tcp -m multiport --dports 80,443 -j DROP',
  },
  {
    broken: 'a lock for IPv4 alone',
    check: 'ipv6',
    title: /^The lock on ports 80, 443 is for IPv4 alone/,
    command: /--mode lockdown$/,
    by: 'iptables -A INPUT -i lo -j ACCEPT; for r in $(cfsync show | grep -v :); do iptables -A INPUT -s $r -p tcp -j ACCEPT; done; iptables -A INPUT -p tcp -m multiport --dports 80,443 -j DROP',
  },
  {
    broken: 'a wider rule of iptables',
    check: 'open-to-all',
    title: /^Anybody gets in/,
    command: /^cfsync apply --backend iptables --mode lockdown$/,
    by: iptables(
      'iptables -A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT; iptables -A INPUT -s 192.0.2.1/32 -j DROP 2>/dev/null || true',
    ).concat(
      '\nfor r in $(cfsync show | grep -v :); do iptables -I INPUT -s $r -p tcp -j ACCEPT; done',
    ),
  },
  {
    broken: 'a wider rule of nft',
    check: 'open-to-all',
    title: /^Anybody gets in/,
    command: /^cfsync apply --backend nftables --mode lockdown$/,
    by: drop('tcp dport { 80, 443 } ip saddr 104.16.0.0/13 accept\ntcp dport { 80, 443 } accept'),
  },
  {
    broken: 'a wide application profile of ufw',
    check: 'open-to-all',
    title: /^Anybody gets in/,
    words:
      /ufw status numbered.*ufw delete NUMBER.*Then: cfsync apply --backend ufw --mode lockdown/,
    by: "ufw --force enable >/dev/null; cfsync apply --backend ufw >/dev/null; ufw allow 'WWW Full' >/dev/null",
  },
  {
    broken: 'a published port past the lock',
    check: 'published-ports',
    title: /^Published ports bypass/,
    by: `${published}\nfor r in $(cfsync show | grep -v :); do iptables -A INPUT -s $r -p tcp -j ACCEPT; done; for r in $(cfsync show | grep :); do ip6tables -A INPUT -s $r -p tcp -j ACCEPT; done\n${iptables('iptables -P INPUT DROP')}\nip6tables -I INPUT -p ipv6-icmp -j ACCEPT`,
  },
  {
    broken: 'two variants of iptables',
    check: 'two-firewalls',
    title: /^Rules of iptables-legacy and of nft/,
    by: both(
      'iptables-legacy -A INPUT -i lo -j ACCEPT; iptables-legacy -P INPUT DROP; iptables-nft -A INPUT -p tcp --dport 80 -j ACCEPT',
    ),
  },
  {
    broken: 'rules of nft in a table of iptables',
    check: 'two-firewalls',
    title: /^nft rules stand in a table that iptables keeps/,
    words: /nft -a list table ip filter shows them/,
    by: 'iptables -A INPUT -p tcp --dport 22 -j ACCEPT; nft add rule ip filter INPUT ip saddr { 192.0.2.1, 192.0.2.3 } tcp dport 443 accept',
  },
  {
    broken: 'ufw with chains missing',
    check: 'firewall-state',
    title: /^ufw is on, and its chains are missing/,
    by: 'ufw --force enable >/dev/null; for i in iptables ip6tables; do $i -F; $i -X; done',
  },
  {
    broken: "a network on Cloudflare's addresses",
    check: 'way-out',
    title: /^br-app takes addresses of Cloudflare's/,
    words: /prefix of RFC 1918/,
    by: 'ip link add br-app type bridge; ip link set br-app up; ip address add 172.67.0.1/16 dev br-app',
  },
  {
    broken: 'routes that refuse',
    check: 'way-out',
    title: /^3 routes keep answers/,
    command: /^ip route del blackhole .* && ip -6 route del /,
    by: 'ip route add blackhole 173.245.48.10; ip route add blackhole 104.16.0.0/24; ip -6 route add blackhole 2606:4700::/48',
  },
  {
    broken: 'a refusing route in a table of its own',
    check: 'way-out',
    title: /^A route keeps answers/,
    command: /^ip route del prohibit default table 77$/,
    by: 'ip route add prohibit default table 77; ip rule add to 173.245.48.0/24 lookup 77',
  },
  {
    broken: 'a policy rule',
    check: 'way-out',
    title: /^A policy rule keeps answers/,
    by: 'ip rule add from 203.0.113.5 to 173.245.48.0/24 prohibit',
  },
  {
    broken: 'a policy rule for IPv6',
    check: 'way-out',
    title: /^A policy rule keeps answers/,
    by: 'ip -6 rule add to 2400:cb00::/32 unreachable',
  },
  {
    broken: 'no default route',
    check: 'way-out',
    title: /^There is no route to Cloudflare over IPv6/,
    words: /ip -6 route add default/,
    by: 'ip -6 route del default',
  },
  {
    broken: 'a VPN that takes the answers',
    check: 'way-out',
    title: /^Answers to Cloudflare from 203\.0\.113\.5 leave by wg0/,
    command: /^ip rule add from 203\.0\.113\.5 lookup main pref 100$/,
    by: 'ip tuntap add wg0 mode tun; ip link set wg0 up; ip route add default dev wg0 table 51820; ip rule add not fwmark 0xca6c lookup 51820; ip rule add table main suppress_prefixlength 0',
  },
  {
    broken: 'a VPN, and rp_filter',
    check: 'way-out',
    title: /^rp_filter drops what Cloudflare sends to 203\.0\.113\.5/,
    by: 'ip tuntap add wg0 mode tun; ip link set wg0 up; ip route add default dev wg0 table 51820; ip rule add not fwmark 0xca6c lookup 51820; echo 1 >/proc/sys/net/ipv4/conf/eth0/rp_filter',
  },
];

/** What a case may have left: rules, sets, routes, files of ufw, and what cfsync remembers. */
const reset = `nft flush ruleset
for i in iptables ip6tables; do for t in filter nat mangle raw; do $i-legacy -t $t -F; $i-legacy -t $t -X; done
  for c in INPUT FORWARD OUTPUT; do $i-legacy -P $c ACCEPT; done; done 2>/dev/null
ipset destroy
for d in br-app wg0; do ip link del $d 2>/dev/null || :; done
for f in -4 -6; do ip $f rule flush; ip $f rule add pref 32766 lookup main; ip $f rule add pref 32767 lookup default; done
ip route flush table 77 2>/dev/null || :; ip route flush type blackhole; ip -6 route flush type blackhole
ip -6 route replace ::/0 dev eth0; echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter
cp -a /run/lab/etc/ufw /etc/; cp -a /run/lab/etc/default/ufw /etc/default/ufw; rm -rf /run/lab/state/*`;

const programs = ['nginx', 'nft', 'iptables', 'ipset', 'ufw'];

describeLive('remedies of the doctor', { programs }, () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.create({ container: true });
    await lab.origin.must(['sh', '-ec', installCfsync]);
    await lab.origin.must([
      'sh',
      '-ec',
      'mkdir -p /run/lab/etc/default; cp -a /etc/ufw /run/lab/etc/; cp -a /etc/default/ufw /run/lab/etc/default/',
    ]);
    await lab.origin.listen({ tcp: [80, 443] });
    await lab.container.listen({ tcp: [8443] });
  });
  afterAll(() => lab.close());
  beforeEach(async () => {
    await lab.origin.must(['sh', '-c', reset]);
  });

  it.each(cases)('$check: $broken', async (one) => {
    const { found, left } = await mended(lab, one);
    expect(found).toMatchObject(expected(one));
    expect(left, `after ${found!.command}`).toEqual([]);
    if (one.check === 'packet-filter' && one.words === undefined)
      await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
  });

  it('are of every check that names commands for packets', () => {
    expect([...new Set(cases.map(({ check }) => check))].sort()).toEqual([
      'allow-list',
      'bans',
      'firewall-state',
      'ipv6',
      'open-to-all',
      'packet-filter',
      'published-ports',
      'two-firewalls',
      'way-out',
    ]);
  });
});

describeLive(
  'remedies of the doctor, with CSF',
  { programs: ['iptables', 'perl', 'flock'] },
  () => {
    let lab: Lab;
    beforeAll(async () => {
      lab = await csfLab();
      await lab.origin.must(['sh', '-ec', installCfsync]);
      await lab.origin.listen({ tcp: [80, 443] });
    });
    afterAll(() => lab.close());

    const deny = '/etc/csf/csf.deny';
    const list: readonly Case[] = [
      {
        broken: 'its ports closed',
        check: 'packet-filter',
        title: drops,
        command: /^cfsync apply --backend csf$/,
        by: 'csf -r',
      },
      {
        broken: 'what it denies, in a file that it includes',
        check: 'bans',
        title: /^CSF bans 1 address of Cloudflare's/,
        command: /^cfsync apply --backend csf$/,
        by: `echo 104.16.0.0/16 >/etc/csf/more.deny; echo 'Include /etc/csf/more.deny' >>${deny}; csf -r`,
      },
      {
        broken: 'testing mode',
        check: 'firewall-state',
        title: /^CSF is in testing mode/,
        by: `sed -i 's/^TESTING = .*/TESTING = "1"/' /etc/csf/csf.conf`,
      },
    ];

    describe('broken by', () => {
      beforeEach(async () => {
        await lab.cfsync(['remove', '--backend', 'csf']);
        await put(lab, deny, '# csf.deny\n');
        await configure(lab, { TCP_IN: '22', TCP6_IN: '22' });
        await lab.origin.must(['sh', '-c', 'rm -rf /run/lab/state/*; csf -r']);
      });
      it.each(list)('$broken', async (one) => {
        const { found, left } = await mended(lab, one);
        expect(found).toMatchObject(expected(one));
        expect(left, `after ${found!.command}`).toEqual([]);
      });
    });
  },
);
