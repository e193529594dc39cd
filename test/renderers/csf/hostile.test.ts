import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import csf from '../../../renderers/csf/index.ts';
import { addBlock, hasBlock, removeBlock } from '../../../renderers/csf/block.ts';
import { opened, parseConf } from '../../../renderers/csf/conf.ts';
import {
  effectiveLines,
  entriesOf,
  entryOf,
  includes,
  lineOf,
} from '../../../renderers/csf/lines.ts';
import { canonical } from '../../../src/prefix.ts';
import type { Step } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded, type Recorded } from '../../helpers/host.ts';
import { damagedHost, runThrough, type Reach } from '../../helpers/hostile-host.ts';
import { cases, damaged, expectLinear, pumps } from '../../helpers/hostile.ts';

function printed(name: string): string {
  return readFileSync(new URL(`../../fixtures/csf/${name}`, import.meta.url), 'utf8');
}

const path = '/etc/csf/cfsync.allow';
const ours = csf.want(desired({ udpPorts: [443] }), { reload: false }).owned;
const conf = `# csf.conf
TESTING = "0"
IPV6 = "1"
FASTSTART = "1"
TCP_IN = "22"
TCP6_IN = "22,2000:3000"
UDP_IN = "53"
UDP6_IN = "53"
LF_IPSET = "1"
IPSET = "/sbin/ipset"
IPTABLES_SAVE = "/sbin/iptables-save"
`;
const allow = `# csf.allow
192.0.2.77 # office
tcp|in|d=22|s=192.0.2.0/24
Include /etc/csf/mine.allow
`;

const ran = { code: 0, stdout: '', stderr: '' };
const host = (files: Readonly<Record<string, string>> = {}): Recorded => ({
  folders: { '/etc/csf': [] },
  files: {
    '/etc/csf/csf.conf': conf,
    '/etc/csf/csf.allow': addBlock(allow, path),
    '/etc/csf/csf.ignore': '127.0.0.1\n',
    '/etc/csf/mine.allow': 'udp:in:d=53:s=192.0.2.7\nInclude /etc/csf/mine.allow\n',
    [path]: ours.allow!,
    '/etc/csf/cfsync.ignore': ours.ignore!,
    '/etc/csf/csf.blocklists': '#SPAMDROP|86400|0|http://example.com/drop.txt\n',
    '/etc/csf/csf.redirect': '# csf.redirect\n',
    '/var/lib/csf/csf.tempallow': '1700000000|192.0.2.9|443;tcp,80|in|3600|why\n',
    '/run/lfd.pid': '4711\n',
    '/proc/4711/cmdline': 'lfd - sleeping\0',
    '/proc/locks': '1: FLOCK  ADVISORY  WRITE 812 00:19:77 0 EOF\n',
    '/proc/sys/net/ipv6/conf/all/disable_ipv6': '0\n',
    ...files,
  },
  answers: {
    '/sbin/iptables-save': printed('iptables-save.txt'),
    'ip6tables-save': printed('ip6tables-save.txt'),
    '/sbin/ipset list -n': 'chain_DENY\nmine\n',
    'stat -c %i /var/lib/csf/csf.lock': '78\n',
    'test /etc/csf/cfsync.ignore -nt /run/lfd.pid': ran,
  },
});
const hosts = [host(), host({ '/etc/csf/csf.error': 'Error: iptables failed\n' })];

const pieces = [
  'tcp|in|d=443|s=1.1.1.0/24\n',
  'Include /etc/csf/cfsync.allow\n',
  '# BEGIN cfsync managed block - do not edit\n',
  '# END cfsync managed block\n',
  'IPV6 = "0"\n',
  '-A ALLOWIN -s 1.1.1.0/24 ! -i lo -p tcp -m multiport --dports 80,443 -j ACCEPT\n',
  '\nCOMMIT\n*nat\n',
  ' = "',
];

/** What may stand in the input of iptables-restore. */
const line = /^(?:\*filter|COMMIT|-[ID] ALLOW(?:IN|OUT) -[sd] [\da-f.:]+\/\d+ [^\n]+)$/;

function checkScript(step: Step): void {
  const stdin = (step.kind === 'run' && step.command.stdin?.trimEnd().split('\n')) || [];
  expect(stdin.filter((text) => !line.test(text))).toEqual([]);
}

