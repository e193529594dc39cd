/** Makes rule sets at random, over all that the evaluator claims to understand. */
import fc from 'fast-check';

/** In Cloudflare's ranges, and in parts of them that the rules below tell apart. */
export const sources = {
  v4: ['173.245.48.10', '173.245.49.7', '104.16.5.5', '104.23.0.9'],
  v6: ['2400:cb00::10', '2606:4700::1'],
} as const;
export const ports = [80, 443];

const prefixes = {
  v4: [
    '173.245.48.0/20',
    '173.245.48.0/24',
    '173.245.48.10',
    '104.16.0.0/13',
    '104.16.0.0/16',
    '0.0.0.0/1',
    '10.0.0.0/8',
  ],
  v6: ['2400:cb00::/32', '2400:cb00::10', '2606:4700::/32', '2000::/3', 'fe80::/10'],
} as const;

type Family = 'v4' | 'v6';

const pick = <T>(...list: readonly T[]): fc.Arbitrary<T> => fc.constantFrom(...list);
const from = (family: Family): fc.Arbitrary<string> => fc.constantFrom(...prefixes[family]);
/** A few prefixes that do not overlap: nft refuses those that do in one set. */
const disjoint: Readonly<Record<Family, fc.Arbitrary<readonly string[]>>> = {
  v4: pick(
    ['173.245.48.0/24', '104.16.0.0/16'],
    ['173.245.48.10', '10.0.0.0/8'],
    ['104.16.0.0/13'],
  ),
  v6: pick(['2400:cb00::/32', 'fe80::/10'], ['2400:cb00::10', '2606:4700::/32']),
};

export interface Made {
  readonly text: string;
  /** Of a rule that nobody could judge. */
  readonly isUnknown: boolean;
}

function conditions(
  known: fc.Arbitrary<string>,
  unknown: fc.Arbitrary<string>,
): fc.Arbitrary<{ readonly parts: readonly string[]; readonly isUnknown: boolean }> {
  return fc.oneof(
    {
      weight: 12,
      arbitrary: fc
        .array(known, { minLength: 0, maxLength: 3 })
        .map((parts) => ({ parts, isUnknown: false })),
    },
    { weight: 1, arbitrary: unknown.map((text) => ({ parts: [text], isUnknown: true })) },
  );
}

const nftKnown: fc.Arbitrary<string> = fc.oneof(
  from('v4').map((p) => `ip saddr ${p}`),
  from('v4').map((p) => `ip saddr != ${p}`),
  from('v6').map((p) => `ip6 saddr ${p}`),
  from('v6').map((p) => `ip6 saddr != ${p}`),
  disjoint.v4.map((list) => `ip saddr { ${list.join(', ')} }`),
  disjoint.v4.map((list) => `ip saddr != { ${list.join(', ')} }`),
  disjoint.v6.map((list) => `ip6 saddr { ${list.join(', ')} }`),
  pick(
    'ip saddr @s4',
    'ip saddr != @s4',
    'ip6 saddr @s6',
    'ip6 saddr != @s6',
    'ip saddr 173.245.48.0-173.245.48.99',
    'ip saddr < 104.20.0.0',
    'ip saddr >= 104.20.0.0',
    'ip saddr . tcp dport @c4',
    'ip saddr . tcp dport { 173.245.48.10 . 443, 104.16.5.5 . 80 }',
    'meta l4proto . th dport { tcp . 443 }',
    'iifname . ip saddr { "eth0" . 104.16.5.5 }',
  ),
  pick(
    'tcp dport 80',
    'tcp dport 443',
    'tcp dport { 80, 443 }',
    'tcp dport != 443',
    'tcp dport 80-442',
    'tcp dport > 100',
    'tcp dport <= 80',
    'th dport 443',
    'tcp sport 1024-65535',
    'tcp sport < 1024',
    'udp dport 443',
    'icmp type echo-request',
  ),
  pick(
    'ct state new',
    'ct state established,related',
    'ct state != new',
    'ct state { new, untracked }',
    'ct state invalid',
    'iifname "eth0"',
    'iifname != "eth0"',
    'iifname "eth*"',
    'iifname { "lo", "docker0" }',
    'iif lo',
    'meta l4proto tcp',
    'meta l4proto { tcp, udp }',
    'meta nfproto ipv4',
    'meta nfproto ipv6',
    'meta protocol ip',
    'ip protocol tcp',
    'ip6 nexthdr tcp',
    'meta pkttype host',
    'meta pkttype { broadcast, multicast }',
    'tcp flags & (fin|syn|rst|ack) == syn',
    'tcp flags syn',
    'tcp flags & (fin|syn) == 0',
    'tcp flags != syn',
    'fib daddr type local',
    'fib daddr type { broadcast, anycast, multicast }',
    'fib saddr . iif oif missing',
    'ip daddr 203.0.113.5',
    'ip daddr != 203.0.113.5',
    'ip6 daddr 2001:db8:5::/64',
    'meta mark 1',
    'meta mark != 1',
    'meta mark and 0xff == 0',
    'ct mark 0',
    'exthdr rt exists',
    'ip frag-off & 0x1fff != 0',
    'limit rate 1000/second burst 500 packets',
    'limit rate over 1000/second burst 500 packets',
    'ct count over 500',
    'ct direction original',
    'ct status dnat',
  ),
);

