/** Reads what `ipset save` prints (7.17), and asks the sets as rules of iptables do. */
import { linesOf, unreadable } from './save.ts';
import type { Family } from '../../prefix.ts';
import { agreed, destinations, holds, intervalsOf, unknown } from '../conditions.ts';
import { union, without, type Intervals } from '../intervals.ts';
import type { Condition, Match, Packet } from '../walk.ts';

interface IpSet {
  /** As in `hash:net` or `hash:ip,port`. */
  readonly type: string;
  readonly family: Family;
  /** Of single addresses that stand for a network. */
  readonly netmask: string | undefined;
  readonly members: readonly { readonly text: string; readonly nomatch: boolean }[];
}

export class IpSets {
  readonly #sets: ReadonlyMap<string, IpSet>;
  readonly #sources = new Map<string, Intervals | undefined>();

  /** @throws BackendError when it is not what ipset prints. */
  constructor(save: string) {
    const sets = new Map<string, IpSet & { readonly members: IpSet['members'][number][] }>();
    for (const line of linesOf(save, 'ipset save')) {
      const [kind, name = '', what = '', ...rest] = line.split(' ');
      if (kind === 'create') {
        const family = rest[rest.indexOf('family') + 1] === 'inet6' ? 'v6' : 'v4';
        const netmask = rest.includes('netmask') ? rest[rest.indexOf('netmask') + 1] : undefined;
        sets.set(name, { type: what, family, netmask, members: [] });
      } else if (kind === 'add' && sets.has(name))
        sets.get(name)!.members.push({ text: what, nomatch: rest.includes('nomatch') });
      else if (line !== '') throw unreadable('ipset save', line);
    }
    this.#sets = sets;
  }

  /** The sources in a set of addresses or networks alone; undefined for any other set. */
  sources(name: string): Intervals | undefined {
    if (!this.#sources.has(name)) this.#sources.set(name, this.#addresses(name));
    return this.#sources.get(name);
  }

  /** `--match-set NAME src,dst`. */
  asks(name: string, flags: string, family: Family): Condition {
    const what = `--match-set ${name} ${flags}`;
    const set = this.#sets.get(name);
    if (set === undefined) return () => unknown(what);
    const sides = flags.split(',');
    if (set.type === 'list:set') {
      const inner = set.members.map(({ text }) => this.asks(text, flags, family));
      return (packet) => firstOf(inner.map((ask) => ask(packet)));
    }
    const kinds = set.type.replace(/^\w+:/, '').split(',');
    if (/^(ip|net)$/.test(kinds.join())) {
      if (set.family !== family) return () => false;
      const addresses = this.sources(name);
      if (addresses === undefined) return () => unknown(what);
      if (sides[0] === 'src') return () => addresses;
      return (packet) => agreed(destinations(packet), (address) => holds(addresses, address), what);
    }
    if (set.family !== family && kinds.some((kind) => kind === 'ip' || kind === 'net'))
      return () => false;
    if (set.members.some(({ nomatch }) => nomatch)) return () => unknown(what);
    const members = set.members.map(({ text }) => text.split(','));
    return (packet) =>
      firstOf(
        members.map((parts) => {
          if (parts.length !== kinds.length) return unknown(what);
          return allOf(
            kinds.map((kind, i) => dimension(kind, parts[i]!, sides[i] ?? '', packet, what)),
          );
        }),
      );
  }

  #addresses(name: string): Intervals | undefined {
    const { type, netmask, members } = this.#sets.get(name)!;
    if (!/:(ip|net)$/.test(type)) return undefined;
    const plain = members.filter(({ nomatch }) => !nomatch).map(({ text }) => text);
    const all = intervalsOf(
      netmask === undefined ? plain : plain.map((text) => `${text}/${netmask}`),
    );
    const except = members.filter(({ nomatch }) => nomatch).map(({ text }) => text);
    if (all === undefined || except.length === 0) return all;
    // The longest prefix that has an address decides.
    const length = (text: string): number =>
      Number(text.split('/')[1] ?? (text.includes(':') ? 128 : 32));
    const sorted = [...members].sort((a, b) => length(a.text) - length(b.text));
    let found: Intervals = [];
    for (const { text, nomatch } of sorted) {
      const one = intervalsOf([text]);
      if (one === undefined) return undefined;
      found = nomatch ? without(found, one) : union(found, one);
    }
    return found;
  }
}

/** One of several that must hold together: `tcp:443` of hash:ip,port. */
function dimension(kind: string, part: string, side: string, packet: Packet, what: string): Match {
  if (kind === 'ip' || kind === 'net') {
    const set = intervalsOf([part]);
    if (set === undefined) return unknown(what);
    if (side === 'src') return set;
    return agreed(destinations(packet), (address) => holds(set, address), what);
  }
  if (kind === 'port' && side === 'dst') {
    const [, protocol, low, high = low] = /^(?:(\w+):)?(\d+)(?:-(\d+))?$/.exec(part) ?? [];
    if (low === undefined) return unknown(what);
    if (protocol !== undefined && protocol !== packet.protocol) return false;
    return Number(low) <= packet.port && packet.port <= Number(high);
  }
  if (kind === 'iface' && side === 'src')
    return agreed(packet.interfaces, (name) => name === part, what);
  return unknown(what);
}

function allOf(matches: readonly Match[]): Match {
  if (matches.includes(false)) return false;
  let found: Match = true;
  for (const match of matches) {
    if (match === true) continue;
    if (typeof match === 'object' && 'unknown' in match) return match;
    found = match;
  }
  return found;
}

/** Any of them; what is not understood counts only where nothing else holds. */
function firstOf(matches: readonly Match[]): Match {
  if (matches.includes(true)) return true;
  let found: Intervals = [];
  for (const match of matches) {
    if (typeof match === 'boolean') continue;
    if ('unknown' in match) return match;
    found = union(found, match);
  }
  return found;
}
