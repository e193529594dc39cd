/** The captured output that the unit tests rest on, captured again and compared. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Lab } from './lab.ts';
import { describeLive } from './privileges.ts';

const folder = join(import.meta.dirname, '..', 'fixtures', 'nftables');
const read = (name: string): string => readFileSync(join(folder, name), 'utf8');

/** The listing without what names the release of nft. */
function items(text: string): unknown[] {
  return (JSON.parse(text) as { nftables: object[] }).nftables.filter((i) => !('metainfo' in i));
}

describeLive('captured output of nft', { programs: ['nft'] }, () => {
  const names = readdirSync(folder).filter((name) => name.endsWith('.nft'));

  it.each(names)('%s', async (name) => {
    const lab = await Lab.create();
    try {
      await lab.origin.nft(read(name));
      const listing = await lab.origin.must(['nft', '-j', '-t', 'list', 'ruleset']);
      expect(items(listing)).toEqual(items(read(name.replace('.nft', '.json'))));
    } finally {
      await lab.close();
    }
  });
});
