import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import iptables, { type IptOwned } from '../../../renderers/iptables/index.ts';
import { parseSave, wordsOf } from '../../../src/filters/iptables/save.ts';
import { parseRanges } from '../../../src/prefix.ts';
import type { Desired, RunStep } from '../../../src/renderer.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { recorded, type Recorded } from '../../helpers/host.ts';

/** What iptables 1.8.9 and ipset 7.17 printed; see test/fixtures/iptables/README.md. */
function printed(name: string): string {
  return readFileSync(join(import.meta.dirname, '..', '..', 'fixtures', 'iptables', name), 'utf8');
}

interface Situation {
  readonly v4?: string;
  readonly v6?: string;
  readonly variant?: 'nf_tables' | 'legacy';
  /** Answers of other programs. */
  readonly answers?: NonNullable<Recorded['answers']>;
  readonly files?: Readonly<Record<string, string>>;
  readonly folders?: Readonly<Record<string, readonly string[]>>;
}

/** A host with these rules; eth0 has the default route. */
function hostWith({ v4 = '', v6 = '', variant = 'nf_tables', ...more }: Situation) {
  return recorded({
    answers: {
      'iptables-restore --version': `iptables-restore v1.8.9 (${variant})\n`,
      'iptables-save --version': `iptables-save v1.8.9 (${variant})\n`,
      'ip6tables-restore --version': `ip6tables-restore v1.8.9 (${variant})\n`,
      'ip6tables-save --version': `ip6tables-save v1.8.9 (${variant})\n`,
      'iptables-save': v4,
      'ip6tables-save': v6,
      'iptables-nft-save': '',
      'ip6tables-nft-save': '',
      'nft -j -t list tables': '{"nftables": []}',
      'ipset list -n': '',
      ...more.answers,
    },
    files: {
      '/proc/net/route': 'Iface\tDestination\neth0\t00000000\t0\t0\t0\t0\t0\t00000000\t0\t0\t0\n',
      ...more.files,
    },
    folders: { '/proc/sys/net/ipv6': ['conf'], ...more.folders },
  });
}

async function wantOn(
  situation: Situation,
  changes: Partial<Desired> = {},
  raw: Record<string, unknown> = {},
) {
  const options = iptables.options(raw);
  const observed = await iptables.observe(hostWith(situation), options);
  const { owned, notices } = iptables.want(desired(changes), options, observed.around);
  const steps = iptables.plan(owned, observed) as readonly RunStep[];
  return { owned, notices: notices.map((n) => n.text).join('\n'), observed, steps };
}

const jump = '-m comment --comment cfsync -j CFSYNC';

/** The rule of the plan that places the jump of IPv4's INPUT. */
function placed(steps: readonly RunStep[], chain = 'INPUT'): string | undefined {
  const stdin = steps.find((s) => s.command.argv[0] === 'iptables-restore')?.command.stdin ?? '';
  return stdin.split('\n').find((line) => /^-[AI] /.test(line) && line.includes(` ${chain} `));
}

const bridge = {
  '/sys/class/net': ['br-0123456789ab', 'br-ex', 'docker0', 'eth0', 'lo'],
  '/sys/class/net/docker0/bridge': [],
  '/sys/class/net/br-0123456789ab/bridge': [],
  '/sys/class/net/br-ex/bridge': [],
};

describe('render', () => {
  const cases: [string, Partial<Desired>, Record<string, unknown>][] = [
    ['allow', {}, {}],
    ['lockdown', { mode: 'lockdown' }, {}],
    ['one-port-udp', { tcpPorts: [443], udpPorts: [443], mode: 'lockdown' }, {}],
    ['extra', { extra: { v4: ['10.1.0.0/16'], v6: ['fd00::/16'] } }, {}],
    ['trusted', { mode: 'lockdown', udpPorts: [443] }, { trusted: ['wg0', 'cni0'] }],
    ['set', { mode: 'lockdown' }, { set: true }],
  ];
  it.each(cases)('%s', (name, changes, raw) => {
    for (const _ of ['once', 'again']) {
      const artifacts = iptables.print(
        iptables.want(desired(changes), iptables.options(raw)).owned,
      );
      golden(
        `iptables/${name}.txt`,
        artifacts.map(({ path, content }) => `== ${path}\n${content}`).join(''),
      );
    }
  });

  it('prints nothing for a host that cfsync never touched', () => {
    expect(iptables.print(iptables.nothing)).toEqual([]);
  });

  it('prints a large list as large as it is, one rule each or one set', () => {
    const v4 = Array.from({ length: 10_000 }, (_, i) => `1.${i >> 7}.${(i & 127) * 2}.0/24`);
    const large = desired({ ranges: { v4, v6: ['2400:cb00::/32'] } });
    const size = (raw: Record<string, unknown>, ending: string) =>
      iptables
        .print(iptables.want(large, iptables.options(raw)).owned)
        .find((a) => a.path.endsWith(ending))!
        .content.split('\n').length;
    expect(size({}, '.v4')).toBeGreaterThan(10_000);
    expect(size({ set: true }, '.v4')).toBeLessThan(20);
    expect(size({ set: true }, '.ipset')).toBeGreaterThan(10_000);
  });
});

