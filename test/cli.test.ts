/** The built program, end to end, as an ordinary user would run it: feeds on loopback, no firewall. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exit } from '../src/errors.ts';
import { writeRecord } from '../src/state/store.ts';
import { play, published, start, type FeedServer } from './helpers/feeds.ts';
import { filterRenderer, listRenderer, runProgram, type Ended } from './helpers/program.ts';

const bin = join(import.meta.dirname, '..', 'dist', 'src', 'bin.js');

let folder: string;
let state: string;
let feeds: FeedServer;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-cli-'));
  state = join(folder, 'state');
  feeds = await start();
});

afterEach(async () => {
  await feeds.close();
  rmSync(folder, { recursive: true });
});

const cfsync = (args: readonly string[], env: Record<string, string> = {}): Promise<Ended> =>
  runProgram(args, { cwd: folder, env: { CFSYNC_STATE_DIR: state, ...env } });

/** The content of a plan in a file. */
interface Saved {
  readonly id: string;
  readonly backends: readonly { readonly name: string; readonly desired: object }[];
}

const urls = () => [
  `--ipv4-url=${feeds.urls.ipv4}`,
  `--ipv6-url=${feeds.urls.ipv6}`,
  `--api-url=${feeds.urls.api}`,
];

function breakAll(behaviour: Parameters<FeedServer['set']>[1]): void {
  for (const path of ['/ips-v4', '/ips-v6', '/client/v4/ips']) feeds.set(path, behaviour);
}

describe('fetch', () => {
  it('stores what the feeds say, shows it once, and is silent then', async () => {
    const first = await cfsync(['fetch', ...urls()]);
    expect(first).toMatchObject({ code: exit.ok, stderr: '' });
    expect(first.stdout.split('\n')).toContain('+ 104.16.0.0/13');
    expect(await cfsync(['fetch', ...urls()])).toEqual({ code: exit.ok, stdout: '', stderr: '' });
  });

  it('takes another order and a final newline for no change', async () => {
    await cfsync(['fetch', ...urls()]);
    const turned = published.v4.split('\n').reverse().join('\n');
    feeds.set('/ips-v4', play.list(`${turned}\n`));
    expect(await cfsync(['fetch', ...urls()])).toEqual({ code: exit.ok, stdout: '', stderr: '' });
  });

  it('says in addresses what is no longer covered', async () => {
    const old = published.v4.replace('104.16.0.0/13\n104.24.0.0/14', '104.16.0.0/12');
    feeds.set('/ips-v4', play.list(old));
    feeds.set('/client/v4/ips', play.json(old, published.v6));
    await cfsync(['fetch', ...urls()]);
    feeds.set('/ips-v4', play.list(published.v4));
    feeds.set('/client/v4/ips', play.json(published.v4, published.v6));
    const { stdout, stderr } = await cfsync(['fetch', '-v', ...urls()]);
    expect(stdout).toBe('- 104.28.0.0/14\n');
    expect(stderr).toContain('removed: 1 IPv4 prefix (262,144 addresses)');
  });

  it.each([
    ['homePage', exit.refused],
    ['challenge', exit.refused],
    ['empty', exit.refused],
    ['badGateway', exit.failed],
    ['errorPage', exit.failed],
    ['reset', exit.failed],
  ] as const)('keeps the snapshot when the feeds answer with %s', async (name, code) => {
    await cfsync(['fetch', ...urls()]);
    const before = readFileSync(join(state, 'snapshot.json'), 'utf8');
    breakAll(play[name]);
    const ended = await cfsync(['fetch', ...urls()]);
    expect(ended).toMatchObject({ code, stdout: '' });
    expect(ended.stderr).toContain('the last snapshot is used');
    expect(readFileSync(join(state, 'snapshot.json'), 'utf8')).toBe(before);
  });

  it('does not believe a list with one bad line', async () => {
    const bad = published.v4.replace('190.93.240.0/20', '190.93.240.1/20');
    breakAll(play.list(bad));
    const { code, stderr } = await cfsync(['fetch', ...urls()]);
    expect(code).toBe(exit.refused);
    expect(stderr).toContain('line 7');
    expect(stderr).toContain('190.93.240.1/20');
  });

  it('keeps a range that only one feed lost, and says when it will go', async () => {
    await cfsync(['fetch', ...urls()]);
    feeds.set('/ips-v4', play.list(published.v4.replace('190.93.240.0/20\n', '')));
    feeds.set('/client/v4/ips', play.badGateway);
    const { code, stdout, stderr } = await cfsync(['fetch', ...urls()]);
    expect({ code, stdout }).toEqual({ code: exit.ok, stdout: '' });
    expect(stderr).toContain('190.93.240.0/20, missing there, stays until');
  });

  it('moves a corrupt snapshot aside and says where', async () => {
    await cfsync(['fetch', ...urls()]);
    writeFileSync(join(state, 'snapshot.json'), '{"schema":1,');
    const { code, stderr } = await cfsync(['fetch', ...urls()]);
    expect(code).toBe(exit.ok);
    expect(stderr).toContain('snapshot.json is corrupt');
    expect(readdirSync(state)).toContain('snapshot.json.corrupt-1');
  });

  it('leaves a snapshot of a later release alone', async () => {
    await cfsync(['fetch', ...urls()]);
    const later = readFileSync(join(state, 'snapshot.json'), 'utf8').replace(
      '"schema": 1',
      '"schema": 9',
    );
    writeFileSync(join(state, 'snapshot.json'), later);
    const { code, stderr } = await cfsync(['fetch', ...urls()]);
    expect(code).toBe(exit.failed);
    expect(stderr).toContain('schema 9');
    expect(readFileSync(join(state, 'snapshot.json'), 'utf8')).toBe(later);
  });

  it('says when the state directory cannot be written', async () => {
    writeFileSync(state, 'not a folder');
    const { code, stderr } = await cfsync(['fetch', ...urls()]);
    expect(code).toBe(exit.failed);
    expect(stderr).toContain('file already exists; run as root, or name another state directory');
  });
});

