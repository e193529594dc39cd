import { describe, expect, it } from 'vitest';
import { entryOf, includes, lineOf, ruleOf } from '../../../renderers/csf/lines.ts';

describe('lines of csf.allow', () => {
  it('are read as CSF 15.10 reads them', () => {
    const read = (line: string): string | undefined => {
      const entry = entryOf(line);
      return entry && lineOf(entry);
    };
    const ours = 'tcp|in|d=443|s=192.0.2.0/24';
    for (const line of [
      ours,
      `${ours} # text`,
      'd=443|s=192.0.2.0/24',
      'in|d=443|s=192.0.2.0/24',
      'tcp:in:d=443:s=192.0.2.0/24',
      'TCP|IN|D=443|S=192.0.2.0/24',
    ])
      expect(read(line), line).toBe(ours);
    expect(read('tcp|in|d=8080_8090|s=192.0.2.1')).toBe('tcp|in|d=8080:8090|s=192.0.2.1/32');
    expect(read('udp|out|s=443|d=2001:DB8::1')).toBe('udp|out|s=443|d=2001:db8::1/128');
    for (const line of [
      '192.0.2.0/24',
      'tcp|in|s=192.0.2.0/24',
      'tcp|in|s=192.0.2.0/24|d=443',
      'tcp:in:d=443:s=2001:db8::/32',
      'tcp|in|d=443|s=192.0.2.0/33',
      'tcp|in|d=443|s=example.com',
      'icmp|in|d=ping|s=192.0.2.0/24',
      '',
    ])
      expect(read(line), line).toBeUndefined();
  });

  it('become rules as iptables-save prints them', () => {
    const style = { in: '! -i lo', out: '! -o lo', accept: 'ACCEPT' };
    const rule = (line: string): string => ruleOf(entryOf(line)!, style);
    expect(rule('tcp|in|d=80,443|s=192.0.2.0/24')).toBe(
      '-s 192.0.2.0/24 ! -i lo -p tcp -m multiport --dports 80,443 -j ACCEPT',
    );
    expect(rule('udp|out|s=443|d=2001:db8::/32')).toBe(
      '-d 2001:db8::/32 ! -o lo -p udp -m udp --sport 443 -j ACCEPT',
    );
  });

  it('name other files only in one form', () => {
    expect(
      includes('Include /a\nInclude /b \n Include /c\ninclude /d\nInclude /e # x\r\n'),
    ).toEqual(['/a', '/b ', '/e # x']);
  });
});
