/** Lines of csf.allow: CSF's advanced filters, and the rules of iptables that CSF makes of them. */
import { asPrefix, type Family } from '../../src/prefix.ts';

/** Who may reach ports of this host (`in`), or what the answers may go to (`out`). */
export interface Entry {
  /** `any`: every protocol and every port, as a plain address says. */
  readonly protocol: 'tcp' | 'udp' | 'any';
  readonly direction: 'in' | 'out';
  /** As iptables writes them: `80,443`, `8080:8090`; empty for every port. */
  readonly ports: string;
  /** Canonical. */
  readonly prefix: string;
}

/** What the rules of a running CSF have in common, beside what their lines say. */
export interface Style {
  /** `! -i lo`, or `-i eth0` where ETH_DEVICE is set; and the same for the way out. */
  readonly in: string;
  readonly out: string;
  /** ACCEPT, or LOGACCEPT with WATCH_MODE. */
  readonly accept: string;
}

export const chainOf = { in: 'ALLOWIN', out: 'ALLOWOUT' } as const;

/**
 * With `|` in between: lines with `:` load nothing for IPv6; and with the ports first: the other way around,
 * or without ports, nothing is loaded, and CSF says nothing (CSF 15.10).
 */
export function lineOf({ protocol, direction, ports, prefix }: Entry): string {
  return direction === 'in'
    ? `${protocol}|in|d=${ports}|s=${prefix}`
    : `${protocol}|out|s=${ports}|d=${prefix}`;
}

export function familyOf({ prefix }: Entry): Family {
  return prefix.includes(':') ? 'v6' : 'v4';
}

/** What a line loads: a plain address counts for both directions. */
export function entriesIn(line: string): readonly Entry[] {
  const prefix = asPrefix(line.trim().split(/\s/)[0]!)?.text;
  if (prefix === undefined) return [entryOf(line) ?? []].flat();
  const plain = { protocol: 'any', ports: '', prefix } as const;
  return [
    { ...plain, direction: 'in' },
    { ...plain, direction: 'out' },
  ];
}

/** An entry of the kind above, read as CSF reads it (`linefilter`); undefined for anything else. */
export function entryOf(line: string): Entry | undefined {
  const [word = ''] = line.trim().toLowerCase().split(/\s/);
  const parts = word.split(word.includes('|') ? '|' : ':');
  const protocol = ['tcp', 'udp', 'icmp'].includes(parts[0]!) ? parts.shift() : 'tcp';
  const direction = ['in', 'out'].includes(parts[0]!) ? parts.shift() : 'in';
  const [ports, address] = direction === 'in' ? ['d=', 's='] : ['s=', 'd='];
  if (protocol !== 'tcp' && protocol !== 'udp') return undefined;
  if (!parts[0]?.startsWith(ports) || !parts[1]?.startsWith(address)) return undefined;
  const prefix = asPrefix(parts[1].slice(2))?.text;
  if (prefix === undefined) return undefined;
  return {
    protocol,
    direction: direction as Entry['direction'],
    ports: parts[0].slice(2).replaceAll('_', ':'),
    prefix,
  };
}

/** The lines of a file of CSF that it does not skip (`$slurpreg`, `$cleanreg`). */
export function effectiveLines(text: string): string[] {
  return text
    .split(/\r\n?|[\n\v\f]/)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !/^#|Include/.test(line));
}

/** The files that a file of CSF names; only in this very form, a blank before or after it breaks it. */
export function includes(text: string): string[] {
  return [...text.matchAll(/^Include\s*(\/.*)$/gm)].map(([, path]) => path!.replace(/\r$/, ''));
}

/** The entries of a file, in order. */
export function entriesOf(text: string | null): Entry[] {
  return effectiveLines(text ?? '').flatMap((line) => entryOf(line) ?? []);
}

/** The rule that CSF makes of an entry, as iptables-save prints it (1.8.9, both variants), without `-A CHAIN`. */
export function ruleOf({ protocol, direction, ports, prefix }: Entry, style: Style): string {
  const [address, side] = direction === 'in' ? ['-s', '--dport'] : ['-d', '--sport'];
  if (protocol === 'any') return `${address} ${prefix} ${style[direction]} -j ${style.accept}`;
  const match = ports.includes(',')
    ? `-m multiport ${side}s ${ports}`
    : `-m ${protocol} ${side} ${ports}`;
  return `${address} ${prefix} ${style[direction]} -p ${protocol} ${match} -j ${style.accept}`;
}

export const directions = ['in', 'out'] as const;

export function times(lines: readonly string[]): (line: string) => number {
  const found = new Map<string, number>();
  for (const line of lines) found.set(line, (found.get(line) ?? 0) + 1);
  return (line) => found.get(line) ?? 0;
}

export type Lines = ReadonlyMap<string, Entry>;

/** The lines of a text that name rules, in order. */
export function linesIn(text: string | null): Lines {
  return new Map(entriesOf(text).map((entry) => [lineOf(entry), entry]));
}

/** The list less each of these once. */
export function without(list: readonly string[], gone: readonly string[]): readonly string[] {
  const left = times(gone);
  const seen = new Map<string, number>();
  return list.filter((one) => {
    const n = (seen.get(one) ?? 0) + 1;
    seen.set(one, n);
    return n > left(one);
  });
}
