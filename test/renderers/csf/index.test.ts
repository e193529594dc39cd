import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import csf from '../../../renderers/csf/index.ts';
import type { CsfAround, CsfOwned } from '../../../renderers/csf/state.ts';
import { refuseConflicts } from '../../../src/run/plan.ts';
import { addBlock, hasBlock, removeBlock } from '../../../renderers/csf/block.ts';
import { opened, parseConf } from '../../../renderers/csf/conf.ts';
import {
  chainOf,
  effectiveLines,
  entriesIn,
  entryOf,
  includes,
  lineOf,
  ruleOf,
} from '../../../renderers/csf/lines.ts';
import { CfsyncError } from '../../../src/errors.ts';
import { digest } from '../../../src/digest.ts';
import { parseSave } from '../../../src/filters/iptables/save.ts';
import { merge, parseRanges } from '../../../src/prefix.ts';
import type { Desired, Observed, Step } from '../../../src/renderer.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { recorded } from '../../helpers/host.ts';

const path = '/etc/csf/cfsync.allow';

describe('golden files', () => {
  const cases: Readonly<Record<string, Partial<Desired>>> = {
    allow: {},
    lockdown: { mode: 'lockdown' },
    'one-port-udp': { tcpPorts: [443], udpPorts: [443] },
    extra: { extra: { v4: ['10.0.0.0/8'], v6: [] }, tcpPorts: [80, 443, 8443] },
    'only-v6': { ranges: { v4: [], v6: ['2400:cb00::/32'] } },
  };
  it.each(Object.entries(cases))('%s', (name, changes) => {
    const print = (): string =>
      csf
        .print(csf.want(desired(changes), { reload: false }).owned)
        .map(({ path, content }) => `==> ${path} <==\n${content}`)
        .join('\n');
    golden(`csf/${name}.txt`, print());
    expect(print()).toBe(print());
  });
});

describe('what a line takes', () => {
  const want = (changes: Partial<Desired>) => () => csf.want(desired(changes), { reload: false });
  const ports = (n: number): number[] => Array.from({ length: n }, (_, i) => 2000 + i);

  it('is 15 ports, one protocol each', () => {
    expect(want({ tcpPorts: ports(15), udpPorts: ports(15) })).not.toThrow();
    expect(want({ tcpPorts: ports(16) })).toThrow(
      'csf: 16 TCP ports are more than the 15 that a line of csf.allow takes; nothing was changed; name fewer, or use --backend nftables',
    );
    expect(want({ udpPorts: ports(16) })).toThrow('16 UDP ports');
  });

  it('is nothing that makes CSF fail open or open to all', () => {
    for (const port of [0, 65536, 80.5, Number.NaN])
      expect(want({ tcpPorts: [port] })).toThrow('is not a port');
    for (const v4 of ['0.0.0.0/0', '1.2.3.4/33', '1.2.3.4', '10.0.0.1/8', '10.0.0.0/8\nx'])
      expect(want({ ranges: { v4: [v4], v6: [] } }), v4).toThrow('is not');
    expect(want({ ranges: { v4: [], v6: ['::/0'] } })).toThrow('is not a prefix that CSF takes');
  });

  it('is never a line that CSF skips', () => {
    const { owned } = csf.want(desired({ udpPorts: [443] }), { reload: false });
    const lines = owned.allow!.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    expect(lines).toHaveLength(4 * 22);
    for (const line of lines) {
      expect(line).toMatch(/^(tcp|udp)\|(in\|d=[\d,]+\|s=|out\|s=[\d,]+\|d=)[0-9a-f.:]+\/\d+$/);
      expect(lineOf(entryOf(line)!)).toBe(line);
    }
    for (const { content } of csf.print({ ...owned, blocks: { allow: false, ignore: false } }))
      expect(content).not.toContain('Include');
  });
});