describe('options', () => {
  it.each([
    [{ sets: true }, 'unknown key sets (did you mean set?)'],
    [{ set: 'yes' }, 'must be true or false'],
    [{ trusted: ['eth+'] }, 'not an interface name'],
    [{ trusted: ['wg0 -j ACCEPT'] }, 'not an interface name'],
  ])('refuses %j', (raw, message) => {
    expect(() => iptables.options(raw)).toThrow(message);
  });

  it('refuses more ports than multiport takes, with what to do', () => {
    const many = Array.from({ length: 16 }, (_, i) => 8000 + i);
    for (const changes of [{ tcpPorts: many }, { udpPorts: many }])
      expect(() => iptables.want(desired(changes), iptables.options({}))).toThrow(
        /16 (TCP|UDP) ports are more than the 15 .* nothing was changed; .*--backend nftables/,
      );
    iptables.want(desired({ tcpPorts: many.slice(1) }), iptables.options({}));
  });

  it('refuses to trust an interface with a default route', async () => {
    await expect(wantOn({}, {}, { trusted: ['eth0'] })).rejects.toThrow('has a default route');
  });
});

describe('reading', () => {
  it('takes words as they were quoted', () => {
    const { rules } = parseSave(printed('drop-through-jump.save'), 'iptables-save')[0]!;
    expect(wordsOf(rules[1]!.text)).toContain('the "web" -j ACCEPT');
  });

  it.each(['ours', 'ours-set'])('finds what was applied, and nothing to do (%s)', async (name) => {
    const set = name === 'ours-set';
    const changes: Partial<Desired> = set ? { tcpPorts: [443], udpPorts: [443] } : {};
    const { observed, steps } = await wantOn(
      {
        v4: printed(`${name}.save`),
        v6: printed(`${name}6.save`),
        answers: {
          'ipset list -n': set ? 'other\ncfsync6\ncfsync4\n' : '',
          'ipset save cfsync4': printed('cfsync4.ipset'),
          'ipset save cfsync6': printed('cfsync6.ipset'),
        },
      },
      { mode: 'lockdown', ...changes },
      { set },
    );
    expect(observed.owned.ranges).toEqual(desired().ranges);
    expect(steps).toEqual([]);
  });

  it('asks for nothing that would load a module or a legacy table', async () => {
    // An answer that was not recorded is an error: no ipset, no legacy-save here.
    const observed = await iptables.observe(hostWith({}), iptables.options({}));
    expect(observed.owned).toEqual(iptables.nothing);
  });

  it('says what is wrong with a table that nft filled', async () => {
    await expect(wantOn({ v4: printed('incompatible.save') })).rejects.toThrow(
      /table filter has rules of nft's own .* use --backend nftables/,
    );
  });

  it.each([
    [4, 'Could not fetch rule set generation id: Permission denied (you must be root)', 'root'],
    [
      3,
      "can't initialize ip6tables table `filter': Address family not supported by protocol",
      'no support',
    ],
    [1, 'out of cheese', 'failed with code 1'],
  ])('turns code %i into what to do', async (code, stderr, message) => {
    const host = hostWith({});
    const failing = {
      ...host,
      query: async (command: Parameters<typeof host.query>[0]) =>
        command.argv[0] === 'ip6tables-save' ? { code, stdout: '', stderr } : host.query(command),
    };
    await expect(iptables.observe(failing, iptables.options({}))).rejects.toThrow(message);
  });

  describe('refuses a writer and a reader of different variants', () => {
    const legacy = (program: string) => ({
      [`${program} --version`]: `${program} v1.8.9 (legacy)\n`,
    });

    it('where nothing is saved', async () => {
      const answers = legacy('ip6tables-save');
      await expect(wantOn({ answers })).rejects.toThrow('of different variants');
    });

    it('where what is saved names the one, without asking for it', async () => {
      const v4 = printed('policy-drop.save');
      // An answer that would be believed.
      const answers = { ...legacy('iptables-restore'), ...legacy('iptables-save') };
      await expect(wantOn({ v4, answers })).rejects.toMatchObject({
        message: expect.stringContaining('of different variants'),
        detail: ['iptables-restore v1.8.9 (legacy)', 'iptables-nft-save v1.8.9 (nf_tables)'],
      });
    });

    it('where what is saved names none, or only a comment in it does', async () => {
      const saved = printed('policy-drop-legacy.save');
      const line = '# Generated by iptables-save v1.8.9 (nf_tables) on Sat Nov 21 12:43:30 2026';
      const comment = `-A INPUT -m comment --comment "\n${line}\n" -j ACCEPT\nCOMMIT`;
      for (const v4 of [saved, saved.replace('COMMIT', comment)])
        await expect(wantOn({ v4, answers: legacy('iptables-save') })).rejects.toThrow(
          'of different variants',
        );
    });

    it('not where what is saved names none, and the writer says that it is the same', async () => {
      // Nor does nf_tables of 1.8.5 name itself.
      const { observed } = await wantOn({ v4: printed('policy-drop-legacy.save') });
      expect(observed.around.v4.other.variant).toBe('legacy');
    });

    it('also when the reader changes within a run, which asks the writer once', async () => {
      const host = hostWith({ v4: printed('policy-drop.save'), variant: 'nf_tables' });
      const asked: string[] = [];
      let other = false;
      const switching = {
        ...host,
        query: async (command: Parameters<typeof host.query>[0]) => {
          const words = command.argv.join(' ');
          asked.push(words);
          const stdout = { 'iptables-save': '', ...legacy('iptables-save') }[words];
          return other && stdout !== undefined
            ? { code: 0, stdout, stderr: '' }
            : host.query(command);
        },
      };
      const options = iptables.options({});
      await iptables.observe(switching, options);
      await iptables.observe(switching, options);
      other = true;
      await expect(iptables.observe(switching, options)).rejects.toThrow('of different variants');
      expect(asked.filter((words) => words.startsWith('iptables-restore'))).toHaveLength(1);
    });
  });

  it('takes a kernel without IPv6 for what it is', async () => {
    const { owned, notices, observed } = await wantOn({
      folders: { '/proc/sys/net/ipv6': undefined! },
    });
    expect(owned.tables.map((t) => t.family)).toEqual(['v4']);
    expect(owned.ranges.v6).toEqual([]);
    expect(observed.around.v6).toBeUndefined();
    expect(notices).toContain('this kernel has no IPv6');
  });
});