describe("CSF's files", () => {
  test('lead to a plan or a refusal, with what its programs say', async () => {
    for (const reload of [false, true]) {
      const reach: Reach = { observed: 0, planned: 0 };
      await fc.assert(
        fc.asyncProperty(damagedHost(hosts, pieces), (one) =>
          runThrough(csf, { reload }, one, reach, checkScript),
        ),
        cases(500),
      );
      expect(reach.observed).toBeGreaterThan(250);
      expect(reach.planned).toBeGreaterThan(500);
    }
  }, 60_000);

  test('keep every line that is not ours', () => {
    fc.assert(
      fc.property(damaged(addBlock(allow, path), pieces), (text) => {
        const rest = removeBlock(text, path);
        const whole = addBlock(text, path);
        expect(hasBlock(whole, path)).toBe(true);
        expect(removeBlock(whole, path)).toBe(rest);
        expect(addBlock(whole, path)).toBe(whole);
        const gone = text.split('\n').filter((one) => !rest.split('\n').includes(one));
        for (const one of gone) expect(one.trim()).toMatch(/cfsync/);
      }),
      cases(4000),
    );
  });

  test('name only prefixes that are strict', () => {
    fc.assert(
      fc.property(damaged(ours.allow!, pieces), (text) => {
        const odd = entriesOf(text).filter((entry) => {
          const again = entryOf(lineOf(entry));
          const strict = canonical(entry.prefix)?.text === entry.prefix;
          return !strict || again === undefined || lineOf(again) !== lineOf(entry);
        });
        expect(odd).toEqual([]);
      }),
      cases(1000),
    );
  });

  test('may have more lines than a call takes arguments', async () => {
    const long = Array.from({ length: 200_000 }, (_, i) => `h${i}.example\n`).join('');
    const one = recorded(host({ '/etc/csf/csf.allow': long }));
    const { around } = await csf.observe(one, { reload: false });
    expect(around.others).toHaveLength(2);
  });

  test.each(pumps)('are read in time that grows with their length: %j', async (piece) => {
    const readers: Readonly<Record<string, (text: string) => unknown>> = {
      conf: (text) => opened(parseConf(`TCP_IN = "${text}`), 'TCP_IN', [443]),
      value: (text) => opened(parseConf(`TCP_IN = "${text}"`), 'TCP_IN', [443]),
      lines: (text) => effectiveLines(text),
      entries: (text) => entriesOf(`tcp|in|d=${text}|s=${text}`),
      includes: (text) => includes(`Include ${text}`),
      block: (text) => removeBlock(addBlock(text, path), path),
    };
    for (const [name, read] of Object.entries(readers))
      await expectLinear((size) => read(piece.repeat(size)), `${name}: ${piece}`);
  });
});

describe('lockdown', () => {
  const closed = async (rule: string) => {
    const text = printed('iptables-save.txt').replace('-A INPUT', `${rule}\n-A INPUT`);
    const one = host();
    const { around } = await csf.observe(
      recorded({ ...one, answers: { ...one.answers, '/sbin/iptables-save': text } }),
      { reload: false },
    );
    csf.want(desired({ mode: 'lockdown' }), { reload: false }, around);
  };

  test('sees a port that is open, whatever a comment says', async () => {
    const open = '-A INPUT ! -i lo -p tcp -m conntrack --ctstate NEW';
    await expect(closed(`${open} -m tcp --dport 443 -j ACCEPT`)).rejects.toThrow('still opens 443');
    await expect(
      closed(`${open} -m comment --comment "not -s 1.1.1.1 but all" -m tcp --dport 443 -j ACCEPT`),
    ).rejects.toThrow('still opens 443');
    await expect(
      closed(`-A INPUT -s 192.0.2.1/32 ${open.slice(9)} -m tcp --dport 443 -j ACCEPT`),
    ).resolves.toBe(undefined);
    await expect(closed(`${open} -m tcp --dport 444 -j ACCEPT`)).resolves.toBe(undefined);
  });

  test('asks every rule in time that grows with its length', async () => {
    const one = host();
    for (const piece of ['-p tcp ', '-p tcp --dport 1 ', '--dport 1 ', '"', 'x ']) {
      const { around } = await csf.observe(recorded(one), { reload: false });
      const [filter] = around.kernel.v4;
      await expectLinear(
        (size) => {
          const rules = [{ chain: 'INPUT', text: `${piece.repeat(size)}x` }];
          const kernel = { ...around.kernel, v4: [{ ...filter!, rules }] };
          return csf.want(desired({ mode: 'lockdown' }), { reload: false }, { ...around, kernel });
        },
        piece,
        3000,
      );
    }
  });
});
