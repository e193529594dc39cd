/** Every figure that is promised, against the shell way or a floor, in namespaces of its own: `npm run bench`. */

import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { published } from '../helpers/feeds.ts';
import { Lab } from '../live/lab.ts';
import { describeLive } from '../live/privileges.ts';
import { contest, median, ratio, type Contestant, type Times } from './contest.ts';
import { prefixes, shuffled } from './lists.ts';
import { conclude, report } from './report.ts';

const file = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const cfsync = file('../../dist/src/bin.js');
/** Another Node than the one that runs this: CFSYNC_BENCH_NODE=/path/to/node. */
const node = process.env.CFSYNC_BENCH_NODE ?? process.execPath;

const port = 8099;
const feeds = '/run/lab/feeds';
const url = `http://127.0.0.1:${port}`;
const urls = `--ipv4-url ${url}/ips-v4 --ipv6-url ${url}/ips-v6 --api-url ${url}/ips.json`;
const state = '/run/lab/state';
const forget = `rm -rf ${state}`;
/** What a script of an admin starts with. */
const curl = `v4=$(curl -sf ${url}/ips-v4); v6=$(curl -sf ${url}/ips-v6)`;

/** How often the sets are loaded for the cost of a packet, and how many turns follow on each, half of them ours. */
const loads = 5;
const turns = 12;

interface Goal {
  readonly text: string;
  readonly least?: number;
  readonly most?: number;
}
const faster = (times: number): Goal => ({ text: `${times}x as fast at least`, least: times });
const atMost = (times: number): Goal => ({ text: `${times}x at most`, most: times });

/** One row: ours against theirs. */
function compare(
  what: string,
  measure: keyof Times,
  ours: readonly Times[],
  theirs: readonly Times[],
  goal: Goal,
): void {
  const a = ours.map((times) => times[measure]);
  const b = theirs.map((times) => times[measure]);
  const shown = goal.least === undefined ? ratio(a, b) : ratio(b, a);
  report({
    what,
    measure: measure === 'cpu' ? 'CPU' : 'wall',
    ours: median(a),
    theirs: median(b),
    ratio: shown,
    goal: goal.text,
    reached: shown >= (goal.least ?? 0) && shown <= (goal.most ?? Infinity),
  });
}

function single(what: string, measure: string, ours: number, most: number, unit: string): void {
  report({ what, measure, ours, goal: `${most} ${unit} at most`, reached: ours <= most });
}