describe('where the jump stands', () => {
  it.each([
    ['policy-drop', `-A INPUT ${jump}`],
    ['terminal-reject', `-I INPUT 6 ${jump}`],
    ['drop-through-jump', `-I INPUT 2 ${jump}`],
    ['open-port', `-A INPUT ${jump}`],
    ['accept-all', `-A INPUT ${jump}`],
    ['interface', `-I INPUT 2 ${jump}`],
    ['unclear', `-A INPUT ${jump}`],
    ['ufw', `-A INPUT ${jump}`],
  ])('%s', async (name, line) => {
    const { steps } = await wantOn({ v4: printed(`${name}.save`) });
    expect(placed(steps)).toBe(line);
  });

  it('says the same of the legacy variant', async () => {
    const v4 = printed('policy-drop-legacy.save');
    const { steps } = await wantOn({ v4, variant: 'legacy' });
    expect(placed(steps)).toBe(`-A INPUT ${jump}`);
  });

  it('takes misplaced and foreign jumps away in the same transaction', async () => {
    const { observed, steps } = await wantOn({ v4: printed('misplaced.save') });
    expect(observed.owned.ranges.v4).toEqual(['173.245.48.0/20']);
    const lines = steps[0]!.command.stdin!.split('\n');
    const own = lines.filter((line) => line.includes(' INPUT '));
    expect(own).toEqual([`-D INPUT ${jump}`, '-D INPUT -i eth1 -j CFSYNC', `-I INPUT 1 ${jump}`]);
    expect(lines.filter((line) => line === 'COMMIT')).toHaveLength(1);
  });

  it('stands first in raw, where an accept would let strangers pass', async () => {
    const first = await wantOn({ v4: printed('raw.save') }, { mode: 'lockdown' });
    expect(placed(first.steps, 'PREROUTING')).toBe(`-I PREROUTING 1 ${jump}`);
    // Behind what lets nobody pass it may stay, behind an accept it may not.
    const behind = (n: number): string => {
      const lines = printed('raw.save').split('\n');
      const at = lines.findIndex((line) => line.startsWith('-A PREROUTING')) + n;
      return [...lines.slice(0, at), `-A PREROUTING ${jump}`, ...lines.slice(at)]
        .join('\n')
        .replace(':OUTPUT', ':CFSYNC - [0:0]\n:OUTPUT');
    };
    const at = async (n: number) =>
      placed((await wantOn({ v4: behind(n) }, { mode: 'lockdown' })).steps, 'PREROUTING');
    expect(await at(3)).toBeUndefined();
    expect(await at(4)).toBe(`-I PREROUTING 1 ${jump}`);
  });

  it('guards a jump that stands well, so that a run without it fails as a whole', async () => {
    const { steps } = await wantOn(
      { v4: printed('ours.save'), v6: printed('ours6.save') },
      { mode: 'lockdown', tcpPorts: [443] },
    );
    expect(steps.map((s) => s.command.argv[0])).toEqual(['iptables-restore', 'ip6tables-restore']);
    expect(steps[0]!.command.stdin).toContain(`-C INPUT ${jump}\nCOMMIT`);
    expect(steps[0]!.command.argv).toEqual(['iptables-restore', '-w', '10', '--noflush']);
    // The chains that are right already are left alone.
    expect(steps[0]!.command.stdin).not.toContain('CFSYNC-ALLOW -s');
  });
});

