/** The commands that stand for rules of UFW, as UFW itself reads them. */
import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { commandOf, deletionOf } from '../../renderers/ufw/command.ts';
import type { Tuple } from '../../renderers/ufw/rules.ts';
import { exit } from '../../src/errors.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

/** Answers each command as ufw's own parser reads it. */
const reader = `
import gettext, json, shlex, sys
gettext.install('ufw')
sys.path.insert(0, '/usr/lib/python3/dist-packages')
from ufw.frontend import parse_command
out = []
for line in json.load(sys.stdin):
    r = parse_command(shlex.split(line)).data['rule']
    where = lambda a: 'any' if a in ('0.0.0.0/0', '::/0') else a
    out.append(dict(remove=r.remove, action=r.action, log=r.logtype, route=r.forward, protocol=r.protocol,
        ports='app' if r.dapp else r.dport, to=where(r.dst), fromPorts='app' if r.sapp else r.sport, source=where(r.src),
        toApp=r.dapp, fromApp=r.sapp, comment=r.comment, direction=r.direction, input=r.interface_in, output=r.interface_out))
json.dump(out, sys.stdout)
`;

const address = fc.constantFrom('0.0.0.0/0', '173.245.48.0/20', '192.0.2.7', '198.51.100.0/24');
const side = fc.oneof(
  fc.record({ app: fc.constant(''), ports: fc.constantFrom('any', '443', '80,443', '6000:6007') }),
  fc.record({ app: fc.constantFrom('OpenSSH', 'WWW Full'), ports: fc.constant('any') }),
);
const way = fc.constantFrom(
  { route: false, direction: 'in', input: '', output: '' } as const,
  { route: false, direction: 'in', input: 'eth0', output: '' } as const,
  { route: false, direction: 'out', input: '', output: '' } as const,
  { route: false, direction: 'out', input: '', output: 'wg0' } as const,
  { route: true, direction: 'in', input: '', output: '' } as const,
  { route: true, direction: 'in', input: 'eth0', output: '' } as const,
  { route: true, direction: 'in', input: 'eth0', output: 'docker0' } as const,
  { route: true, direction: 'out', input: '', output: 'docker0' } as const,
);
const tuple: fc.Arbitrary<Tuple> = fc
  .record({
    action: fc.constantFrom('allow', 'deny', 'reject', 'limit'),
    log: fc.constantFrom('', 'log', 'log-all'),
    protocol: fc.constantFrom('any', 'tcp', 'udp'),
    to: address,
    from: address,
    there: side,
    here: side,
    way,
  })
  .map(({ there, here, way: w, protocol, ...rest }) => {
    const isApp = there.app + here.app !== '';
    const several = /[,:]/.test(there.ports + here.ports);
    return {
      ...rest,
      ...w,
      // ufw takes no protocol with a profile, and several ports only with one.
      protocol: isApp ? 'any' : several && protocol === 'any' ? 'tcp' : protocol,
      ports: isApp && several ? 'any' : there.ports,
      fromPorts: isApp && several ? 'any' : here.ports,
      toApp: there.app,
      fromApp: here.app,
      comment: '',
    };
  })
  // Both sides by profile, with other ports, ufw refuses.
  .filter((one) => !(one.toApp !== '' && one.fromApp !== '' && one.toApp !== one.fromApp));

describeLive('commands of ufw', { programs: ['ufw', 'python3', 'iptables'] }, () => {
  it('read back as the rules that they stand for', () => {
    const tuples = fc.sample(tuple, 600);
    const ask = (lines: readonly string[]): unknown =>
      JSON.parse(
        execFileSync('python3', ['-c', reader], { input: JSON.stringify(lines), encoding: 'utf8' }),
      );
    const where = (text: string): string => (text === '0.0.0.0/0' ? 'any' : text);
    const expected = (remove: boolean) =>
      tuples.map(({ from, ...one }) => ({
        ...one,
        remove,
        to: where(one.to),
        source: where(from),
        ports: one.toApp === '' ? one.ports : 'app',
        fromPorts: one.fromApp === '' ? one.fromPorts : 'app',
      }));
    expect(ask(tuples.map(commandOf))).toEqual(expected(false));
    expect(ask(tuples.map(deletionOf))).toEqual(expected(true));
  });

  it('of what is left alone take that away, and nothing of ours', async () => {
    const lab = await Lab.create();
    try {
      const run = (...args: readonly string[]) =>
        lab.cfsync([...args, '-b', 'ufw', '--source', 'bundled', '--ports', '443']);
      const cloudflare = '173.245.48.0/20';
      const route = `route allow proto tcp from ${cloudflare} to any port 443`;
      await lab.origin.must(['sh', '-ec', `ufw ${route}; ufw --force enable`]);
      expect((await run('apply')).code).toBe(exit.ok);
      const { stderr } = await run('adopt', '--dry-run');
      const [, advice] = /takes one away: (ufw [^;\n]*)/.exec(stderr) ?? [];
      expect(advice).toBe(`ufw route delete allow from ${cloudflare} to any port 443 proto tcp`);
      await lab.origin.must(['sh', '-ec', advice!]);
      expect(await lab.origin.must(['ufw', 'show', 'added'])).not.toContain('route');
      expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
    } finally {
      await lab.close();
    }
  });
});
