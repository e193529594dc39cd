import { describe, expect, it } from 'vitest';
import nftables from '../../../renderers/nftables/index.ts';
import { desired } from '../../helpers/desired.ts';
import { wantOn } from './host.ts';

describe('options', () => {
  it.each([
    [{ chian: 'auto' }, 'unknown key chian (did you mean chain?)'],
    [{ chain: 'filter/input' }, 'not FAMILY/TABLE/CHAIN'],
    [{ chain: 'inet/filter/in put' }, 'not FAMILY/TABLE/CHAIN'],
    [{ chain: 'inet/f;flush ruleset/x' }, 'not FAMILY/TABLE/CHAIN'],
    [{ trusted: ['wg0"; accept'] }, 'not an interface name'],
    [{ trusted: 'averyveryverylongname' }, 'not an interface name'],
    [{ file: 'set' }, 'not one of ruleset, sets, define'],
  ])('refuses %j', (raw, message) => {
    expect(() => nftables.options(raw)).toThrow(message);
  });

  it('refuses chain none in mode allow, which would do nothing', () => {
    expect(() => nftables.want(desired(), nftables.options({ chain: 'none' }))).toThrow(
      'leaves nothing to do',
    );
  });

  it('refuses to apply a file that is for render', async () => {
    await expect(wantOn('empty', {}, { file: 'sets' })).rejects.toThrow('for render');
  });
});
