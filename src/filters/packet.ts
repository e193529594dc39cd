/** Makes the first packet of a connection, before any rule has seen it. */
import type { Packet } from './walk.ts';

/** What tells one first packet from another. */
type Given = Pick<Packet, 'family' | 'protocol' | 'port' | 'interfaces' | 'addresses' | 'busy'>;

export function firstPacket(given: Given): Packet {
  return {
    ...given,
    originalPort: given.port,
    to: 'here',
    translated: undefined,
    tracked: true,
    mark: 0,
    connectionMark: 0,
  };
}
