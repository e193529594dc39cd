/** Runs the built program at a terminal of its own, script(1). */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { quoted } from './program.ts';

const program = join(import.meta.dirname, '..', '..', 'dist', 'src', 'bin.js');

export interface AtTerminal {
  /** All that the terminal was sent, so far. */
  sent(): string;
  /** As if it was typed. */
  type(text: string): void;
  readonly ended: Promise<number>;
}

interface Around {
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  readonly columns?: number;
  /** For the shell, behind the command: `2>/dev/null`. */
  readonly redirect?: string;
}

export function runAtTerminal(
  args: readonly string[],
  { cwd, env, columns = 80, redirect = '' }: Around,
): AtTerminal {
  const words = [process.execPath, program, ...args].map(quoted).join(' ');
  const line = `stty cols ${columns}; ${words} ${redirect}`;
  const { PATH = '' } = process.env;
  const child = spawn('script', ['-qec', line, '/dev/null'], {
    cwd,
    env: { PATH, TERM: 'xterm', ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  return {
    sent: () => text,
    type: (keys) => void child.stdin.write(keys),
    ended: new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code) => resolve(code ?? -1));
    }),
  };
}

/** What a reader sees in the end: a line that was rewritten or erased is gone. */
export function screen(sent: string): string {
  return sent
    .split(/\r?\n/)
    .map((line) => line.split('\r\u001B[K').at(-1))
    .join('\n');
}
