import { describe, expect, it } from 'vitest';
import csf from '../../../renderers/csf/index.ts';
import type { CsfOwned } from '../../../renderers/csf/state.ts';
import { parseSave } from '../../../src/filters/iptables/save.ts';
import { answer4, observed, path, rule4, skeleton, small, stdin, told, wanted } from './given.ts';

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
