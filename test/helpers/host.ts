/** A host made of recorded answers. */
import { CfsyncError, exit } from '../../src/errors.ts';
import type { Command, Host, Outcome } from '../../src/renderer.ts';
import type { ProcessHost } from '../../src/host/proc.ts';

export interface Recorded {
  /** By the words of the command, joined by blanks. */
  readonly answers?: Readonly<Record<string, string | Outcome>>;
  readonly files?: Readonly<Record<string, string>>;
  readonly folders?: Readonly<Record<string, readonly string[]>>;
  readonly links?: Readonly<Record<string, string>>;
  /** What must not be read. */
  readonly denied?: readonly string[];
}

/** Answers only what was recorded; a command that was not is an error, so that no test asks the machine. */
export function recorded({
  answers = {},
  files = {},
  folders = {},
  links = {},
  denied = [],
}: Recorded): Host & ProcessHost {
  const look = <T>(from: Readonly<Record<string, T>>, path: string): T | undefined => {
    if (denied.includes(path)) throw new CfsyncError(exit.failed, `cannot read ${path}: EACCES`);
    return from[path];
  };
  return {
    async query({ argv }: Command) {
      const answer = answers[argv.join(' ')];
      if (answer === undefined) throw new Error(`no answer was recorded for: ${argv.join(' ')}`);
      return typeof answer === 'string' ? { code: 0, stdout: answer, stderr: '' } : answer;
    },
    async read(path) {
      return look(files, path);
    },
    async list(path) {
      return look(folders, path);
    },
    async link(path) {
      return look(links, path);
    },
  };
}
