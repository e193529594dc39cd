import { afterEach, beforeEach, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const unit = '/etc/systemd/system/cfsync-boot.service';
const link = '/etc/systemd/system/sysinit.target.wants/cfsync-boot.service';

describeLive('apply --persist', { programs: ['nft', 'systemctl', 'systemd-analyze'] }, () => {
  let lab: Lab;
  const must = (...argv: [string, ...string[]]) => lab.origin.must(argv);
  const apply = (...args: string[]) =>
    lab.cfsync(['apply', '-b', 'nftables', '--mode', 'lockdown', '--source', 'bundled', ...args]);
  const etc = () => must('find', '/etc', '-not', '-type', 'd', '-printf', '%p %y %m %u %s %l\n');

  beforeEach(async () => {
    lab = await Lab.create();
    await lab.origin.listen({ tcp: [443] });
  });

  afterEach(() => lab.close());

  it('writes one unit that brings everything back, and remove takes it away', async () => {
    const before = await etc();
    expect(await apply('--persist')).toMatchObject({ code: exit.ok });
    // What was said for this run alone is not said again at every boot.
    for (const flags of [['--persist'], ['--persist', '--allow-weaker']])
      expect(await apply(...flags)).toEqual({ code: exit.ok, stdout: '', stderr: '' });
    expect((await must('readlink', '-f', link)).trim()).toBe(unit);
    const verified = await lab.origin.run(['systemd-analyze', 'verify', unit]);
    expect(verified).toMatchObject({ code: 0 });
    expect(verified.stderr).not.toContain('cfsync');

    // A boot: no rules, and systemd runs the line of the unit.
    await lab.origin.nft('flush ruleset');
    await lab.expectVerdict(443, { edge: 'open', stranger: 'open' });
    expect((await lab.cfsync(['verify'])).code).toBe(exit.pending);
    const line = /^ExecStart=(.*)$/m.exec(await must('cat', unit))![1]!;
    const argv = [...line.matchAll(/"([^"]*)"/g)].map(([, word]) => word!);
    expect(await lab.origin.run(argv as [string, ...string[]])).toMatchObject({ code: exit.ok });
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);

    expect(await lab.cfsync(['remove'])).toMatchObject({ code: exit.ok });
    expect(await etc()).toBe(before);
    expect(await must('nft', 'list', 'ruleset')).toBe('');
  });

  it('is what nobody names: a rollback takes it back, and by hand it goes for good', async () => {
    const before = await etc();
    await apply('--persist');
    for (const command of ['verify', 'remove', 'rollback'])
      expect((await lab.cfsync([command, '-b', 'boot'])).code).toBe(exit.usage);
    expect(await lab.cfsync(['rollback'])).toMatchObject({ code: exit.ok });
    expect(await etc()).toBe(before);
    expect(await must('nft', 'list', 'ruleset')).toBe('');
    // A rollback holds, as far as its state directory goes.
    await must('rm', '-r', '/run/lab/state');
    await apply('--persist');
    // As docs/README.md has it.
    await must('systemctl', 'disable', 'cfsync-boot.service');
    await must('rm', unit);
    expect((await lab.cfsync(['verify'])).code).toBe(exit.pending);
    await must('rm', '/run/lab/state/applied/boot.json');
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
    expect(await lab.cfsync(['remove'])).toMatchObject({ code: exit.ok });
    expect(await etc()).toBe(before);
  });

  it('says so when the unit would apply something else than was applied since', async () => {
    await apply('--persist');
    expect((await apply('--verbose')).stderr).not.toContain('next boot');
    const { stderr } = await apply('--verbose', '--ports', '80,443,8443');
    expect(stderr).toMatch(/boot: the next boot still runs cfsync apply .*--mode lockdown;/);
  });

  it('finds and repairs a unit that was changed or switched off', async () => {
    await apply('--persist');
    for (const drift of [
      ['rm', link],
      ['rm', unit],
      ['tee', '-a', unit],
    ] as const) {
      await lab.origin.must([...drift], { stdin: '# changed\n' });
      expect((await lab.cfsync(['verify'])).code).toBe(exit.pending);
      expect((await apply('--persist')).code).toBe(exit.ok);
      expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
    }
  });
});