describe('going back', () => {
  it('keeps what the admin did in between', async () => {
    const options = iptables.options({});
    const before = (await wantOn({ v4: printed('ours.save'), v6: printed('ours6.save') })).observed;
    const later = printed('ours.save').replace(
      /(-A INPUT .*\n)/,
      '-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n$1-A INPUT -s 192.0.2.1/32 -j DROP\n',
    );
    const now = await iptables.observe(hostWith({ v4: later, v6: printed('ours6.save') }), options);
    const steps = iptables.plan(iptables.nothing, now) as readonly RunStep[];
    const stdin = steps[0]!.command.stdin!;
    expect(stdin).not.toMatch(/dport 22|192\.0\.2\.1/);
    const back = iptables.plan(before.owned, { ...now, owned: iptables.nothing }) as RunStep[];
    expect(back[0]!.command.stdin).toContain(`-A INPUT ${jump}`);
  });

  it('leaves a jump where it stands, whatever the admin added below it or deleted', async () => {
    const options = iptables.options({});
    const saves = { v4: printed('ours.save'), v6: printed('ours6.save') };
    const ban = '-s 192.0.2.1/32 -j DROP';
    const around = saves.v4.replace(/(-A INPUT .*\n)/, `-A INPUT ${ban}\n$1-A INPUT -j DROP\n`);
    const now = await iptables.observe(hostWith({ ...saves, v4: around }), options);
    const then = (before: string | null) => ({
      ...now.owned,
      tables: now.owned.tables.map((t) => ({
        ...t,
        jumps: t.jumps.map((jump) => (t.family === 'v4' ? { ...jump, before } : jump)),
      })),
    });
    for (const before of [null, '-j DROP', '-s 192.0.2.99/32 -j DROP'])
      expect(iptables.plan(then(before), now)).toEqual([]);
    // Not where it would stand below what it stood before.
    const back = iptables.plan(then(ban), now) as readonly RunStep[];
    expect(placed(back)).toBe(`-I INPUT 1 ${jump}`);
  });

  it('is plain JSON', async () => {
    const { owned, observed } = await wantOn({ v4: printed('misplaced.save') });
    for (const state of [owned, observed.owned])
      expect(JSON.parse(JSON.stringify(state)) as IptOwned).toEqual(state);
  });
});

describe('sets', () => {
  const sets = (text: string, more = '') => ({
    v4: printed('ours-set.save'),
    v6: printed('ours-set6.save'),
    answers: {
      'ipset list -n': `cfsync4\ncfsync6\n${more}`,
      'ipset save cfsync4': text,
      'ipset save cfsync6': printed('cfsync6.ipset'),
      'ipset save cfsync4-new': printed('cfsync4.ipset').replaceAll('cfsync4', 'cfsync4-new'),
    },
  });
  const changes = { mode: 'lockdown', tcpPorts: [443], udpPorts: [443] } as const;

  it('are swapped, never flushed, and only where they differ', async () => {
    const text = printed('cfsync4.ipset').replace('add cfsync4 104.16.0.0/13\n', '');
    const { steps } = await wantOn(sets(text), changes, { set: true });
    expect(steps).toHaveLength(1);
    expect(steps[0]!.command.argv).toEqual(['ipset', 'restore', '-exist']);
    const lines = steps[0]!.command.stdin!.trim().split('\n');
    expect(lines[0]).toMatch(/^create cfsync4-new hash:net family inet /);
    expect(lines.slice(-2)).toEqual(['swap cfsync4-new cfsync4', 'destroy cfsync4-new']);
    expect(lines.some((line) => /flush|cfsync6/.test(line))).toBe(false);
  });

  it('with a timeout or an exception are made anew', async () => {
    const { observed, steps } = await wantOn(sets(printed('foreign.ipset')), changes, {
      set: true,
    });
    expect(observed.owned.ranges.v4).toEqual(['192.0.2.1/32']);
    expect(steps[0]!.command.stdin).toContain('swap cfsync4-new cfsync4');
  });

  it('that a swap left over are destroyed', async () => {
    const whole = sets(printed('cfsync4.ipset'), 'cfsync4-new\n');
    const { steps } = await wantOn(whole, changes, { set: true });
    expect(steps.map((s) => s.command.stdin)).toEqual(['destroy cfsync4-new\n']);
  });

  it('are there before the rules, and go after them', async () => {
    const to = await wantOn({}, changes, { set: true });
    expect(to.steps.map((s) => s.command.argv[0])).toEqual([
      'ipset',
      'iptables-restore',
      'ip6tables-restore',
    ]);
    // The set does not exist yet when --test is asked, and a rule without a condition would be for everybody.
    for (const [step, set, nobody] of [
      [to.steps[1]!, 'cfsync4', '255.255.255.255/32'],
      [to.steps[2]!, 'cfsync6', 'ff00::/8'],
    ] as const) {
      expect(step.command.stdin).toContain(`-m set --match-set ${set} src `);
      expect(step.check!.stdin).toBe(
        step.command.stdin!.replaceAll(`-m set --match-set ${set} src `, `-s ${nobody} `),
      );
      expect(step.check!.argv).toContain('--test');
    }
    const away = await wantOn(
      { ...sets(printed('cfsync4.ipset')), folders: { '/sys/module/ip_set': [] } },
      changes,
    );
    expect(away.steps.map((s) => s.command.argv[0])).toEqual([
      'iptables-restore',
      'ip6tables-restore',
      'ipset',
    ]);
    expect(away.steps[2]!.command.stdin).toBe('destroy cfsync4\ndestroy cfsync6\n');
  });

  it('of the admin are not destroyed', async () => {
    const { observed } = await wantOn({
      v4: printed('shared-set.save'),
      answers: { 'ipset list -n': 'cfsync4\n', 'ipset save cfsync4': printed('cfsync4.ipset') },
      folders: { '/sys/module/ip_set': [] },
    });
    expect(observed.owned.sets).toHaveLength(1);
    expect(iptables.plan(iptables.nothing, observed)).toEqual([]);
  });

  it('grow with the list', () => {
    const v4 = Array.from(
      { length: 50_000 },
      (_, i) => `${1 + (i >> 15)}.${(i >> 7) & 255}.${(i & 127) * 2}.0/24`,
    );
    const { owned } = iptables.want(
      desired({ ranges: { v4, v6: [] } }),
      iptables.options({ set: true }),
    );
    expect(iptables.print(owned)[0]!.content).toContain('maxelem 100000');
  });
});

