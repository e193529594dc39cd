/** What the doctor's checks are given in tests. */
import type { DoctorContext } from '../../src/doctor/check.ts';
import type { Packet } from '../../src/filters/walk.ts';
import { parseRanges } from '../../src/prefix.ts';

/** Two ranges of each family, from a snapshot of the day before. */
export function doctorContext(more: Partial<DoctorContext> = {}): DoctorContext {
  return {
    ranges: parseRanges(['173.245.48.0/20', '104.16.0.0/13', '2400:cb00::/32', '2606:4700::/32']),
    list: { kind: 'snapshot', asOf: '2026-11-20T12:00:00.000Z', ages: true },
    maxAge: 30,
    ports: [80, 443],
    applied: [],
    now: new Date('2026-11-21T12:00:00Z'),
    isRoot: true,
    ingress: null,
    values: {},
    ...more,
  };
}

/** A first packet to port 443 of a host with one way in. */
export const packet: Packet = {
  family: 'v4',
  protocol: 'tcp',
  port: 443,
  originalPort: 443,
  to: 'here',
  translated: undefined,
  interfaces: ['eth0'],
  addresses: ['203.0.113.5'],
  tracked: true,
  mark: 0,
  connectionMark: 0,
  busy: false,
};
