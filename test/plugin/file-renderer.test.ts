import { describe, expect, it } from 'vitest';
import { fileRenderer } from '../../src/plugin/file-renderer.ts';
import { digest } from '../../src/digest.ts';
import { parseRanges } from '../../src/prefix.ts';
import { desired } from '../helpers/desired.ts';
import { recorded } from '../helpers/host.ts';

const ranges = parseRanges(['173.245.48.0/20', '2400:cb00::/32']);
const small = desired({ ranges });

/** All that a third party has to write. */
const plain = fileRenderer({
  name: 'plain',
  options: () => ({}),
  want: ({ ranges }) => ({
    files: [
      { path: '/etc/x/v6', content: `${ranges.v6.join('\n')}\n` },
      { path: '/etc/x/v4', content: `# 1/2\n${ranges.v4.join('\n')}\n` },
    ],
  }),
});

describe('a backend of files alone', () => {
  const { owned } = plain.want(small, {});
  const files = { '/etc/x/v4': '# 1/2\n173.245.48.0/20\n', '/etc/x/v6': '2400:cb00::/32\n' };
  const observe = (found: Record<string, string>) => plain.observe(recorded({ files: found }), {});

  it('holds the prefixes that stand in its files', async () => {
    expect(owned.ranges).toEqual(ranges);
    expect((await observe(files)).owned).toEqual(owned);
    expect((await observe({})).owned).toEqual(plain.nothing);
  });

  it('plans one step for each file that differs', async () => {
    expect(plain.plan(owned, await observe(files))).toEqual([]);
    expect(plain.plan(owned, await observe({ ...files, '/etc/x/v6': 'x\n' }))).toEqual([
      {
        kind: 'file',
        summary: 'plain: write /etc/x/v6',
        path: '/etc/x/v6',
        content: '2400:cb00::/32\n',
        mode: 0o644,
        expect: digest('x\n'),
      },
    ]);
    expect(plain.plan(plain.nothing, await observe(files)).map((s) => s.summary)).toEqual([
      'plain: delete /etc/x/v4',
      'plain: delete /etc/x/v6',
    ]);
  });

  it('prints its files', () => {
    expect(plain.print(owned)).toEqual([
      { path: 'plain/v4', content: files['/etc/x/v4'] },
      { path: 'plain/v6', content: files['/etc/x/v6'] },
    ]);
  });
});

it('tries the files before the first is written, and has the program read them after the last', async () => {
  const daemon = fileRenderer({
    name: 'daemon',
    options: () => ({}),
    want: ({ ranges }) => ({
      files: [
        { path: '/etc/x/a', content: ranges.v4.join() },
        { path: '/etc/x/b', content: ranges.v6.join() },
      ],
    }),
    check: (changes) => ({ argv: ['daemon', 'check', ...changes.keys()] }),
    finish: () => ({ summary: 'reload', command: { argv: ['daemon', 'reload'] } }),
  });
  const { owned } = daemon.want(small, {});
  const observed = await daemon.observe(recorded({}), {});
  expect(daemon.plan(owned, observed)).toMatchObject([
    {
      kind: 'file',
      path: '/etc/x/a',
      check: { argv: ['daemon', 'check', '/etc/x/a', '/etc/x/b'] },
    },
    { kind: 'file', path: '/etc/x/b' },
    { kind: 'run', summary: 'daemon: reload', command: { argv: ['daemon', 'reload'] } },
  ]);
});
