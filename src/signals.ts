/** Lets a signal end a command: at once while nothing is changed yet, else by undoing it. */
import { CfsyncError, exit } from './errors.ts';

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

let asked: (typeof signals)[number] | undefined;
let changing = 0;
let listening = false;

/** From here on the three signals are handled; the ones after the first change nothing. */
export function listen(): void {
  if (listening) return;
  listening = true;
  // A terminal that is gone must not end the undo: what cannot be said is not said.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  for (const signal of signals)
    process.on(signal, () => {
      if (asked !== undefined) return;
      asked = signal;
      if (changing === 0) {
        process.stderr.write(`cfsync: ended by ${signal}; nothing was changed\n`);
        process.exit(exit.failed);
      }
      process.stderr.write(`cfsync: ${signal}: what was begun is undone\n`);
    });
}

/** While `work` runs, a signal ends nothing by itself: `stopIfAsked` does, where it can be undone. */
export async function whileChanging<T>(work: () => Promise<T>): Promise<T> {
  changing++;
  try {
    return await work();
  } finally {
    changing--;
  }
}

/** The signal that came, if any. */
export function wasAsked(): string | undefined {
  return asked;
}

/** @throws CfsyncError when a signal came. */
export function stopIfAsked(): void {
  if (asked !== undefined) throw new CfsyncError(exit.failed, `ended by ${asked}`);
}
