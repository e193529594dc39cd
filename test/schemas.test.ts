/** The published JSON Schemas: they take what the program writes and reads, and nothing else. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { exit } from '../src/errors.ts';
import { builtIn } from '../src/settings/load.ts';
import { published } from './helpers/feeds.ts';
import { optionsOf } from './helpers/options.ts';
import { listRenderer, runProgram } from './helpers/program.ts';
import { violations } from './helpers/schema.ts';

type Json = Readonly<Record<string, unknown>>;

const root = join(import.meta.dirname, '..');
const text = (...names: string[]): string => readFileSync(join(root, ...names), 'utf8');
const schema = (name: string): Json => JSON.parse(text('docs', `${name}.schema.json`)) as Json;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-schemas-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const write = (name: string, content: string): void => writeFileSync(join(folder, name), content);
const cfsync = (...args: string[]) =>
  runProgram(args, { cwd: folder, env: { CFSYNC_STATE_DIR: join(folder, 'state') } });

describe('diff --format json', () => {
  const report = async (...args: string[]): Promise<Json> => {
    const { code, stdout, stderr } = await cfsync('diff', '--format', 'json', ...args);
    expect(code, stderr).toBe(exit.ok);
    return JSON.parse(stdout) as Json;
  };

  async function reports(): Promise<readonly Json[]> {
    write('ips-v4', published.v4.replace('104.16.0.0/13\n104.24.0.0/14', '104.16.0.0/12'));
    write('ips-v6', published.v6);
    write('list.mjs', listRenderer);
    write('config.yaml', `backends: {lb: {renderer: ./list.mjs, path: ${folder}/list}}\n`);
    const files = ['--backend', 'nftables', '--dir', 'firewall'];
    const fresh = await report(...files, '--source', 'bundled');
    await cfsync('render', '--backend', 'nftables', '--source', '.', '--out', 'firewall');
    return [
      fresh,
      await report(...files, '--source', 'bundled'),
      await report(...files, '--source', '.'),
      await report('--config', 'config.yaml', '--source', 'bundled'),
    ];
  }

  it('is as the schema says, with and without changes, of files and of a system', async () => {
    const all = await reports();
    expect(all.map(({ changed }) => changed)).toEqual([true, true, false, true]);
    for (const one of all) expect(violations(one, schema('diff'))).toEqual([]);
  });

  it('is not so when something is missing, too much, or of another kind', async () => {
    const [, one] = await reports();
    const { files, ranges, ...rest } = one as { files: Json[]; ranges: Json };
    const broken: Json[] = [
      rest,
      { ...one, schema: 2 },
      { ...one, changed: 'yes' },
      { ...one, at: '2026-01-01' },
      { ...one, files: files.map(({ path }) => ({ path })) },
      { ...one, ranges: { ...ranges, added: ['1.2.3.0/24'] } },
      { ...one, coverage: { gained: ranges.added, lost: ranges.removed } },
    ];
    for (const value of broken) expect(violations(value, schema('diff'))).not.toEqual([]);
  });
});

describe('the configuration', () => {
  const check = async (content: string): Promise<number> => {
    write('config.yaml', content);
    return (await cfsync('config', 'check', '--config', 'config.yaml')).code;
  };

  const manual = /^\.Sh EXAMPLES\n\.Bd -literal\n([^]*?)\.Ed/m.exec(text('man', 'cfsync.yaml.5'));
  const right: Readonly<Record<string, string>> = {
    'the example for code review': text('examples', 'code-review', 'cfsync.yaml'),
    'the example of the manual': manual![1]!,
    nothing: '{}',
    'every setting': `
ports: 443
udp-ports: '443,8443'
mode: lockdown
source: bundled
ipv4-url: https://mirror.example/ips-v4
ipv6-url: https://mirror.example/ips-v6
api-url: http://127.0.0.1:8080/ips
state-dir: /var/lib/other
lock-timeout: 0
max-age: 7
metrics: /var/lib/node/cfsync.prom
extra: [192.0.2.7, {prefix: 10.0.0.0/8}, {prefix: fd00::/16, comment: VPN}]
probe: https://www.example.com/
judge: say
judge-ignore: [inet geoblock input]
on-change: [/usr/bin/true]
on-failure: [mail, root]
webhook: https://hooks.example/x
backends:
  csf: {reload: true, mode: allow, ports: [80], udp-ports: []}
  fail2ban:
  iptables: {set: true, trusted: wg0}
  nftables: {chain: inet/filter/input, file: sets, trusted: [wg0, wg1]}
  nginx: {header: X-Real-IP, path: /etc/nginx/conf.d/50-cfsync.conf}
  nginx-ingress:
    {flavour: f5, namespace: web, name: config, kubeconfig: /root/kube, context: a, helm: true, force-conflicts: true}
  ufw: {ports: 80}
`,
  };

  it.each(Object.entries(right))(
    'is right to the program and to the schema: %s',
    async (_, content) => {
      expect(violations(parse(content), schema('config'))).toEqual([]);
      expect(await check(content)).toBe(exit.ok);
    },
  );

  it.each([
    'mode: open',
    'prots: [443]',
    'ports: [0]',
    'ports: [https]',
    'lock-timeout: soon',
    'lock-timeout: -1',
    'ipv4-url: x',
    'extra: [1]',
    'extra: [{comment: x}]',
    'extra: [{prefix: 10.0.0.0/8, remark: x}]',
    'probe: []',
    'judge: maybe',
    'judge-ignore: [1]',
    'judge-ignore: {inet: filter}',
    'on-change: mail',
    'metrics: [a]',
    'webhook: 7',
    'backends: [ufw]',
    'backends: {ufw: {mode: open}}',
    'backends: {ufw: {set: true}}',
    'backends: {ufw: yes}',
    'backends: {nftables: {file: json}}',
    'backends: {iptables: {set: 1}}',
    'backends: {nginx-ingress: {flavour: f6}}',
  ])('is wrong to the program and to the schema: %s', async (content) => {
    expect(violations(parse(content), schema('config'))).not.toEqual([]);
    const backend = content.startsWith('backends') ? '' : '\nbackends: {ufw: }';
    expect(await check(content + backend)).toBe(exit.usage);
  });

  it.each(Object.keys(builtIn))('has the options that the backend reads: %s', async (name) => {
    const properties = (part: unknown): Json => (part as { properties: Json }).properties;
    const config = schema('config');
    const section = properties(properties(config).backends)[name] as Json | undefined;
    const { list } = config.$defs as { list: Json };
    const known = Object.keys(properties(section?.$ref === undefined ? section : list));
    const core = ['renderer', 'mode', 'ports', 'udp-ports'];
    expect(known.filter((key) => !core.includes(key)).sort()).toEqual(await optionsOf(name));
    expect(known).toEqual(expect.arrayContaining(core));
  });
});

it('a run report that is not one is refused', () => {
  const code = exit.ok;
  const time = '2026-01-01T00:00:00.000Z';
  const one = { schema: 1, command: 'apply', code, changed: false, started: time, ended: time };
  const report = { ...one, source: null, errors: [], backends: [], judged: null, held: false };
  expect(violations(report, schema('run'))).toEqual([]);
  for (const wrong of [
    one,
    { ...report, code: 6 },
    { ...report, started: '1.1.2026' },
    { ...report, backends: [{ name: 'ufw' }] },
    { ...report, source: 'feeds' },
    { ...report, more: 1 },
  ])
    expect(violations(wrong, schema('run'))).not.toEqual([]);
});
