/** One and the same rule set in the ways that the releases of nft print it. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { keptByIptables, listOf, parseListing } from '../../../src/filters/nft/listing.ts';
import { withSingleFlags } from '../../helpers/nft.ts';

const folder = join(import.meta.dirname, '..', '..', 'fixtures', 'nftables');
const read = (name: string): string => readFileSync(join(folder, `${name}.json`), 'utf8');
const all = readdirSync(folder).flatMap((name) => /^(.+)\.json$/.exec(name)?.[1] ?? []);

describe('what is one alone may be without brackets', () => {
  const having = all.filter((name) => withSingleFlags(read(name)) !== read(name));

  it('in listings of sets, of rules that ask for fib, and of a single set', () => {
    const some = ['ours', 'docker', 'flags', 'leftovers', 'leftovers-cf4'];
    expect(having).toEqual(expect.arrayContaining(some));
  });

  it.each(having)('flags, as nft 1.1.4 has them: %s', (name) => {
    expect(parseListing(withSingleFlags(read(name)))).toEqual(parseListing(read(name)));
  });

  it.each(['1.1.3', '1.1.7'])('flags, as nft %s has them and 1.0.6', (release) => {
    expect(parseListing(read(`flags-${release}`))).toEqual(parseListing(read('flags')));
  });

  it('flags of a rule, wherever they are', () => {
    const flags = JSON.stringify(parseListing(read('flags')).rules).match(/"flags":[^}]*/g);
    expect(flags).toEqual([
      '"flags":["daddr"]',
      '"flags":["saddr","iif"]',
      '"flags":["saddr"]',
      '"flags":["daddr","iif"]',
      '"flags":["saddr"]',
      '"flags":["all"]',
      '"flags":["random"]',
      '"flags":["random","persistent"]',
    ]);
  });

  it.each(['1.1.3', '1.1.7'])('flags of a table, with nft %s', (release) => {
    expect(parseListing(read(`dormant-${release}`)).tables).toMatchObject([{ flags: true }]);
    expect(parseListing(read(`flags-${release}`)).tables).toMatchObject([{ flags: false }]);
  });

  it('an element of a set, which libnftables-json(5) allows', () => {
    const text = read('flags-one');
    const single = text.replace(/"elem": \[(.*)\]\}\}\]\}/, '"elem": $1}}]}');
    expect(single).not.toBe(text);
    expect(parseListing(single)).toEqual(parseListing(text));
  });

  it('is a list of one, a list is itself, and nothing is an empty one', () => {
    expect(['a', ['a', 'b'], undefined, null].map(listOf)).toEqual([['a'], ['a', 'b'], [], []]);
  });
});

describe('the tables that iptables keeps', () => {
  const kept = (name: string): string[] => [...keptByIptables(parseListing(read(name)).chains)];

  it('have its chains, with their hooks', () => {
    for (const name of ['iptables-nft', 'ufw'])
      expect(kept(name).sort()).toEqual(['ip filter', 'ip6 filter']);
  });

  it("are not nft's own with lower-case chains, and not of both families", () => {
    for (const name of ['lowercase', 'policy-drop', 'two-families']) expect(kept(name)).toEqual([]);
  });

  it('are not those that hold an upper-case chain without a hook alone', () => {
    const { chains } = parseListing(read('lowercase'));
    const more = { family: 'ip', table: 'filter', chain: 'INPUT' } as const;
    expect([...keptByIptables([...chains, more])]).toEqual([]);
  });
});
