import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fromPrefixes, toPrefixes } from '../../../src/filters/intervals.ts';
import { legacyBases, readTable } from '../../../src/filters/iptables/read.ts';
import { IpSets } from '../../../src/filters/iptables/ipset.ts';
import { walk, type Packet, type Rule } from '../../../src/filters/walk.ts';
import { parseSave } from '../../../src/filters/iptables/save.ts';
import { packet } from '../../helpers/doctor.ts';

const folder = join(import.meta.dirname, '..', '..', 'fixtures', 'iptables');
const read = (name: string): string => readFileSync(join(folder, name), 'utf8');

const sources = fromPrefixes(['173.245.48.10/32', '104.16.0.1/32']);

const ipset = `create net hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x6ba5fbbf
add net 173.245.48.0/20
add net 173.245.48.0/24 nomatch
add net 104.16.0.0/13
create port hash:ip,port family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x6ba5fbbf
add port 173.245.48.10,tcp:443
add port 104.16.0.1,udp:443
create masked hash:ip family inet netmask 20 hashsize 1024 maxelem 65536 bucketsize 12 initval 0x6ba5fbbf
add masked 173.245.48.0
create list list:set size 8
add list port
`;

/** What became of the sources, and by which rules. */
function judge(save: string, more: Partial<Packet> = {}): readonly string[] {
  const chains = new Map<string, readonly Rule[]>();
  const tables = parseSave(save, 'iptables-save');
  for (const table of tables)
    for (const [name, rules] of readTable(table, 'legacy4', 'v4', new IpSets(ipset)))
      chains.set(`legacy4 ${table.name} ${name}`, rules);
  const bases = tables.flatMap((table) => legacyBases(table, 'v4'));
  const through = (address: string): Packet['to'] => ({ address, through: 'docker0' });
  return walk({ bases, chains }, sources, { ...packet, ...more }, through)
    .map(({ verdict, rules, doubts, sources: own }) => {
      const names = toPrefixes(own, 'v4').map((prefix) => prefix.split('/')[0]);
      const why = doubts.map((doubt) => ` (${doubt.why})`).join('');
      const by = rules.map(({ text }) => `, ${text}`).join('');
      return `${names.length === 2 ? 'both' : names.join(' ')}: ${verdict}${why}${by}`;
    })
    .sort();
}

/** One rule, over a policy that accepts. */
const rule = (text: string): string =>
  `*filter\n:INPUT ACCEPT [0:0]\n:TO - [0:0]\n-A INPUT ${text} -j DROP\nCOMMIT\n`;

