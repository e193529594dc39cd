/** Says on a terminal what is being waited for, in one line that rewrites itself and is gone afterwards. */

// Packages for this (ora, log-update) bring spinners, colours, a hidden cursor and signal handling, for one line of text.

/** Milliseconds: what is over sooner is not worth a line. */
const patience = 1000;
const back = '\r\u001B[K';

let isWanted = false;
let isShown = false;

/** Only where nobody would find it later: not in a file or a pipe, and not on a terminal that cannot rewrite a line. */
export function wantProgress(yes: boolean): void {
  isWanted = yes && process.stderr.isTTY && process.env.TERM !== 'dumb';
}

/** Whether somebody sees it. */
export function hasProgress(): boolean {
  return isWanted;
}

/** Takes the line away; to be called before anything else is written. */
export function clearProgress(): void {
  if (isShown) process.stderr.write(back);
  isShown = false;
}

/**
 * Runs `work`, which may say more of what it waits for.
 * @param text Printable, in a few words; for how many seconds it takes stands behind it.
 * @param soon Whether the line is there from the beginning.
 */
export async function waiting<T>(
  text: string,
  work: (say: (text: string) => void) => Promise<T>,
  soon = false,
): Promise<T> {
  if (!isWanted) return work(() => {});
  const start = Date.now();
  let now = text;
  const draw = (): void => {
    const seconds = Math.round((Date.now() - start) / 1000);
    show(soon ? now : `${now}, ${seconds} s`);
  };
  if (soon) draw();
  const timer = setInterval(draw, patience).unref();
  try {
    return await work((said) => {
      now = said;
      if (isShown) draw();
    });
  } finally {
    clearInterval(timer);
    clearProgress();
  }
}

/** A line that is longer than the terminal is wide would stay when the next one is written. */
function show(text: string): void {
  const width = process.stderr.columns > 0 ? process.stderr.columns : 80;
  process.stderr.write(`${back}${`cfsync: ${text}`.slice(0, width - 1)}`);
  isShown = true;
}
