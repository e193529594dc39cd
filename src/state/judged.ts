/** Remembers what the rules of the host were last judged to do, so that what stays as it is, is said once. */
import { join } from 'node:path';
import { CfsyncError } from '../errors.ts';
import type { Notice } from '../renderer.ts';
import type { Family } from '../prefix.ts';
import { fields, oneOf, readRecord, textOf, texts, writeRecord } from './store.ts';

/** How the last judgement ended. */
export interface LastJudged {
  readonly verdict: string;
  /** Empty where there is none to be said. */
  readonly reason: string;
  readonly clean?: Clean;
}

/** What the rules of a host made it ask for, beside the rules. */
export interface Asked {
  /** As the words of `nft list` after it. */
  readonly sets: readonly (readonly string[])[];
  readonly saves: readonly { readonly family: Family; readonly variant: 'nft' | 'legacy' }[];
  readonly ipset: boolean;
}

/** What nothing at all was found in: where that is the same, nothing is found again. */
export interface Clean {
  /** The digest of the rules, and of what was to be so. */
  readonly basis: string;
  readonly asked: Asked;
}

const path = (stateDir: string): string => join(stateDir, 'judged.json');

function valid(content: unknown): LastJudged {
  const { verdict, reason, clean } = fields(content);
  return {
    verdict: textOf(verdict),
    reason: textOf(reason),
    ...(clean !== undefined && { clean: cleanOf(clean) }),
  };
}

function cleanOf(value: unknown): Clean {
  const { basis, asked } = fields(value);
  const { sets, saves, ipset } = fields(asked);
  if (!Array.isArray(sets) || !Array.isArray(saves)) throw new Error('a list is missing');
  return {
    basis: textOf(basis),
    asked: {
      sets: sets.map((words: unknown) => setOf(texts(words))),
      saves: saves.map((save: unknown) => {
        const { family, variant } = fields(save);
        return {
          family: oneOf(['v4', 'v6'] as const, family),
          variant: oneOf(['nft', 'legacy'] as const, variant),
        };
      }),
      ipset: ipset === true,
    },
  };
}

/** Words for `nft list`: a kind and three names, and no option. */
function setOf(words: readonly string[]): readonly string[] {
  const [kind] = words;
  if (
    words.length !== 4 ||
    (kind !== 'set' && kind !== 'map') ||
    !words.every((w) => /^\w/.test(w))
  )
    throw new Error('it names no set');
  return words;
}

/** Undefined where nothing was judged yet, or it cannot be read: then all is judged, and said, anew. */
export async function readJudged(stateDir: string): Promise<LastJudged | undefined> {
  return readRecord(path(stateDir), 'judged', valid).catch(() => undefined);
}

/** That it cannot be written down is said, and makes no other verdict. */
export async function writeJudged(
  stateDir: string,
  judged: LastJudged,
): Promise<readonly Notice[]> {
  try {
    return await writeRecord(path(stateDir), 'judged', judged, valid);
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    return [{ level: 'warning', text: error.message }];
  }
}
