import { afterEach, beforeEach, expect, it } from 'vitest';
import { exit } from '../../src/errors.ts';
import { forged } from '../helpers/record.ts';
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

  /** A boot as far as the packet filter goes: no rules, then systemd runs the line of the unit. */
  const boot = async () => {
    await lab.origin.nft('flush ruleset');
    const line = /^ExecStart=(.*)$/m.exec(await must('cat', unit))![1]!;
    const argv = [...line.matchAll(/"([^"]*)"/g)].map(([, word]) => word!);
    return lab.origin.run(argv as [string, ...string[]]);
  };
  const record = '/run/lab/state/applied/boot.json';
  /** The unit and its record as 0.1.0 left them. */
  const ofFirstRelease = async () => {
    const argv = ['/usr/bin/node', '/opt/cfsync.js', 'apply', '--source', 'snapshot'];
    const old = forged(await must('cat', record), (content) => ({
      ...content,
      options: { argv },
    }));
    await lab.origin.must(['tee', record], { stdin: old });
    const words = argv.map((word) => `"${word}"`).join(' ');
    await must('sed', '-i', `s|^\\(Exec[A-Za-z]*\\)=.*|\\1=${words}|`, unit);
  };

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
    expect(await boot()).toMatchObject({ code: exit.ok });
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

  it('brings back what was applied last, and not what was so on the day of --persist', async () => {
    await apply('--persist');
    const first = await must('cat', unit);
    expect((await apply('--ports', '80,443,8443')).code).toBe(exit.ok);
    const applied = await must('nft', '-s', 'list', 'table', 'inet', 'cfsync');
    expect(await boot()).toMatchObject({ code: exit.ok });
    expect(await must('nft', '-s', 'list', 'table', 'inet', 'cfsync')).toBe(applied);
    expect(await must('cat', unit)).toBe(first);
    // What a boot lost is no state to go back to.
    const back = await lab.cfsync(['rollback']);
    expect(back).toMatchObject({ code: exit.ok });
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
    // A rollback holds, and what it led to comes back all the same.
    expect(await boot()).toMatchObject({ code: exit.ok });
    await lab.expectVerdict(443, { edge: 'open', stranger: 'closed' });
    expect((await lab.cfsync(['verify'])).code).toBe(exit.ok);
  });

  it('restore does nothing and says nothing where nothing is recorded', async () => {
    expect(await lab.cfsync(['restore'])).toEqual({ code: exit.ok, stdout: '', stderr: '' });
    expect(await must('nft', 'list', 'ruleset')).toBe('');
    expect(await must('ls', '/run/lab/state')).toBe('');
  });

  it.each([
    ['apply', ['apply', '-b', 'nftables', '--source', 'bundled']],
    ['remove of one of two', ['remove', '-b', 'iptables']],
  ])('replaces a unit of 0.1.0 with the first %s', async (_, command) => {
    await apply('--persist');
    const now = await must('cat', unit);
    if (command[0] === 'remove') await lab.cfsync(['apply', '-b', 'iptables', '--source=bundled']);
    await ofFirstRelease();
    expect(await must('cat', unit)).toContain('"--source" "snapshot"');
    await lab.cfsync(command);
    expect(await must('cat', unit)).toBe(now);
    expect(await must('cat', record)).toContain('"restore"');
    expect((await lab.cfsync(['verify', '-b', 'nftables'])).code).toBe(exit.ok);
    await lab.cfsync(['remove']);
    expect(await lab.origin.run(['test', '-e', unit])).toMatchObject({ code: 1 });
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