describe('show and contains', () => {
  it('prints the ranges, one a line or as JSON', async () => {
    const { stdout } = await cfsync(['show', '--source', 'bundled']);
    expect(stdout.trim().split('\n')).toHaveLength(22);
    const json = await cfsync(['show', '--source', 'bundled', '--format', 'json']);
    expect(JSON.parse(json.stdout)).toMatchObject({ origin: { kind: 'bundled' } });
  });

  it('answers with its exit code', async () => {
    const ask = (...ips: string[]) => cfsync(['contains', '--source', 'bundled', ...ips]);
    expect(await ask('173.245.48.10', '2400:cb00::10')).toMatchObject({
      code: exit.ok,
      stdout: '173.245.48.10 yes 173.245.48.0/20\n2400:cb00::10 yes 2400:cb00::/32\n',
    });
    expect(await ask('173.245.48.10', '198.51.100.1')).toMatchObject({ code: exit.pending });
    expect(await ask('::ffff:173.245.48.10')).toMatchObject({ code: exit.ok });
    const bad = await ask('173.245.48.300');
    expect(bad.code).toBe(exit.usage);
    expect(bad.stderr).toContain('173.245.48.300');
  });
});

describe('render and diff --dir', () => {
  const render = (...more: string[]) =>
    cfsync(['render', '-b', 'nftables', '--source', 'bundled', ...more]);
  const diff = (...more: string[]) =>
    cfsync(['diff', '-b', 'nftables', '--dir', 'rules', '--exit-code', ...more]);

  it('writes the rules and the lists they came from, and then sees no difference', async () => {
    expect(await render('--out', 'rules')).toEqual({ code: exit.ok, stdout: '', stderr: '' });
    expect(readdirSync(join(folder, 'rules')).sort()).toEqual(['ips-v4', 'ips-v6', 'nftables']);
    expect(await diff('--source', 'rules')).toEqual({ code: exit.ok, stdout: '', stderr: '' });
    expect(await render('--source', 'rules')).toMatchObject({ code: exit.usage });
  });

  it('shows what a new list changes, in the syntax of the backend', async () => {
    await render('--out', 'rules');
    mkdirSync(join(folder, 'new'));
    writeFileSync(join(folder, 'new', 'ips-v4'), published.v4.replace('190.93.240.0/20\n', ''));
    writeFileSync(join(folder, 'new', 'ips-v6'), published.v6);
    const { code, stdout } = await diff('--source', 'new');
    expect(code).toBe(exit.pending);
    expect(stdout).toContain('--- a/nftables/cfsync.nft\n+++ b/nftables/cfsync.nft\n');
    expect(stdout).toContain('-\t190.93.240.0/20,\n');
    expect(stdout).not.toContain('\u001b[');
    const json = await diff('--source', 'new', '--format', 'json');
    expect(JSON.parse(json.stdout)).toMatchObject({
      changed: true,
      coverage: { lost: { v4: ['190.93.240.0/20'], v6: [] } },
    });
    const markdown = await diff('--source', 'new', '--format', 'markdown');
    expect(markdown.stdout).toContain('| removed | `190.93.240.0/20` | 4,096 |');
    expect((await diff('--source', 'new', '--no-color')).stdout).toBe(stdout);
    const coloured = await cfsync(['diff', '-b', 'nftables', '--dir', 'rules', '--source', 'new'], {
      FORCE_COLOR: '1',
    });
    expect(coloured.code).toBe(exit.ok);
    expect(coloured.stdout).toContain('\u001b[31m-\t190.93.240.0/20,');
  });

  it('writes the same bytes every time, and on standard output', async () => {
    const once = await render();
    expect(await render()).toEqual(once);
    await render('--out', 'rules');
    expect(readFileSync(join(folder, 'rules', 'nftables', 'cfsync.nft'), 'utf8')).toBe(once.stdout);
  });
});

