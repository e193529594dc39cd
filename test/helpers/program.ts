/** Runs the built program as an ordinary user would. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

const program = join(import.meta.dirname, '..', '..', 'dist', 'src', 'bin.js');

/** A word as a shell takes it: the folder of this repository may have any name. */
export function quoted(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface Around {
  readonly cwd: string;
  /** All of its environment but PATH. */
  readonly env: Readonly<Record<string, string>>;
  /** Where standard output and standard error go instead of into the answer. */
  readonly stdout?: number;
  readonly stderr?: number;
}

export function runProgram(args: readonly string[], around: Around): Promise<Ended> {
  const { PATH = '' } = process.env;
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, ...args], {
      cwd: around.cwd,
      env: { PATH, ...around.env },
      stdio: ['ignore', around.stdout ?? 'pipe', around.stderr ?? 'pipe'],
    });
    let [stdout, stderr] = ['', ''];
    child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? -1, stdout, stderr }));
  });
}

/** A renderer of somebody else: a list of prefixes in the file that its option `path` names. */
export const listRenderer = `
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
const none = { v4: [], v6: [] };
const digest = (text) => (text === null ? null : createHash('sha256').update(text).digest('hex'));
export default {
  api: 1,
  name: 'haproxy',
  kind: 'list',
  options: ({ path }) => ({ path }),
  nothing: { ranges: none, text: null },
  want: ({ ranges, extra }) => ({
    owned: { ranges, text: [...ranges.v4, ...ranges.v6, ...extra.v4].map((p) => p + '\\n').join('') },
    notices: [],
  }),
  async observe(host, { path }) {
    const text = (await host.read(path)) ?? null;
    const lines = (text ?? '').split('\\n').filter((line) => line !== '');
    const ranges = { v4: lines.filter((l) => l.includes('.')), v6: lines.filter((l) => l.includes(':')) };
    return { owned: { ranges, text }, around: { path } };
  },
  plan: (wanted, { owned, around }) =>
    wanted.text === owned.text
      ? []
      : [{ kind: 'file', summary: 'write the list', path: around.path, content: wanted.text, mode: 0o644, expect: digest(owned.text) }],
  print: ({ text }) => (text === null ? [] : [{ path: 'haproxy/cloudflare.lst', content: text }]),
};
`;

/** The same as a packet filter: with the prefixes of the admin's own. */
export const filterRenderer = listRenderer
  .replace("kind: 'list'", "kind: 'filter'")
  .replace(
    'owned: { ranges,',
    'owned: { ranges: { v4: [...extra.v4, ...ranges.v4], v6: ranges.v6 },',
  );
