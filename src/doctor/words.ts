/** Words that several checks print. */

/** `port 443`, `ports 80, 443`; each once, in order. */
export function portsText(ports: Iterable<number>): string {
  const list = [...new Set(ports)].sort((a, b) => a - b);
  return `${list.length === 1 ? 'port' : 'ports'} ${list.join(', ')}`;
}
