/** What a plan in a file binds, against the packet filter of a real kernel. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import type { Desired } from '../../src/renderer.ts';
import { forged } from '../helpers/record.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const file = '/etc/plan.json';
const dropping =
  'table inet filter {\n chain input {\n type filter hook input priority filter; policy drop;\n iifname "lo" accept\n }\n}\n';

interface Content {
  readonly id: string;
  readonly backends: readonly { readonly name: string; readonly desired: Desired }[];
}

describeLive('a saved plan', { programs: ['nft', 'systemctl'] }, () => {
  let lab: Lab;
  const must = (...argv: [string, ...string[]]) => lab.origin.must(argv);
  const save = (...args: string[]) =>
    lab.cfsync(['diff', '-b', 'nftables', '--source', 'bundled', '--out', file, ...args]);
  const ruleset = () => must('nft', 'list', 'ruleset');
  const forge = async (change: (content: Content) => object) => {
    await lab.origin.must(['tee', file], {
      stdin: forged(await must('cat', file), (content) => change(content as Content)),
    });
  };
  const forgeDesired = (change: Partial<Desired>) =>
    forge(({ backends: [one], ...rest }) => ({
      ...rest,
      backends: [{ ...one!, desired: { ...one!.desired, ...change } }],
    }));

  beforeEach(async () => {
    lab = await Lab.create();
    await lab.origin.nft(dropping);
  });

  afterEach(() => lab.close());

  it('binds mode, ports, extra prefixes and ranges', async () => {
    const before = await ruleset();
    const rest = { v4: ['173.245.48.0/20'], v6: ['2400:cb00::/32'] };
    for (const change of [
      { mode: 'lockdown' },
      { tcpPorts: [80, 443, 8443] },
      { udpPorts: [443] },
      { extra: { v4: ['198.51.100.0/24'], v6: [] } },
      { ranges: rest },
    ] as const) {
      await save();
      await forgeDesired(change);
      const ended = await lab.cfsync(['apply', '--plan', file]);
      expect(ended, JSON.stringify(change)).toMatchObject({ code: exit.refused, stdout: '' });
      expect(ended.stderr).toContain('is stale');
    }
    expect(await ruleset()).toBe(before);
    await save();
    expect(await lab.cfsync(['apply', '--plan', file])).toMatchObject({ code: exit.ok });
    expect(await ruleset()).toContain('173.245.48.0/20');
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
  });

  it('takes the options of its backends from flags, which must be those of the diff', async () => {
    const flag = ['--nft-chain', 'inet/filter/input'];
    await lab.origin.nft(dropping.replace(' filter {', ' other {'));
    await save(...flag);
    const plan = ['apply', '--plan', file];
    expect(await lab.cfsync(plan)).toMatchObject({ code: exit.refused });
    expect(await lab.cfsync([...plan, '--nft-chain', 'inet/other/input'])).toMatchObject({
      code: exit.refused,
    });
    expect((await lab.cfsync(['diff', '--plan', file, ...flag])).stderr).not.toContain('stale');
    // It is done; and the chain of the other table still drops the ports.
    expect(await lab.cfsync([...plan, ...flag])).toMatchObject({
      code: exit.pending,
      stdout: expect.stringContaining('nftables: applied and read back'),
      stderr: expect.stringContaining('is kept out of 80, 443'),
    });
    expect((await lab.cfsync(['verify'])).code).toBe(exit.pending);
  });

  it('installs no unit, whatever it names', async () => {
    const before = await must('find', '/etc/systemd');
    await save();
    const argv = ['/bin/sh', '-c', 'id >/etc/ran'];
    await forge(({ id, backends: [one] }) => ({
      id,
      backends: [{ ...one!, name: 'boot', options: { argv } }],
      lines: ['step: harmless'],
    }));
    for (const command of ['diff', 'apply']) {
      const ended = await lab.cfsync([command, '--plan', file]);
      expect(ended).toMatchObject({ code: exit.usage, stdout: '' });
      expect(ended.stderr).toContain('boot is no backend but the unit of apply --persist');
    }
    expect(await must('find', '/etc/systemd')).toBe(before);
  });
});