describe('lines of csf.allow', () => {
  it('are read as CSF 15.10 reads them', () => {
    const read = (line: string): string | undefined => {
      const entry = entryOf(line);
      return entry && lineOf(entry);
    };
    const ours = 'tcp|in|d=443|s=192.0.2.0/24';
    for (const line of [
      ours,
      `${ours} # text`,
      'd=443|s=192.0.2.0/24',
      'in|d=443|s=192.0.2.0/24',
      'tcp:in:d=443:s=192.0.2.0/24',
      'TCP|IN|D=443|S=192.0.2.0/24',
    ])
      expect(read(line), line).toBe(ours);
    expect(read('tcp|in|d=8080_8090|s=192.0.2.1')).toBe('tcp|in|d=8080:8090|s=192.0.2.1/32');
    expect(read('udp|out|s=443|d=2001:DB8::1')).toBe('udp|out|s=443|d=2001:db8::1/128');
    for (const line of [
      '192.0.2.0/24',
      'tcp|in|s=192.0.2.0/24',
      'tcp|in|s=192.0.2.0/24|d=443',
      'tcp:in:d=443:s=2001:db8::/32',
      'tcp|in|d=443|s=192.0.2.0/33',
      'tcp|in|d=443|s=example.com',
      'icmp|in|d=ping|s=192.0.2.0/24',
      '',
    ])
      expect(read(line), line).toBeUndefined();
  });

  it('become rules as iptables-save prints them', () => {
    const style = { in: '! -i lo', out: '! -o lo', accept: 'ACCEPT' };
    const rule = (line: string): string => ruleOf(entryOf(line)!, style);
    expect(rule('tcp|in|d=80,443|s=192.0.2.0/24')).toBe(
      '-s 192.0.2.0/24 ! -i lo -p tcp -m multiport --dports 80,443 -j ACCEPT',
    );
    expect(rule('udp|out|s=443|d=2001:db8::/32')).toBe(
      '-d 2001:db8::/32 ! -o lo -p udp -m udp --sport 443 -j ACCEPT',
    );
  });

  it('name other files only in one form', () => {
    expect(
      includes('Include /a\nInclude /b \n Include /c\ninclude /d\nInclude /e # x\r\n'),
    ).toEqual(['/a', '/b ', '/e # x']);
  });
});

describe('csf.conf', () => {
  it('is read as CSF reads it', () => {
    const conf = parseConf(
      '# TCP_IN = "1"\nTCP_IN = "20,22, 443,2000:3000"\nIPV6="0"\nEMPTY = ""\n',
    );
    expect(conf).toEqual({ TCP_IN: '20,22, 443,2000:3000', IPV6: '0', EMPTY: '' });
    expect(opened(conf, 'TCP_IN', [80, 443, 2000, 2500, 3000, 3001])).toEqual([
      443, 2000, 2500, 3000,
    ]);
    expect(opened(conf, 'EMPTY', [80])).toEqual([]);
    expect(opened(conf, 'TCP6_IN', [80])).toEqual([]);
  });
});

