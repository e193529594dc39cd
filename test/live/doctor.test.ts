/** The doctor on hosts that are broken in one way each, and on healthy ones, with the real programs. */
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { exit } from '../../src/errors.ts';
import { Lab, type LabOptions } from './lab.ts';
import { describeLive } from './privileges.ts';
import { quoted } from '../helpers/program.ts';

interface Told {
  readonly check: string;
  readonly level: string;
  readonly causes: readonly number[];
  readonly title: string;
  readonly evidence: readonly string[];
  readonly command: string | null;
}

const programs = [
  'nginx',
  'openssl',
  'nft',
  'iptables',
  'ipset',
  'ufw',
  'fail2ban-server',
  'python3',
];

describeLive('doctor', { programs }, () => {
  let lab: Lab;
  afterEach(() => lab.close());

  /** With a web server as it should be, unless other ports are named, which then only echo. */
  const host = async (options: LabOptions = {}, ports?: number[]): Promise<void> => {
    const privateDirs = ['/var/log', '/var/lib/nginx', ...(options.privateDirs ?? [])];
    lab = await Lab.create({ ...options, privateDirs });
    await shell('mkdir -p /var/log/apache2');
    if (ports !== undefined) {
      if (ports.length > 0) await lab.origin.listen({ tcp: ports });
      return;
    }
    await shell(`rm -f /etc/nginx/sites-enabled/*; mkdir -p /var/log/nginx
      openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=example.com \\
        -days 90 -keyout /etc/nginx/key.pem -out /etc/nginx/cert.pem 2>/dev/null`);
    await serve('keepalive_timeout 900s;');
    await shell('nginx');
  };
  const serve = (settings: string): Promise<string> =>
    lab.origin.must(['tee', '/etc/nginx/conf.d/site.conf'], {
      stdin: `${settings}
server {
  listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;
  ssl_certificate /etc/nginx/cert.pem; ssl_certificate_key /etc/nginx/key.pem;
}
`,
    });
  const shell = (script: string) => lab.origin.must(['sh', '-ec', script]);
  const both = async (script: string): Promise<void> => {
    await shell(`${script}\n${script.replaceAll('iptables', 'ip6tables')}`);
  };
  const doctor = async (...args: string[]) => {
    const { code, stdout, stderr } = await lab.cfsync(['doctor', '--format', 'json', ...args]);
    expect(stderr).toBe('');
    const report = JSON.parse(stdout) as { findings: Told[]; unchecked: { check: string }[] };
    return { code, ...report };
  };
  const applied = async (...args: string[]): Promise<void> => {
    const { code, stdout, stderr } = await lab.cfsync(['apply', '--source', 'bundled', ...args]);
    expect(code, stdout + stderr).toBe(exit.ok);
  };
  /** All that could tell of a change. */
  const state = () =>
    shell(
      "nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'; cat /proc/net/ip_tables_names /proc/net/ip6_tables_names; ipset save; find /etc /run/lab -newer /run/lab/mark; ls -A /run/lab/state",
    );

  /** Looks, and expects this finding to be the first one, and nothing to be changed. */
  const first = async (check: string, causes: readonly number[]): Promise<Told> => {
    await shell('touch /run/lab/mark');
    const before = await state();
    const { code, findings } = await doctor();
    expect(await state()).toBe(before);
    const shown = JSON.stringify(findings, undefined, 1);
    expect(code, shown).toBe(exit.pending);
    expect(findings[0], shown).toMatchObject({ check, causes });
    // Nothing else than what follows from it.
    expect(findings.filter(({ level }) => level === 'problem').length, shown).toBeLessThan(2);
    return findings[0]!;
  };

  /** A ban by a real fail2ban. */
  const fail2ban = async (): Promise<void> => {
    await host({ privateDirs: ['/var/lib/fail2ban'] });
    const jail = `[DEFAULT]
backend = polling
usedns = no
banaction = nftables[type=multiport]
[web]
enabled = true
filter = web
port = http,https
logpath = /run/lab/web.log
`;
    await lab.origin.must(['tee', '/etc/fail2ban/jail.local'], { stdin: jail });
    await lab.origin.must(['tee', '/etc/fail2ban/filter.d/web.conf'], {
      stdin: '[Definition]\nfailregex = ^ bad <HOST>$\ndatepattern = ^EPOCH\n',
    });
    await lab.origin.must(['tee', '/etc/fail2ban/fail2ban.local'], {
      stdin: '[DEFAULT]\nallowipv6 = yes\n[Definition]\nallowipv6 = yes\n',
    });
    await shell(`rm -f /etc/fail2ban/jail.d/*; : >/run/lab/web.log; mkdir -p /run/fail2ban
      fail2ban-server -b start >/dev/null
      for i in $(seq 1000); do fail2ban-client status web >/dev/null 2>&1 && exit; sleep 0.1; done; exit 1`);
  };

  const cloudflare = (family: 'v4' | 'v6', less?: RegExp) =>
    shell(
      `cat ${quoted(fileURLToPath(new URL(`../../data/ips-${family}`, import.meta.url)))}`,
    ).then((text) => text.split('\n').filter((line) => line !== '' && !less?.test(line)));

  /** A host that lets in Cloudflare's ranges, as a script left it. */
  const allowList = async (less?: RegExp, more: readonly string[] = []): Promise<void> => {
    const [v4, v6] = [await cloudflare('v4', less), await cloudflare('v6', less)];
    await lab.origin.nft(`table inet filter {
  set cf4 { type ipv4_addr; flags interval; elements = { ${[...v4, ...more].join(', ')} }
  }
  set cf6 { type ipv6_addr; flags interval; elements = { ${v6.join(', ')} }
  }
  chain input { type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
    meta l4proto { icmp, icmpv6 } accept
    tcp dport 22 accept
    tcp dport { 80, 443 } ip saddr @cf4 accept
    tcp dport { 80, 443 } ip6 saddr @cf6 accept
  }
}
`);
  };

  const docker = async (): Promise<void> => {
    await host({ container: true }, [80]);
    await lab.container.listen({ tcp: [8443] });
    await both(
      'iptables -t nat -N DOCKER; iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER',
    );
    await shell(`iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport 443 -j DNAT --to-destination 172.17.0.2:8443
      ip6tables -t nat -A DOCKER ! -i docker0 -p tcp --dport 443 -j DNAT --to-destination '[fd00:17::2]:8443'`);
    await both(`iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -N DOCKER
      iptables -A FORWARD -j DOCKER-USER; iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
      iptables -A FORWARD -o docker0 -j DOCKER; iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
      iptables -A DOCKER-USER -j RETURN`);
    await shell(`iptables -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp --dport 8443 -j ACCEPT
      ip6tables -A DOCKER -d fd00:17::2/128 ! -i docker0 -o docker0 -p tcp --dport 8443 -j ACCEPT`);
  };

  describe('finds first', () => {
    it('that nothing listens', async () => {
      await host({}, [22]);
      const { title, evidence } = await first('listening', [521]);
      expect(title).toBe('Nothing listens on ports 80, 443');
      expect(evidence.join()).toContain('listening instead: 22');
    });

    it('that the packet filter drops', async () => {
      await host();
      await lab.origin.nft(
        'table inet filter { chain input { type filter hook input priority 0; policy drop; iif lo accept; ct state established,related accept; tcp dport 22 accept; meta l4proto icmpv6 accept; }\n}\n',
      );
      const { title, evidence, command } = await first('packet-filter', [522]);
      expect(title).toBe("The packet filter drops Cloudflare's connections to ports 80, 443");
      expect(evidence).toEqual([
        'nft inet filter input: policy drop',
        'concerned: 15 of 15 IPv4 ranges, on ports 80, 443',
        'concerned: 7 of 7 IPv6 ranges, on ports 80, 443',
      ]);
      expect(command).toBe('cfsync apply --backend nftables');
      await lab.expectVerdict(443, { edge: 'closed', stranger: 'closed' });
      await applied('--backend', 'nftables');
      expect((await doctor()).code).toBe(exit.ok);
    });

    it('that the packet filter rejects', async () => {
      await host();
      await both(
        'iptables -A INPUT -p tcp -m multiport --dports 80,443 -j REJECT --reject-with tcp-reset',
      );
      const { title, evidence, command } = await first('packet-filter', [521]);
      expect(title).toBe("The packet filter rejects Cloudflare's connections to ports 80, 443");
      expect(evidence[0]).toBe(
        'iptables filter INPUT: -A INPUT -p tcp -m multiport --dports 80,443 -j REJECT --reject-with tcp-reset',
      );
      expect(command).toBe('cfsync apply --backend iptables');
      expect(await lab.edge.connect(lab.origin.v4, 443)).toBe('refused');
    });

    it("that fail2ban banned an address of Cloudflare's", async () => {
      await fail2ban();
      await shell(`fail2ban-client set web banip ${lab.edge.v4}`);
      await vi.waitFor(async () => {
        expect(await lab.edge.connect(lab.origin.v4, 443)).not.toBe('open');
      }, 240_000);
      const { title, evidence, command } = await first('bans', [521]);
      expect(title).toBe("fail2ban bans 1 address of Cloudflare's");
      expect(evidence[0]).toMatch(
        /^173\.245\.48\.10: jail web, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/,
      );
      expect(evidence[1]).toMatch(/^nft inet f2b-table f2b-chain: .*@addr-set-web .*reject/);
      expect(command).toBe('cfsync apply --backend fail2ban');
      await applied('--backend', 'fail2ban');
      expect((await doctor('--only', 'bans')).findings).toEqual([]);
      expect(await lab.edge.connect(lab.origin.v4, 443)).toBe('open');
    });

    it('that the allow-list is stale', async () => {
      await host();
      await allowList(/^(131\.0\.72|104\.24)/, ['104.28.0.0/14']);
      const { title, evidence, command } = await first('allow-list', [522]);
      expect(title).toBe("The allow-list for ports 80, 443 lacks 2 ranges of Cloudflare's");
      expect(evidence.slice(0, 3)).toEqual([
        'not let in: 104.24.0.0/14',
        'not let in: 131.0.72.0/22',
        'kept out by nft inet filter input: policy drop',
      ]);
      expect(command).toBe('cfsync apply --backend nftables');
      const { findings } = await doctor('--only', 'allow-list');
      expect(findings.map(({ title }) => title)).toContain(
        "The allow-list has ranges that are no longer Cloudflare's",
      );
    });

    it('that idle connections are closed too early', async () => {
      await host();
      await serve('keepalive_timeout 1s;');
      await shell('nginx -s reload');
      const { title, evidence } = await first('keep-alive', [520]);
      expect(title).toContain('nginx');
      expect(evidence[0]).toBe('/etc/nginx/conf.d/site.conf:1: keepalive_timeout 1s');
    });

    it('that a wider rule stands beside those for Cloudflare', async () => {
      await host();
      await shell('ufw --force enable >/dev/null; ufw default deny >/dev/null');
      await applied('--backend', 'ufw');
      await shell("ufw allow 'WWW Full' >/dev/null");
      const { title, evidence, command } = await first('open-to-all', []);
      expect(title).toBe('Anybody gets in on ports 80, 443, beside the rules for Cloudflare');
      expect(evidence[0]).toContain('ufw-user-input -p tcp -m multiport --dports 80,443');
      // Which lockdown of ufw refuses as long as the rule is there.
      expect(command).toBeNull();
      await lab.expectVerdict(443, { edge: 'open', stranger: 'open' });
    });

    it('that a published port bypasses the filter', async () => {
      await docker();
      await both(
        'iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; iptables -A INPUT -i lo -j ACCEPT; iptables -P INPUT DROP',
      );
      await shell('ip6tables -I INPUT -p ipv6-icmp -j ACCEPT');
      await applied('--backend', 'iptables');
      const { title, evidence } = await first('published-ports', []);
      expect(title).toBe('Published ports bypass the packet filter: anybody gets in on port 443');
      expect(evidence[0]).toContain('iptables nat DOCKER: -A DOCKER ! -i docker0 -p tcp');
      expect(evidence.join('\n')).toContain('-P INPUT DROP');
      await lab.expectVerdict(443, { edge: 'open', stranger: 'open' });
    });

    it('that IPv6 is left out', async () => {
      await host();
      await shell("sed -i 's/^IPV6=.*/IPV6=no/' /etc/default/ufw; ufw --force enable >/dev/null");
      const done = await lab.cfsync(['apply', '--source', 'bundled', '--backend', 'ufw']);
      expect(done.code, done.stderr).toBe(exit.pending);
      const { title, evidence } = await first('ipv6', [522]);
      expect(title).toBe('IPv6 is left out: Cloudflare gets in on ports 80, 443 over IPv4 alone');
      expect(evidence[0]).toBe('/etc/default/ufw: IPV6=no');
      await lab.expectVerdict(443, { edge: { v4: 'open', v6: 'closed' }, stranger: 'closed' });
    });

    it('that iptables-legacy and nft stand side by side', async () => {
      await host();
      await both(
        'iptables-legacy -A INPUT -i lo -j ACCEPT; iptables-legacy -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; iptables-legacy -P INPUT DROP',
      );
      await both('iptables-nft -A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT');
      const { title, evidence } = await first('two-firewalls', [522]);
      expect(title).toMatch(/^Rules of iptables-legacy and of nft are in force side by side/);
      expect(evidence[0]).toBe(
        'iptables-legacy keeps Cloudflare out: iptables filter INPUT: -P INPUT DROP',
      );
      await lab.expectVerdict(443, { edge: 'closed', stranger: 'closed' });
    });
  });

  describe('finds nothing', () => {
    const healthy = async () => {
      const { code, findings } = await doctor();
      const loud = findings.filter(({ level }) => level !== 'note');
      expect(loud, JSON.stringify(loud, undefined, 1)).toEqual([]);
      expect(code).toBe(exit.ok);
      const probe = await lab.cfsync(['doctor', '--probe']);
      expect(probe).toMatchObject({ code: exit.ok, stderr: '' });
      expect(probe.stdout).toMatch(/^OK: [^\n]+\n$/);
      const { edge, stranger } = await lab.verdict(443, 'tcp', { edge: 2000, stranger: 400 });
      expect(edge).toEqual({ v4: 'open', v6: 'open' });
      return stranger;
    };
    const closed = { v4: 'timeout', v6: 'timeout' };
    const open = { v4: 'open', v6: 'open' };

    it('without a firewall', async () => {
      await host();
      expect(await healthy()).toEqual(open);
    });

    it('with ufw', async () => {
      await host();
      await shell('ufw --force enable >/dev/null; ufw allow 22/tcp >/dev/null');
      await applied('--backend', 'ufw', '--mode', 'lockdown');
      expect(await healthy()).toEqual(closed);
    });

    it('with lockdown of nftables', async () => {
      await host();
      await applied('--backend', 'nftables', '--mode', 'lockdown');
      expect(await healthy()).toEqual(closed);
    });

    it('with iptables and a published port', async () => {
      await docker();
      await applied('--backend', 'iptables', '--mode', 'lockdown');
      expect(await healthy()).toEqual(closed);
    });

    it('with fail2ban', async () => {
      await fail2ban();
      await shell(`fail2ban-client set web banip ${lab.stranger.v4}`);
      await applied('--backend', 'fail2ban');
      expect(await healthy()).toEqual({ ...open, v4: 'refused' });
    });
  });

  it('names what hangs, and reports the rest', async () => {
    await host({ privateDirs: ['/usr/local/sbin'] }, []);
    await shell(
      "printf '#!/bin/sh\\nsleep infinity\\n' >/usr/local/sbin/nft; chmod +x /usr/local/sbin/nft",
    );
    const { code, findings, unchecked } = await doctor();
    expect(code).toBe(exit.pending);
    expect(findings[0]).toMatchObject({ check: 'listening' });
    expect(unchecked.map(({ check }) => check)).toContain('packet-filter');
    expect(JSON.stringify(unchecked)).toMatch(
      /nft (-j -t|-a -t) list ruleset did not end within 4 s/,
    );
  });
});
