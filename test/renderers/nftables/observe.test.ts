import { describe, expect, it } from 'vitest';
import nftables from '../../../renderers/nftables/index.ts';
import { parseListing } from '../../../src/filters/nft/listing.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded } from '../../helpers/host.ts';
import { wrongSet } from '../../fixtures/nftables/listings.ts';
import { hostWith } from './host.ts';

describe('observe', () => {
  it('has nothing on a host without rules', async () => {
    const { owned } = await nftables.observe(hostWith('empty'), nftables.options({}));
    expect(owned).toEqual(nftables.nothing);
  });

  it.each([
    [
      'Operation not permitted (you must be root)\nnetlink: Error: cache initialization failed: Operation not permitted\n',
      'no permission',
    ],
    [
      'src/mnl.c:60: Unable to initialize Netlink socket: Protocol not supported\n',
      'not supported',
    ],
    ['something else\n', 'broken'],
  ])('names the reason of %j', async (stderr, reason) => {
    const host = recorded({
      answers: { 'nft -j -t list ruleset': { code: 1, stdout: '', stderr } },
    });
    await expect(nftables.observe(host, nftables.options({}))).rejects.toMatchObject({ reason });
  });

  it('refuses output that is not a rule set', () => {
    expect(() => parseListing('')).toThrow('not JSON');
    expect(() => parseListing('{}')).toThrow('no rule set');
  });

  it('names sets that it did not make, and refuses to plan over them', async () => {
    const observed = await nftables.observe(hostWith('wrong-set', wrongSet), nftables.options({}));
    expect(observed.around.mismatches).toEqual([
      expect.stringContaining('set inet cfsync cfsync4'),
    ]);
    expect(() => nftables.want(desired(), nftables.options({}), observed.around)).toThrow(
      'cfsync remove --backend nftables',
    );
  });
});