describe('the block', () => {
  it.each(['', '# csf.allow\n', 'a\nb', 'a\r\nb\r\n', '\n', '\n\n', 'a\n\n'])(
    'goes in once and comes out without a trace: %j',
    (text) => {
      const added = addBlock(text, path);
      expect(added.endsWith('\n')).toBe(true);
      expect(added.split('\n')).toContain(`Include ${path}`);
      expect(hasBlock(added, path)).toBe(true);
      expect(addBlock(added, path)).toBe(added);
      expect(removeBlock(added, path)).toBe(text);
    },
  );

  it('stays where it is when lines follow, and leaves them whole', () => {
    for (const text of ['a\n', 'a']) {
      const later = `${addBlock(text, path)}192.0.2.1 # x\n`;
      expect(hasBlock(later, path)).toBe(true);
      expect(removeBlock(later, path)).toBe('a\n192.0.2.1 # x\n');
    }
  });

  it('is put right when it is damaged', () => {
    const good = addBlock('a\n', path);
    for (const bad of [
      good.replace('Include', ' Include'),
      good.replace(/# END.*\n/, ''),
      good.replace(/Include .*\n/, ''),
      good.trimEnd(),
      good + good.slice(2),
      `${good}Include ${path}\n`,
      good.replace(path, `${path} `),
    ]) {
      expect(hasBlock(bad, path), bad).toBe(false);
      expect(addBlock(bad, path), bad).toBe(good);
      expect(removeBlock(bad, path), bad).toBe('a\n');
    }
  });
});

/** What iptables-save 1.8.9 printed of the rules of the stand-in (test/helpers/csf/csf), shortened. */
const skeleton = (...allowed: string[]): string =>
  [
    '*filter',
    ':INPUT DROP [0:0]',
    ...['ALLOWIN', 'ALLOWOUT', 'LOCALINPUT', 'LOCALOUTPUT'].map((name) => `:${name} - [0:0]`),
    '-A INPUT ! -i lo -j LOCALINPUT',
    '-A INPUT ! -i lo -p tcp -m conntrack --ctstate NEW -m tcp --dport 22 -j ACCEPT',
    ...allowed,
    '-A LOCALINPUT ! -i lo -j ALLOWIN',
    '-A LOCALOUTPUT ! -o lo -j ALLOWOUT',
    'COMMIT',
    '',
  ].join('\n');

const around = (changes: Partial<CsfAround> = {}): CsfAround => ({
  conf: { IPV6: '1', TCP_IN: '22', TCP6_IN: '22' },
  files: { allow: 'a\n', ignore: 'b\n' },
  kernel: {
    v4: parseSave(skeleton(), 'iptables-save'),
    v6: parseSave(skeleton(), 'iptables-save'),
  },
  others: [],
  disabled: false,
  own: null,
  restarting: false,
  error: null,
  lfd: 'stopped',
  ipv6: true,
  reload: false,
  foreign: [],
  ...changes,
});

const small = desired({ ranges: { v4: ['192.0.2.0/24'], v6: ['2001:db8::/32'] }, tcpPorts: [443] });
const wanted = csf.want(small, { reload: false }).owned;
const observed = (
  owned: Partial<CsfOwned>,
  changes: Partial<CsfAround> = {},
): Observed<CsfOwned, CsfAround> => ({
  owned: { ...csf.nothing, ...owned },
  around: around(changes),
});
const told = (steps: readonly Step[]): string[] => steps.map((step) => step.summary);
const stdin = (steps: readonly Step[]): string =>
  steps.map((step) => (step.kind === 'run' ? (step.command.stdin ?? '') : '')).join('');
const rule4 = '-A ALLOWIN -s 192.0.2.0/24 ! -i lo -p tcp -m tcp --dport 443 -j ACCEPT';
const answer4 = '-A ALLOWOUT -d 192.0.2.0/24 ! -o lo -p tcp -m tcp --sport 443 -j ACCEPT';

describe('plan', () => {
  it('writes the files before what names them, and the rules last', () => {
    const steps = csf.plan(wanted, observed({}));
    expect(told(steps)).toEqual([
      'csf: write /etc/csf/cfsync.allow',
      'csf: write /etc/csf/cfsync.ignore',
      'csf: rewrite /etc/csf/csf.allow',
      'csf: rewrite /etc/csf/csf.ignore',
      'csf: iptables, ALLOWIN and ALLOWOUT: 2 rules come, 0 go',
      'csf: ip6tables, ALLOWIN and ALLOWOUT: 2 rules come, 0 go',
    ]);
    expect(steps.map((step) => step.check?.argv.join(' '))).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
      'iptables-restore -w 10 --noflush --test',
      'ip6tables-restore -w 10 --noflush --test',
    ]);
    expect(stdin(steps.slice(4, 5))).toBe(
      `*filter\n-I ${rule4.slice(3)}\n-I ${answer4.slice(3)}\nCOMMIT\n`,
    );
    expect(steps.every((step) => step.kind === 'run' || step.mode === 0o600)).toBe(true);
  });

  it('takes the rules away before the file that names them', () => {
    const kernel = {
      v4: parseSave(skeleton(rule4, answer4), 'iptables-save'),
      v6: parseSave(skeleton(), 'iptables-save'),
    };
    const steps = csf.plan(csf.nothing, observed(wanted, { kernel, lfd: 'current' }));
    expect(told(steps)).toEqual([
      'csf: iptables, ALLOWIN and ALLOWOUT: 0 rules come, 2 go',
      'csf: delete /etc/csf/cfsync.allow',
      'csf: delete /etc/csf/cfsync.ignore',
      'csf: csf --lfd restart',
    ]);
    expect(stdin(steps)).toBe(`*filter\n-D ${answer4.slice(3)}\n-D ${rule4.slice(3)}\nCOMMIT\n`);
  });

  it('keeps the name of a rule that goes until it is gone', () => {
    const old = { ...wanted, allow: `${wanted.allow}tcp|in|d=443|s=198.51.100.0/24\n` };
    const stale = '-A ALLOWIN -s 198.51.100.0/24 ! -i lo -p tcp -m tcp --dport 443 -j ACCEPT';
    const kernel = {
      v4: parseSave(skeleton(stale), 'iptables-save'),
      v6: parseSave(skeleton(), 'iptables-save'),
    };
    const next = csf.want({ ...small, tcpPorts: [80] }, { reload: false }).owned;
    const steps = csf.plan(next, observed(old, { kernel }));
    const writes = steps.filter((step) => step.kind === 'file' && step.path === path);
    expect(writes.map((step) => step.kind === 'file' && step.content)).toEqual([
      expect.stringContaining('198.51.100.0/24'),
      next.allow,
    ]);
    expect(stdin(steps)).toContain(`-D ${stale.slice(3)}`);
  });

  it('tells its rules from equal ones of the admin', () => {
    const others = ['tcp|in|d=443|s=192.0.2.0/24'];
    const plan = (to: CsfOwned, n: number): string => {
      const kernel = {
        v4: parseSave(skeleton(...Array<string>(n).fill(rule4), answer4), 'iptables-save'),
      };
      return stdin(csf.plan(to, observed(wanted, { kernel, others })));
    };
    const insert = `-I ${rule4.slice(3)}\n`;
    const remove = `-D ${rule4.slice(3)}\n`;
    expect(plan(wanted, 0)).toContain(insert);
    for (const n of [1, 2]) expect(plan(wanted, n)).toBe('');
    expect(plan(wanted, 3).split(remove)).toHaveLength(2);
    expect(plan(csf.nothing, 1)).not.toContain(remove);
    expect(plan(csf.nothing, 2).split(remove)).toHaveLength(2);
  });

  it('writes rules as the running CSF has them', () => {
    const style = skeleton()
      .replaceAll('! -i lo', '-i eth0')
      .replaceAll('! -o lo', '-o eth0')
      .replace(':ALLOWIN', ':LOGACCEPT - [0:0]\n:ALLOWIN');
    const kernel = {
      v4: parseSave(style, 'iptables-save'),
      v6: parseSave(skeleton(), 'iptables-save'),
    };
    const text = stdin(csf.plan(wanted, observed({}, { kernel })));
    expect(text).toContain(
      '-I ALLOWIN -s 192.0.2.0/24 -i eth0 -p tcp -m tcp --dport 443 -j LOGACCEPT\n',
    );
    // Advanced filters of IPv6 get the interface of IPv4.
    expect(text).toContain('-I ALLOWOUT -d 2001:db8::/32 -o eth0 -p tcp');
  });

  it('uses the programs that CSF uses', () => {
    const conf = { IPV6: '1', IPTABLES_RESTORE: '/usr/sbin/iptables-legacy-restore' };
    const steps = csf.plan(wanted, observed({}, { conf }));
    const argv = steps.map((step) => (step.kind === 'run' ? step.command.argv[0] : ''));
    expect(argv.slice(4)).toEqual(['/usr/sbin/iptables-legacy-restore', 'ip6tables-restore']);
  });

  it('does not rewrite what it cannot read', () => {
    const changes = { files: { allow: 'B\ufffdro\n', ignore: 'b\n' } };
    expect(() => csf.plan(wanted, observed({}, changes))).toThrow('not UTF-8');
    const blocks = { allow: true, ignore: true };
    expect(csf.plan(wanted, observed({ ...wanted, blocks }, changes))).toHaveLength(2);
  });

  it('loads nothing where CSF is off', () => {
    const off = { v4: parseSave('*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n', 'iptables-save') };
    for (const changes of [{ disabled: true }, { kernel: off }, { kernel: off, reload: true }])
      expect(told(csf.plan(wanted, observed({}, changes)))).toHaveLength(4);
  });

  it('runs csf -r where it may, and again after it failed', () => {
    const steps = csf.plan(wanted, observed({}, { reload: true, lfd: 'current' }));
    expect(told(steps).slice(4)).toEqual(['csf: csf -r', 'csf: csf --lfd restart']);
    const failed = { reload: true, error: 'Error: x', foreign: ['chain f2b-sshd'] };
    expect(told(csf.plan(csf.nothing, observed({}, failed)))).toEqual([
      'csf: csf -r (its last start failed: Error: x)',
    ]);
    expect(() => csf.plan(wanted, observed({}, { ...failed, error: null }))).toThrow(
      'csf: csf -r would delete what belongs to other programs: chain f2b-sshd; nothing was changed',
    );
    const settled = { files: { allow: '', ignore: '' }, kernel: { v4: [] } };
    expect(csf.plan(csf.nothing, observed({}, { ...failed, ...settled, error: null }))).toEqual([]);
  });
});

