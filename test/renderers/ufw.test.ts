import { describe, expect, it } from 'vitest';
import ufw from '../../renderers/ufw.ts';
import { BackendError } from '../../src/errors.ts';
import { merge } from '../../src/prefix.ts';
import type { Desired, FileStep, RunStep, Step } from '../../src/renderer.ts';
import { edit, parseRules } from '../../src/ufw/rules.ts';
import { recordedUfw, sections, type Case } from '../fixtures/ufw/hosts.ts';
import { bundled, desired } from '../helpers/desired.ts';
import { golden } from '../helpers/golden.ts';
import { recorded } from '../helpers/host.ts';

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
      'ufw: load /etc/ufw/user.rules',
      'ufw: load /etc/ufw/user6.rules',
    ]);
    const [file, , load] = steps as [FileStep, FileStep, RunStep];
    expect(file.check!.argv).toEqual(['iptables-restore', '-w', '10', '-n', '--test']);
    expect(load.command.argv).toEqual(['iptables-restore', '-w', '10', '-n']);
    expect(file.check!.stdin).toBe(file.content);
    expect(load.command.stdin).toBe(file.content);
  });

  it('comes to the bytes that ufw prepend wrote', async () => {
    const { steps } = await wantOn('admin');
    const texts = (steps as FileStep[]).slice(0, 2).map((s) => s.content);
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
      'ufw: load /etc/ufw/user.rules',
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
