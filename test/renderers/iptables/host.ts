/** Hosts with rules that the programs of iptables saved, and what the renderer wants there. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import iptables from '../../../renderers/iptables/index.ts';
import type { Desired, RunStep } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded, type Recorded } from '../../helpers/host.ts';

/** What iptables 1.8.9 and ipset 7.17 printed; see test/fixtures/iptables/README.md. */
export function printed(name: string): string {
  return readFileSync(join(import.meta.dirname, '..', '..', 'fixtures', 'iptables', name), 'utf8');
}

export interface Situation {
  readonly v4?: string;
  readonly v6?: string;
  readonly variant?: 'nf_tables' | 'legacy';
  /** Answers of other programs. */
  readonly answers?: NonNullable<Recorded['answers']>;
  readonly files?: Readonly<Record<string, string>>;
  readonly folders?: Readonly<Record<string, readonly string[]>>;
}

/** A host with these rules; eth0 has the default route. */
export function hostWith({ v4 = '', v6 = '', variant = 'nf_tables', ...more }: Situation) {
  return recorded({
    answers: {
      'iptables-restore --version': `iptables-restore v1.8.9 (${variant})\n`,
      'iptables-save --version': `iptables-save v1.8.9 (${variant})\n`,
      'ip6tables-restore --version': `ip6tables-restore v1.8.9 (${variant})\n`,
      'ip6tables-save --version': `ip6tables-save v1.8.9 (${variant})\n`,
      'iptables-save': v4,
      'ip6tables-save': v6,
      'iptables-nft-save': '',
      'ip6tables-nft-save': '',
      'nft -j -t list chains': '{"nftables": []}',
      'ipset list -n': '',
      ...more.answers,
    },
    files: {
      '/proc/net/route': 'Iface\tDestination\neth0\t00000000\t0\t0\t0\t0\t0\t00000000\t0\t0\t0\n',
      ...more.files,
    },
    folders: { '/proc/sys/net/ipv6': ['conf'], ...more.folders },
  });
}

export async function wantOn(
  situation: Situation,
  changes: Partial<Desired> = {},
  raw: Record<string, unknown> = {},
) {
  const options = iptables.options(raw);
  const observed = await iptables.observe(hostWith(situation), options);
  const { owned, notices } = iptables.want(desired(changes), options, observed.around);
  const steps = iptables.plan(owned, observed) as readonly RunStep[];
  return { owned, notices: notices.map((n) => n.text).join('\n'), observed, steps };
}

export const jump = '-m comment --comment cfsync -j CFSYNC';

/** The rule of the plan that places the jump of IPv4's INPUT. */
export function placed(steps: readonly RunStep[], chain = 'INPUT'): string | undefined {
  const stdin = steps.find((s) => s.command.argv[0] === 'iptables-restore')?.command.stdin ?? '';
  return stdin.split('\n').find((line) => /^-[AI] /.test(line) && line.includes(` ${chain} `));
}

export const bridge = {
  '/sys/class/net': ['br-0123456789ab', 'br-ex', 'docker0', 'eth0', 'lo'],
  '/sys/class/net/docker0/bridge': [],
  '/sys/class/net/br-0123456789ab/bridge': [],
  '/sys/class/net/br-ex/bridge': [],
};
