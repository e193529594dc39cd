import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import ufw from '../../../renderers/ufw/index.ts';
import { BackendError } from '../../../src/errors.ts';
import { merge } from '../../../src/prefix.ts';
import type { Desired, FileStep, RunStep, Step } from '../../../src/renderer.ts';
import { block, edit, parseRules } from '../../../renderers/ufw/rules.ts';
import { recordedUfw, sections, type Case } from '../../fixtures/ufw/hosts.ts';
import { bundled, desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { recorded } from '../../helpers/host.ts';

const rules = '/etc/ufw/user.rules';
const rules6 = '/etc/ufw/user6.rules';
const settings = '/etc/default/ufw';

/** The four prefixes that the captured hosts have rules for. */
const four = {
  v4: ['173.245.48.0/20', '198.41.128.0/17'],
  v6: ['2400:cb00::/32', '2606:4700::/32'],
};

const observe = (name: Case, changes: Record<string, string> = {}) =>
  ufw.observe(recorded(recordedUfw(name, changes)), null);

async function wantOn(
  name: Case,
  changes: Partial<Desired> = {},
  files: Record<string, string> = {},
) {
  const observed = await observe(name, files);
  const { owned, notices } = ufw.want(desired({ ranges: four, ...changes }), null, observed.around);
  return {
    owned,
    observed,
    notices: notices.map((n) => `${n.level}: ${n.text}`),
    steps: ufw.plan(owned, observed),
  };
}

/** What a refusal says, on all of its lines. */
async function refusal(name: Case, changes: Partial<Desired>, files: Record<string, string> = {}) {
  try {
    await wantOn(name, changes, files);
  } catch (error) {
    const { message, detail } = error as { message: string; detail: string[] };
    return [message, ...detail];
  }
  throw new Error('nothing was refused');
}

const inChain = (text: string): string[] => text.match(/^-A ufw-user-input .*$/gm) ?? [];

/** The rules of a chain after what `iptables-restore -n` is given. */
function carriedOut(script: string, rules: readonly string[]): readonly string[] {
  const list = [...rules];
  for (const [, kind, chain, number, words] of script.matchAll(/^-([ID]) (\S+) (\d* ?)(.*)$/gm)) {
    const line = `-A ${chain} ${words}`;
    if (kind === 'I') {
      list.splice(Number(number) - 1, 0, line);
      continue;
    }
    const at = list.indexOf(line);
    if (at < 0) throw new Error(`there is no ${line}`);
    list.splice(at, 1);
  }
  return list;
}

describe('render', () => {
  const cases: [string, Partial<Desired>][] = [
    ['allow', {}],
    ['lockdown', { mode: 'lockdown' }],
    ['one-port-udp', { tcpPorts: [443], udpPorts: [443, 8443] }],
    ['extra', { extra: { v4: ['10.1.2.3/32', '9.0.0.0/8'], v6: ['fd00::1/128'] } }],
    ['v6-only', { ranges: { v4: [], v6: four.v6 } }],
    ['fifteen-ports', { ranges: four, tcpPorts: Array.from({ length: 15 }, (_, i) => 1001 + i) }],
  ];
  it.each(cases)('%s', (name, changes) => {
    for (const _ of ['once', 'again']) {
      const artifacts = ufw.print(ufw.want(desired(changes), null).owned);
      golden(`ufw/${name}.txt`, artifacts.map((a) => `== ${a.path}\n${a.content}`).join(''));
    }
  });

  it('prints nothing for a host that cfsync never touched', () => {
    expect(ufw.print(ufw.nothing)).toEqual([]);
  });
});

describe('options and limits', () => {
  it('has no options', () => {
    expect(() => ufw.options({ chain: 'x' })).toThrow('ufw: unknown key chain');
    expect(ufw.options({})).toBe(null);
  });

  it.each(['tcpPorts', 'udpPorts'])('refuses more than 15 %s', (key) => {
    const ports = Array.from({ length: 16 }, (_, i) => 1001 + i);
    expect(() => ufw.want(desired({ [key]: ports }), null)).toThrow('a ufw rule takes 15');
  });

  it('holds the lock that ufw itself takes', () => {
    expect(ufw.locks!(null)).toEqual([{ kind: 'fcntl', path: '/run/ufw.lock' }]);
  });
});

describe('the plan', () => {
  it('writes both files and then loads both, each checked with what it writes', async () => {
    const { steps } = await wantOn('admin');
    expect(steps.map((s) => s.summary)).toEqual([
      "ufw: write /etc/ufw/user.rules: 2 rules of cfsync's",
      "ufw: write /etc/ufw/user6.rules: 2 rules of cfsync's",
      'ufw: load the change of /etc/ufw/user.rules',
      'ufw: load the change of /etc/ufw/user6.rules',
    ]);
    const [file, , load] = steps as [FileStep, FileStep, RunStep];
    expect(file.check!.argv).toEqual(['iptables-restore', '-w', '10', '-n', '--test']);
    expect(load.command.argv).toEqual(['iptables-restore', '-w', '10', '-n']);
    expect(file.check!.stdin).toBe(file.content);
    expect(load.command.stdin).toBe(`*filter
-I ufw-user-input 1 -p tcp -m multiport --dports 80,443 -s 173.245.48.0/20 -j ACCEPT
-I ufw-user-input 2 -p tcp -m multiport --dports 80,443 -s 198.41.128.0/17 -j ACCEPT
COMMIT
`);
  });

  it('takes the kernel where the file goes, and touches no rule of the admin', async () => {
    const admin = parseRules(sections('admin')[rules]!, rules);
    const kernel = sections('admin')['iptables -w 10 -S']!;
    const theirs = inChain(kernel);
    const prefixes = bundled.v4.slice(0, 8);
    const blocks = fc
      .record({ some: fc.subarray(prefixes), ports: fc.constantFrom('80,443', '443') })
      .map(({ some, ports }) => some.map((prefix) => block('v4', 'tcp', ports, prefix)));
    let moved = 0;
    await fc.assert(
      fc.asyncProperty(blocks, blocks, fc.nat(8), async (now, then, at) => {
        const text = edit(admin, now, at);
        const left = [...theirs];
        // As the kernel prints them: ours as they are, each of the admin's in its turn.
        const live = inChain(text).map((line) =>
          now.join('').includes(line) ? line : left.shift()!,
        );
        const listing = kernel.split('\n').filter((line) => !theirs.includes(line));
        listing.splice(listing.length - 1, 0, ...live);
        const observed = await observe('admin', {
          [rules]: text,
          'iptables -w 10 -S': listing.join('\n'),
        });
        const wanted = { ...observed.owned, v4: { at, blocks: then, loaded: true } };
        const steps = ufw.plan(wanted, observed);
        if (steps.length === 0) return;
        const [file, load] = steps as readonly [FileStep, RunStep];
        expect(carriedOut(load.command.stdin!, inChain(text))).toEqual(inChain(file.content!));
        const words = load.command.stdin!.match(/-[ID] .*$/gm)!;
        expect(words.every((line) => / -s [\d./]+ -j ACCEPT$/.test(line))).toBe(true);
        moved++;
      }),
      { numRuns: 300 },
    );
    expect(moved).toBeGreaterThan(200);
  });

  it.each<[what: string, kernel: (text: string) => string, file?: (text: string) => string]>([
    [
      'lacks a rule of the file',
      (kernel) => kernel.replace(/-A ufw-user-input -p tcp -m tcp --dport 22 .*\n/, ''),
    ],
    [
      'has a rule more',
      (kernel) =>
        kernel.replace(/(?=-A ufw-user-input )/, '-A ufw-user-input -s 192.0.2.8/32 -j DROP\n'),
    ],
    [
      'bans somebody else',
      (kernel) => kernel.replace('-s 192.0.2.7/32 -j DROP', '-s 192.0.2.8/32 -j DROP'),
    ],
    [
      'accepts for another address',
      (kernel) => kernel.replace('-d 192.0.2.1/32', '-d 192.0.2.2/32'),
    ],
    ['has another limit', (kernel) => kernel.replace('--name DEFAULT', '--name mine')],
    [
      'has rules of ours that log',
      (kernel) => kernel,
      (file) =>
        file.replace(
          '### RULES ###\n',
          '### RULES ###\n\n### tuple ### allow_log tcp 80 0.0.0.0/0 any 173.245.48.0/20 in comment=636673796e63\n-A ufw-user-logging-input -p tcp --dport 80 -s 173.245.48.0/20 -j LOG\n',
        ),
    ],
  ])('loads the whole file where the kernel %s', async (_, kernel, file = (text) => text) => {
    const [text, listing] = [sections('admin')[rules]!, sections('admin')['iptables -w 10 -S']!];
    expect([kernel(listing), file(text)]).not.toEqual([listing, text]);
    const { steps } = await wantOn(
      'admin',
      {},
      { [rules]: file(text), 'iptables -w 10 -S': kernel(listing) },
    );
    const [write, , load] = steps as [FileStep, FileStep, RunStep];
    expect(load.command.stdin).toBe(write.content);
  });

  it('loads the whole file where no rule of it differs', async () => {
    const file = sections('ours')[rules]!.replace('173.245.48.0/20 in', '173.245.48.0/20 - - in');
    const { steps } = await wantOn('ours', {}, { [rules]: file });
    const [write, load] = steps as [FileStep, RunStep];
    expect(write.content).toBe(sections('ours')[rules]);
    expect(load.command.stdin).toBe(write.content);
  });

  it('loads the whole file where rules of ours have to come before others', async () => {
    const wall = '-A ufw-user-input -p tcp --dport 443 -j DROP\n';
    const text = sections('ours')[rules]!.replace(
      '### RULES ###\n',
      `### RULES ###\n\n### tuple ### deny tcp 443 0.0.0.0/0 any 0.0.0.0/0 in\n${wall}`,
    );
    const kernel = sections('ours')['iptables -w 10 -S']!.replace(/(?=-A ufw-user-input )/, wall);
    const more = { ranges: { ...four, v4: ['1.1.1.0/24', ...four.v4] } };
    const { steps } = await wantOn('ours', more, { [rules]: text, 'iptables -w 10 -S': kernel });
    const [write, load] = steps as [FileStep, RunStep];
    expect(write.content!.indexOf(wall)).toBeGreaterThan(write.content!.indexOf('198.41.128.0/17'));
    expect(load.command.stdin).toBe(write.content);
  });

  it('loads the whole file where more than 1000 rules come and go', async () => {
    const many = (count: number) => ({
      ranges: {
        v4: Array.from({ length: count }, (_, i) => `100.${64 + (i >> 7)}.${(i % 128) * 2}.0/24`),
        v6: [],
      },
    });
    for (const [count, whole] of [
      [1000, false],
      [1001, true],
    ] as const) {
      const [write, load] = (await wantOn('admin', many(count))).steps as [FileStep, RunStep];
      expect(load.command.stdin === write.content).toBe(whole);
    }
  });

  it('comes to the bytes that ufw prepend wrote', async () => {
    const { steps } = await wantOn('admin');
    const texts = (steps as FileStep[]).slice(0, 2).map((s) => s.content);
    const theirs = sections('ours');
    expect(texts).toEqual([theirs[rules], theirs[rules6]]);
  });

  it('has nothing to do on what ufw wrote, and takes exactly that away again', async () => {
    const { steps, observed } = await wantOn('ours');
    expect(steps).toEqual([]);
    const removal = ufw.plan(ufw.nothing, observed) as FileStep[];
    const theirs = sections('admin');
    expect(removal.slice(0, 2).map((s) => s.content)).toEqual([theirs[rules], theirs[rules6]]);
  });

  it('loads where the kernel lacks what the files have, and writes nothing', async () => {
    const { steps, observed } = await wantOn('ours-not-loaded');
    expect(steps.map((s) => s.summary)).toEqual([
      'ufw: load /etc/ufw/user.rules',
      'ufw: load /etc/ufw/user6.rules',
    ]);
    expect(ufw.print(observed.owned)[0]!.content).toContain(
      "# The kernel's chain ufw-user-input differs from these rules.",
    );
  });

  it('loads nothing where UFW is inactive or its chains are missing, and says so', async () => {
    for (const [name, said] of [
      ['inactive', 'note: UFW is inactive'],
      ['no-chains', 'warning: UFW is enabled, but its IPv4 rules are not in force'],
    ] as const) {
      const { steps, notices } = await wantOn(name);
      expect(steps.map((s) => s.kind)).toEqual(['file', 'file']);
      expect(notices[0]).toContain(said);
    }
  });

  it.each([
    ['a rule is missing', (s: string) => s.replace(/-A ufw-user-input -s 173.*\n/, '')],
    [
      'a range is left over',
      (s: string) =>
        s.replace(
          /(?=-A ufw-user-input -s 173)/,
          '-A ufw-user-input -s 203.0.113.0/24 -p tcp -m multiport --dports 80,443 -j ACCEPT\n',
        ),
    ],
    [
      'a drop stands first',
      (s: string) => s.replace(/(?=-A ufw-user-input -s 173)/, '-A ufw-user-input -j DROP\n'),
    ],
    ['a rule drops', (s: string) => s.replace(/(-s 198.*) -j ACCEPT/, '$1 -j DROP')],
    ['a rule has another condition', (s: string) => s.replace(/(-s 198\S+)/, '$1 -i eth1')],
    ['a rule is for one address', (s: string) => s.replace(/(-s 198\S+)/, '$1 -d 192.0.2.1/32')],
    [
      'a rule is for some source ports',
      (s: string) => s.replace(/(-s 198.*) -j/, '$1 -m multiport --sports 1:1023 -j'),
    ],
  ])('sees in the kernel that %s', async (_, change) => {
    const kernel = sections('ours')['iptables -w 10 -S']!;
    const { observed } = await wantOn('ours', {}, { 'iptables -w 10 -S': change(kernel) });
    expect(change(kernel)).not.toBe(kernel);
    expect([observed.owned.v4.loaded, observed.owned.v6.loaded]).toEqual([false, true]);
  });

  it('takes rules of the admin for what they are, in the file and in the kernel', async () => {
    const { owned } = await observe('admin');
    expect(owned).toMatchObject({ v4: { blocks: [], loaded: true }, v6: { loaded: true } });
  });

  it('goes back to the recorded state on the file as it is then', async () => {
    const before = (await observe('ours')).owned;
    const { steps } = await wantOn('ours', { tcpPorts: [443] });
    const changed = (steps[0] as FileStep).content!;
    const later = changed.replace(
      '\n### END RULES',
      '\n### tuple ### allow tcp 8080 0.0.0.0/0 any 0.0.0.0/0 in\n-A ufw-user-input -p tcp --dport 8080 -j ACCEPT\n\n### END RULES',
    );
    const back = ufw.plan(before, await observe('ours', { [rules]: later }));
    const text = (back[0] as FileStep).content!;
    expect(text).toContain('--dport 8080');
    expect(text.replace(/\n### tuple ### allow tcp 8080.*\n.*\n/, '')).toBe(
      sections('ours')[rules],
    );
  });

  it('leaves rules where they stand, whatever the admin put before them or deleted', async () => {
    const before = (await observe('ours')).owned;
    for (const at of [before.v4.at + 1, Math.max(before.v4.at - 1, 0)]) {
      const then = { ...before, v4: { ...before.v4, at } };
      expect(ufw.plan(then, await observe('ours'))).toEqual([]);
    }
    // Ours went, and the admin closed the port in the meantime: not below that.
    const wall =
      '\n### tuple ### deny tcp 443 0.0.0.0/0 any 0.0.0.0/0 in\n-A ufw-user-input -p tcp --dport 443 -j DROP\n';
    const closed = sections('admin')[rules]!.replace('### RULES ###\n', `### RULES ###\n${wall}`);
    const [step] = ufw.plan(
      { ...before, v4: { ...before.v4, at: 2 } },
      await observe('admin', { [rules]: closed }),
    ) as readonly FileStep[];
    const text = step!.content!;
    expect(text.indexOf('comment=636673796e63')).toBeLessThan(text.indexOf('deny tcp 443'));
  });
});

describe('where our rules stand', () => {
  const blocks = (name: Case) => observe(name).then(({ owned }) => owned.v4.blocks);
  const order = (text: string) =>
    [...text.matchAll(/^### tuple ### (\S+) \S+ \S+ \S+ any (\S+)/gm)].map(
      (m) => `${m[1]} ${m[2]}`,
    );
  const tuple = (words: string, rule: string) =>
    `\n### tuple ### ${words}\n-A ufw-user-input ${rule}\n`;
  const ban = tuple('deny any any 0.0.0.0/0 any 198.41.128.7 in', '-s 198.41.128.7 -j DROP');
  const wall = tuple('deny tcp 443 0.0.0.0/0 any 0.0.0.0/0 in', '-p tcp --dport 443 -j DROP');
  const head = (text: string, first: string) =>
    text.replace('### RULES ###\n', `### RULES ###\n${first}`);

  it('right below the line RULES, where nothing speaks against it', async () => {
    const { steps } = await wantOn('admin');
    expect(order((steps[0] as FileStep).content!).slice(0, 3)).toEqual([
      'allow 173.245.48.0/20',
      'allow 198.41.128.0/17',
      'allow 0.0.0.0/0',
    ]);
  });

  it('behind bans and before what would make them worthless', async () => {
    const { steps } = await wantOn('denied');
    expect(order((steps[0] as FileStep).content!)).toEqual([
      'deny 173.245.48.10',
      'allow 173.245.48.0/20',
      'allow 198.41.128.0/17',
      'allow 0.0.0.0/0',
      'reject 0.0.0.0/0',
      'deny 192.0.2.9',
    ]);
  });

  it('where they are, when the admin put other rules before or between them', async () => {
    const text = sections('ours')[rules]!;
    const between = text.replace(/(?=\n### tuple ### allow tcp 80,443 \S+ any 198)/, ban);
    for (const now of [head(text, ban), between]) {
      const { steps } = await wantOn('ours', {}, { [rules]: now });
      expect(steps).toEqual([]);
      const more = { v4: [...four.v4, '203.0.113.0/24'], v6: four.v6 };
      const next = (await wantOn('ours', { ranges: more }, { [rules]: now })).steps[0] as FileStep;
      expect(next.content!.replace(/\n### tuple ### \S+ \S+ \S+ \S+ any 203.*\n.*\n/, '')).toBe(
        now,
      );
      // Bans stay in front of what they are about.
      const seen = order(next.content!);
      expect(seen.indexOf('deny 198.41.128.7')).toBeLessThan(seen.indexOf('allow 198.41.128.0/17'));
    }
  });

  it('above a new rule that would make them worthless', async () => {
    const text = sections('ours')[rules]!;
    const { steps } = await wantOn('ours', {}, { [rules]: head(text, ban + wall) });
    expect((steps[0] as FileStep).content).toBe(
      text
        .replace('### RULES ###\n', `### RULES ###\n${ban}`)
        .replace(/(\n### tuple ### allow tcp 80,443 \S+ any 198.*\n.*\n)/, `$1${wall}`),
    );
  });

  it('above a rule that shuts one of our prefixes out as a whole', async () => {
    const text = sections('ours')[rules]!;
    const deny = tuple('deny any any 0.0.0.0/0 any 198.0.0.0/8 in', '-s 198.0.0.0/8 -j DROP');
    const { steps } = await wantOn('ours', {}, { [rules]: head(text, deny) });
    expect(order((steps[0] as FileStep).content!).slice(0, 3)).toEqual([
      'allow 173.245.48.0/20',
      'allow 198.41.128.0/17',
      'deny 198.0.0.0/8',
    ]);
  });

  it('in the shipped file, which has no END RULES, and out of it again', async () => {
    const shipped = sections('inactive')[rules]!;
    expect(shipped).not.toContain('END RULES');
    const { steps } = await wantOn('inactive');
    const text = (steps[0] as FileStep).content!;
    expect(edit(parseRules(text, rules), [])).toBe(shipped);
    expect(edit(parseRules(text, rules), await blocks('ours'))).toBe(text);
  });
});

describe('what is refused', () => {
  it('rules of the admin with the identity of ours, by name', async () => {
    expect(await refusal('clash', {})).toEqual([
      'ufw: 2 rules without the comment cfsync have the ports and the source of one of ours, and ufw takes the two for one; nothing was changed; cfsync adopt takes over those that allow, or run what stands below, then cfsync again',
      "ufw allow from 173.245.48.0/20 to any port 80,443 proto tcp: make it cfsync's with: ufw allow from 173.245.48.0/20 to any port 80,443 proto tcp comment 'cfsync'",
      'ufw deny from 2400:cb00::/32 to any port 80,443 proto tcp: delete it with: ufw delete deny from 2400:cb00::/32 to any port 80,443 proto tcp',
    ]);
    // Other ports are another rule.
    expect((await wantOn('clash', { tcpPorts: [443] })).steps).toHaveLength(4);
  });

  it('lockdown while rules let others in, each with its command', async () => {
    expect(await refusal('open', { mode: 'lockdown' })).toEqual([
      expect.stringContaining('11 rules of UFW let others than Cloudflare in; nothing was changed'),
      'delete it with: ufw delete allow 443',
      "delete it with: ufw delete allow 'WWW Full'",
      'delete it with: ufw delete limit 80/tcp',
      'delete it with: ufw delete allow in on eth0 to any port 443 proto tcp',
      'delete it with: ufw delete allow from 198.51.100.0/24',
      'delete it with: ufw delete allow 443/udp',
    ]);
  });

  it('no interface without a default route, and no source that is named as extra', async () => {
    const extra = { v4: ['198.51.100.0/24'], v6: [] };
    const lines = await refusal('open', { mode: 'lockdown', extra }, { '/proc/net/route': '' });
    expect(lines.join('\n')).not.toMatch(/eth0|198\.51/);
    expect((await wantOn('denied', { mode: 'lockdown' })).notices).toEqual([]);
  });

  it.each([
    ['inactive', {}, 'UFW is inactive, everybody gets in'],
    [
      'enabled',
      { [settings]: sections('enabled')[settings]!.replace('"DROP"', '"ACCEPT"') },
      'run ufw default deny incoming',
    ],
    [
      'enabled',
      { 'ip6tables -w 10 -S': '-P INPUT ACCEPT\n' },
      "the kernel's policy for incoming IPv6 is ACCEPT",
    ],
    [
      'enabled',
      {
        'iptables -w 10 -S': `${sections('enabled')['iptables -w 10 -S']}-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT\n`,
      },
      'iptables -A INPUT -p tcp -m tcp --dport 443 -j ACCEPT',
    ],
  ] as const)('lockdown on a host that is open otherwise (%s, %#)', async (name, files, said) => {
    expect((await refusal(name, { mode: 'lockdown' }, files)).join('\n')).toContain(said);
  });

  it.each([
    ['### RULES ###\n', '', 'it lacks *filter, ### RULES ### or COMMIT'],
    ['COMMIT\n', '', 'it lacks'],
    ['*filter\n', '*filter\n### tuple ### allow any any any any any in\n', 'above the line'],
    ['### RULES ###\n', '### RULES ###\n\n### tuple ### allow tcp\n', 'ufw skips this line'],
    ['tcp 22 0.0.0.0/0 any 0.0.0.0/0 in', 'tcp 22 0.0.0.0/0 any 0.0.0.0/0 up', 'ufw skips'],
  ])('a file that ufw did not write so (%#)', async (from, to, said) => {
    const text = sections('admin')[rules]!;
    expect(text).toContain(from);
    const attempt = observe('admin', { [rules]: text.replace(from, to) });
    await expect(attempt).rejects.toMatchObject({
      reason: 'misconfigured',
      message: expect.stringContaining(said),
    });
  });
});

describe('adopt', () => {
  /** As if they had been published before: the first was replaced, the others are what `four` lacks. */
  const known = merge(bundled, { v4: ['104.16.0.0/12', '199.27.128.0/21'], v6: [] });

  async function adopted(
    name: Case,
    changes: Partial<Desired> = {},
    files: Record<string, string> = {},
  ) {
    const goal = desired({ ranges: four, ...changes });
    const seen = await observe(name, files);
    const observed = ufw.adopt!(seen, goal, known);
    const { owned, notices } = ufw.want(goal, null, observed.around);
    const steps = ufw.plan(owned, observed);
    return { seen, observed, before: observed.owned, owned, notices, steps };
  }
  const texts = (steps: readonly Step[]): Record<string, string> =>
    Object.fromEntries(steps.flatMap((s) => (s.kind === 'file' ? [[s.path, s.content!]] : [])));
  const rulesOf = (text: string): string => /### RULES ###\n[^]*?### END RULES ###/.exec(text)![0];
  const tuples = (text: string): string[] => text.match(/^### tuple ###.*$/gm) ?? [];

  it.each([
    ['adopted', {}],
    ['adopted-udp', { udpPorts: [443] }],
    ['adopted-one-port', { tcpPorts: [443] }],
    ['adopted-more-ports', { tcpPorts: [80, 443, 8443] }],
  ] as const)('what scripts left (%s)', async (golden_, changes) => {
    const { before, notices, steps } = await adopted('leftovers', changes);
    const lines = [
      ...before.strays!.map(
        ({ text, prefixes, beyond }) =>
          `${text} (${prefixes.join()})${beyond === undefined ? '' : `: ends ${beyond}`}`,
      ),
      ...notices.map((n) => `${n.level}: ${n.text}`),
      ...steps.map((s) => `step: ${s.summary}`),
      ...Object.values(texts(steps)).map(rulesOf),
    ];
    golden(`ufw/${golden_}.txt`, `${lines.join('\n')}\n`);
  });

  it('leaves all other rules as they are, in their order', async () => {
    const { steps, before } = await adopted('leftovers');
    for (const [path, text] of Object.entries(texts(steps))) {
      const gone = before.strays!.map(({ part }) => part.trimStart().split('\n')[0]);
      expect(gone.length).toBeGreaterThan(0);
      expect(tuples(text).filter((line) => !line.endsWith('comment=636673796e63'))).toEqual(
        tuples(sections('leftovers')[path]!).filter((line) => !gone.includes(line)),
      );
    }
  });

  it('keeps ours where theirs stood: a ban that held goes on to hold, one that did not does not begin', async () => {
    const ranges = { v4: ['104.16.0.0/13', '104.24.0.0/14', '173.245.48.0/20'], v6: [] };
    const order = (text: string): string[] =>
      tuples(text)
        .map((line) => line.split(' '))
        .filter((words) => /^(104|173)/.test(words[8]!))
        .map((words) => `${words[3]} ${words[8]}`);
    const { steps } = await adopted('leftovers', { ranges });
    expect(order(texts(steps)[rules]!)).toEqual([
      'allow 173.245.48.0/20',
      'allow 104.16.0.0/13',
      'allow 104.24.0.0/14',
      'deny 104.16.0.7',
    ]);
    const ban =
      '\n### tuple ### deny any any 0.0.0.0/0 any 104.24.0.9 in\n-A ufw-user-input -s 104.24.0.9 -j DROP\n';
    const banned = sections('leftovers')[rules]!.replace(
      /(?=\n### tuple ### allow tcp 80,443 \S+ any 104)/,
      ban,
    );
    const later = await adopted('leftovers', { ranges }, { [rules]: banned });
    expect(order(texts(later.steps)[rules]!)).toEqual([
      'allow 173.245.48.0/20',
      'deny 104.24.0.9',
      'allow 104.16.0.0/13',
      'allow 104.24.0.0/14',
      'deny 104.16.0.7',
    ]);
  });

  it('has nothing left to do on what it wrote', async () => {
    const { steps, owned } = await adopted('leftovers');
    const then = await adopted('leftovers', {}, texts(steps));
    expect(then.before.strays).toBeUndefined();
    expect(then.owned).toEqual(owned);
    expect(then.steps.map((s) => s.summary)).toEqual([
      // The captured kernel has the old rules.
      'ufw: load /etc/ufw/user.rules',
      'ufw: load /etc/ufw/user6.rules',
    ]);
  });

  it('goes back to the same bytes, from every step', async () => {
    const { steps, before } = await adopted('leftovers');
    const written = texts(steps);
    for (const paths of [[rules, rules6], [rules], []]) {
      const files = Object.fromEntries(paths.map((path) => [path, written[path]!]));
      for (const observed of [
        (await adopted('leftovers', {}, files)).observed,
        await observe('leftovers', files),
      ]) {
        const back = ufw.plan(before, observed);
        const old = sections('leftovers');
        expect(texts(back)).toEqual(Object.fromEntries(paths.map((path) => [path, old[path]])));
        expect(back.filter((s) => s.kind === 'run')).toHaveLength(paths.length);
      }
    }
  });

  it('leaves every state alone that can be recorded', async () => {
    const cases: readonly Case[] = [
      ...(['inactive', 'enabled', 'admin', 'ours', 'ours-not-loaded', 'open'] as const),
      ...(['denied', 'clash', 'leftovers', 'no-ipv6', 'no-chains'] as const),
    ];
    for (const name of cases) {
      const seen = await observe(name);
      for (const look of [seen, ufw.adopt!(seen, desired({ ranges: four }), known)])
        expect(ufw.plan(look.owned, look), name).toEqual([]);
    }
  });

  it('goes back to ours and theirs, where both stood', async () => {
    const [, theirs] = /### RULES ###\n([^]*?)\n### END RULES ###/.exec(
      sections('leftovers')[rules]!,
    )!;
    const mixed = sections('ours')[rules]!.replace(
      /(?=\n### tuple ### allow tcp 80,443 \S+ any 198)/,
      theirs!,
    );
    const files = { [rules]: mixed };
    const { steps, before } = await adopted('ours', { tcpPorts: [443] }, files);
    const back = ufw.plan(before, await observe('ours', texts(steps)));
    // Ours come back together; theirs find their places among them.
    const together = await adopted('ours', { tcpPorts: [443] }, texts(back));
    expect(together.before.strays).toHaveLength(before.strays!.length);
    expect(together.before.v4.blocks).toEqual(before.v4.blocks);
    expect(ufw.plan(before, together.observed).filter((s) => s.kind === 'file')).toEqual([]);
    const same = await adopted('ours', {}, files);
    const again = ufw.plan(same.before, await observe('ours', texts(same.steps)));
    expect(texts(again)[rules]).toBe(mixed);
  });

  it('finds the place of ours again, which theirs stood before, like ours', async () => {
    const plain = sections('ours')[rules]!;
    const theirs = plain
      .match(/\n### tuple ### .* comment=636673796e63\n.*\n/g)!
      .map((part) => part.replace(' comment=636673796e63', ''));
    const text = plain.replace('### RULES ###\n', `### RULES ###\n${theirs.join('')}`);
    const { steps, before } = await adopted(
      'ours',
      { tcpPorts: [443, 80, 8443] },
      { [rules]: text },
    );
    expect(before.strays).toHaveLength(2);
    const back = ufw.plan(before, await observe('ours', texts(steps)));
    expect(texts(back)[rules]).toBe(text);
    const nothing = ufw.plan(before, await observe('ours', { [rules]: text }));
    expect(nothing.filter((s) => s.kind === 'file')).toEqual([]);
  });

  it('keeps what the admin did meanwhile, also to a rule of theirs', async () => {
    const { steps, before } = await adopted('leftovers');
    const tuple = (words: string, rule: string): string =>
      `\n### tuple ### ${words}\n-A ufw-user-input ${rule}\n`;
    const first = tuple('deny any any 0.0.0.0/0 any 203.0.113.9 in', '-s 203.0.113.9 -j DROP');
    const deny = tuple(
      'deny any any 0.0.0.0/0 any 198.41.128.0/17 in',
      '-s 198.41.128.0/17 -j DROP',
    );
    const text = texts(steps)[rules]!;
    const later = text
      .replace('### RULES ###\n', `### RULES ###\n${first}`)
      .replace(/\n### tuple ### allow tcp 25 .*\n.*\n/, '')
      .replace('\n### END RULES', `${deny}\n### END RULES`);
    const back = ufw.plan(before, await observe('leftovers', { [rules]: later }));
    const old = sections('leftovers')[rules]!;
    expect(texts(back)[rules]).toBe(
      old
        .replace('### RULES ###\n', `### RULES ###\n${first}`)
        .replace(/\n### tuple ### allow tcp 25 .*\n.*\n/, '')
        .replace(/\n### tuple ### allow any any \S+ any 198.*\n.*\n/, '')
        .replace('\n### END RULES', `${deny}\n### END RULES`),
    );
  });

  it('leaves rules for Cloudflare that came later, when it goes back', async () => {
    const { steps, before } = await adopted('leftovers');
    const later =
      '\n### tuple ### allow tcp 443 0.0.0.0/0 any 103.21.244.0/22 in\n-A ufw-user-input -p tcp --dport 443 -s 103.21.244.0/22 -j ACCEPT\n';
    const text = texts(steps)[rules]!.replace('\n### END RULES', `${later}\n### END RULES`);
    const { observed } = await adopted('leftovers', {}, { [rules]: text });
    expect(observed.owned.strays).toHaveLength(
      1 + before.strays!.filter(({ family }) => family === 'v6').length,
    );
    expect(texts(ufw.plan(before, observed))[rules]).toBe(
      sections('leftovers')[rules]!.replace('\n### END RULES', `${later}\n### END RULES`),
    );
  });

  it('takes the identity of ours over, and refuses a deny with it all the same', async () => {
    const { before } = await adopted('clash', { ranges: { v4: four.v4, v6: [] } });
    expect(before.strays!.map((s) => s.text)).toEqual([
      'ufw allow from 173.245.48.0/20 to any port 80,443 proto tcp',
    ]);
    await expect(adopted('clash')).rejects.toThrow('1 rule without the comment cfsync has');
  });

  it('goes on to lockdown, where stale ranges would have been openings', async () => {
    const strangers = /\n### tuple ### \S+ \S+ \S+ \S+ \S+ (131|198\.51).*\n(-A .*\n)+/g;
    const files = {
      [rules]: sections('leftovers')[rules]!.replaceAll(strangers, ''),
      'iptables -w 10 -S': sections('leftovers')['iptables -w 10 -S']!.replaceAll(
        /^-A ufw-user-input -s (131|198\.51).*\n/gm,
        '',
      ),
    };
    const lockdown = { mode: 'lockdown', ranges: bundled } as const;
    // Without ports: a rule that is not of the form of ours, in the file and in the kernel.
    files[rules] = files[rules].replace(
      '\n### END RULES',
      '\n### tuple ### allow any any 0.0.0.0/0 any 104.16.0.0/12 in\n-A ufw-user-input -s 104.16.0.0/12 -j ACCEPT\n\n### END RULES',
    );
    files['iptables -w 10 -S'] += '-A ufw-user-input -s 104.16.0.0/12 -j ACCEPT\n';
    const { steps } = await adopted('leftovers', lockdown, files);
    expect(steps).toHaveLength(4);
    expect(
      (
        await refusal(
          'leftovers',
          { mode: 'lockdown', ranges: { v4: ['198.41.128.0/17'], v6: [] } },
          files,
        )
      ).join('\n'),
    ).toContain('delete it with: ufw delete allow from 104.16.0.0/12 to any port 80,443 proto tcp');
    // A rule of the same form in another chain is somebody else's.
    const kernel = `${files['iptables -w 10 -S']}-A ufw-before-input -s 104.16.0.0/12 -j ACCEPT\n`;
    await expect(
      adopted('leftovers', lockdown, { ...files, 'iptables -w 10 -S': kernel }),
    ).rejects.toThrow('IPv4 rules in the kernel that are not in');
  });

  it('leaves user6.rules alone while UFW does', async () => {
    const off = sections('leftovers')[settings]!.replace('IPV6=yes', 'IPV6=no');
    const { before, steps } = await adopted('leftovers', {}, { [settings]: off });
    expect(before.strays!.filter(({ family }) => family === 'v6')).toEqual([]);
    expect(Object.keys(texts(steps))).toEqual([rules]);
  });

  it('says nothing and counts nothing where there is nothing', async () => {
    const { seen, observed, notices } = await adopted('admin');
    expect(observed.owned).toEqual(seen.owned);
    expect(notices).toEqual([]);
  });
});

describe('what is said', () => {
  it('that a wider rule makes allow pointless', async () => {
    const { notices } = await wantOn('open');
    expect(notices).toEqual([
      expect.stringContaining(
        "note: the ports are open to everybody (ufw allow 443, ufw allow 'WWW Full', ufw limit 80/tcp, ufw allow in on eth0 to any port 443 proto tcp)",
      ),
    ]);
  });

  it('that an open policy does', async () => {
    const open = sections('enabled')[settings]!.replace('"DROP"', '"ACCEPT"');
    const { notices } = await wantOn('enabled', {}, { [settings]: open });
    expect(notices).toEqual([expect.stringContaining('ufw default deny incoming closes')]);
  });

  it('that IPv6 is left out, and leaves user6.rules as it is', async () => {
    const { steps, notices } = await wantOn('no-ipv6');
    expect(notices).toEqual([expect.stringContaining('note: UFW leaves IPv6 alone')]);
    expect(steps.map((s) => s.summary).join('\n')).not.toContain('user6');

    const host = { ...recordedUfw('enabled'), folders: {} };
    const observed = await ufw.observe(recorded(host), null);
    const { owned, notices: more } = ufw.want(desired(), null, observed.around);
    expect(more.map((n) => n.text)).toEqual([expect.stringContaining('kernel has no IPv6')]);
    expect(
      ufw
        .plan(owned, observed)
        .map((s) => s.summary)
        .join('\n'),
    ).not.toContain('user6');
  });

  it('keeps rules of ours in user6.rules while IPv6 is off, and removes them all the same', async () => {
    const off = sections('ours')[settings]!.replace('IPV6=yes', 'IPV6=no');
    const { steps, observed } = await wantOn('ours', {}, { [settings]: off });
    expect(steps).toEqual([]);
    expect(ufw.plan(ufw.nothing, observed).map((s) => s.summary)).toEqual([
      expect.stringContaining('write /etc/ufw/user.rules'),
      expect.stringContaining('write /etc/ufw/user6.rules'),
      'ufw: load the change of /etc/ufw/user.rules',
    ]);
  });

  it.each(['allow', 'lockdown'] as const)('that Docker bypasses UFW (%s)', async (mode) => {
    const host = recordedUfw('enabled');
    const folders = {
      ...host.folders,
      '/sys/class/net': ['br-ex', 'docker0', 'eth0'],
      '/sys/class/net/docker0/bridge': [],
    };
    const { around } = await ufw.observe(recorded({ ...host, folders }), null);
    expect(ufw.want(desired({ mode }), null, around).notices).toEqual([
      {
        level: mode === 'lockdown' ? 'warning' : 'note',
        text: expect.stringContaining('Docker publishes (docker0) bypass UFW'),
      },
    ]);
  });

  it('that a long list is slow', async () => {
    const v4 = Array.from({ length: 1001 }, (_, i) => `10.${i >> 7}.${(i & 127) * 2}.0/24`);
    const { notices } = await wantOn('enabled', { ranges: { v4, v6: [] } });
    expect(notices).toEqual([expect.stringContaining('1,001 rules are walked one by one')]);
  });
});

describe('unusable', () => {
  const unusable = async (host: Parameters<typeof recorded>[0]) => {
    const error = await ufw.observe(recorded(host), null).then(
      () => undefined,
      (e: unknown) => e,
    );
    expect(error).toBeInstanceOf(BackendError);
    return (error as BackendError).reason;
  };

  it('tells why', async () => {
    const host = recordedUfw('enabled');
    const { [rules]: _, ...without } = host.files!;
    const answer = (code: number, stderr: string) => ({
      ...host,
      answers: { ...host.answers, 'iptables -w 10 -S': { code, stdout: '', stderr } },
    });
    expect(await unusable({})).toBe('not installed');
    expect(await unusable({ ...host, files: without })).toBe('misconfigured');
    // iptables 1.8.9 (nf_tables), as another user.
    const denied =
      'iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)';
    expect(await unusable(answer(4, denied))).toBe('no permission');
    expect(await unusable(answer(3, 'iptables who? (do you need to insmod?)'))).toBe('broken');
  });
});
