/** Says what the admin should know of CSF as it is. */
import type { Desired, Notice, Ranges } from '../../src/renderer.ts';
import { count, escape } from '../../src/text.ts';
import { isOn } from './conf.ts';
import { closed, openPorts } from './refuse.ts';
import { filters, table } from './running.ts';
import { families, files, type CsfAround } from './state.ts';

/** From here on a set, which CSF does not have for ports, is worth it: 10,000 rules cost 175 us a packet. */
const manyPrefixes = 200;

export function remarks(desired: Desired, ranges: Ranges, around: CsfAround): Notice[] {
  const notices: Notice[] = [];
  const note = (text: string): void => void notices.push({ level: 'note', text });
  const warn = (text: string): void => void notices.push({ level: 'warning', text });
  const { conf } = around;
  if (around.restarting)
    warn('CSF is being restarted, and loads the lines of cfsync.allow by itself');
  else if (around.disabled)
    warn('CSF is disabled (csf.disable), so only its files are kept; csf -e enables it');
  else if (!filters(around, 'v4'))
    warn('CSF is not running, so only its files are kept; csf -s starts it');
  else if (isOn(conf, 'IPV6') && !filters(around, 'v6'))
    warn('CSF is not running for IPv6, though csf.conf says IPV6 = "1"; csf -r starts it');
  if (isOn(conf, 'TESTING'))
    warn(
      'TESTING = "1" in csf.conf: CSF clears the firewall every few minutes and lfd does not start; set it to "0" and run csf -r',
    );
  if (!isOn(conf, 'IPV6') && around.ipv6)
    note(
      'IPV6 = "0" in csf.conf: CSF leaves IPv6 open and skips the IPv6 lines of cfsync.allow; set it to "1" and run csf -r',
    );
  if (desired.mode === 'allow')
    for (const { name, ports } of openPorts(desired, around))
      note(
        `${name} in csf.conf opens ${ports.join(', ')} to everybody, so mode allow restricts nothing there; take that out and run csf -r, then only Cloudflare gets in`,
      );
  if (around.left?.length)
    warn(
      `left alone in ${files.allow}, though for Cloudflare's ranges, because of other ports${isOn(conf, 'LF_IPSET') ? ' or because LF_IPSET keeps them in sets' : ''}: ${around.left.map(escape).join('; ')}`,
    );
  const published = closed(desired).filter((port) =>
    families.some((family) =>
      table(around.kernel[family], 'nat')?.rules.some(
        ({ text }) => text.includes(` --dport ${port} `) && text.includes('-j DNAT'),
      ),
    ),
  );
  if (published.length > 0)
    warn(
      `port ${published.join(', ')} is sent on by DNAT (published by Docker), where CSF does not filter it; --backend nftables --mode lockdown covers it`,
    );
  const prefixes = ranges.v4.length + ranges.v6.length;
  if (prefixes > manyPrefixes)
    note(
      `${count(prefixes, 'prefix', 'prefixes')} are as many rules, which every packet passes one by one; --backend nftables takes them as a set`,
    );
  return notices;
}
