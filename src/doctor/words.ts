/** Words that several checks print. */

/** `port 443`, `ports 80, 443`; each once, in order. */
export function portsText(ports: Iterable<number>): string {
  const list = [...new Set(ports)].sort((a, b) => a - b);
  return `${list.length === 1 ? 'port' : 'ports'} ${list.join(', ')}`;
}

/** The first of a list, and how many more there are. */
export function atMost(list: readonly string[], most: number): readonly string[] {
  return list.length > most ? [...list.slice(0, most), `and ${list.length - most} more`] : list;
}
