/** What `init` writes: the configuration and the timer, as texts. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { exit } from '../../src/errors.ts';
import { none } from '../../src/prefix.ts';
import { starterText } from '../../src/setup/starter.ts';
import { composeTimer, cronText, serviceText } from '../../src/setup/timer.ts';
import { recorded } from '../helpers/host.ts';
import { runProgram } from '../helpers/program.ts';
import { violations } from '../helpers/schema.ts';

const root = join(import.meta.dirname, '..', '..');
const example = (name: string): string => readFileSync(join(root, 'examples', name), 'utf8');
const schema = JSON.parse(readFileSync(join(root, 'docs', 'config.schema.json'), 'utf8')) as object;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-init-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('the configuration', () => {
  const choices = [
    { name: 'nftables', why: 'firewalld runs', options: { chain: 'none' } },
    { name: 'fail2ban', why: 'its server answers' },
    { name: 'nginx', why: 'it runs' },
  ];

  it('is one that config check and the schema take, also with its examples', async () => {
    const text = starterText(choices, new Map([['fail2ban', 'its socket is gone']]), [
      'ufw is in use as well: UFW is enabled',
    ]);
    expect(parse(text)).toEqual({
      mode: 'allow',
      ports: [80, 443],
      backends: { nftables: { chain: 'none' }, nginx: null },
    });
    expect(text).toContain('left out for now: its socket is gone\n  # fail2ban:\n');
    // Everything that is commented out and looks like a setting must be right as well.
    const open = text.replaceAll(/^# (?=(extra|probe|on-\w+|metrics):| {2,}(?!cfsync ))/gm, '');
    expect(Object.keys(parse(open) as object).sort()).toEqual([
      'backends',
      'extra',
      'metrics',
      'mode',
      'on-change',
      'on-failure',
      'ports',
      'probe',
    ]);
    for (const one of [text, open, starterText([], new Map(), [])]) {
      expect(violations(parse(one), schema as Readonly<Record<string, unknown>>)).toEqual([]);
      expect(one).not.toMatch(/.{101}/);
      const file = join(folder, 'config.yaml');
      writeFileSync(file, one);
      const check = await runProgram(['config', 'check', '--config', file], {
        cwd: folder,
        env: { CFSYNC_STATE_DIR: folder },
      });
      expect(check).toMatchObject({ code: exit.ok, stderr: '' });
    }
  });
});

describe('the configuration of what was applied', () => {
  const base = { ranges: none, extra: none, tcpPorts: [80, 443], udpPorts: [] } as const;
  const locked = {
    ...base,
    extra: { v4: ['198.51.100.0/24'], v6: ['2001:db8::/32'] },
    tcpPorts: [80, 8443],
    udpPorts: [443],
    mode: 'lockdown',
  } as const;

  it('has its mode, ports, own prefixes and options, and where a second filter differs', () => {
    const text = starterText(
      [
        {
          name: 'nftables',
          why: 'applied',
          desired: locked,
          options: { chain: 'none', trusted: ['wg0'] },
        },
        {
          name: 'ufw',
          why: 'applied',
          desired: { ...base, mode: 'allow', extra: { v4: ['203.0.113.7/32'], v6: [] } },
        },
        { name: 'nginx', why: 'it runs' },
      ],
      new Map(),
      [],
    );
    expect(parse(text)).toEqual({
      mode: 'lockdown',
      ports: [80, 8443],
      'udp-ports': [443],
      extra: ['198.51.100.0/24', '203.0.113.7/32', '2001:db8::/32'],
      backends: {
        nftables: { chain: 'none', trusted: ['wg0'] },
        ufw: { mode: 'allow', ports: [80, 443], 'udp-ports': [] },
        nginx: null,
      },
    });
    expect(violations(parse(text), schema as Readonly<Record<string, unknown>>)).toEqual([]);
  });
});

describe('the timer', () => {
  const program = ['/usr/bin/node', '/usr/lib/node_modules/cfsync/dist/src/bin.js'];

  it('is the example, with the way to this program', () => {
    const service = example('systemd/cfsync.service');
    const text = serviceText(service, program, []);
    const line = 'ExecStart="/usr/bin/node" "/usr/lib/node_modules/cfsync/dist/src/bin.js" apply';
    expect(text).toContain(`\n${line} --lock-timeout 120\n`);
    expect(text.replace(line, 'ExecStart=/usr/bin/cfsync apply')).toBe(service);
  });

  it('sees what the example hides, where it needs it', () => {
    const service = example('systemd/cfsync.service');
    expect(serviceText(service, ['/root/.nvm/node', '/opt/cfsync'], [])).toContain(
      '\nProtectHome=read-only\nPrivateTmp=yes\n',
    );
    const named = serviceText(service, program, ['--config', '/tmp/50 %/cfsync.yaml']);
    expect(named).toContain('\nProtectHome=yes\nPrivateTmp=no\n');
    expect(named).toContain(' apply --lock-timeout 120 "--config" "/tmp/50 %%/cfsync.yaml"\n');
    expect(named).not.toContain('/etc/cfsync/config.yaml');
  });

  it('is a line for cron, where the shell and cron take words as they are', () => {
    const text = cronText(example('cron/cfsync'), program, ['--config', "/srv/o'clock 5%.yaml"]);
    expect(text).toContain(
      `  root  ${program.join(' ')} apply --config '/srv/o'\\''clock 5\\%.yaml'\n`,
    );
    expect(cronText(example('cron/cfsync'), ['cfsync'], [])).toBe(example('cron/cfsync'));
  });

  it('is refused where a path would begin a line of its own', () => {
    const config = '/srv/x\nExecStartPre=/tmp/y.yaml';
    const why = /^\/srv\/x\\u000aExecStartPre=.*: a line break .* nothing was changed$/;
    expect(() =>
      serviceText(example('systemd/cfsync.service'), program, ['--config', config]),
    ).toThrow(why);
    expect(() => cronText(example('cron/cfsync'), program, ['--config', config])).toThrow(why);
  });

  it.each([
    [['/run/systemd/system', '/etc/systemd/system', '/etc/cron.d'], 'cfsync.timer', 2],
    [['/etc/systemd/system', '/etc/cron.d'], 'cfsync.timer', 1],
    [['/etc/cron.d'], '/etc/cron.d/cfsync', 0],
  ])('where there is %j', async (folders, path, commands) => {
    const host = recorded({ folders: Object.fromEntries(folders.map((name) => [name, []])) });
    const timer = (await composeTimer(host, program, undefined))!;
    expect(timer.files.at(-1)!.path).toContain(path);
    expect(timer.commands).toHaveLength(commands);
  });

  it('is none where there is neither systemd nor cron', async () => {
    expect(await composeTimer(recorded({}), program, undefined)).toBeUndefined();
  });
});
