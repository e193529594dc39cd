/**
 * The commands of examples/code-review, as they stand in the files, in a real repository with a remote: against
 * feeds on loopback. `gh` and GitLab's API are stand-ins that write down what they are asked.
 */
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { exit } from '../src/errors.ts';
import { play, published, start, type FeedServer } from './helpers/feeds.ts';
import { quoted } from './helpers/program.ts';

const root = join(import.meta.dirname, '..');
const examples = join(root, 'examples', 'code-review');
const program = join(root, 'dist', 'src', 'bin.js');

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  version: string;
};

interface Step {
  readonly name?: string;
  readonly run?: string;
}
const github = parse(readFileSync(join(examples, 'github.yml'), 'utf8')) as {
  jobs: Record<'check' | 'refresh', { steps: readonly Step[] }>;
};
const gitlab = parse(readFileSync(join(examples, 'gitlab.yml'), 'utf8')) as {
  default: { before_script: readonly string[] };
  check: { script: readonly string[] };
  refresh: { script: readonly string[] };
};

let folder: string;
let repository: string;
let feeds: FeedServer;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cfsync-review-'));
  repository = join(folder, 'checkout');
  feeds = await start();
  mkdirSync(join(folder, 'bin'));
  shim(
    'npx',
    `[ "$1 $2" = '--yes cfsync@${version}' ] || exit 9; shift 2\nexec ${quoted(process.execPath)} ${quoted(program)} "$@"`,
  );
  shim(
    'gh',
    `echo "$*" >> ${folder}/gh\n[ "$2" != list ] || { [ ! -e ${folder}/open ] || echo 7; exit 0; }\ntouch ${folder}/open\nfor last; do :; done; cp "$last" ${folder}/body`,
  );
  await sh(
    `git init --quiet --bare ${folder}/remote.git; git init --quiet -b main ${repository}
     cd ${repository}; git remote add origin ${folder}/remote.git
     git config user.name T; git config user.email t@example.org`,
    folder,
  );
  writeFileSync(
    join(repository, 'cfsync.yaml'),
    `${readFileSync(join(examples, 'cfsync.yaml'), 'utf8')}
ipv4-url: ${feeds.urls.ipv4}
ipv6-url: ${feeds.urls.ipv6}
api-url: ${feeds.urls.api}
`,
  );
  await sh(
    `npx --yes cfsync@${version} render --config cfsync.yaml --source bundled --out firewall
     git add .; git commit --quiet -m 'The rules'; git push --quiet origin main`,
  );
});

afterEach(async () => {
  await feeds.close();
  rmSync(folder, { recursive: true });
});

function shim(name: string, script: string): void {
  const file = join(folder, 'bin', name);
  writeFileSync(file, `#!/bin/sh\nset -e\n${script}\n`);
  chmodSync(file, 0o755);
}

interface Ended {
  readonly code: number;
  readonly output: string;
}

/** As a runner does: bash, which stops at the first command that fails. */
function run(script: string, env: Record<string, string> = {}, cwd = repository): Promise<Ended> {
  const { PATH = '' } = process.env;
  const all = {
    PATH: `${join(folder, 'bin')}${delimiter}${PATH}`,
    HOME: folder,
    CFSYNC_STATE_DIR: join(folder, 'state'),
    GIT_CONFIG_NOSYSTEM: '1',
    ...env,
  };
  return new Promise((resolve) => {
    execFile('bash', ['-e', '-c', script], { cwd, env: all }, (error, stdout, stderr) =>
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, output: stdout + stderr }),
    );
  });
}

async function sh(script: string, cwd = repository): Promise<string> {
  const { code, output } = await run(script, {}, cwd);
  expect(code, output).toBe(0);
  return output.trim();
}

/** Cloudflare gives up 190.93.240.0/20. */
function changeLists(): void {
  const v4 = published.v4.replace('190.93.240.0/20\n', '');
  feeds.set('/ips-v4', play.list(v4));
  feeds.set('/client/v4/ips', play.json(v4, published.v6));
}

const branch = () => sh('git ls-remote origin refs/heads/cloudflare-ranges');
const removed = '| removed | `190.93.240.0/20` | 4,096 |';

