/** Remembers what the rules of the host were last judged to do, so that what stays as it is, is said once. */
import { join } from 'node:path';
import type { Notice } from '../renderer.ts';
import { fields, readRecord, textOf, tolerant, writeRecord } from './store.ts';

/** How the last judgement ended. */
export interface LastJudged {
  readonly verdict: string;
  /** Empty where there is none to be said. */
  readonly reason: string;
}

const path = (stateDir: string): string => join(stateDir, 'judged.json');

function valid(content: unknown): LastJudged {
  const { verdict, reason } = fields(content);
  return { verdict: textOf(verdict), reason: textOf(reason) };
}

/** Undefined where nothing was judged yet, or nothing is to be read of it. */
export async function readJudged(stateDir: string): Promise<LastJudged | undefined> {
  return (await tolerant(() => readRecord(path(stateDir), 'judged', valid), '')).content;
}

export function writeJudged(stateDir: string, judged: LastJudged): Promise<readonly Notice[]> {
  return writeRecord(path(stateDir), 'judged', judged, valid);
}
