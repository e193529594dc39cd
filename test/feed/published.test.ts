import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { contains, parseRanges } from '../../src/prefix.ts';
import { everPublished, namesOnly } from '../../src/feed/published.ts';
import { storeSnapshot, type Snapshot } from '../../src/state/store.ts';
import { bundled } from '../helpers/desired.ts';

let state: string;

beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'cfsync-published-'));
});

afterEach(() => {
  rmSync(state, { recursive: true });
});

function snapshotOf(...prefixes: string[]): Snapshot {
  return {
    ranges: parseRanges(prefixes),
    origin: { kind: 'feeds', detail: '' },
    acceptedAt: '2026-10-01T00:00:00.000Z',
  };
}

describe('everPublished', () => {
  it('has what the source says, what was accepted here before, and what is known of before that', async () => {
    await storeSnapshot(state, snapshotOf('192.0.2.0/24', '2400:cb00::/32'));
    const snapshot = snapshotOf('198.51.100.0/24', '2400:cb00::/32');
    await storeSnapshot(state, snapshot);
    const known = await everPublished({ ranges: bundled, mayRemove: true, snapshot }, state);
    for (const address of ['192.0.2.1', '198.51.100.1', '199.27.128.1', '104.28.0.1', '104.16.0.1'])
      expect(contains(known, address), address).toBe(true);
    expect(contains(known, '203.0.113.1')).toBe(false);
  });

  it('does not take a range of the snapshot for gone on the word of a source that may not remove', async () => {
    const snapshot = snapshotOf('198.51.100.0/24', '2405:b500::/32');
    const ranges = parseRanges(['173.245.48.0/20', '2400:cb00::/32']);
    const known = await everPublished({ ranges, mayRemove: false, snapshot }, state);
    expect(contains(known, '2405:b500::1')).toBe(false);
    expect(contains(known, '198.51.100.1')).toBe(false);
    expect(contains(known, '104.28.0.1')).toBe(true);
    const sure = await everPublished({ ranges, mayRemove: true, snapshot }, state);
    expect(contains(sure, '2405:b500::1')).toBe(true);
    expect(contains(sure, '198.51.100.1')).toBe(true);
  });
});

describe('namesOnly', () => {
  const known = parseRanges(['104.16.0.0/12', '2400:cb00::/32']);

  it.each([
    ['104.16.0.0/12'],
    ['104.16.0.0/13', '104.24.0.0/13'],
    ['104.28.7.0/24'],
    ['2400:cb00::/32', '104.16.0.0/14'],
    ['2400:cb00:1::/48'],
  ])('%s', (...prefixes) => {
    expect(namesOnly(known, prefixes)).toBe(true);
  });

  it.each([
    ['nothing', []],
    ['wider', ['104.16.0.0/11']],
    ['one that is not', ['104.16.0.0/12', '192.0.2.0/24']],
    ['an address of somebody behind the VPN', ['104.28.7.7/32']],
    ['an IPv6 address', ['2400:cb00::1/128']],
    ['host bits', ['104.16.0.1/12']],
    ['a mask with gaps', ['104.16.0.0/255.0.255.0']],
    ['no length', ['104.16.0.0']],
    ['a name', ['cloudflare']],
  ])('not %s', (_, prefixes) => {
    expect(namesOnly(known, prefixes)).toBe(false);
  });
});
