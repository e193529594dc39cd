/** Says what the admin should know of fail2ban as it is. */
import type { Notice } from '../../src/renderer.ts';
import { bansOn, list } from './bans.ts';
import { folder, names, type Fail2banAround, type Fail2banOwned, type Sections } from './state.ts';

export function noticesOf(
  { ranges, late, beside }: Fail2banOwned,
  around: Fail2banAround,
): readonly Notice[] {
  const notices: Notice[] = [];
  if (late !== null) notices.push({ level: 'note', text: carriedText(beside) });
  const tabbed = Object.values(beside)
    .flat()
    .filter((value) => /\t/.test(value));
  if (tabbed.length > 0)
    notices.push({
      level: 'note',
      text: `ignoreip has ${tabbed.map((value) => value.replaceAll('\t', ' TAB ')).join('; ')}: fail2ban takes what only a tab parts for one name, and ignores none of it; put a blank there`,
    });
  if (!around.alone)
    notices.push({
      level: 'note',
      text: `a jail refers to the ignoreip of ${names.early} by %(known/ignoreip)s: before cfsync remove, set ignoreip in [DEFAULT] of ${folder}/jail.local`,
    });
  if (around.server === null)
    notices.push({
      level: 'note',
      text: 'the server is not running: its files are kept in step, and it reads them when it starts',
    });
  for (const text of around.left ?? []) notices.push({ level: 'warning', text });
  const { inside, wider } = bansOn(ranges, around);
  if (inside.length > 0)
    notices.push({
      level: 'warning',
      text: `addresses of Cloudflare are banned; apply lifts ${list(inside)}`,
    });
  if (wider.length > 0)
    notices.push({
      level: 'warning',
      text: `banned, and wider than Cloudflare's ranges: ${list(wider)}; cfsync leaves that alone; fail2ban-client set JAIL unbanip NETWORK lifts it`,
    });
  return notices;
}

function carriedText(beside: Sections): string {
  const places = Object.keys(beside).map((name) => `[${name}]`);
  return `ignoreip is set in ${places.join(', ')}: ${folder}/${names.late} repeats those values next to the ranges, so run cfsync apply after you change them`;
}
