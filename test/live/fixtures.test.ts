/** The captured output that the unit tests rest on, captured again and compared. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
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

function setName(item: unknown): [kind: string, family: string, table: string, name: string][] {
  return Object.entries(item as Record<string, Record<'family' | 'table' | 'name', string>>)
    .filter(([kind]) => kind === 'set' || kind === 'map')
    .map(([kind, { family, table, name }]) => [kind, family, table, name]);
}

describeLive('captured output of nft', { programs: ['nft'] }, () => {
  const names = readdirSync(folder).filter((name) => name.endsWith('.nft'));

  it.each(names)('%s', async (name) => {
    const lab = await Lab.create();
    try {
      await lab.origin.nft(read(name));
      const listing = await lab.origin.must(['nft', '-j', '-t', 'list', 'ruleset']);
      const base = name.replace('.nft', '');
      expect(items(listing)).toEqual(items(read(`${base}.json`)));
      for (const set of items(listing).flatMap(setName)) {
        const file = `${base}-${set.at(-1)}.json`;
        if (!existsSync(join(folder, file))) continue;
        const listed = await lab.origin.must(['nft', '-j', 'list', ...set]);
        expect(items(listed), file).toEqual(items(read(file)));
      }
    } finally {
      await lab.close();
    }
  });
});
