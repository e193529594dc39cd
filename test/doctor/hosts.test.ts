/** The checks of packet filters and routes on what was recorded of real hosts (test/fixtures/doctor/README.md). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadCheck } from '../../src/doctor/checks.ts';
import { codeOf, examine, type Report } from '../../src/doctor/examine.ts';
import { asText } from '../../src/doctor/report.ts';
import { exit } from '../../src/errors.ts';
import { bundled } from '../helpers/desired.ts';
import { doctorContext } from '../helpers/doctor.ts';
import { golden } from '../helpers/golden.ts';
import { recorded, type Recorded } from '../helpers/host.ts';

const names = [
  'firewall-state',
  'two-firewalls',
  'bans',
  'allow-list',
  'ipv6',
  'packet-filter',
  'published-ports',
  'open-to-all',
  'way-out',
  'listening',
] as const;

const fixture = (name: string): Recorded =>
  JSON.parse(
    readFileSync(join(import.meta.dirname, '..', 'fixtures', 'doctor', `${name}.json`), 'utf8'),
  ) as Recorded;

const look = async (host: Recorded): Promise<Report> => {
  // The older ones were recorded before there was such a check.
  const isNew = host.answers?.['ip -j -4 rule show'] !== undefined;
  const own = names.filter((name) => isNew || name !== 'way-out');
  const checks = await Promise.all(own.map(loadCheck));
  return examine(checks, recorded(host), doctorContext({ ranges: bundled }));
};

const broken = [
  'nothing-listens',
  'drops',
  'rejects',
  'banned',
  'stale',
  'wider',
  'published',
  'no-ipv6',
  'two-variants',
  'taken',
  'refused',
  'vpn',
  'no-way-ipv6',
  'limits',
  'firewalld',
  'forwarded',
  'crowdsec',
  'several-banned',
];
const healthy = [
  'open',
  'ufw',
  'nftables',
  'iptables',
  'fail2ban',
  'tunnel',
  'k3s',
  'crowdsec',
  'ufw-limits',
];

describe('a recorded host', () => {
  it.each(broken)('%s has its report', async (name) => {
    const report = await look(fixture(name));
    expect(report.failed).toEqual([]);
    expect(codeOf(report)).toBe(exit.pending);
    golden(`doctor/${name}.txt`, asText(report));
  });

  it.each(healthy)('that is healthy, %s, has notes at most', async (name) => {
    const report = await look(fixture(`healthy-${name}`));
    expect(report.failed).toEqual([]);
    expect(report.findings.filter(({ level }) => level !== 'note')).toEqual([]);
  });

  it('on which a check is made alone tells what another one explains', async () => {
    const checks = [await loadCheck('packet-filter')];
    const context = doctorContext({ ranges: bundled });
    const { findings } = await examine(checks, recorded(fixture('banned')), context);
    expect(findings).toHaveLength(1);
    expect((await look(fixture('banned'))).findings.map(({ check }) => check)).toEqual(['bans']);
  });
});
