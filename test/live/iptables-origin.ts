/** An origin whose rules are those of iptables, of either variant. */

import { expect } from 'vitest';
import type { Expected, Lab, Verdict } from './lab.ts';

export const tools = ['iptables', 'ip6tables'] as const;
const alternatives = tools.flatMap((tool) => [tool, `${tool}-save`, `${tool}-restore`]);
/** Neighbour discovery must work whatever the policy. */
export const basics = [
  '-A INPUT -i lo -j ACCEPT',
  '-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
  '-A INPUT -m conntrack --ctstate INVALID -j DROP',
  '-A INPUT -p ipv6-icmp -j ACCEPT',
];

export class Origin {
  readonly lab: Lab;
  constructor(lab: Lab) {
    this.lab = lab;
  }

  /** As update-alternatives would, in the private /etc. */
  async choose(variant: 'nft' | 'legacy'): Promise<void> {
    for (const name of alternatives) {
      const chosen = name.replace('tables', `tables-${variant}`);
      await this.run('ln', '-sfn', `/usr/sbin/${chosen}`, `/etc/alternatives/${name}`);
    }
  }

  run(...argv: [string, ...string[]]): Promise<string> {
    return this.lab.origin.must(argv);
  }

  /** Loads the same rules of an admin into both families. */
  async load(table: string, policy: 'ACCEPT' | 'DROP', ...rules: string[]): Promise<void> {
    const chains = table === 'filter' ? [`:INPUT ${policy} [0:0]`] : [];
    for (const tool of tools) {
      const fit = rules.filter((rule) => tool === 'ip6tables' || !rule.includes('icmp'));
      const stdin = [`*${table}`, ...chains, ...fit, 'COMMIT', ''].join('\n');
      await this.lab.origin.must([`${tool}-restore`], { stdin });
    }
  }

  /** What is loaded, without what iptables-save says of itself and of time, and without counters. */
  async saved(): Promise<string> {
    const texts = await Promise.all(tools.map((tool) => this.run(`${tool}-save`)));
    return texts
      .join('')
      .replaceAll(/^#.*\n/gm, '')
      .replaceAll(/\[\d+:\d+\]/g, '[0:0]');
  }

  /** Empties the tables that are loaded, and forgets what was applied. */
  async reset(): Promise<void> {
    for (const variant of ['nft', 'legacy'])
      for (const tool of tools) {
        const saved = await this.run(`${tool}-${variant}-save`);
        const tables = [...saved.matchAll(/^\*(\S+)((?:\n:.*)*)/gm)].map(
          ([, name, chains]) =>
            `*${name}${chains!.replaceAll(/\n:(\S+) (\S+) .*/g, (_, chain: string, policy: string) => (policy === '-' ? '' : `\n:${chain} ACCEPT [0:0]`))}\nCOMMIT\n`,
        );
        if (tables.length > 0)
          await this.lab.origin.must([`${tool}-${variant}-restore`], { stdin: tables.join('') });
      }
    await this.run('nft', 'flush', 'ruleset');
    // A list of sets holds its members; rules are freed a little later than they are gone.
    await this.run(
      'sh',
      '-c',
      'ipset flush; for i in 1 2 3 4 5 6 7 8 9; do ipset destroy 2>/dev/null && exit; sleep 0.2; done; exec ipset destroy',
    );
    await this.run('sh', '-c', 'rm -rf /run/lab/state/* /run/lab/list');
  }

  /** Who gets through to both ports, and to one that is none of cfsync's business. */
  async expect(web: Verdict<Expected>, other?: Verdict<Expected>): Promise<void> {
    await Promise.all([
      this.lab.expectVerdict(80, web),
      this.lab.expectVerdict(443, web),
      ...(other === undefined ? [] : [this.lab.expectVerdict(9999, other)]),
    ]);
  }

  /** Runs a command line, expects its exit code and answers what it said. */
  async cfsync(expected: number, line: string, ...more: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.lab.cfsync([...line.split(' '), ...more]);
    expect(code, `${line} ${more.join(' ')}\n${stdout}${stderr}`).toBe(expected);
    return stdout + stderr;
  }

  async list(name: string, v4: readonly string[], v6: readonly string[]): Promise<void> {
    const folder = `/run/lab/list/${name}`;
    await this.run('mkdir', '-p', folder);
    await this.lab.origin.must(['tee', `${folder}/ips-v4`], { stdin: `${v4.join('\n')}\n` });
    await this.lab.origin.must(['tee', `${folder}/ips-v6`], { stdin: `${v6.join('\n')}\n` });
  }

  /** Two lists that differ, and that both have the edge: in one as a prefix, in the other as parts of it. */
  async lists(): Promise<void> {
    await this.list('0', ['173.245.48.0/20', '103.21.244.0/22'], ['2400:cb00::/32']);
    await this.list(
      '1',
      ['173.245.48.0/21', '104.16.0.0/13', '198.41.128.0/17'],
      ['2400:cb00::/33', '2606:4700::/32'],
    );
  }

  /** The members of our sets, sorted. */
  async sets(): Promise<string> {
    const saved = await this.run('ipset', 'save', '-sorted');
    return saved.replaceAll(/^create (\S+).*/gm, 'create $1');
  }

  /** Puts a program that fails in the place of one: when it is asked with `--test`, without, or both. */
  async fail(program: string, when: 'test' | 'run' | 'always'): Promise<void> {
    const link = `/etc/alternatives/${program}`;
    const real = (await this.run('readlink', link)).trim();
    const file = `/run/lab/fail-${program}`;
    const stdin = `#!/bin/sh
case "$*" in
  *--version*) exec ${real} "$@" ;;
  *--test*) ${when === 'run' ? `exec ${real} "$@"` : ''} ;;
  *) ${when === 'test' ? `exec ${real} "$@"` : ''} ;;
esac
echo injected >&2
exit 3
`;
    await this.lab.origin.must(['tee', file], { stdin });
    await this.run('chmod', '0755', file);
    await this.run('ln', '-sfn', file, link);
  }

  apply(...args: string[]): Promise<string> {
    return this.cfsync(0, 'apply -b iptables --source bundled --allow-weaker', ...args);
  }
}

/** iptables has no command to delete a table; an empty one filters nothing. */
export function withoutEmpty(saved: string): string {
  return saved.replaceAll(/^\*.*\n(:\S+ ACCEPT \[0:0\]\n)*COMMIT\n/gm, '');
}
