import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { readConfig } from '../../src/settings/config.ts';
import { exit } from '../../src/errors.ts';
import { builtIn, loadRenderer } from '../../src/settings/load.ts';
import { parsePorts } from '../../src/plugin/ports.ts';
import { parseProbe } from '../../src/settings/settings.ts';
import type { Renderer } from '../../src/renderer.ts';
import { effective, makeJobs, readSettings, sourceOptions } from '../../src/settings/settings.ts';
import {
  askedOrRefused,
  cases,
  damaged,
  damagedJson,
  expectLinear,
  pumps,
  readOrRefused,
  words,
} from '../helpers/hostile.ts';

let dir: string;
let file: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'cfsync-hostile-'));
  file = join(dir, 'config.yaml');
});
afterAll(async () => {
  await rm(dir, { recursive: true });
});

const text = `# cfsync
mode: lockdown
ports: [80, 443]
udp-ports: 443
source: bundled
ipv4-url: https://example.com/ips-v4
state-dir: /nowhere/cfsync
lock-timeout: 5
max-age: 10
probe: [curl, -sf, https://example.com/]
extra:
  - 192.0.2.7
  - {prefix: 2001:db8::/48, comment: the office}
backends:
  nftables:
    chain: inet/filter/input
    trusted: [wg0]
  iptables: { set: true, mode: allow }
  nginx: &nginx
    header: CF-Connecting-IP
  nginx-ingress:
    flavour: f5
    name: nginx.edge
  csf: { reload: true }
  ufw:
  fail2ban: {}
`;
const json = JSON.stringify({
  mode: 'lockdown',
  ports: [80, 443],
  'udp-ports': '443,8443',
  source: '/lists',
  'lock-timeout': 5,
  probe: 'https://example.com/',
  extra: ['192.0.2.7'],
  backends: {
    nftables: { chain: 'auto', trusted: ['wg0'], mode: 'allow', ports: 443, file: 'ruleset' },
    iptables: { set: false },
    nginx: { header: 'CF-Connecting-IP', path: '/etc/nginx/conf.d/cfsync.conf' },
    'nginx-ingress': { flavour: 'community', helm: false, kubeconfig: '/k', context: 'c' },
  },
});

const pieces = [
  '&a [*a, *a]',
  '*nginx',
  '<<: *nginx',
  '!!set {x}',
  '!!timestamp 2001-01-01',
  '!!binary aGk=',
  '!<tag:\u001b[2J>',
  '? [a, b]\n: c\n',
  '? {}\n: c\n',
  '{toString: 1, valueOf: 1}',
  '[[80]]',
  '.inf',
  '.nan',
  '0x50',
  '1e3',
  '~',
  '- ',
  ': ',
  '|\n  x',
  '%YAML 9.9\n---\n',
  '---\n',
  '"\\0"',
  'constructor: {}\n',
  '__proto__: {mode: allow}\n',
];
const values = [
  '{"toString":1,"valueOf":1}',
  '{"toString":null}',
  '"80,443"',
  '"lockdown"',
  '[[80]]',
];

/** Each line is nine times the one before. */
const laughs = words('b c d e f g h i j')
  .map((name, i) => `${name}: &${name} [${`*${'abcdefghi'[i]},`.repeat(9)}]\n`)
  .reduce((all, line) => all + line, 'a: &a [x]\n');

/** All that is made of a configuration before anything is asked or changed. */
async function everything(content: string): Promise<boolean> {
  await writeFile(file, content);
  const settings = await askedOrRefused(
    async () => readSettings({}, await readConfig(file)),
    exit.usage,
    exit.failed,
  );
  if (settings === undefined) return false;
  readOrRefused(() => sourceOptions(settings), exit.usage);
  const jobs = await askedOrRefused(() => makeJobs(settings), exit.usage, exit.failed);
  await askedOrRefused(() => effective(settings), exit.usage, exit.failed);
  for (const { desired } of jobs ?? [])
    for (const port of [...desired.tcpPorts, ...desired.udpPorts])
      expect(Number.isInteger(port) && port >= 1 && port <= 65_535).toBe(true);
  expect(settings.lockTimeout).toBeLessThan(2 ** 31 / 1000);
  return jobs !== undefined;
}