describe('GitHub', () => {
  const env = () => ({ RUNNER_TEMP: folder, GITHUB_OUTPUT: join(folder, 'output') });
  const scripts = (job: 'check' | 'refresh') =>
    github.jobs[job].steps.flatMap((step) => step.run ?? []);

  /** Honours the `if` of the last step. */
  async function refresh(): Promise<Ended> {
    const [render = '', open = ''] = scripts('refresh');
    writeFileSync(join(folder, 'output'), '');
    await sh('git checkout --quiet main');
    const first = await run(render, env());
    if (first.code !== 0) return first;
    const changed = readFileSync(join(folder, 'output'), 'utf8').includes('changed=true');
    return changed ? run(open, env()) : first;
  }

  it('opens one pull request with what would change, and then updates it', async () => {
    expect(await refresh()).toMatchObject({ code: 0 });
    expect(await branch()).toBe('');
    changeLists();
    expect(await refresh()).toMatchObject({ code: 0 });
    expect(readFileSync(join(folder, 'gh'), 'utf8')).toMatch(/^pr list .*\npr create .*\n$/);
    expect(readFileSync(join(folder, 'body'), 'utf8')).toContain(removed);
    expect(await sh('git show --stat origin/cloudflare-ranges')).toContain('firewall/ips-v4');
    expect(await refresh()).toMatchObject({ code: 0 });
    expect(readFileSync(join(folder, 'gh'), 'utf8')).toMatch(/pr edit cloudflare-ranges .*\n$/);
  });

  it('fails, and pushes nothing, when the lists cannot be had or believed', async () => {
    for (const path of ['/ips-v4', '/ips-v6', '/client/v4/ips']) feeds.set(path, play.homePage);
    expect(await refresh()).toMatchObject({ code: exit.refused });
    expect(await branch()).toBe('');
    expect(await sh('git status --porcelain')).toBe('');
  });

  it('the check passes whatever Cloudflare publishes, and fails on an edit by hand', async () => {
    const [check = ''] = scripts('check');
    changeLists();
    expect(await run(check, env())).toMatchObject({ code: 0 });
    expect(feeds.requests).toEqual([]);
    await sh("sed -i 's,173.245.48.0/20,0.0.0.0/1,' firewall/nftables/cfsync.nft");
    const { code, output } = await run(check, env());
    expect(code).toBe(exit.pending);
    expect(output).toContain('-\t0.0.0.0/1,');
  });
});

describe('GitLab', () => {
  let api: Server;
  const asked: string[] = [];
  let open: readonly object[] = [];

  beforeEach(async () => {
    asked.length = 0;
    open = [];
    const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
      const body = decodeURIComponent((await text(request)).replaceAll('+', ' '));
      asked.push(`${request.method} ${request.url} ${body}`);
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(request.method === 'GET' ? open : {}));
    };
    api = createServer((request, response) => void answer(request, response));
    await new Promise<void>((done) => api.listen(0, '127.0.0.1', done));
  });
  afterEach(() => void api.close());

  const job = (name: 'check' | 'refresh') => {
    const script = [...gitlab.default.before_script, ...gitlab[name].script].join('\n');
    // The remote is a folder here, and /tmp belongs to the machine.
    return script
      .replaceAll(
        '$CI_SERVER_PROTOCOL://cfsync:$CFSYNC_TOKEN@$CI_SERVER_HOST/$CI_PROJECT_PATH.git',
        'origin',
      )
      .replaceAll('/tmp/', `${folder}/`);
  };
  const env = () => ({
    CI_SERVER_HOST: 'gitlab.example',
    CI_API_V4_URL: `http://127.0.0.1:${(api.address() as AddressInfo).port}`,
    CI_PROJECT_ID: '5',
    CI_DEFAULT_BRANCH: 'main',
    CFSYNC_TOKEN: 'token',
  });

  it('opens one merge request with what would change, and then updates it', async () => {
    expect(await run(job('refresh'), env())).toMatchObject({ code: 0 });
    expect(asked).toEqual([]);
    changeLists();
    const { code, output } = await run(job('refresh'), env());
    expect(code, output).toBe(0);
    expect(asked[1]).toMatch(/^POST \/projects\/5\/merge_requests source_branch=cloudflare-ranges/);
    expect(asked[1]).toContain(removed);
    expect(await branch()).not.toBe('');
    open = [{ iid: 12 }];
    await sh('git checkout --quiet main');
    expect(await run(job('refresh'), env())).toMatchObject({ code: 0 });
    expect(asked[3]).toMatch(/^PUT \/projects\/5\/merge_requests\/12 description=/);
  });

  it('the check fails on an edit by hand alone', async () => {
    changeLists();
    expect(await run(job('check'), env())).toMatchObject({ code: 0 });
    await sh('echo 10.0.0.0/8 >> firewall/nginx/cfsync.conf');
    expect(await run(job('check'), env())).toMatchObject({ code: exit.pending });
  });
});