const nftVerdicts = (deeper: readonly string[]): fc.Arbitrary<string> =>
  fc.oneof(
    { weight: 5, arbitrary: pick('accept', 'drop', 'reject with tcp reset', 'reject', 'return') },
    {
      weight: 3,
      arbitrary: pick(
        'counter',
        'counter log accept',
        'tcp dport vmap { 80 : accept, 443 : drop }',
        'ip saddr vmap @m4',
        'ct state vmap { established : accept, new : continue, invalid : drop }',
        'ip saddr . tcp dport vmap { 173.245.48.10 . 443 : drop, 104.16.5.5 . 80 : accept }',
      ),
    },
    ...(deeper.length === 0
      ? []
      : [
          {
            weight: 4,
            arbitrary: fc.oneof(
              fc.constantFrom(...deeper).map((chain) => `jump ${chain}`),
              fc.constantFrom(...deeper).map((chain) => `goto ${chain}`),
              fc.constantFrom(...deeper).map((chain) => `tcp dport vmap { 443 : jump ${chain} }`),
            ),
          },
        ]),
  );

const nftUnknown = pick('meta length 0-1500', 'ip ttl < 255', 'meta day "Monday"', 'ip dscp cs0');

/** nft refuses a rule that asks for two protocols of one layer. */
function agreeing(list: readonly string[]): readonly string[] {
  const asked = { network: new Set<string>(), transport: new Set<string>() };
  return list.filter((text) => {
    const network = /ip6|ipv6|exthdr/.test(text)
      ? ['ip6']
      : /\bip\b|ipv4|icmp /.test(text)
        ? ['ip']
        : [];
    const transport =
      /udp dport|icmp type|l4proto \{/.exec(text) ?? (/\btcp\b/.test(text) ? ['tcp'] : []);
    for (const [layer, found] of [
      ['network', network],
      ['transport', transport],
    ] as const)
      if (found[0] !== undefined && asked[layer].size > 0 && !asked[layer].has(found[0]))
        return false;
    if (network[0] !== undefined) asked.network.add(network[0]);
    if (transport[0] !== undefined) asked.transport.add(transport[0]);
    return true;
  });
}

const nftRules = (deeper: readonly string[], most: number): fc.Arbitrary<readonly Made[]> =>
  fc.array(
    fc
      .tuple(conditions(nftKnown, nftUnknown), nftVerdicts(deeper))
      .map(([{ parts, isUnknown }, verdict]) => ({
        text: agreeing([...parts, verdict]).join(' ') || 'counter',
        isUnknown,
      })),
    { maxLength: most },
  );

/** What follows the first packet passes: the doctor speaks of that one. */
const notFirst = 'tcp flags & (syn|ack) != syn accept';

/** @param isPlain Without what no place of a backend helps against. */
export const nftRuleset = (isPlain = false): fc.Arbitrary<Made> =>
  fc
    .record({
      policy: pick('accept', 'drop'),
      set4: disjoint.v4,
      set6: disjoint.v6,
      input: nftRules(['a', 'b'], 5),
      a: nftRules(['b'], 3),
      b: nftRules([], 3),
      early: isPlain ? fc.constant([]) : nftRules([], 2),
      other: isPlain ? fc.constant([]) : nftRules([], 2),
      nat: isPlain
        ? pick('')
        : pick(
            '',
            'tcp dport 443 redirect to :8443',
            'ip saddr @s4 tcp dport 80 redirect to :8443',
          ),
      mark: pick('', 'meta mark set 1', 'ip saddr @s4 meta mark set 1'),
    })
    .map(({ policy, set4, set6, input, a, b, early, other, nat, mark }) => {
      const all = [...input, ...a, ...b, ...early, ...other];
      const lines = (rules: readonly Made[]): string =>
        rules.map(({ text }) => `    ${text}\n`).join('');
      return {
        isUnknown: all.some((rule) => rule.isUnknown),
        text: `table inet t {
  set s4 { type ipv4_addr; flags interval; elements = { ${set4.join(', ')} }
  }
  set s6 { type ipv6_addr; flags interval; elements = { ${set6.join(', ')} }
  }
  set c4 { type ipv4_addr . inet_service; flags interval; elements = { 173.245.48.0/24 . 443, 104.16.0.0/13 . 80-90 }
  }
  map m4 { type ipv4_addr : verdict; flags interval; elements = { 173.245.48.0/24 : drop, 104.16.0.0/16 : accept }
  }
  chain b {
${lines(b)}  }
  chain a {
${lines(a)}  }
  chain input { type filter hook input priority 0; policy ${policy};
    ${notFirst}
    meta l4proto { icmp, icmpv6 } accept
${lines(input)}  }
  chain early { type filter hook prerouting priority -150; policy accept;
    ${notFirst}
    meta l4proto { icmp, icmpv6 } accept
    ${mark}
${lines(early)}  }
  chain nat { type nat hook prerouting priority -100; policy accept;
    ${nat}
  }
}
table inet other {
  set s4 { type ipv4_addr; flags interval; elements = { ${set4.join(', ')} }
  }
  set s6 { type ipv6_addr; flags interval; elements = { ${set6.join(', ')} }
  }
  set c4 { type ipv4_addr . inet_service; flags interval;
  }
  map m4 { type ipv4_addr : verdict; flags interval;
  }
  chain input { type filter hook input priority 10; policy accept;
    ${notFirst}
    meta l4proto { icmp, icmpv6 } accept
${lines(other)}  }
}
`,
      };
    });

const tablesKnown = (family: Family): fc.Arbitrary<string> =>
  fc.oneof(
    from(family).map((p) => `-s ${p}`),
    from(family).map((p) => `! -s ${p}`),
    pick(
      '-p tcp --dport 80',
      '-p tcp --dport 443',
      '-p tcp -m multiport --dports 80,443',
      '-p tcp -m multiport ! --dports 443,8000:9000',
      '-p tcp --dport 80:442',
      '-p tcp ! --dport 80',
      '-p tcp --sport 1024:65535',
      '-p tcp --syn',
      '-p tcp --tcp-flags FIN,SYN,RST,ACK SYN',
      '-p tcp --tcp-flags SYN,ACK ACK',
      '-p tcp',
      '! -p tcp',
      '-p udp --dport 443',
    ),
    pick(
      '-i eth0',
      '! -i eth0',
      '-i eth+',
      '-i lo',
      '-m conntrack --ctstate NEW',
      '-m conntrack ! --ctstate NEW',
      '-m conntrack --ctstate RELATED,ESTABLISHED',
      '-m conntrack --ctstate DNAT',
      '-m state --state NEW',
      '-p tcp -m conntrack --ctdir ORIGINAL --ctorigdstport 443',
      `-m set --match-set ${family}net src`,
      `-m set ! --match-set ${family}net src`,
      `-m set --match-set ${family}port src,dst`,
      `-m set --match-set ${family}list src`,
      '-m addrtype --dst-type LOCAL',
      '-m addrtype ! --dst-type LOCAL',
      '-m addrtype --dst-type MULTICAST',
      family === 'v4' ? '-d 203.0.113.5' : '-d 2001:db8:5::5',
      family === 'v4' ? '! -d 203.0.113.0/24' : '! -d 2001:db8:5::/64',
      '-m mark --mark 0x1',
      '-m mark ! --mark 0x1/0xff',
      '-m pkttype --pkt-type unicast',
      '-m limit --limit 1000/sec --limit-burst 500',
      '-m hashlimit --hashlimit-above 1000/sec --hashlimit-burst 500 --hashlimit-mode srcip --hashlimit-name h',
      '-p tcp -m connlimit --connlimit-above 500',
      '-m comment --comment "-j DROP in words"',
      family === 'v4'
        ? '-m iprange --src-range 104.16.0.0-104.16.255.255'
        : '-m iprange --src-range 2400:cb00::-2400:cb00::ff',
    ),
  );

const tablesUnknown = pick('-m length --length 0:1500', '-m u32 --u32 0=0:0xffffffff');

const targets = (deeper: readonly string[]): fc.Arbitrary<string> =>
  fc.oneof(
    {
      weight: 5,
      arbitrary: pick(
        '-j ACCEPT',
        '-j DROP',
        '-p tcp -j REJECT --reject-with tcp-reset',
        '-j REJECT',
        '-j RETURN',
        '',
      ),
    },
    ...(deeper.length === 0
      ? []
      : [
          {
            weight: 3,
            arbitrary: fc.oneof(
              fc.constantFrom(...deeper).map((chain) => `-j ${chain}`),
              fc.constantFrom(...deeper).map((chain) => `-g ${chain}`),
            ),
          },
        ]),
  );

/** One `-p` and one of each match in a rule is what iptables takes. */
const tablesRules = (
  family: Family,
  deeper: readonly string[],
  most: number,
): fc.Arbitrary<readonly Made[]> =>
  fc.array(
    fc
      .tuple(
        fc.oneof(
          {
            weight: 12,
            arbitrary: fc
              .array(tablesKnown(family), { maxLength: 2 })
              .map((list) => ({ text: compatible(list).join(' '), isUnknown: false })),
          },
          { weight: 1, arbitrary: tablesUnknown.map((text) => ({ text, isUnknown: true })) },
        ),
        targets(deeper),
      )
      .map(([{ text, isUnknown }, target]) => ({
        text:
          target.includes('tcp-reset') && / ?-p /.test(text)
            ? `${text} -j DROP`
            : `${text} ${target}`,
        isUnknown,
      })),
    { maxLength: most },
  );

function compatible(list: readonly string[]): readonly string[] {
  const options = new Set<string>();
  return list.filter((text) => {
    const used = [...text.matchAll(/(?<= |^)(-[spid]|-m \w+)(?= )/g)].map(([, option]) => option!);
    if (used.some((option) => options.has(option))) return false;
    for (const option of used) options.add(option);
    return true;
  });
}

/** @param isPlain As of `nftRuleset`. */
export const tables = (family: Family, isPlain = false): fc.Arbitrary<Made> =>
  fc
    .record({
      policy: pick('ACCEPT', 'DROP'),
      input: tablesRules(family, ['A', 'B'], 5),
      a: tablesRules(family, ['B'], 3),
      b: tablesRules(family, [], 3),
      early: isPlain ? fc.constant([]) : tablesRules(family, [], 2),
      mark: pick('', '-A PREROUTING -p tcp --dport 80 -j MARK --set-mark 1'),
      nat: isPlain
        ? pick('')
        : pick('', '-A PREROUTING -p tcp --dport 443 -j REDIRECT --to-ports 8443'),
    })
    .map(({ policy, input, a, b, early, mark, nat }) => {
      const icmp = family === 'v4' ? 'icmp' : 'ipv6-icmp';
      const chain = (name: string, rules: readonly Made[]): string =>
        // REJECT is for the chains of table filter.
        rules.map(({ text }) => `-A ${name} ${text.trim()}\n`).join('');
      const first = (name: string): string =>
        `-A ${name} -p tcp ! --syn -j ACCEPT\n-A ${name} -p ${icmp} -j ACCEPT\n`;
      const quiet = early.map((rule) => ({
        ...rule,
        text: rule.text.replace(/(-p tcp )?-j REJECT --reject-with.*|-j REJECT$/, '-j DROP'),
      }));
      return {
        isUnknown: [...input, ...a, ...b, ...early].some((rule) => rule.isUnknown),
        text: `*mangle
:PREROUTING ACCEPT [0:0]
${first('PREROUTING')}${mark}
${chain('PREROUTING', quiet)}COMMIT
*nat
:PREROUTING ACCEPT [0:0]
${nat}
COMMIT
*filter
:INPUT ${policy} [0:0]
:A - [0:0]
:B - [0:0]
${first('INPUT')}${chain('INPUT', input)}${chain('A', a)}${chain('B', b)}COMMIT
`,
      };
    });

export const ipsets = `create v4net hash:net family inet
add v4net 173.245.48.0/20
add v4net 173.245.48.0/24 nomatch
add v4net 104.16.5.5
create v6net hash:net family inet6
add v6net 2400:cb00::/32
create v4port hash:ip,port family inet
add v4port 173.245.48.10,tcp:443
add v4port 104.16.5.5,udp:443
create v6port hash:net,port family inet6
add v6port 2606:4700::/32,tcp:80
create v4ip hash:ip family inet
add v4ip 104.23.0.9
create v4list list:set
add v4list v4ip
add v4list v4net
create v6list list:set
add v6list v6net
`;

const ufwClosing = [
  'deny from 104.16.0.0/16',
  'deny from 173.245.48.10',
  'reject from 2400:cb00::/32 to any port 443',
  'deny 443/tcp',
  'deny 443',
  'reject 80/tcp',
  'deny 443/udp',
  'deny in on eth0 from 104.16.0.0/13',
  'deny in on eth1 from any to any port 443',
  'deny proto tcp from any to 203.0.113.5 port 443',
];
const ufwOpening = [
  'allow 443/tcp',
  'allow 80,443/tcp',
  'allow 443',
  'allow in on eth0 to any port 80 proto tcp',
  'allow from 0.0.0.0/1 to any port 443 proto tcp',
];

/**
 * Commands of ufw, for a shell.
 * @param isClosed Without what opens the ports to everybody, which lockdown refuses.
 */
export const ufwCommands = (isClosed: boolean): fc.Arbitrary<Made> =>
  fc
    .record({
      policy: isClosed ? pick('deny', 'reject') : pick('deny', 'allow', 'reject'),
      rules: fc.array(pick(...ufwClosing, ...(isClosed ? [] : ufwOpening)), { maxLength: 3 }),
      // As after.rules and before.rules have them, beside what ufw itself writes.
      own: pick(
        '',
        '',
        '',
        'iptables -I ufw-before-input -s 104.16.0.0/13 -p tcp --dport 80 -j DROP',
        'iptables -I INPUT -p udp -j DROP',
        'ip6tables -I INPUT -p tcp --dport 443 -j REJECT',
        'nft "add table inet geo; add chain inet geo in { type filter hook input priority -5; }; add rule inet geo in ip saddr 173.245.48.0/20 drop"',
      ),
    })
    .map(({ policy, rules, own }) => ({
      isUnknown: false,
      text: [
        `ufw default ${policy} incoming`,
        ...[...new Set(rules)].map((rule) => `ufw ${rule}`),
        'ufw --force enable',
        own,
      ].join('\n'),
    }));