describe('want', () => {
  const notices = (changes: Partial<CsfAround>): string =>
    csf
      .want(small, { reload: false }, around(changes))
      .notices.map(({ level, text }) => `${level}: ${text}`)
      .join('\n');
  const lockdown = (changes: Partial<CsfAround>) => () =>
    csf.want({ ...small, mode: 'lockdown' }, { reload: false }, around(changes));
  const closed = { IPV6: '1', TCP_IN: '22', TCP6_IN: '22' };

  it('has nothing to say of a CSF in order', () => {
    expect(notices({})).toBe('');
    expect(lockdown({})).not.toThrow();
  });

  it('reports what keeps the rules from being in force', () => {
    expect(notices({ disabled: true })).toMatch(/^warning: CSF is disabled/);
    expect(notices({ kernel: { v4: [] } })).toMatch(/^warning: CSF is not running, so/);
    expect(notices({ kernel: { v4: parseSave(skeleton(), 'iptables-save'), v6: [] } })).toMatch(
      /for IPv6/,
    );
    expect(notices({ conf: { ...closed, TESTING: '1' } })).toMatch(/^warning: TESTING = "1"/);
    expect(notices({ conf: {} })).toMatch(/^note: IPV6 = "0"/);
    expect(notices({ conf: {}, ipv6: false })).toBe('');
    expect(notices({ conf: { ...closed, TCP_IN: '1:65535' } })).toMatch(/^note: TCP_IN .* 443 /);
    const dnat =
      '*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 443 -j DNAT --to-destination 172.17.0.2:443\nCOMMIT\n';
    expect(notices({ kernel: { v4: parseSave(skeleton() + dnat, 'iptables-save') } })).toContain(
      'port 443 is sent on by DNAT',
    );
    expect(() => notices({ error: 'Error: x' })).toThrow('Error: x');
  });

  it('refuses lockdown where it would not hold', () => {
    const open = skeleton().replace('--dport 22', '--dport 400:500');
    const cases: readonly (readonly [Partial<CsfAround>, string])[] = [
      [{ conf: { ...closed, TCP_IN: '443' } }, 'TCP_IN in csf.conf opens 443'],
      [{ conf: { ...closed, TCP6_IN: '440:450' } }, 'TCP6_IN in csf.conf opens 443'],
      [{ conf: { ...closed, UDP_IN: '443' } }, 'UDP_IN in csf.conf opens 443'],
      [{ conf: { ...closed, UDP6_IN: '443' } }, 'UDP6_IN in csf.conf opens 443'],
      [{ conf: { ...closed, CC_ALLOW: 'DE' } }, 'CC_ALLOW = "DE"'],
      [
        { conf: { ...closed, CC_ALLOW_PORTS: 'DE', CC_ALLOW_PORTS_TCP: '443' } },
        'CC_ALLOW_PORTS = "DE"',
      ],
      [{ conf: { ...closed, IPV6: '0' } }, 'IPV6 = "0"'],
      [{ conf: { ...closed, TESTING: '1' } }, 'TESTING = "1"'],
      [{ disabled: true, kernel: { v4: [] } }, 'CSF is disabled'],
      [{ kernel: { v4: [] } }, 'CSF is not running'],
      [{ kernel: { v4: parseSave(skeleton(), 'iptables-save'), v6: [] } }, 'not running for IPv6'],
      [
        {
          kernel: {
            v4: parseSave(open, 'iptables-save'),
            v6: parseSave(skeleton(), 'iptables-save'),
          },
        },
        'still opens 443',
      ],
    ];
    for (const [changes, text] of cases) expect(lockdown(changes), text).toThrow(text);
    expect(
      lockdown({ conf: { ...closed, CC_ALLOW_PORTS: 'DE', CC_ALLOW_PORTS_TCP: '22' } }),
    ).not.toThrow();
  });

  it('says when a list is so long that a set is better', () => {
    const v4 = Array.from({ length: 201 }, (_, i) => `10.${i}.0.0/17`);
    const { owned, notices } = csf.want(
      { ...small, ranges: { v4, v6: [] } },
      { reload: false },
      around(),
    );
    expect(notices.map(({ level, text }) => `${level}: ${text}`).join()).toMatch(
      /^note: 201 prefixes are as many rules/,
    );
    expect(stdin(csf.plan(owned, observed({}))).match(/^-I /gm)).toHaveLength(402);
  });

  it('refuses csf -r where it only asks lfd', () => {
    const conf = { ...closed, LFDSTART: '1' };
    expect(() => csf.want(small, { reload: true }, around({ conf }))).toThrow('LFDSTART');
    expect(() => csf.want(small, { reload: false }, around({ conf }))).not.toThrow();
  });
});

