import { describe, expect, it } from 'vitest';
import csf from '../../../renderers/csf/index.ts';
import { entryOf, lineOf } from '../../../renderers/csf/lines.ts';
import type { CsfAround } from '../../../renderers/csf/state.ts';
import { refuseConflicts } from '../../../src/run/plan.ts';
import { parseSave } from '../../../src/filters/iptables/save.ts';
import type { Desired } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { around, observed, skeleton, small, stdin } from './given.ts';

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
