/** A packet filter that is a file, for tests of the whole program. */

/** A packet filter whose whole state is a file, with the mode and the ports in it. */
export const filterRenderer = `
import { createHash } from 'node:crypto';
const digest = (text) => text && createHash('sha256').update(text).digest('hex');
const none = { v4: [], v6: [] };
export default {
  api: 1,
  name: 'wall',
  kind: 'filter',
  options: ({ path }) => ({ path }),
  nothing: { ranges: none, text: null },
  want: ({ ranges, mode, tcpPorts, udpPorts }) => ({
    owned: { ranges, text: [mode, tcpPorts, udpPorts, ...ranges.v4, ...ranges.v6].join('\\n') },
    notices: [],
  }),
  async observe(host, { path }) {
    const text = (await host.read(path)) ?? null;
    const lines = (text ?? '').split('\\n').slice(3);
    const ranges = { v4: lines.filter((l) => l.includes('.')), v6: lines.filter((l) => l.includes(':')) };
    return { owned: { ranges, text }, around: { path } };
  },
  plan: (wanted, { owned, around }) =>
    wanted.text === owned.text
      ? []
      : [{ kind: 'file', summary: 'write the wall', path: around.path, content: wanted.text, mode: 0o644, expect: digest(owned.text) }],
  adopt: ({ owned, around }) => ({ owned: { ...owned, strays: [{ text: 'a stray', prefixes: ['104.16.0.0/13'] }] }, around }),
  print: ({ text }) => (text === null ? [] : [{ path: 'wall', content: text }]),
};
`;
