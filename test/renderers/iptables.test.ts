import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import iptables, { type IptOwned } from '../../renderers/iptables.ts';
import { parseSave, wordsOf } from '../../src/iptables/save.ts';
import type { Desired, RunStep } from '../../src/renderer.ts';
import { desired } from '../helpers/desired.ts';
import { golden } from '../helpers/golden.ts';
import { recorded } from '../helpers/host.ts';

/** What iptables 1.8.9 and ipset 7.17 printed; see test/fixtures/iptables/README.md. */
function printed(name: string): string {
  return readFileSync(join(import.meta.dirname, '..', 'fixtures', 'iptables', name), 'utf8');
}

interface Situation {
  readonly v4?: string;
  readonly v6?: string;
  readonly variant?: 'nf_tables' | 'legacy';
  /** Answers of other programs. */
  readonly answers?: Readonly<Record<string, string>>;
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
    const { rules } = parseSave(printed('drop-through-jump.save'))[0]!;
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

  it('refuses a writer and a reader of different variants', async () => {
    const answers = { 'ip6tables-save --version': 'ip6tables-save v1.8.9 (legacy)\n' };
    await expect(wantOn({ answers })).rejects.toThrow('of different variants');
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
    // The set does not exist yet when --test is asked.
    expect(to.steps[1]!.check!.stdin).not.toContain('match-set');
    expect(to.steps[1]!.check!.argv).toContain('--test');
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
      readFileSync(join(import.meta.dirname, '..', 'fixtures', 'nftables', name), 'utf8');
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
