/** Lists of lines, as nft, iptables-restore or ipset read them. */

export function script(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join('');
}

export function sameList(a: readonly string[] | undefined, b: readonly string[]): boolean {
  return a !== undefined && a.length === b.length && a.every((value, i) => value === b[i]);
}
