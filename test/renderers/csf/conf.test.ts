import { describe, expect, it } from 'vitest';
import { opened, parseConf } from '../../../renderers/csf/conf.ts';

describe('csf.conf', () => {
  it('is read as CSF reads it', () => {
    const conf = parseConf(
      '# TCP_IN = "1"\nTCP_IN = "20,22, 443,2000:3000"\nIPV6="0"\nEMPTY = ""\n',
    );
    expect(conf).toEqual({ TCP_IN: '20,22, 443,2000:3000', IPV6: '0', EMPTY: '' });
    expect(opened(conf, 'TCP_IN', [80, 443, 2000, 2500, 3000, 3001])).toEqual([
      443, 2000, 2500, 3000,
    ]);
    expect(opened(conf, 'EMPTY', [80])).toEqual([]);
    expect(opened(conf, 'TCP6_IN', [80])).toEqual([]);
  });
});
