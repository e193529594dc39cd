/** What the tests of CSF begin with. */
import csf from '../../../renderers/csf/index.ts';
import type { CsfAround, CsfOwned } from '../../../renderers/csf/state.ts';
import { parseSave } from '../../../src/filters/iptables/save.ts';
import type { Observed, Step } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded } from '../../helpers/host.ts';

export const path = '/etc/csf/cfsync.allow';

/** What iptables-save 1.8.9 printed of the rules of the stand-in (test/helpers/csf/csf), shortened. */
export const skeleton = (...allowed: string[]): string =>
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

export const around = (changes: Partial<CsfAround> = {}): CsfAround => ({
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

export const small = desired({
  ranges: { v4: ['192.0.2.0/24'], v6: ['2001:db8::/32'] },
  tcpPorts: [443],
});
export const wanted = csf.want(small, { reload: false }).owned;
export const observed = (
  owned: Partial<CsfOwned>,
  changes: Partial<CsfAround> = {},
): Observed<CsfOwned, CsfAround> => ({
  owned: { ...csf.nothing, ...owned },
  around: around(changes),
});
export const told = (steps: readonly Step[]): string[] => steps.map((step) => step.summary);
export const stdin = (steps: readonly Step[]): string =>
  steps.map((step) => (step.kind === 'run' ? (step.command.stdin ?? '') : '')).join('');
export const rule4 = '-A ALLOWIN -s 192.0.2.0/24 ! -i lo -p tcp -m tcp --dport 443 -j ACCEPT';
export const answer4 = '-A ALLOWOUT -d 192.0.2.0/24 ! -o lo -p tcp -m tcp --sport 443 -j ACCEPT';

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
export const look = (
  changes: Readonly<Record<string, string>> = {},
  reload = false,
  answers = {},
) => csf.observe(host(changes, answers), { reload });
