/** A host made of recorded answers. */
import type { Command, Host, Outcome } from '../../src/renderer.ts';

export interface Recorded {
  /** By the words of the command, joined by blanks. */
  readonly answers?: Readonly<Record<string, string | Outcome>>;
  readonly files?: Readonly<Record<string, string>>;
  readonly folders?: Readonly<Record<string, readonly string[]>>;
}

/** Answers only what was recorded; a command that was not is an error, so that no test asks the machine. */
export function recorded({ answers = {}, files = {}, folders = {} }: Recorded): Host {
  return {
    async query({ argv }: Command) {
      const answer = answers[argv.join(' ')];
      if (answer === undefined) throw new Error(`no answer was recorded for: ${argv.join(' ')}`);
      return typeof answer === 'string' ? { code: 0, stdout: answer, stderr: '' } : answer;
    },
    async read(path) {
      return files[path];
    },
    async list(path) {
      return folders[path];
    },
  };
}
