/** What each command loads of the built program: a budget, so that a careless import is seen. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { exit } from '../src/errors.ts';
import { start, type FeedServer } from './helpers/feeds.ts';
import { listRenderer, runProgram } from './helpers/program.ts';

let folder: string;
let feeds: FeedServer;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-start-'));
  feeds = await start();
  writeFileSync(join(folder, 'list.mjs'), listRenderer);
  const section = `renderer: ./list.mjs, path: ${join(folder, 'list')}`;
  writeFileSync(join(folder, 'config.yaml'), `backends:\n  haproxy: { ${section} }\n`);
  await loaded('render --backend nftables --source bundled --out rendered');
  await loaded('apply --config config.yaml --source bundled');
});
afterAll(async () => {
  await feeds.close();
  rmSync(folder, { recursive: true });
});

/** The files that a command loads, by name, each once; packages are in files of their own. */
async function loaded(line: string): Promise<readonly string[]> {
  const list = join(folder, 'loaded');
  const { urls } = feeds;
  const words = line
    .replace('FEEDS', `--ipv4-url=${urls.ipv4} --ipv6-url=${urls.ipv6} --api-url=${urls.api}`)
    .split(' ');
  const { code, stderr } = await runProgram(words, {
    cwd: folder,
    env: {
      CFSYNC_STATE_DIR: join(folder, 'state'),
      CFSYNC_TEST_LOADED: list,
      NODE_OPTIONS: `--require "${join(import.meta.dirname, 'helpers', 'loaded.cjs')}"`,
      NODE_DEBUG: 'esm',
    },
  });
  expect(code, stderr).toBe(exit.ok);
  const modules = [...stderr.matchAll(/Storing file:\/\/(\S+)/g)].map(([, file]) => file!);
  const files = readFileSync(list, 'utf8').split('\n');
  return [...new Set([...files, ...modules].map((file) => basename(file)))].sort();
}

/**
 * How many files of the program each may load, and which of the large packages. Where it is more than ten, three are
 * to spare: what two commands share is bundled as a file of its own.
 */
const budgets: readonly (readonly [line: string, most: number, ...packages: string[]])[] = [
  ['--version', 1],
  ['--help', 4],
  ['apply --help', 4],
  ['completion bash', 11],
  ['doctor --list --only listening', 37],
  ['show --source bundled', 26],
  ['contains --source bundled 173.245.48.1', 26],
  ['backends', 42],
  ['config check --config config.yaml', 24, 'yaml'],
  ['render --backend nftables --source bundled --out rendered', 35],
  ['diff --backend nftables --source bundled --dir rendered', 45, 'diff'],
  ['apply --config config.yaml --source bundled', 43, 'diff', 'yaml'],
  ['apply --config config.yaml FEEDS', 46, 'diff', 'undici', 'yaml'],
  ['verify --config config.yaml', 32, 'diff', 'yaml'],
];

describe('start-up', () => {
  for (const [line, most, ...packages] of budgets)
    it(`${line} loads at most ${most} files`, async () => {
      const files = await loaded(line);
      const large = files.flatMap((file) => /^package-(.+)\.js$/.exec(file)?.[1] ?? []);
      expect(large).toEqual(packages);
      expect(files.length, files.join(' ')).toBeLessThanOrEqual(most);
    });

  it('of undici, the bundle has only what the download needs', () => {
    const file = join(import.meta.dirname, '..', 'dist', 'src', 'package-undici.js.map');
    const { sources } = JSON.parse(readFileSync(file, 'utf8')) as { readonly sources: string[] };
    const parts = sources.map((source) => source.replace(/^.*\/undici\//, ''));
    expect(parts).toEqual(expect.arrayContaining(['lib/api/index.js', 'lib/dispatcher/agent.js']));
    // The main file brings 110.
    expect(parts.length).toBeLessThanOrEqual(52);
    expect(parts.filter((part) => /^index|cache|mock|websocket|eventsource/.test(part))).toEqual(
      [],
    );
  });

  it('the bundle has a licence text of every package that is in it', () => {
    const dist = join(import.meta.dirname, '..', 'dist');
    const text = readFileSync(join(dist, 'LICENSES.txt'), 'utf8');
    const maps = readdirSync(join(dist, 'src')).filter((file) => file.endsWith('.map'));
    const sources = maps.map((file) => readFileSync(join(dist, 'src', file), 'utf8')).join('');
    const packages = new Set(
      [...sources.matchAll(/\/node_modules\/((?:@[^/"]+\/)?[^/"]+)\//g)].map(([, name]) => name!),
    );
    expect([...packages]).toEqual(expect.arrayContaining(['undici', 'yargs-parser', 'yaml']));
    const named = [...text.matchAll(/^(\S+) \d+\.\d+\.\d+$/gm)].map(([, name]) => name!);
    expect(named.sort()).toEqual([...packages].sort());
  });
});
