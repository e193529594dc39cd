/** Looks at CSF: its files, the running firewall, lfd. */
import { BackendError, CfsyncError, errno } from '../../src/errors.ts';
import { parseSave, type SavedTable } from '../../src/filters/iptables/save.ts';
import { parseRanges, type Family } from '../../src/prefix.ts';
import type { Host, Observed } from '../../src/renderer.ts';
import { escape, firstLines } from '../../src/text.ts';
import { hasBlock, removeBlock } from './block.ts';
import { isOn, parseConf, type Conf } from './conf.ts';
import { foreign } from './foreign.ts';
import { effectiveLines, entriesIn, includes, lineOf, linesIn } from './lines.ts';
import { isDown, loaded, program } from './running.ts';
import {
  files,
  folder,
  lockFile,
  names,
  own,
  type CsfAround,
  type CsfOptions,
  type CsfOwned,
} from './state.ts';

const pidFile = '/run/lfd.pid';

export async function observe(
  host: Host,
  options: CsfOptions,
): Promise<Observed<CsfOwned, CsfAround>> {
  try {
    return await look(host, options);
  } catch (error) {
    const code = error instanceof CfsyncError && errno(error.cause);
    if (code !== 'EACCES' && code !== 'EPERM') throw error;
    throw new BackendError(
      'no permission',
      `csf: ${folder} is for root alone; run cfsync as root`,
      { cause: error },
    );
  }
}

async function look(host: Host, { reload }: CsfOptions): Promise<Observed<CsfOwned, CsfAround>> {
  if ((await host.list(folder)) === undefined)
    throw new BackendError(
      'not installed',
      `csf: there is no ${folder}; install CSF, or use --backend nftables`,
    );
  const config = await host.read(`${folder}/csf.conf`);
  if (config === undefined)
    throw new BackendError(
      'misconfigured',
      `csf: there is no ${folder}/csf.conf; install CSF again, which keeps the other files`,
    );
  const conf = parseConf(config);
  const read = async (path: string): Promise<string | null> => (await host.read(path)) ?? null;
  const [allow, ignore, ownAllow, ownIgnore] = [
    await read(files.allow),
    await read(files.ignore),
    await read(own.allow),
    await read(own.ignore),
  ];
  const error = await read(`${folder}/csf.error`);
  const kernel = {
    v4: await saved(host, conf, 'v4'),
    ...(isOn(conf, 'IPV6') ? { v6: await saved(host, conf, 'v6') } : {}),
  };
  const around: CsfAround = {
    conf,
    files: { allow, ignore },
    kernel,
    others: await otherLines(host, allow),
    disabled: (await read(`${folder}/csf.disable`)) !== null,
    own: ownAllow,
    restarting: await isRestarting(host),
    error: error === null ? null : (firstLines(error, 1)[0] ?? 'no reason given'),
    lfd: await lfdState(host),
    ipv6: await hasIpv6(host),
    reload,
    foreign: reload ? await foreign(host, conf, kernel) : [],
  };
  const held = linesIn(ownAllow);
  const blocks = {
    allow: hasBlock(allow ?? '', own.allow),
    ignore: hasBlock(ignore ?? '', own.ignore),
  };
  const torn = names.filter((name) => {
    const text = around.files[name] ?? '';
    return !blocks[name] && removeBlock(text, own[name]) !== text;
  });
  const ailing: NonNullable<CsfOwned['ailing']> = [
    ...(isDown(around) ? (['csf'] as const) : []),
    ...(around.lfd === 'stale' ? (['lfd'] as const) : []),
  ];
  const owned: CsfOwned = {
    ranges: parseRanges([...held.values()].map((entry) => entry.prefix)),
    allow: ownAllow,
    ignore: ownIgnore,
    blocks,
    loaded: { v4: loaded(held, around, 'v4'), v6: loaded(held, around, 'v6') },
    ...(torn.length > 0 && { torn }),
    ...(ailing.length > 0 && { ailing }),
  };
  return { owned, around };
}

async function saved(host: Host, conf: Conf, family: Family): Promise<readonly SavedTable[]> {
  const name = program(conf, 'save', family);
  const { code, stdout, stderr } = await host.query({ argv: [name], timeout: 120_000 });
  if (code === 0) return parseSave(stdout, name);
  throw new BackendError(
    'broken',
    `csf: ${escape(name)} ended with code ${code}; look at what it says, csf.conf names it`,
    { detail: firstLines(stderr) },
  );
}

/** Lines of csf.allow, of the files that it names, and of `csf -ta`. */
async function otherLines(host: Host, allow: string | null): Promise<string[]> {
  const lines: string[] = [];
  const seen = new Set<string>([own.allow]);
  const texts = [allow ?? ''];
  for (const text of texts) {
    for (const line of effectiveLines(text)) lines.push(line);
    for (const path of includes(text)) {
      if (seen.has(path)) continue;
      seen.add(path);
      texts.push((await host.read(path)) ?? '');
    }
  }
  const temporary = (await host.read('/var/lib/csf/csf.tempallow')) ?? '';
  for (const line of temporary.split('\n')) {
    const [, address = '', ports = '', direction = ''] = line.split('|');
    if (!direction.includes('in')) continue;
    for (const [port, protocol = 'tcp'] of ports.split(',').map((p) => p.split(';')))
      lines.push(`${protocol}|in|d=${port}|s=${address}`);
  }
  return lines.flatMap((line) => {
    return entriesIn(line).map(lineOf);
  });
}

/** Looked up and not tried: a csf that starts in that moment would give up. */
async function isRestarting(host: Host): Promise<boolean> {
  const { code, stdout } = await host.query({ argv: ['stat', '-c', '%i', lockFile] });
  const locks = (await host.read('/proc/locks')) ?? '';
  return code === 0 && locks.includes(`:${stdout.trim()} 0 EOF`);
}

async function lfdState(host: Host): Promise<CsfAround['lfd']> {
  const pid = (await host.read(pidFile))?.trim() ?? '';
  const command = /^\d+$/.test(pid) ? await host.read(`/proc/${pid}/cmdline`) : undefined;
  if (!command?.includes('lfd')) return 'stopped';
  // lfd writes its number before it reads the lists, both once, when it starts.
  const newer = await host.query({ argv: ['test', own.ignore, '-nt', pidFile] });
  return newer.code === 0 ? 'stale' : 'current';
}

async function hasIpv6(host: Host): Promise<boolean> {
  const off = await host.read('/proc/sys/net/ipv6/conf/all/disable_ipv6');
  return off !== undefined && off.trim() === '0';
}