describe('what is said', () => {
  it.each([
    ['nothing drops', {}, {}, 'changes nothing today; --mode lockdown'],
    [
      'open',
      { v4: printed('open-port.save') },
      {},
      'accepts a port from everywhere (-A INPUT -p tcp',
    ],
    ['unclear', { v4: printed('unclear.save') }, {}, '-m recent'],
    ['docker', { v4: printed('docker.save') }, {}, 'port 443 is sent on by DNAT'],
    ['ufw', { v4: printed('ufw.save'), v6: printed('ufw6.save') }, {}, '--backend ufw'],
    [
      'netfilter-persistent',
      { folders: { '/usr/share/netfilter-persistent/plugins.d': ['15-ip4tables'] } },
      {},
      'netfilter-persistent save would freeze',
    ],
    [
      'large',
      {},
      {
        ranges: {
          v4: Array.from({ length: 256 }, (_, i) => `1.${i}.0.0/24`),
          v6: ['2400:cb00::/32'],
        },
      },
      '256 rules of iptables are asked one after another',
    ],
    ['shared', { v4: printed('shared-set.save') }, {}, 'no longer refreshed'],
  ] as [string, Situation, Partial<Desired>, string][])(
    '%s',
    async (_, situation, changes, text) => {
      expect((await wantOn(situation, changes)).notices).toContain(text);
    },
  );

  it('is nothing on an ordinary host with a firewall', async () => {
    const v4 = printed('policy-drop.save');
    expect((await wantOn({ v4 })).notices).toBe('');
  });

  it('does not trouble lockdown with what only matters for allow', async () => {
    const { notices } = await wantOn({ v4: printed('docker.save') }, { mode: 'lockdown' });
    expect(notices).toBe('');
  });

  it('does not say of one firewall that it drops nothing when only the other family is open', async () => {
    const { notices } = await wantOn({ v6: printed('policy-drop.save') });
    expect(notices).not.toContain('changes nothing today');
  });

  it('names a chain of nftables that drops the ports', async () => {
    const listing = (name: string): string =>
      readFileSync(join(import.meta.dirname, '..', '..', 'fixtures', 'nftables', name), 'utf8');
    const { notices } = await wantOn({
      answers: {
        'nft -j -t list tables': listing('policy-drop.json'),
        'nft -j -t list table inet filter': listing('policy-drop.json'),
      },
    });
    expect(notices).toContain('chain inet filter input of nftables drops the ports');
    expect(notices).toContain('--nft-chain inet/filter/input');
  });
});

describe('the other variant', () => {
  const legacy = (save: string): Situation => ({
    answers: { 'iptables-legacy-save': save },
    files: { '/proc/net/ip_tables_names': 'filter\n' },
  });

  it('is refused where it drops the ports', async () => {
    await expect(wantOn(legacy(printed('policy-drop-legacy.save')))).rejects.toThrow(
      /tables of iptables-legacy drop the ports \(policy of INPUT\).*nothing was changed/,
    );
  });

  it('is refused where it has our chains', async () => {
    await expect(wantOn(legacy(printed('ours.save')))).rejects.toThrow('update-alternatives');
  });

  it('is named where it has rules, and not where it is empty', async () => {
    expect(
      (await wantOn(legacy(printed('open-port.save').replace('DROP', 'ACCEPT')))).notices,
    ).toContain('there are also rules of iptables-legacy');
    expect((await wantOn(legacy(printed('empty-legacy.save')))).notices).not.toContain('legacy');
  });
});

describe('lockdown', () => {
  it("leaves lo and Docker's bridges alone, and no other bridge", async () => {
    const { owned } = await wantOn({ folders: bridge }, { mode: 'lockdown' });
    const raw = owned.tables.find((t) => t.family === 'v6' && t.name === 'raw')!;
    expect(raw.chains[0]!.rules.filter((r) => r.endsWith('RETURN'))).toEqual([
      '-i lo -j RETURN',
      '-i br-0123456789ab -j RETURN',
      '-i docker0 -j RETURN',
    ]);
  });

  it('opens before it closes', async () => {
    const { steps } = await wantOn({ v4: printed('policy-drop.save') }, { mode: 'lockdown' });
    const { stdin } = steps[0]!.command;
    expect(stdin!.indexOf('*filter')).toBeLessThan(stdin!.indexOf('*raw'));
  });
});