it.each(['apply', 'adopt', 'diff', 'render', 'verify', 'rollback', 'remove'])(
  '%s takes neither the boot unit nor a path for a backend',
  async (command) => {
    for (const [name, message] of [
      ['boot', 'boot is no backend but the unit of apply --persist'],
      ['../x', '../x is not a name for a backend'],
    ] as const) {
      const ended = await cfsync([command, '-b', name]);
      expect(ended).toMatchObject({ code: exit.usage, stdout: '' });
      expect(ended.stderr).toContain(`--backend: ${message}`);
    }
  },
);

describe('a renderer of somebody else, named in the configuration', () => {
  let list: string;
  const run = (...args: string[]) => cfsync([...args, '--config', 'config.yaml']);

  beforeEach(() => {
    list = join(folder, 'cloudflare.lst');
    writeFileSync(join(folder, 'haproxy.mjs'), listRenderer);
    writeFileSync(
      join(folder, 'config.yaml'),
      `extra: [10.0.0.0/8]\nbackends:\n  lb:\n    renderer: ./haproxy.mjs\n    path: ${list}\n`,
    );
  });

  it('gets the own prefixes where it filters; what they are is said when they come', async () => {
    writeFileSync(join(folder, 'haproxy.mjs'), filterRenderer);
    const entries = 'extra:\n  - 10.0.0.0/16\n  - {prefix: 10.1.2.3, comment: the office}\n';
    const rest = `judge: off\nbackends: {lb: {renderer: ./haproxy.mjs, path: ${list}}}\n`;
    writeFileSync(join(folder, 'config.yaml'), entries + rest);
    const own = '; among them your own 10.1.2.3/32 (the office)\n';
    const apply = (...args: string[]) => run('apply', '--source', 'bundled', ...args);
    expect((await apply('--dry-run')).stdout).toContain(own);
    expect((await run('diff', '--source', 'bundled', '-v')).stderr).toContain(own);
    expect((await apply()).stdout).toContain(own);
    expect(await apply()).toMatchObject({ code: exit.ok, stdout: '' });
    const { stdout } = await run('config', 'show');
    expect(stdout).toContain('extra: ["10.0.0.0/16",{"prefix":"10.1.2.3","comment":"the office"}]');
    // Only what comes is named, not what was there.
    writeFileSync(
      join(folder, 'config.yaml'),
      `${entries}  - {prefix: fd00::/16, comment: lab}\n${rest}`,
    );
    expect((await apply()).stdout).not.toContain('office');
  });

  it('is applied, verified and removed like the others', async () => {
    const applied = await run('apply', '--source', 'bundled');
    expect(applied).toMatchObject({ code: exit.ok, stderr: '' });
    expect(applied.stdout).toContain('+173.245.48.0/20');
    expect(applied.stdout).toMatch(/^lb: applied and read back/m);
    // The admin's own prefixes are for packet filters.
    expect(readFileSync(list, 'utf8')).not.toContain('10.0.0.0/8');
    expect(await run('apply', '--source', 'bundled')).toMatchObject({ code: exit.ok, stdout: '' });
    expect(await run('verify')).toMatchObject({ code: exit.ok, stdout: '' });
    writeFileSync(list, '');
    expect(await run('verify')).toMatchObject({ code: exit.pending });
    expect(await run('apply', '--source', 'bundled')).toMatchObject({ code: exit.ok });
    expect(await run('remove')).toMatchObject({ code: exit.ok });
    expect(readdirSync(folder)).not.toContain('cloudflare.lst');
  });

  describe('a saved plan', () => {
    const save = () => run('diff', '--source', 'bundled', '--out', 'plan.json', '-v');
    const id = /plan ([0-9a-f]{12})/;

    it('is printed, and applied when it would still be the same', async () => {
      const saved = await save();
      const [, first] = id.exec(saved.stderr)!;
      const printed = await run('diff', '--plan', 'plan.json', '--exit-code');
      expect(printed.code).toBe(exit.pending);
      expect(printed.stdout).toContain('+173.245.48.0/20\n');
      expect(id.exec(printed.stdout)![1]).toBe(first);
      const dry = await run('apply', '--plan', 'plan.json', '--dry-run');
      expect(id.exec(dry.stdout)![1]).toBe(first);
      expect(readdirSync(folder)).not.toContain('cloudflare.lst');
      expect(await run('apply', '--plan', 'plan.json')).toMatchObject({ code: exit.ok });
      expect(readFileSync(list, 'utf8')).toContain('173.245.48.0/20');
      // No feed was asked, so no snapshot was taken.
      expect(readdirSync(state)).not.toContain('snapshot.json');
      expect(feeds.requests).toEqual([]);
    });

    it('is refused when the host is not as it was', async () => {
      await save();
      writeFileSync(list, '173.245.48.0/20\n');
      const stale = await run('apply', '--plan', 'plan.json', '--accept-large-change');
      expect(stale).toMatchObject({ code: exit.refused, stdout: '' });
      expect(stale.stderr).toContain('the plan plan.json is stale');
      expect(readFileSync(list, 'utf8')).toBe('173.245.48.0/20\n');
    });

    it('is refused when it was edited, names what is not public, or is not there', async () => {
      await save();
      const file = join(folder, 'plan.json');
      const text = readFileSync(file, 'utf8');
      writeFileSync(file, text.replace('"173.245.48.0/20"', '"173.245.48.0/21"'));
      const edited = await run('apply', '--plan', 'plan.json');
      expect(edited).toMatchObject({ code: exit.failed, stdout: '' });
      expect(edited.stderr).toContain('plan.json is corrupt');
      const record = JSON.parse(text) as { content: object; digest: string };
      const forged = JSON.stringify(record.content).replace('172.64.0.0/13', '172.16.0.0/12');
      await writeRecord(file, 'plan', JSON.parse(forged), (content) => content);
      const refused = await run('apply', '--plan', 'plan.json');
      expect(refused).toMatchObject({ code: exit.failed, stdout: '' });
      expect(refused.stderr).toContain('172.16.0.0/12');
      expect(await run('apply', '--plan', 'none')).toMatchObject({ code: exit.failed });
      expect(readdirSync(folder)).not.toContain('cloudflare.lst');
    });

    /** Another plan, as whoever can write there can make it. */
    const forge = async (change: (content: Saved) => object) => {
      const file = join(folder, 'plan.json');
      const { content } = JSON.parse(readFileSync(file, 'utf8')) as { content: Saved };
      rmSync(file);
      await writeRecord(file, 'plan', change(content), (any) => any);
    };
    const unchanged = () => expect(readdirSync(folder)).not.toContain('cloudflare.lst');

    it.each([
      ['boot', 'boot is no backend but the unit of apply --persist'],
      ['../lb', '../lb is not a name for a backend'],
      ['', ' is not a name for a backend'],
      ['constructor', 'there is no backend constructor'],
      ['other', 'there is no backend other'],
    ])('cannot name %j', async (name, message) => {
      await save();
      const options = { argv: ['/bin/sh', '-c', `touch ${folder}/ran`], renderer: './haproxy.mjs' };
      await forge(({ backends: [lb], ...rest }) => ({
        ...rest,
        backends: [{ ...lb!, name, options }],
      }));
      for (const command of ['diff', 'apply']) {
        const ended = await run(command, '--plan', 'plan.json');
        expect(ended).toMatchObject({ code: exit.usage, stdout: '' });
        expect(ended.stderr).toContain(message);
      }
      unchanged();
    });

    it('has no say in options, nor in what is shown', async () => {
      // As the first release saved it, and then some.
      await save();
      const file = join(folder, 'plan.json');
      expect(readFileSync(file, 'utf8')).not.toMatch(/options|lines/);
      await forge(({ backends: [lb], ...rest }) => ({
        ...rest,
        backends: [{ ...lb!, options: { path: join(folder, 'elsewhere') } }],
        lines: ['--- a/nothing to see here', 'step: harmless'],
      }));
      const shown = await run('diff', '--plan', 'plan.json');
      expect(shown).toMatchObject({ code: exit.ok, stderr: '' });
      expect(shown.stdout).toContain('+173.245.48.0/20\n');
      expect(shown.stdout).toContain('step: write the list\n');
      expect(shown.stdout).not.toMatch(/nothing to see|harmless/);
      const json = await run('diff', '--plan', 'plan.json', '--format', 'json');
      expect(JSON.parse(json.stdout)).toMatchObject({ changed: true, files: [{}] });
      expect(await run('apply', '--plan', 'plan.json')).toMatchObject({ code: exit.ok });
      expect(readdirSync(folder)).not.toContain('elsewhere');
      expect(readFileSync(list, 'utf8')).toContain('173.245.48.0/20');
      const after = await run('diff', '--plan', 'plan.json', '--exit-code');
      // It is done, so it would not be done again.
      expect(after).toMatchObject({ code: exit.ok, stdout: '' });
    });

    it('is stale with other options, and is never told which id would be right', async () => {
      const saved = await save();
      const right = id.exec(saved.stderr)![1]!;
      await forge((content) => ({ ...content, id: '000000000000' }));
      const shown = await run('diff', '--plan', 'plan.json', '--exit-code');
      expect(shown.code).toBe(exit.pending);
      expect(shown.stdout).toContain('+173.245.48.0/20\n');
      expect(shown.stderr).toContain('the plan plan.json is stale: ');
      const dry = await run('apply', '--plan', 'plan.json', '--dry-run');
      const applied = await run('apply', '--plan', 'plan.json');
      for (const { code, stdout } of [dry, applied])
        expect({ code, stdout }).toEqual({ code: exit.refused, stdout: '' });
      for (const { stdout, stderr } of [shown, dry, applied])
        expect(stdout + stderr).not.toContain(right);
      await forge((content) => ({ ...content, id: right }));
      const file = join(folder, 'config.yaml');
      writeFileSync(file, readFileSync(file, 'utf8').replace('.lst', '.txt'));
      expect(await run('apply', '--plan', 'plan.json')).toMatchObject({ code: exit.refused });
      unchanged();
    });

    it('is shown by the live system alone: without one there is nothing to show', async () => {
      await save();
      mkdirSync(list);
      const shown = await run('diff', '--plan', 'plan.json');
      expect(shown).toMatchObject({ code: exit.failed, stdout: '' });
      expect(shown.stderr).toContain('cannot read');
    });

    it('says which prefixes of its own are not in the configuration', async () => {
      writeFileSync(join(folder, 'haproxy.mjs'), filterRenderer);
      await save();
      const shown = await run('diff', '--plan', 'plan.json', '-v');
      expect(shown.stderr).not.toContain('your own');
      await forge(({ backends: [lb], ...rest }) => {
        const extra = { v4: ['8.0.0.0/8', '10.0.0.0/8'], v6: [] };
        return { ...rest, backends: [{ ...lb!, desired: { ...lb!.desired, extra } }] };
      });
      const other = await run('diff', '--plan', 'plan.json', '-v');
      expect(other.stderr).toContain(
        'your own 8.0.0.0/8 (in the plan, and not in the configuration)',
      );
      expect(other.stdout).toContain('+8.0.0.0/8\n');
      const gained = (text: string) =>
        Number(/IPv4 prefixes \(([\d,]+) addr/.exec(text)![1]!.replaceAll(',', ''));
      expect(gained(other.stderr) - gained(shown.stderr)).toBe(2 ** 24);
      expect(other.stderr).toContain('is stale');
      expect(await run('apply', '--plan', 'plan.json')).toMatchObject({ code: exit.refused });
      unchanged();
    });

    it('of the other user is not applied by root, and a FIFO is not waited for', async () => {
      await save();
      const file = join(folder, 'plan.json');
      if (process.getuid?.() !== 0) return;
      chownSync(file, 65534, 65534);
      const theirs = await run('apply', '--plan', 'plan.json');
      expect(theirs).toMatchObject({ code: exit.failed, stdout: '' });
      expect(theirs.stderr).toContain('does not belong to root');
      rmSync(file);
      spawnSync('mkfifo', ['-m', '600', file]);
      const fifo = await run('apply', '--plan', 'plan.json');
      expect(fifo.stderr).toContain('plan plan.json is not a regular file');
      unchanged();
    });

    it.each([['--source', 'bundled'], ['--mode', 'lockdown'], ['-b', 'lb'], ['--persist']])(
      'takes no %s beside it',
      async (...more) => {
        await save();
        for (const command of more[0] === '--persist' ? ['apply'] : ['apply', 'diff']) {
          const ended = await run(command, '--plan', 'plan.json', ...more);
          expect(ended.code).toBe(exit.usage);
          expect(ended.stderr).toContain('cannot be given with --plan');
        }
      },
    );
  });
});

describe('config', () => {
  const config = (what: string, ...more: string[]) =>
    cfsync(['config', what, '--config', 'config.yaml', ...more]);
  const write = (text: string) => writeFileSync(join(folder, 'config.yaml'), text);
  const right = 'mode: lockdown\nbackends:\n  ufw:\n    ports: [443]\n  nginx:\n';

  it('check says that all is well, or what is wrong and where', async () => {
    write(right);
    expect(await config('check')).toMatchObject({ code: exit.ok, stderr: '' });
    for (const [text, message] of [
      [right.replace('[443]', '[0]'), 'config.yaml:4: ports: 0 is not a port'],
      [right.replace('lockdown', 'open'), 'config.yaml:1: mode: open is not one of'],
      [right.replace('  ufw', '  uwf'), 'config.yaml:3: there is no backend uwf (did you mean ufw'],
      [`${right}    path: 1\n`, 'config.yaml:6: nginx: '],
      [`${right}lock-timeout: soon\n`, 'config.yaml:6: lock-timeout: must be a whole number'],
      [`${right}probe: x\n`, 'config.yaml:6: probe: must be'],
      [`${right}extra: [10.0.0.1/8]\n`, 'config.yaml:6: extra prefix 10.0.0.1/8'],
      [`${right}extra: [1]\n`, 'config.yaml:6: extra: must be a list of prefixes, each as in'],
      [`${right}extra:\n  - {prefix: 10.0.0.1}\n  - {prefx: 10.0.0.2}\n`, 'did you mean prefix?'],
      [`${right}extra: [{prefix: 10.0.0.1, comment: 7}]\n`, 'extra: comment: must be a text'],
      [`${right}extra: [{comment: x}]\n`, 'extra: prefix: must be a text'],
      [`${right}source: ''\n`, 'config.yaml:6: source: must be a text'],
    ] as const) {
      write(text);
      const ended = await config('check');
      expect(ended.stderr).toContain(message);
      expect(ended).toMatchObject({ code: exit.usage, stdout: '' });
    }
  });

  it('show says what counts, and where it comes from', async () => {
    write(right);
    const { stdout } = await config('show', '--ports', '80,8080');
    const lines = stdout.split('\n').map((line) => line.replaceAll(/ +/g, ' '));
    expect(lines).toEqual(
      expect.arrayContaining([
        `state-dir: "${state}" # CFSYNC_STATE_DIR`,
        'source: "auto" # default',
        `backends.ufw.mode: "lockdown" # ${join(folder, 'config.yaml')}:1`,
        'backends.ufw.ports: [80,8080] # --ports',
      ]),
    );
    expect(stdout).not.toContain('nginx.mode');
    const file = (await config('show')).stdout.replaceAll(/ +/g, ' ');
    expect(file).toContain(`backends.ufw.ports: [443] # ${join(folder, 'config.yaml')}:4\n`);
    expect(await config('shwo')).toMatchObject({ code: exit.usage });
  });
});

describe('standard output', () => {
  const shell = (line: string) =>
    spawnSync('sh', ['-c', `${line}; echo "exit $?" >&2`, process.execPath, bin], {
      encoding: 'utf8',
      env: { ...process.env, CFSYNC_STATE_DIR: state },
    });

  it('may have a reader that has seen enough', () => {
    // Longer than a pipe holds.
    const list = Array.from(
      { length: 20_000 },
      (_, i) => `${(i >> 12) + 20}.${(i >> 4) & 255}.${(i & 15) * 16}.0/32`,
    );
    writeFileSync(join(folder, 'ips'), `${list.join('\n')}\n2606:4700::/32\n`);
    const { stdout, stderr } = shell(`"$0" "$1" show --source ${folder}/ips | head -n 1`);
    expect(stdout).toMatch(/^20\.\S+\n$/);
    expect(stderr).toBe('exit 0\n');
  });

  it('that cannot be written is said', () => {
    const { stderr } = shell('"$0" "$1" show --source bundled >/dev/full');
    expect(stderr).toMatch(/^cfsync: standard output cannot be written: ENOSPC.*\nexit 1\n$/);
  });
});

describe('bad input', () => {
  it.each([
    [['aply'], exit.usage, 'did you mean apply?'],
    [['apply'], exit.usage, 'no backend: name one with --backend'],
    [['apply', '-b', 'nftable'], exit.usage, 'did you mean nftables?'],
    [
      ['render', '-b', 'nftables', '--ports', '80;443', '--source', 'bundled'],
      exit.usage,
      '80;443',
    ],
    [['render', '-b', 'nftables', '--ports', '0', '--source', 'bundled'], exit.usage, 'not a port'],
    [['render', '-b', 'nftables', '--source', 'nowhere'], exit.failed, 'nowhere'],
    [['render', '-b', 'nftables', '--source', 'snapshot'], exit.failed, 'cfsync fetch makes one'],
    [['show', '--config', 'nowhere.yaml'], exit.failed, 'nowhere.yaml'],
    [['fetch', '--ipv4-url', 'http://203.0.113.1/x'], exit.usage, 'https'],
    [['fetch', '--api-url', 'x'], exit.usage, 'api-url: x is not a URL'],
  ])('%j', async (args, code, message) => {
    const ended = await cfsync(args);
    expect(ended.stderr).toContain(message);
    expect(ended.code).toBe(code);
    expect(ended.stdout).toBe('');
    expect(ended.stderr).not.toContain('    at ');
  });

  it('is said before anything is downloaded', async () => {
    for (const wrong of [['-b', 'nftable'], ['-b', 'nftables', '--ports', 'x'], []])
      expect(await cfsync(['apply', ...wrong, ...urls()])).toMatchObject({ code: exit.usage });
    expect(feeds.requests).toEqual([]);
  });

  it('says that a source is not to be believed', async () => {
    writeFileSync(join(folder, 'list'), '173.245.48.0/20\n10.0.0.0/8\n2400:cb00::/32\n');
    const ended = await cfsync(['render', '-b', 'nftables', '--source', 'list']);
    expect(ended).toMatchObject({ code: exit.refused, stdout: '' });
    expect(ended.stderr).toContain('line 2');
  });
});

describe.runIf(process.getuid?.() === 0)('as root', () => {
  it.each([
    ['others can write', (path: string) => chmodSync(path, 0o777), 'can be written by others'],
    ['somebody else owns', (path: string) => chownSync(path, 65534, 65534), 'does not belong to'],
  ])('no state directory that %s is used', async (_, spoil, message) => {
    await cfsync(['fetch', ...urls()]);
    const before = readdirSync(state);
    spoil(state);
    for (const args of [['fetch', ...urls()], ['verify'], ['rollback'], ['confirm']]) {
      const ended = await cfsync(args);
      expect(ended).toMatchObject({ code: exit.failed, stdout: '' });
      expect(ended.stderr).toContain(`state directory ${state} is not to be trusted`);
      expect(ended.stderr).toContain(message);
    }
    expect(readdirSync(state)).toEqual(before);
  });
});