const host = (changes: Readonly<Record<string, string>>, answers = {}) =>
  recorded({
    folders: { '/etc/csf': [] },
    files: { '/etc/csf/csf.conf': 'IPV6 = "1"\n', '/etc/csf/csf.allow': 'a\n', ...changes },
    answers: {
      'iptables-save': skeleton(rule4, rule4, answer4),
      'ip6tables-save': skeleton(),
      'stat -c %i /var/lib/csf/csf.lock': '77\n',
      'test /etc/csf/cfsync.ignore -nt /run/lfd.pid': { code: 0, stdout: '', stderr: '' },
      ...answers,
    },
  });
const look = (changes: Readonly<Record<string, string>> = {}, reload = false, answers = {}) =>
  csf.observe(host(changes, answers), { reload });

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

describe('adopt', () => {
  const known = merge(bundled, parseRanges(['104.16.0.0/12']));
  const goal = desired({
    ranges: { v4: ['104.16.0.0/13', '173.245.48.0/20'], v6: ['2400:cb00::/32'] },
  });

  /** A host of which only the files and the two chains matter. */
  interface Csf {
    readonly files: Readonly<Record<string, string>>;
    /** Of both families, without `-A`. */
    readonly rules: readonly string[];
  }

  /** As a csf that loads these lists leaves it. */
  const started = (
    allow: string,
    ignore = '127.0.0.1\n',
    more: Record<string, string> = {},
  ): Csf => {
    const style = { in: '! -i lo', out: '! -o lo', accept: 'ACCEPT' };
    const files = { '/etc/csf/csf.allow': allow, '/etc/csf/csf.ignore': ignore, ...more };
    const lines = (text: string): string[] => [
      ...effectiveLines(text),
      ...includes(text).flatMap((name) => lines(files[name as keyof typeof files] ?? '')),
    ];
    const rules = lines(allow)
      .flatMap(entriesIn)
      .map((entry) => `${chainOf[entry.direction]} ${ruleOf(entry, style)}`);
    return { files, rules };
  };

  const observeOn = async ({ files, rules }: Csf, reload = false) => {
    const of = (v6: boolean): string =>
      skeleton(...rules.filter((rule) => rule.includes('::') === v6).map((rule) => `-A ${rule}`));
    return look(files, reload, { 'iptables-save': of(false), 'ip6tables-save': of(true) });
  };

  /** The same host after a step. */
  const after = ({ files, rules }: Csf, step: Step): Csf => {
    if (step.kind === 'file') {
      const { [step.path]: old, ...rest } = files;
      expect(step.expect).toBe(old === undefined ? null : digest(old));
      return {
        rules,
        files: step.content === null ? rest : { ...rest, [step.path]: step.content },
      };
    }
    const next = [...rules];
    for (const line of (step.command.stdin ?? '').split('\n')) {
      if (line.startsWith('-I ')) next.push(line.slice(3));
      if (!line.startsWith('-D ')) continue;
      const at = next.indexOf(line.slice(3));
      expect(at, line).toBeGreaterThanOrEqual(0);
      next.splice(at, 1);
    }
    return { files, rules: next };
  };
  const sorted = ({ files, rules }: Csf): Csf => ({ files, rules: rules.toSorted() });

  async function adopted(on: Csf, reload = false) {
    const seen = await observeOn(on, reload);
    const observed = csf.adopt!(seen, goal, known);
    const { owned, notices } = csf.want(goal, { reload }, observed.around);
    return { observed, before: observed.owned, owned, notices, steps: csf.plan(owned, observed) };
  }

  const allow = `# csf.allow
192.0.2.77 # office
173.245.48.0/20 # Cloudflare
tcp|in|d=80,443|s=173.245.48.0/20
tcp|in|d=443|s=104.16.0.0/12 # old
tcp:in:d=80_80:s=104.16.0.0/12
tcp|out|s=443|d=104.16.0.0/12\t# answers
d=443|s=2400:cb00::/32
2400:CB00::/32
tcp|in|d=22|s=192.0.2.0/24
tcp|in|d=443|s=192.0.2.0/24
tcp|in|d=80,443,8443|s=131.0.72.0/22
udp|in|d=443|s=131.0.72.0/22
tcp|out|d=443|d=131.0.72.0/22
tcp|in|s=131.0.72.0/22
131.0.72.0/22 # Included by hand
104.16.0.9
`;
  const ignore =
    '127.0.0.1\ntcp|in|d=443|s=173.245.48.0/20\n173.245.48.0/20\r\n104.16.0.0/12 # old\n8.8.8.0/24\n';
  const busy = started(allow, ignore);

  it('what scripts left', async () => {
    const { before, owned, notices, steps } = await adopted(busy);
    const done = steps.reduce(after, busy);
    const lines = [
      ...before.strays!.map(
        ({ text, prefixes, beyond }) =>
          `${text} (${prefixes.join()})${beyond === undefined ? '' : `: ends ${beyond}`}`,
      ),
      ...notices.map((n) => `${n.level}: ${n.text}`),
      ...steps.map((step) => `step: ${step.summary}`),
      ...['allow', 'ignore'].map((name) => `== csf.${name}\n${done.files[`/etc/csf/csf.${name}`]}`),
      '== rules',
      ...done.rules.toSorted(),
      ...csf.print(before).map(({ path, content }) => `== before: ${path}\n${content}`),
    ];
    golden('csf/adopted.txt', `${lines.join('\n')}\n`);
    const then = await adopted(done);
    expect(then.before.strays).toBeUndefined();
    expect(then.owned).toEqual(owned);
    expect(then.steps).toEqual([]);
    // What is in force is what CSF makes of the files.
    const { '/etc/csf/csf.allow': a, '/etc/csf/csf.ignore': b, ...more } = done.files;
    expect(sorted(done).rules).toEqual(sorted(started(a!, b, more)).rules);
  });

  it('never leaves a rule in the chains that no file names, nor Cloudflare out', async () => {
    const { steps } = await adopted(busy);
    let now = busy;
    for (const step of steps) {
      now = after(now, step);
      const { '/etc/csf/csf.allow': a, '/etc/csf/csf.ignore': b, ...more } = now.files;
      const named = started(a!, b, more).rules;
      expect(
        now.rules.filter((rule) => !named.includes(rule)),
        step.summary,
      ).toEqual([]);
      for (const prefix of ['173.245.48.0/20', '2400:cb00::/32'])
        expect(now.rules.join('\n'), step.summary).toContain(`ALLOWIN -s ${prefix}`);
    }
  });

  it('takes over what stands there and is not loaded, and loads it not on the way back', async () => {
    const cold = { ...busy, rules: busy.rules.filter((rule) => !rule.includes('104.16')) };
    const { before, steps } = await adopted(cold);
    const done = steps.reduce(after, cold);
    const back = csf.plan(before, await observeOn(done));
    expect(sorted(back.reduce(after, done))).toEqual(sorted(cold));
  });

  it.each([
    ['as it is', allow],
    ['without a last line end', allow.trimEnd()],
    ['with a stray at the end, which has none', `${allow}173.245.48.0/20`],
    ['with a stray twice', `${allow}173.245.48.0/20 # Cloudflare\n`],
    ['with CRLF', allow.replaceAll('\n', '\r\n')],
  ])('goes back to the same bytes and rules from every step (%s)', async (_, text) => {
    const on = started(text, ignore);
    for (const reload of [false, true]) {
      const { before, steps } = await adopted(on, reload);
      let now = on;
      for (const step of [undefined, ...steps]) {
        if (step !== undefined) now = after(now, step);
        const seen = await observeOn(now, false);
        for (const looked of [seen, csf.adopt!(seen, goal, known)]) {
          const end = csf.plan(before, looked).reduce(after, now);
          expect(sorted(end), step?.summary).toEqual(sorted(on));
        }
      }
    }
  });

  it('leaves every state alone that can be recorded', async () => {
    const ours = csf.want(goal, { reload: false }).owned;
    const applied = csf.plan(ours, await observeOn(busy)).reduce(after, busy);
    const { steps } = await adopted(applied);
    for (const on of [busy, applied, steps.reduce(after, applied)]) {
      const seen = await observeOn(on);
      for (const look of [seen, csf.adopt!(seen, goal, known)])
        expect(csf.plan(look.owned, look)).toEqual([]);
    }
  });

  it('goes back to ours and theirs, which both were there', async () => {
    const first = await adopted(started('192.0.2.77\n'));
    let on = first.steps.reduce(after, started('192.0.2.77\n'));
    for (const line of ['192.0.2.78', '173.245.48.0/20', 'tcp|in|d=80,443|s=173.245.48.0/20']) {
      const text = `${on.files['/etc/csf/csf.allow']}${line} # csf -a\n`;
      const loaded = started(`${line}\n`).rules;
      on = { files: { ...on.files, '/etc/csf/csf.allow': text }, rules: [...on.rules, ...loaded] };
    }
    const { before, steps } = await adopted(on);
    expect(before.strays).toHaveLength(2);
    const done = steps.reduce(after, on);
    expect(done.files['/etc/csf/csf.allow']).not.toContain('173.245');
    expect(done.rules.filter((rule) => rule.includes('-s 173.245'))).toHaveLength(1);
    const back = csf.plan(before, await observeOn(done)).reduce(after, done);
    expect(sorted(back)).toEqual(sorted(on));
  });

  it('keeps what the admin did meanwhile', async () => {
    const { before, steps } = await adopted(busy);
    const done = steps.reduce(after, busy);
    const text = `${done.files['/etc/csf/csf.allow']!.replace('192.0.2.77', '192.0.2.78')}131.0.72.0/22 # csf -a\n`;
    const edited = {
      rules: [...done.rules, ...started('131.0.72.0/22\n').rules],
      files: { ...done.files, '/etc/csf/csf.allow': text },
    };
    const looked = csf.adopt!(await observeOn(edited), goal, known);
    expect(looked.owned.strays).toHaveLength(1);
    const back = csf.plan(before, looked).reduce(after, edited);
    const lines = back.files['/etc/csf/csf.allow']!.split('\n').toSorted();
    const meant = allow.replace('192.0.2.77', '192.0.2.78');
    expect(lines).toEqual(`${meant}131.0.72.0/22 # csf -a\n`.split('\n').toSorted());
    expect(sorted(back).rules).toEqual(
      sorted({ ...busy, rules: [...busy.rules, ...started('131.0.72.0/22\n').rules] }).rules,
    );
  });

  it('takes their lines out before csf -r, where that loads the rules', async () => {
    const { steps } = await adopted(busy, true);
    const at = steps.findIndex(({ summary }) => summary === 'csf: csf -r');
    const { files } = steps.slice(0, at).reduce(after, busy);
    expect(files['/etc/csf/csf.allow']).not.toMatch(/Cloudflare|104\.16\.0\.0/);
    expect(steps.slice(at + 1)).toEqual([]);
  });

  it('takes no more rules away than their lines loaded', async () => {
    const extra = started('104.16.0.0/12\n173.245.48.0/20\n').rules;
    const { steps } = await adopted({ ...busy, rules: [...busy.rules, ...extra] });
    const without = (await adopted(busy)).steps.reduce(after, busy).rules;
    const { rules } = steps.reduce(after, { ...busy, rules: [...busy.rules, ...extra] });
    expect(rules.toSorted()).toEqual([...without, ...extra].toSorted());
  });

  it('leaves the end of the file such that nothing is lost with the block', async () => {
    const on = started('192.0.2.77\n173.245.48.0/20');
    const first = csf.plan(csf.want(goal, { reload: false }).owned, await observeOn(on));
    const ours = first.reduce(after, on);
    const { before, steps } = await adopted(ours);
    const done = steps.reduce(after, ours);
    const bare = csf.plan(csf.nothing, await observeOn(done)).reduce(after, done);
    expect(bare.files['/etc/csf/csf.allow']).toBe('192.0.2.77\n');
    const back = csf.plan(before, await observeOn(done)).reduce(after, done);
    expect(sorted(back)).toEqual(sorted(ours));
  });

  it('leaves plain addresses alone that CSF keeps in sets', async () => {
    const { before, notices } = await adopted({
      ...busy,
      files: { ...busy.files, '/etc/csf/csf.conf': 'IPV6 = "1"\nLF_IPSET = "1"\n' },
    });
    const plain = before.strays!.filter(({ beyond }) => beyond !== undefined);
    expect(plain).toEqual([]);
    expect(notices.map(({ text }) => text).join()).toContain(
      'because LF_IPSET keeps them in sets: 173.245.48.0/20 # Cloudflare; 2400:CB00::/32; tcp|in|d=80,443,8443',
    );
  });

  it('has nothing to do where nobody wrote anything', async () => {
    const seen = await observeOn(started('192.0.2.77\n'));
    const found = csf.adopt!(seen, goal, known);
    expect(found.owned).toEqual(seen.owned);
  });
});

it('cannot be kept in one run with the iptables or the UFW backend', () => {
  const job = (name: string, renderer: unknown) => ({ name, renderer }) as never;
  for (const name of ['iptables', 'ufw'])
    for (const jobs of [
      [job('csf', csf), job(name, { name })],
      [job(name, { name }), job('csf', csf)],
    ])
      expect(() => refuseConflicts(jobs)).toThrow(`csf and ${name} cannot be kept in one run`);
  expect(() =>
    refuseConflicts([job('csf', csf), job('fail2ban', { name: 'fail2ban' })]),
  ).not.toThrow();
});

it('takes one option, and holds no lock that csf -r would wait for', () => {
  expect(csf.options({})).toEqual({ reload: false });
  expect(csf.options({ reload: true })).toEqual({ reload: true });
  expect(() => csf.options({ reload: 'yes' })).toThrow('csf: reload: must be true or false');
  expect(() => csf.options({ relod: true })).toThrow('did you mean reload?');
  expect(csf.locks!({ reload: false })).toEqual([{ kind: 'flock', path: '/etc/csf/csf.allow' }]);
  expect(csf.locks!({ reload: true })).toEqual([]);
});
