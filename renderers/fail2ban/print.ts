/** Prints what is ours in fail2ban's own syntax. */
import { isEmpty } from '../../src/prefix.ts';
import type { Artifact } from '../../src/renderer.ts';
import { count } from '../../src/text.ts';
import { names, type Fail2banOwned } from './state.ts';
import { theirTexts } from './theirs.ts';

export function print({ early, late, server, strays = [] }: Fail2banOwned): readonly Artifact[] {
  const texts = {
    [names.early]: early,
    [names.late]: late,
    server: serverText(server),
    ...theirTexts(strays),
  };
  return Object.entries(texts).flatMap(([name, content]) =>
    content === null ? [] : [{ path: `fail2ban/${name}`, content }],
  );
}

function serverText(server: Fail2banOwned['server']): string | null {
  const lines = Object.entries(server ?? {})
    .filter(([, ranges]) => !isEmpty(ranges))
    .map(
      ([jail, { v4, v6 }]) =>
        `jail ${jail} ignores ${count(v4.length, 'IPv4 prefix', 'IPv4 prefixes')} and ${count(v6.length, 'IPv6 prefix', 'IPv6 prefixes')}\n`,
    );
  return lines.length === 0 ? null : lines.join('');
}