describe('adopt', () => {
  const known = parseRanges([...bundled.v4, ...bundled.v6, '104.16.0.0/12', '199.27.128.0/21']);
  const sets = ['cloudflare', 'mixed', 'exceptions'];
  const ipsets = Object.fromEntries(
    sets.map((name) => [`ipset save ${name}`, printed(`${name}.ipset`)]),
  );

  async function adoptOn(situation: Situation, changes: Partial<Desired> = {}) {
    const options = iptables.options({});
    const host = hostWith({ ...situation, answers: { ...ipsets, ...situation.answers } });
    const now = await iptables.observe(host, options);
    const observed = iptables.adopt!(now, desired(changes), known);
    const { owned, notices } = iptables.want(desired(changes), options, observed.around);
    const steps = iptables.plan(owned, observed) as readonly RunStep[];
    return { now, observed, owned, notices: notices.map((n) => n.text).join('\n'), steps };
  }

  it('finds what lets Cloudflare in on the ports, or on all of them', async () => {
    const { observed } = await adoptOn({ v4: printed('leftovers.save') });
    const every = 'they reach every other port as well';
    const found = observed.owned.strays!.map((s) => [s.text, ...(s.beyond ? [s.beyond] : [])]);
    expect(found).toEqual([
      ['iptables -A INPUT -s 173.245.48.0/20 -j ACCEPT', every],
      ['iptables -A INPUT -s 104.16.0.0/12 -p tcp -m tcp --dport 443 -j ACCEPT'],
      ['iptables -A INPUT -s 104.16.0.0/12 -p tcp -m tcp --dport 443 -j ACCEPT'],
      [
        String.raw`iptables -A INPUT -s 104.16.0.0/12 -p tcp -m multiport --dports 80,443 -m comment --comment "\"Cloudflare\" -j DROP" -j ACCEPT`,
      ],
      [
        'iptables -A INPUT -s 199.27.128.0/21 -p tcp -m state --state NEW,ESTABLISHED -m tcp --dport 80 -j ACCEPT',
      ],
      [
        'iptables -A INPUT -s 103.21.244.0/22 -p tcp -m conntrack --ctstate NEW -j ACCEPT',
        'they reach every other TCP port as well',
      ],
      [
        'iptables -A INPUT -p tcp -m set --match-set cloudflare src -m multiport --dports 80,443 -j ACCEPT',
      ],
      ['iptables -A CLOUDFLARE -s 103.22.200.0/22 -j ACCEPT'],
      ['iptables -A CLOUDFLARE -s 103.31.4.0/22 -p tcp -m tcp --dport 443 -j ACCEPT'],
      ['iptables -A PANEL -s 103.31.4.0/22 -p tcp -m tcp --dport 443 -j ACCEPT'],
    ]);
    expect(observed.owned.strays!.map((s) => s.prefixes)[6]).toEqual([
      '104.16.0.0/12',
      '141.101.64.0/18',
      '173.245.48.0/20',
    ]);
  });

  it('knows other ports by the ports that are wanted', async () => {
    const situation = { v4: printed('leftovers.save') };
    const { observed, notices } = await adoptOn(situation, { udpPorts: [443] });
    const texts = (all: typeof observed): string => all.owned.strays!.map((s) => s.text).join('\n');
    expect(texts(observed)).toContain('-p udp -m udp --dport 443');
    expect(texts(observed)).toContain('-p udp -j ACCEPT');
    expect(notices).toContain('--dports 80,443,8443');
    const more = await adoptOn(situation, { tcpPorts: [80, 443, 2087, 8443] });
    expect(texts(more.observed)).toContain('--dports 80,443,8443');
    expect(texts(more.observed)).toContain('-A PANEL -s 103.22.200.0/22 -j ACCEPT');
    const range = Array.from({ length: 364 }, (_, i) => 80 + i);
    expect(texts(iptables.adopt!(more.now, desired({ tcpPorts: range }), known))).toContain(
      '--dport 80:443',
    );
  });

  it("says what stays: rules for other ports, a set that nobody uses, and the script's own files", async () => {
    const { notices } = await adoptOn({ v4: printed('leftovers.save') });
    expect(notices).toMatch(
      /open other ports stay as they are \(iptables -A INPUT .*--dports 80,443,8443 -j ACCEPT; .*; and 3 more\)/,
    );
    expect(notices).toContain('brings them back');
    expect(notices).toContain(
      'serves something else as well stays as it is (iptables -A INPUT -p tcp -m set --match-set mixed src -m tcp --dport 443 -j ACCEPT)',
    );
    // A rule that drops asks the set `cloudflare` as well.
    expect(notices).not.toContain('ipset destroy');
    const alone = printed('leftovers.save').replaceAll(/.*(! --match-set| dst ).*\n/g, '');
    expect((await adoptOn({ v4: alone })).notices).toContain('ipset destroy cloudflare');
  });

  it('leaves alone what UFW, CSF and firewalld wrote', async () => {
    for (const chain of ['ufw-user-input', 'LOCALINPUT', 'INPUT_ZONES']) {
      const v4 = printed('leftovers.save').replaceAll('PANEL', chain);
      const { observed } = await adoptOn({ v4 });
      expect(new Set(observed.owned.strays!.map((s) => s.chain))).toEqual(new Set(['INPUT']));
    }
  });

  it('is not fooled by names that every object has', async () => {
    const v4 = printed('leftovers.save').replaceAll('--match-set mixed', '--match-set constructor');
    const answers = { 'ipset save constructor': { code: 1, stdout: '', stderr: '' } };
    const { observed } = await adoptOn({ v4, answers });
    expect(observed.owned.strays).toHaveLength(10);
  });

  it('takes nothing of our own chains for theirs', async () => {
    const v4 = `*filter\n:INPUT DROP [0:0]\n:CFSYNC - [0:0]\n-A INPUT ${jump}\n-A CFSYNC -s 173.245.48.0/20 -j ACCEPT\nCOMMIT\n`;
    const { observed } = await adoptOn({ v4 });
    expect(observed.owned.strays).toEqual([]);
  });

  it('counts none of it where nobody asks', async () => {
    const { owned, observed, steps } = await wantOn({
      v4: printed('leftovers.save'),
      answers: ipsets,
    });
    expect([owned.strays, observed.owned.strays]).toEqual([undefined, undefined]);
    expect(steps[0]!.command.stdin).not.toContain('-D ');
  });

  it('takes all of it away in the transaction that brings ours', async () => {
    const { steps } = await adoptOn({ v4: printed('leftovers.save') });
    expect(steps.map((step) => step.summary)).toEqual([
      'iptables: iptables-restore',
      'iptables: ip6tables-restore',
    ]);
    golden('iptables/adopt.v4', steps[0]!.command.stdin!);
    // A set of the admin's is there, so the check may ask for it.
    expect(steps[0]!.check!.stdin).toContain('--match-set cloudflare src');
  });

  /** The chains of table filter as they are after a restore, in the syntax of iptables-save. */
  function restored(save: string, stdin: string): string {
    const [table] = parseSave(save, 'iptables-save');
    const chains = new Map(table!.chains.map(({ name }) => [name, [] as string[]]));
    for (const { chain, text } of table!.rules) chains.get(chain)!.push(text);
    for (const line of stdin.split('\n')) {
      const [, option, chain = '', rest = ''] = /^(-[ADICFX]|:)\s*(\S+)\s?(.*)/.exec(line) ?? [];
      const list = chains.get(chain) ?? [];
      const [, number = '1', rule = rest] = /^(\d+) (.*)/.exec(rest) ?? [];
      if (option === ':' || option === '-F') chains.set(chain, []);
      else if (option === '-X') chains.delete(chain);
      else if (option === '-A') list.push(rest);
      else if (option === '-I' && Number(number) <= list.length + 1)
        list.splice(Number(number) - 1, 0, rule);
      else if (option !== undefined) {
        const at = list.indexOf(rest);
        if (at < 0) throw new Error(`iptables-restore would refuse ${line}`);
        if (option === '-D') list.splice(at, 1);
      }
    }
    const policy = (name: string): string =>
      table!.chains.find((c) => c.name === name)?.policy ?? '-';
    const names = [...chains.keys()].sort();
    return [
      '*filter',
      ...names.map((name) => `:${name} ${policy(name)} [0:0]`),
      ...names.flatMap((name) => chains.get(name)!.map((rule) => `-A ${name} ${rule}`)),
      'COMMIT\n',
    ].join('\n');
  }

  const stdinOf = (steps: readonly unknown[]): string =>
    (steps as readonly RunStep[]).find((s) => s.command.argv[0] === 'iptables-restore')?.command
      .stdin ?? '';

  const rule = fc.constantFrom(
    ...['173.245.48.0/20', '104.16.0.0/12', '192.0.2.0/24'].map(
      (s) => `-s ${s} -p tcp -m tcp --dport 443 -j ACCEPT`,
    ),
    '-s 173.245.48.0/20 -j ACCEPT',
    '-s 192.0.2.0/24 -j DROP',
    '-i lo -j ACCEPT',
    '-p tcp -m tcp --dport 443 -j SCRIPT',
    jump,
    '-j REJECT --reject-with icmp-port-unreachable',
  );
  const layout = fc.record({
    input: fc.array(rule, { maxLength: 9 }),
    script: fc.array(
      rule.filter((r) => !r.includes(' SCRIPT') && r !== jump),
      { maxLength: 4 },
    ),
    policy: fc.constantFrom('ACCEPT', 'DROP'),
  });
  const saved = ({
    input,
    script,
    policy,
  }: {
    input: string[];
    script: string[];
    policy: string;
  }): string =>
    restored(
      `*filter\n:INPUT ${policy} [0:0]\n:CFSYNC - [0:0]\n:SCRIPT - [0:0]\nCOMMIT\n`,
      [...input.map((r) => `-A INPUT ${r}`), ...script.map((r) => `-A SCRIPT ${r}`)].join('\n'),
    );

  it('settles at once, and its way back leads to every rule of theirs in its place', async () => {
    await fc.assert(
      fc.asyncProperty(layout, async (chains) => {
        const before = saved(chains);
        const first = await adoptOn({ v4: before });
        const after = restored(before, stdinOf(first.steps));
        const second = await adoptOn({ v4: after });
        expect(second.observed.owned.strays).toEqual([]);
        expect(stdinOf(second.steps)).toBe('');
        const back = stdinOf(iptables.plan(first.observed.owned, second.observed));
        const lines = restored(after, back).split('\n');
        const [now, then] = [lines, before.split('\n')].map((all) => ({
          others: all.filter((line) => line !== `-A INPUT ${jump}`),
          jump: all.indexOf(`-A INPUT ${jump}`),
        }));
        expect(now!.others).toEqual(then!.others);
        // The way back never moves the jump down, past what may be a drop of the admin's.
        expect(now!.jump).toBeLessThanOrEqual(then!.jump);
        expect(now!.jump < 0).toBe(then!.jump < 0);
      }),
      { numRuns: 500 },
    );
  });

  it('goes back on a host that has changed since, and leaves the change alone', async () => {
    const rules = (save: string): string[] => save.match(/^-A (INPUT|SCRIPT) .*/gm) ?? [];
    await fc.assert(
      fc.asyncProperty(layout, fc.nat(), rule, fc.boolean(), async (chains, at, another, adds) => {
        const before = saved(chains);
        const first = await adoptOn({ v4: before });
        const adopted = restored(before, stdinOf(first.steps)).split('\n');
        const theirs = [...adopted.keys()].filter((i) =>
          /^-A (INPUT|SCRIPT) (?!.*cfsync)/.test(adopted[i]!),
        );
        if (theirs.length === 0) return;
        const index = theirs[at % theirs.length]!;
        const chain = adopted[index]!.split(' ')[1]!;
        const fits = chain === 'INPUT' || !another.includes(' SCRIPT');
        adopted.splice(index, adds ? 0 : 1, ...(adds && fits ? [`-A ${chain} ${another}`] : []));
        const changed = adopted.join('\n');
        const second = await adoptOn({ v4: changed });
        const after = restored(
          changed,
          stdinOf(iptables.plan(first.observed.owned, second.observed)),
        );

        const third = await adoptOn({ v4: after });
        expect(stdinOf(iptables.plan(first.observed.owned, third.observed))).toBe('');
        const strays = first.observed.owned.strays!.map((s) => `-A ${s.chain} ${s.rule}`);
        const others = (save: string): string[] =>
          rules(save).filter((r) => !strays.includes(r) && !r.includes('cfsync'));
        expect(others(after)).toEqual(others(changed));
        for (const stray of strays)
          expect(rules(after).filter((r) => r === stray)).toHaveLength(
            rules(before).filter((r) => r === stray).length,
          );
      }),
      { numRuns: 500 },
    );
  });

  it('goes back to the top where the rule below is gone: no drop comes first there', async () => {
    const chains = {
      input: ['-i lo -j ACCEPT', '-s 173.245.48.0/20 -j ACCEPT', '-s 192.0.2.0/24 -j DROP'],
      script: [],
      policy: 'DROP',
    };
    const first = await adoptOn({ v4: saved(chains) });
    const changed = saved({ ...chains, input: ['-i lo -j ACCEPT', '-j DROP'] });
    const { now } = await adoptOn({ v4: changed });
    const back = restored(changed, stdinOf(iptables.plan(first.observed.owned, now)));
    expect(back.match(/^-A INPUT .*/gm)?.[0]).toBe('-A INPUT -s 173.245.48.0/20 -j ACCEPT');
  });

  it('puts nothing back into a chain that is gone', async () => {
    const script = {
      input: ['-j SCRIPT'],
      script: ['-s 173.245.48.0/20 -j ACCEPT'],
      policy: 'DROP',
    };
    const first = await adoptOn({ v4: saved(script) });
    expect(first.observed.owned.strays).toHaveLength(1);
    const { now } = await adoptOn({ v4: '*filter\n:INPUT DROP [0:0]\nCOMMIT\n' });
    expect(stdinOf(iptables.plan(first.observed.owned, now))).not.toContain('SCRIPT');
  });

  it('moves a jump among rules that stay', async () => {
    const stray = '-s 173.245.48.0/20 -j ACCEPT';
    const right = saved({
      input: [stray, '-i lo -j ACCEPT', jump, '-j DROP'],
      script: [],
      policy: 'DROP',
    });
    const wrong = saved({
      input: [stray, '-i lo -j ACCEPT', '-j DROP', jump],
      script: [],
      policy: 'DROP',
    });
    const before = await adoptOn({ v4: right });
    const after = await adoptOn({ v4: wrong });
    const back = stdinOf(iptables.plan(before.observed.owned, after.observed));
    expect(restored(wrong, back)).toBe(right);
  });

  it('leaves what is as it was alone, wherever our jump stands among it', async () => {
    await fc.assert(
      fc.asyncProperty(layout, async (chains) => {
        const { observed } = await adoptOn({ v4: saved(chains) });
        expect(stdinOf(iptables.plan(observed.owned, observed))).toBe('');
      }),
      { numRuns: 300 },
    );
  });

  it('puts nothing back that is there, whether it is looked for or not', async () => {
    const { now, observed } = await adoptOn({ v4: printed('leftovers.save') });
    expect(iptables.plan(observed.owned, observed)).toEqual([]);
    expect(stdinOf(iptables.plan(observed.owned, now))).toBe('');
  });
});
