/** Lets a signal end a command: at once while nothing is changed yet, else by undoing it. */
import { closeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { CfsyncError, exit } from '../errors.ts';
import { log } from '../cli/log.ts';

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

let asked: (typeof signals)[number] | undefined;
let follows: 'end' | 'undo' | 'nothing' = 'end';
let listening = false;

/** From here on the three signals are handled; the ones after the first change nothing. */
export function listen(): void {
  if (listening) return;
  listening = true;
  // A terminal that is gone must not end the undo: what cannot be said is not said.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  const terminals = [0, 1, 2].filter((fd) => isatty(fd));
  process.on('exit', () => leaveDead(terminals));
  for (const signal of signals)
    process.on(signal, () => {
      if (asked !== undefined) return;
      asked = signal;
      if (follows === 'end') {
        log('error', `ended by ${signal}; nothing was changed`);
        process.exit(exit.failed);
      }
      const what = follows === 'undo' ? 'what was begun is undone' : 'this is brought to its end';
      log('notice', `${signal}: ${what}`);
    });
}

/**
 * As its last act Node sets terminals back to how it found them, and until 24 it ends with SIGABRT when one
 * is gone (https://github.com/nodejs/node/pull/58200). It leaves closed descriptors alone.
 */
function leaveDead(terminals: readonly number[]): void {
  for (const fd of terminals) if (!isatty(fd)) closeSync(fd);
}

/**
 * While `work` runs, a signal ends nothing by itself: `stopIfAsked` does, where it can be undone. After it
 * there is something that was changed, and only little left to do.
 */
export async function whileChanging<T>(work: () => Promise<T>): Promise<T> {
  follows = 'undo';
  try {
    return await work();
  } finally {
    bringToEnd();
  }
}

/** From here on a signal undoes nothing, because it would be too late, or this is the way back. */
export function bringToEnd(): void {
  follows = 'nothing';
}

/** From here on a signal ends the process as if it had never been listened for: nothing is left to do. */
export function leaveToSignals(): void {
  for (const signal of signals) process.removeAllListeners(signal);
}

/** The signal that came, if any. */
export function wasAsked(): string | undefined {
  return asked;
}

/** @throws CfsyncError when a signal came while `name` was worked on. */
export function stopIfAsked(name: string): void {
  if (asked !== undefined) throw new CfsyncError(exit.failed, `${name}: ended by ${asked}`);
}