describe('a configuration', () => {
  test('that was damaged is taken or refused, and nothing is said on the side', async () => {
    const warned = vi.spyOn(process, 'emitWarning');
    expect(await everything(text)).toBe(true);
    let taken = 0;
    const both = fc.oneof(damaged(text, pieces), damagedJson(json, values));
    await fc.assert(
      fc.asyncProperty(both, async (content) => {
        if (await everything(content)) taken++;
      }),
      cases(500),
    );
    expect(taken).toBeGreaterThan(50);
    expect(taken).toBeLessThan(400);
    expect(warned).not.toHaveBeenCalled();
  }, 120_000);

  test.each([
    ['deep lists', '['.repeat(50_000)],
    ['deep mappings', '{a: '.repeat(50_000)],
    ['deep indents', Array.from({ length: 3000 }, (_, i) => `${' '.repeat(i)}a:\n`).join('')],
    ['a billion laughs', laughs],
    ['an alias of itself', 'backends: &a {nftables: *a}'],
    ['options that go round', 'backends: {x: {renderer: ./x.js, a: &a [*a]}}'],
    ['a backend in another folder, by a name of our own', 'backends: {"a/b": {}}'],
    ['an unknown alias', 'mode: *x'],
    ['two documents', 'mode: allow\n---\nmode: lockdown\n'],
    ['a key twice', 'mode: allow\nmode: lockdown\n'],
    ['a list', '- mode\n'],
    ['a text', 'mode\n'],
    ['a set', '!!set {mode}'],
    ['a time', '!!timestamp 2001-01-01'],
    ['a key of every object', '__proto__: {mode: allow}'],
    ['another one', 'constructor: x'],
    ['a set of backends', 'backends: !!set {nftables}'],
    ['a backend of another folder', 'backends: {../../x: {renderer: ./x.js}}'],
    ['a backend with a NUL', 'backends: {"a\\0b": {renderer: ./x.js}}'],
    ['a time for a section', 'backends: {ufw: !!timestamp 2001-01-01}'],
  ])('with %s is refused', async (_, content) => {
    await writeFile(file, content);
    expect(await askedOrRefused(() => readConfig(file), exit.usage)).toBe(undefined);
  });

  test.each([
    'backends: {constructor: {}}',
    'backends: {nftables: {chain: {toString: 1, valueOf: 1}}}',
    'mode: {toString: 1, valueOf: 1}',
    'mode: "\\e[2J"',
    'ports: {toString: 1, valueOf: 1}',
    'ports: [{toString: 1, valueOf: 1}]',
    'ipv4-url: {toString: 1, valueOf: 1}',
    'lock-timeout: 1e300',
    'lock-timeout: 3000000',
    'lock-timeout: .nan',
  ])('with the setting %s is refused', async (line) => {
    const more = line.startsWith('backends') ? '' : 'backends: {nftables: {}}\n';
    await writeFile(file, `${line}\n${more}`);
    const read = async () => {
      const settings = await readSettings({}, await readConfig(file));
      sourceOptions(settings);
      return makeJobs(settings);
    };
    expect(await askedOrRefused(read, exit.usage)).toBe(undefined);
  });

  test.each(['? [a, b]\n: c\n', '? {a: b}\n: c\n', 'mode: !<tag:\u001b[2J> allow\n'])(
    'leads to nothing that Node says by itself: %j',
    async (content) => {
      const warned = vi.spyOn(process, 'emitWarning');
      await writeFile(file, content);
      await askedOrRefused(() => readConfig(file), exit.usage);
      expect(warned).not.toHaveBeenCalled();
    },
  );

  test.each(pumps)(
    'of %j without end is read in time that grows with its length',
    async (piece) => {
      for (const start of ['', 'mode: "'])
        await expectLinear(
          async (size) => {
            await writeFile(file, start + piece.repeat(size));
            return askedOrRefused(() => readConfig(file), exit.usage);
          },
          `${start} ${piece}`,
          500,
        );
    },
  );
});

/** Values of any kind at the places where options are read. */
const odd = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    undefined,
    true,
    0,
    -1,
    1.5,
    NaN,
    Infinity,
    '',
    'x',
    '\u001b[2J',
    [],
    [[]],
    [null],
    {},
  ),
  fc.constantFrom<unknown>(
    { toString: 1, valueOf: 1 },
    Object.create(null),
    new Map(),
    new Date(NaN),
    10n ** 30n,
  ),
  fc.constantFrom<unknown>(
    'x'.repeat(3000),
    ['x\u0000'],
    ['eth0', 7],
    '80,443',
    [80, '443'],
    '/etc/nginx/../cfsync',
  ),
  fc.anything({ maxDepth: 2 }),
);

describe('options', () => {
  test.each(Object.keys(builtIn))('of %s are taken or refused', async (name) => {
    const renderer: Renderer = await loadRenderer(name, undefined, undefined);
    const keys =
      words(`chain trusted file set header path flavour namespace name kubeconfig context helm
      force-conflicts reload constructor __proto__ x`);
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...keys), odd, { maxKeys: 3 }), (raw) => {
        readOrRefused(() => renderer.options(raw), exit.usage);
      }),
      cases(1000),
    );
  });

  test('that are ports or a probe are taken or refused', () => {
    fc.assert(
      fc.property(odd, (value) => {
        for (const port of readOrRefused(() => parsePorts(value, 'ports'), exit.usage) ?? [])
          expect(Number.isInteger(port) && port >= 1 && port <= 65_535).toBe(true);
        readOrRefused(() => parseProbe(value), exit.usage);
      }),
      cases(2000),
    );
  });

  test('name backends that there are', async () => {
    for (const name of words('constructor __proto__ toString valueOf hasOwnProperty x'))
      expect(await askedOrRefused(() => loadRenderer(name, undefined, undefined), exit.usage)).toBe(
        undefined,
      );
  });
});