describe('rules of iptables', () => {
  it.each([
    ['policy-drop.save', ['both: drop, -P INPUT DROP']],
    ['accept-all.save', ['both: accept']],
    ['terminal-reject.save', ['both: reject']],
    ['drop-through-jump.save', ['both: drop']],
    ['open-port.save', ['both: accept']],
  ] as const)('%s', (name, expected) => {
    const told = judge(read(name));
    expect(told).toHaveLength(1);
    expect(told[0]).toContain(expected[0]);
  });

  it.each([
    ['-s 173.245.48.0/20', 'one'],
    ['! -s 104.16.0.0/13', 'one'],
    ['-s 10.0.0.0/8', 'none'],
    ['-p tcp -m tcp --dport 443', 'all'],
    ['-p tcp -m tcp ! --dport 80', 'all'],
    ['-p tcp -m multiport --dports 80,443', 'all'],
    ['-p tcp -m multiport ! --dports 80,443', 'none'],
    ['-p tcp -m multiport --ports 443', 'all'],
    ['-p udp -m udp --dport 443', 'none'],
    ['-p tcp -m tcp --sport 0:1023', 'none'],
    ['-i eth+', 'all'],
    ['! -i eth0', 'none'],
    ['-o docker0', 'none'],
    ['-m conntrack --ctstate RELATED,ESTABLISHED', 'none'],
    ['-m conntrack ! --ctstate RELATED,ESTABLISHED', 'all'],
    ['-m conntrack --ctstate DNAT', 'none'],
    ['-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN', 'all'],
    ['-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN', 'none'],
    ['-m addrtype --dst-type LOCAL', 'all'],
    ['-d 203.0.113.5/32', 'all'],
    ['! -d 203.0.113.5/32', 'none'],
    ['-m set --match-set net src', '104.16.0.1'],
    ['-m set ! --match-set net src', 'one'],
    ['-m set --match-set port src,dst', 'one'],
    ['-m set --match-set list src,dst', 'one'],
    ['-m set --match-set masked src', 'one'],
    ['-m iprange --src-range 173.245.48.0-173.245.48.99', 'one'],
    ['-m mark --mark 0x1', 'none'],
    ['-m mark ! --mark 0x1', 'all'],
    ['-m limit --limit 5/sec', 'all'],
    ['-m hashlimit --hashlimit-above 5/sec --hashlimit-burst 5 --hashlimit-name x', 'none'],
    ['-m comment --comment "-j ACCEPT ! -s"', 'all'],
    [
      '-m recent --update --seconds 30 --hitcount 6 --name DEFAULT --mask 255.255.255.255 --rsource',
      'none',
    ],
    ['-m policy --dir in --pol ipsec', 'none'],
  ])('%s drops %s', (text, whom) => {
    const told: Readonly<Record<string, readonly string[]>> = {
      all: [`both: drop, -A INPUT ${text} -j DROP`],
      none: ['both: accept'],
      one: ['104.16.0.1: accept', `173.245.48.10: drop, -A INPUT ${text} -j DROP`],
      '104.16.0.1': [`104.16.0.1: drop, -A INPUT ${text} -j DROP`, '173.245.48.10: accept'],
    };
    expect(judge(rule(text))).toEqual(told[whom]);
  });

  it.each([
    ['-p tcp -m tcp --dport 443', 'none'],
    ['! -p tcp', 'all'],
    ['-p udp -m udp --dport 443', 'all'],
    ['-p udp -m udp --dport 53', 'none'],
    ['-p udp -m multiport --dports 80,443', 'all'],
    ['-p udp -m udp --sport 0:1023', 'none'],
    ['-p 17', 'all'],
    ['-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN', 'none'],
    ['-m set --match-set port src,dst', '104.16.0.1'],
    ['-m conntrack --ctproto 17', 'all'],
    ['-m conntrack --ctproto 6', 'none'],
  ])('%s drops %s over UDP', (text, whom) => {
    const told: Readonly<Record<string, readonly string[]>> = {
      all: [`both: drop, -A INPUT ${text} -j DROP`],
      none: ['both: accept'],
      '104.16.0.1': [`104.16.0.1: drop, -A INPUT ${text} -j DROP`, '173.245.48.10: accept'],
    };
    expect(judge(rule(text), { protocol: 'udp' })).toEqual(told[whom]);
  });

  it.each([
    ['-m time --timestart 08:00:00', '-m time'],
    ['-m geoip --source-country DE', '-m geoip'],
    ['-m string --string "x" --algo bm', '-m string'],
    ['-s 173.0.48.0/255.0.255.0', '-s 173.0.48.0/255.0.255.0'],
    ['-m set --match-set gone src', '--match-set gone src'],
    ['-m recent --rcheck --seconds 60 --name seen', 'recent --rcheck'],
  ])('%s is not understood, and is named', (text, why) => {
    const [told, ...more] = judge(rule(text));
    expect(more).toEqual([]);
    expect(told).toMatch(/^both: unclear/);
    expect(told).toContain(`(${why})`);
    expect(told).toContain(`, -A INPUT ${text} -j DROP`);
  });

  it('are asked for what follows a translation', () => {
    const nat = (target: string): string =>
      `*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 443 -j ${target}\nCOMMIT\n`;
    const filter = `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
-A INPUT -p tcp -m tcp --dport 8443 -j ACCEPT
-A FORWARD -s 104.16.0.0/13 -d 172.17.0.2/32 -o docker0 -p tcp -m tcp --dport 8080 -m conntrack --ctorigdstport 443 --ctdir ORIGINAL -j ACCEPT
COMMIT
`;
    expect(judge(filter)).toEqual(['both: drop, -P INPUT DROP']);
    expect(judge(nat('REDIRECT --to-ports 8443') + filter)[0]).toMatch(/^both: accept/);
    expect(judge(nat('DNAT --to-destination 172.17.0.2:8080') + filter)).toEqual([
      expect.stringMatching(/^104\.16\.0\.1: accept, -A FORWARD -s/),
      '173.245.48.10: drop, -P FORWARD DROP',
    ]);
  });

  it('that count only when it is busy are asked then', () => {
    const limited = `*filter
:INPUT DROP [0:0]
-A INPUT -p tcp -m tcp --dport 443 -m limit --limit 5/sec -j ACCEPT
COMMIT
`;
    expect(judge(limited)[0]).toMatch(/^both: accept/);
    expect(judge(limited, { busy: true })).toEqual(['both: drop, -P INPUT DROP']);
  });

  it('are refused when ipset printed something else', () => {
    expect(() => new IpSets('create x hash:net family inet\nrubbish\n')).toThrow('ipset save');
  });
});