describeLive('benchmarks', { programs: ['bash', 'curl', 'python3', 'taskset'] }, () => {
  let lab: Lab;

  beforeEach(async () => {
    lab = await Lab.create({ privateDirs: ['/var/lib/fail2ban', '/var/log'] });
    await serve(published);
    const { stdout } = lab.origin.spawn([node, file('serve.mjs'), feeds, String(port)]);
    await new Promise((resolve) => stdout.once('data', resolve));
    await put('/run/lab/empty.cjs', '');
  });
  afterEach(() => lab.close());
  afterAll(() => conclude(process.env.CFSYNC_BENCH_OUT ?? file('results.json')));

  const put = async (path: string, text: string): Promise<void> =>
    writeFile(lab.origin.path(path), text);
  /** Lists as they come from the feeds: lines, the last one without a newline. */
  const serve = async ({ v4, v6 }: { v4: string; v6: string }): Promise<void> => {
    await mkdir(lab.origin.path(feeds), { recursive: true });
    await put(`${feeds}/ips-v4`, v4);
    await put(`${feeds}/ips-v6`, v6);
    const result = { ipv4_cidrs: v4.trim().split('\n'), ipv6_cidrs: v6.trim().split('\n') };
    await put(`${feeds}/ips.json`, JSON.stringify({ success: true, result }));
  };
  const serveMany = async (size: number): Promise<void> => {
    const { v4, v6 } = prefixes(size);
    await serve({ v4: v4.join('\n'), v6: v6.join('\n') });
  };
  const ours = (words: string): string => `CFSYNC_STATE_DIR=${state} ${node} ${cfsync} ${words}`;
  const apply = (backend: string): string => ours(`apply -b ${backend} ${urls}`);
  const run = (contestants: readonly Contestant[], rounds: number) =>
    contest(lab.origin, contestants, rounds);
  const shell = (script: string): Promise<string> =>
    lab.origin.must(['bash', '-ec', script], { timeout: 300_000 });

  const feedUrls = ['ips-v4', 'ips-v6', 'ips.json'].map((path) => `${url}/${path}`);
  const requests = { run: `${node} ${file('requests.cjs')} ${feedUrls.join(' ')}` };

  /** First run and no change, each against the loop. */
  async function against(
    backend: string,
    { loop, reset, rounds }: { loop: string; reset: string; rounds: number },
    goal: Goal,
  ): Promise<void> {
    const theirs = { prepare: reset, run: `${curl}\n${loop}` };
    const first = { prepare: `${forget}\n${reset}`, run: apply(backend) };
    const [a, b] = await run([first, theirs], rounds);
    compare(`${backend}, first run`, 'wall', a!, b!, goal);
    // The loop does all of its work again. Its rules would pile up, so it starts from the first ones here as well.
    const applied = `${reset}\n[ -e ${state} ] || mkdir ${state}\n${apply(backend)}`;
    const again = { prepare: applied, run: apply(backend) };
    const [c, d, e] = await run([again, theirs, requests], rounds);
    compare(`${backend}, no change`, 'wall', c!, d!, goal);
    compare(`${backend}: Node and the three requests alone`, 'wall', e!, d!, {
      text: '',
      least: 0,
    });
  }

  describe('start', () => {
    const bare = { run: `${node} /run/lab/empty.cjs` };

    test.for([
      ['--version', 1.2],
      ['--help', 2],
      ['completion bash', 2],
    ] as const)('%s', async ([words, goal]) => {
      const [a, b] = await run([{ run: ours(words) }, bare], 20);
      compare(`cfsync ${words}, against a bare Node`, 'cpu', a!, b!, atMost(goal));
    });

    test('no change', async () => {
      await shell(apply('nftables'));
      const [a, b] = await run([{ run: apply('nftables') }, bare], 20);
      compare('nftables, no change, against a bare Node', 'cpu', a!, b!, atMost(9));
    });
  });

  test('ufw', async () => {
    await shell('ufw allow 22/tcp; ufw --force enable; cp -a /etc/ufw /run/lab/ufw');
    const loop = `for ip in $v4 $v6; do ufw allow proto tcp from $ip to any port 80,443; done
ufw reload`;
    const reset = 'cp -a /run/lab/ufw/user*.rules /etc/ufw/; ufw reload';
    await against('ufw', { loop, reset, rounds: 3 }, faster(20));
  });

  test('iptables', async () => {
    const loop = `for ip in $v4; do for p in 80 443; do iptables -I INPUT -p tcp -s $ip --dport $p -j ACCEPT; done; done
for ip in $v6; do for p in 80 443; do ip6tables -I INPUT -p tcp -s $ip --dport $p -j ACCEPT; done; done`;
    const reset = `for t in iptables ip6tables; do
printf '*filter\\n:INPUT DROP [0:0]\\n-A INPUT -i lo -j ACCEPT\\nCOMMIT\\n' | $t-restore
done`;
    await against('iptables', { loop, reset, rounds: 9 }, faster(1));
  });

  test('nftables', async () => {
    const loop = `for ip in $v4; do nft add rule inet filter input ip saddr $ip tcp dport { 80, 443 } accept; done
for ip in $v6; do nft add rule inet filter input ip6 saddr $ip tcp dport { 80, 443 } accept; done`;
    const reset = `nft 'flush ruleset
table inet filter { chain input { type filter hook input priority filter; policy drop; iifname "lo" accept; }; }'`;
    await against('nftables', { loop, reset, rounds: 9 }, faster(1));
  });

  test('fail2ban', async () => {
    await put('/etc/resolv.conf', 'nameserver 127.0.0.1\n');
    await put('/run/lab.log', '');
    await put(
      '/etc/fail2ban/jail.local',
      '[DEFAULT]\nbackend = polling\nusedns = no\n[lab]\nenabled = true\nfilter = sshd\nlogpath = /run/lab.log\n',
    );
    await shell('rm -f /etc/fail2ban/jail.d/*; mkdir -p /run/fail2ban; fail2ban-server start');
    const loop = 'for ip in $v4 $v6; do fail2ban-client set lab addignoreip $ip; done';
    const reset = 'rm -f /etc/fail2ban/jail.d/*; fail2ban-client reload';
    await against('fail2ban', { loop, reset, rounds: 3 }, faster(15));
  });

  test.for([
    [100_000, 'merge', 150],
    [100_000, 'difference', 100],
    [1_000_000, 'merge', 1000],
    [1_000_000, 'difference', 1000],
  ] as const)('%d: %s', async ([size, what, goal]) => {
    // Half of the one is in the other.
    for (const [name, from] of [
      ['a', 0],
      ['b', size / 2],
    ] as const) {
      const { v4, v6 } = prefixes(size, from);
      await put(`/run/lab/${name}`, shuffled([...v4, ...v6]).join('\n'));
    }
    const argv = [file('algebra.mjs'), what, '/run/lab/a', '/run/lab/b'];
    const all: { ms: number; memory: number }[] = [];
    for (let round = 0; round < 5; round++)
      all.push(JSON.parse(await lab.origin.must([node, ...argv])) as (typeof all)[number]);
    const name = `${what} of ${size.toLocaleString('en')} mixed prefixes`;
    single(name, 'wall', median(all.map(({ ms }) => ms)), goal, 'ms');
    const memory = median(all.map(({ memory }) => memory));
    if (size === 100_000) single(`${name}, memory`, 'MB', memory, 200, 'MB');
  });

  /** What the walk over the rules of the whole host costs a run without a change. */
  test.for(['nftables', 'iptables'])('judge, %s', async (backend) => {
    const numbers = Array.from({ length: 1000 }, (_, i) => i);
    const address = (i: number): string => `11.${i >> 16}.${(i >> 8) & 255}.${i & 255}`;
    const banned = Array.from({ length: 100_000 }, (_, i) => address(2 * i));
    const rule = (i: number): string => `198.18.${i >> 8}.${i & 255}`;
    if (backend === 'nftables')
      await put(
        '/run/lab/host',
        `table inet fw {
set banned { type ipv4_addr; elements = { ${banned.join(', ')} }; }
chain input {
type filter hook input priority 0; policy drop;
iif lo accept
ct state established,related accept
ip saddr @banned drop
${numbers.map((i) => `ip saddr ${rule(i)} tcp dport ${i + 1000} accept`).join('\n')}
}
}`,
      );
    else {
      await put(
        '/run/lab/sets',
        `create banned hash:ip maxelem 200000\n${banned.map((one) => `add banned ${one}\n`).join('')}`,
      );
      await put(
        '/run/lab/host',
        `*filter
:INPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -m set --match-set banned src -j DROP
${numbers.map((i) => `-A INPUT -s ${rule(i)} -p tcp --dport ${i + 1000} -j ACCEPT`).join('\n')}
COMMIT
`,
      );
    }
    await shell(
      backend === 'nftables'
        ? 'nft -f /run/lab/host'
        : 'ipset restore </run/lab/sets; iptables-restore </run/lab/host',
    );
    await put('/run/lab/off.yaml', 'judge: off\n');
    const again = apply(backend);
    await shell(again);
    const [a, b] = await run([{ run: again }, { run: `${again} --config /run/lab/off.yaml` }], 10);
    const what = `${backend}, no change, 1,000 rules and a set of 100,000, against judge: off`;
    compare(what, 'cpu', a!, b!, atMost(1.15));
  });

  test('diff of 10k ranges', async () => {
    await serveMany(10_000);
    const { v4, v6 } = prefixes(10_000, 10_000);
    await put('/run/lab/list', [...v4, ...v6].join('\n'));
    const rendered = '/run/lab/rendered';
    await shell(ours(`render -b nftables --out ${rendered} --source ${feeds}`));
    const diff = ours(`diff -b nftables --dir ${rendered} --source /run/lab/list`);
    const [times] = await run([{ run: diff }], 5);
    const wall = median(times!.map(({ wall }) => wall));
    single('diff of 10,000 ranges, all different', 'wall', wall, 1000, 'ms');
  });

  test('100k prefixes', async () => {
    await serveMany(100_000);
    await shell(ours(`render -b nftables --out /run/lab/rendered --source ${feeds}`));
    const reset = 'nft flush ruleset';
    const load = { prepare: reset, run: 'nft -f /run/lab/rendered/nftables/cfsync.nft' };
    const apply = ours(`apply -b nftables --source ${feeds}`);
    const [a, b] = await run([{ prepare: `${forget}\n${reset}`, run: apply }, load], 5);
    compare('nftables, 100,000 prefixes, first run, against nft -f', 'wall', a!, b!, atMost(2));
    await shell(apply);
    const [c] = await run([{ run: apply }], 3);
    report({
      what: 'nftables, 100,000 prefixes, no change',
      measure: 'wall',
      ours: median(c!.map(({ wall }) => wall)),
      goal: '',
      reached: true,
    });
  });

  test.for([22, 10_000, 100_000])('packets, %d ranges', async (size) => {
    if (size > 22) await serveMany(size);
    const lists = await shell(`cat ${feeds}/ips-v4; echo; echo -; cat ${feeds}/ips-v6`);
    const [v4, v6] = lists.split('-\n').map((text) => text.trim().replaceAll('\n', ','));
    const hand = '/run/lab/hand.nft';
    await put(
      hand,
      `table inet hand {
set a4 { type ipv4_addr; flags interval; elements = { ${v4} }; }
set a6 { type ipv6_addr; flags interval; elements = { ${v6} }; }
chain early {
type filter hook prerouting priority raw; policy accept;
udp dport { 80, 443 } ip saddr != @a4 drop
udp dport { 80, 443 } ip6 saddr != @a6 drop
}
}`,
    );
    const apply = `apply -b nftables --mode lockdown --udp-ports 80,443 --nft-chain none --allow-lockout --source ${feeds}`;
    const costs: { ours: number[]; theirs: number[] } = { ours: [], theirs: [] };
    // Where a set lies in memory is luck that lasts until it is loaded anew.
    for (let load = 0; load < loads; load++) {
      await shell(`nft flush ruleset; ${forget}; ${ours(apply)}; nft -f ${hand}`);
      const best = { cfsync: Infinity, hand: Infinity };
      for (let turn = 0; turn < turns; turn++) {
        // Neither is always the first of a pair.
        const [awake, asleep] =
          (turn + 1) & 2 ? (['cfsync', 'hand'] as const) : (['hand', 'cfsync'] as const);
        await lab.origin.nft(
          `add table inet ${asleep} { flags dormant; }; add table inet ${awake}`,
        );
        best[awake] = Math.min(best[awake], await packets());
      }
      costs.ours.push(best.cfsync);
      costs.theirs.push(best.hand);
    }
    const shown = ratio(costs.ours, costs.theirs);
    report({
      what: `a packet, ${size.toLocaleString('en')} ranges, against a hand-written set`,
      measure: 'wall, ns',
      ours: median(costs.ours),
      theirs: median(costs.theirs),
      ratio: shown,
      goal: '1.1x at most',
      reached: shown <= 1.1,
    });
  });

  /**
   * Nanoseconds for each of many packets that are sent by the stranger and dropped by origin, on one processor. One that
   * is not dropped is refused, which ends the script: nobody listens there.
   */
  async function packets(): Promise<number> {
    const script = `
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("${lab.origin.v4}", 443))
best = 1e9
for _ in range(50):
    start = time.perf_counter_ns()
    for _ in range(2000):
        s.send(b"x")
    best = min(best, (time.perf_counter_ns() - start) / 2000)
print(best)`;
    const printed = await lab.stranger.must(['taskset', '-c', '1', 'python3', '-c', script]);
    expect(Number(printed)).toBeGreaterThan(0);
    return Number(printed);
  }
});
