import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import listening from '../../src/doctor/checks/listening.ts';
import type { DoctorContext } from '../../src/doctor/check.ts';
import { fronted } from '../../src/doctor/listeners.ts';
import { doctorContext } from '../helpers/doctor.ts';
import { recorded } from '../helpers/host.ts';

const fixture = (name: string): string =>
  readFileSync(join(import.meta.dirname, '..', 'fixtures', 'doctor', name), 'utf8');

/** Listeners on [::]:8082 (IPv6 alone), *:8081 (both), 127.0.0.1:8083 and 0.0.0.0:8084. */
const host = (ss = fixture('listeners.ss'), ipv6 = '') =>
  recorded({
    answers: {
      'ss -Hltnp': ss,
      'nft -j -t list ruleset': '{"nftables": []}',
      'nft -a -t list ruleset': '',
      'ip -j address show': '[]',
    },
    folders: { '/etc/haproxy': ['haproxy.cfg'] },
    files: {
      '/proc/net/tcp': fixture('listeners.tcp'),
      '/proc/net/tcp6': fixture('listeners.tcp6'),
      '/proc/net/if_inet6': `${fixture('listeners.if_inet6')}${ipv6}`,
    },
  });

/** The same with a cloudflared that was started so. */
const withCloudflared = (...words: readonly string[]) => {
  const files: Readonly<Record<string, string>> = {
    '/proc/77/comm': 'cloudflared\n',
    '/proc/77/cmdline': ['cloudflared', ...words, ''].join('\0'),
  };
  const plain = host();
  return {
    ...plain,
    read: async (path: string) => files[path] ?? plain.read(path),
    list: async (path: string) => (path === '/proc' ? ['77', 'net'] : plain.list(path)),
  };
};

const findings = async (more: Partial<DoctorContext>, on = host()) => {
  const context = doctorContext(more);
  return listening.judge(await listening.observe(on, context), context);
};

const global6 = '20010db8000500000000000000000005 02 80 00 80     eth0\n';

describe('listening', () => {
  it('names nothing where both families are listened on', async () => {
    const found = await findings({ ports: [8081] }, host(undefined, global6));
    expect(found.map(({ title }) => title)).toEqual(['Cloudflare does not proxy to port 8081']);
  });

  it('finds that nothing listens, and what does elsewhere', async () => {
    expect(await findings({})).toEqual([
      {
        level: 'problem',
        share: 'all',
        causes: [521],
        title: 'Nothing listens on ports 80, 443',
        evidence: [
          'no socket of /proc/net/tcp and tcp6 listens there',
          'listening instead: 8081 (node), 8082 (node), 8084 (node)',
        ],
        command: 'systemctl restart haproxy',
      },
    ]);
  });

  it('finds that only loopback is listened on', async () => {
    const [found] = await findings({ ports: [8083] });
    expect(found).toMatchObject({
      level: 'problem',
      share: 'all',
      causes: [521],
      title: 'Only loopback is listened on for port 8083',
      evidence: ['127.0.0.1:8083 (node)'],
    });
  });

  it('takes a tunnel for the way in where nothing else is', async () => {
    const tunnel = withCloudflared('--no-autoupdate', 'tunnel', 'run', '--token', 'secret');
    for (const ports of [[80, 443], [8083]]) {
      const found = await findings({ ports }, tunnel);
      expect(found[0]).toMatchObject({ level: 'note', causes: [] });
      expect(found[0]!.title).toMatch(/^A tunnel brings the visitors: /);
      expect(JSON.stringify(found)).not.toContain('secret');
    }
    // Who has a public port as well is told of the other one.
    const [found] = await findings({ ports: [443, 8084] }, tunnel);
    expect(found).toMatchObject({ level: 'warning', title: 'Nothing listens on port 443' });
  });

  it.each([[['access', 'tcp']], [['proxy-dns', '--port', '5053']]])(
    'takes %s of cloudflared for no tunnel',
    async (words) => {
      const [found] = await findings({}, withCloudflared(...words));
      expect(found).toMatchObject({ level: 'problem', title: 'Nothing listens on ports 80, 443' });
    },
  );

  it('notes who stands in front of a web server on loopback', async () => {
    const ss = fixture('fronted.ss');
    expect(fronted(ss, [80, 443])).toEqual([
      {
        server: 'nginx',
        on: [{ address: '127.0.0.1', port: 8080, program: 'nginx' }],
        by: ['haproxy'],
      },
    ]);
    expect(fronted(ss, [8443])).toMatchObject([{ server: 'nginx', by: [] }]);
    expect(fronted(ss.replace('127.0.0.1', '0.0.0.0'), [80])).toEqual([]);
    expect(fronted(null, [80])).toEqual([]);
    const found = await findings({ ports: [8084] }, host(`${fixture('listeners.ss')}${ss}`));
    expect(found.map(({ level, title }) => `${level}: ${title}`)).toContain(
      'note: node stands in front of nginx, which listens on loopback alone',
    );
  });

  it.each([
    [443, 'warning'],
    [80, 'note'],
  ] as const)('takes a missing port %i for a %s when another one is there', async (port, level) => {
    const [found] = await findings({ ports: [port, 8081] });
    expect(found).toMatchObject({
      level,
      share: 'part',
      title: `Nothing listens on port ${port}`,
    });
  });

  it('finds that only IPv6 is listened on, as far as ss tells', async () => {
    const [found] = await findings({ ports: [8082] });
    expect(found).toMatchObject({
      level: 'warning',
      causes: [521],
      title: 'Only IPv6 is listened on for port 8082',
      evidence: ['[::]:8082 (node)'],
    });
  });

  it('notes that only IPv4 is listened on, where the host has IPv6', async () => {
    const titles = async (ipv6: string) =>
      (await findings({ ports: [8084] }, host(undefined, ipv6))).map(
        ({ level, title }) => `${level}: ${title}`,
      );
    const note = 'note: Only IPv4 is listened on for port 8084, and the host has IPv6';
    expect(await titles(global6)).toContain(note);
    expect(await titles('')).not.toContain(note);
    // Of its own site alone (RFC 4193), and link-local.
    expect(await titles('fd000017000000000000000000000001 02 40 00 80     eth0\n')).not.toContain(
      note,
    );
    expect(await titles('fe800000000000000000000000000001 02 40 20 80     eth0\n')).not.toContain(
      note,
    );
  });
});
