/** Writes to standard error: for people, for the journal, or as JSON for programs. */
import { fstatSync } from 'node:fs';
import { clearProgress } from './progress.ts';
import { escape, hang } from '../text.ts';

/** How bad it is, with the priority that syslog(3) and sd-daemon(3) have for it. */
const priorities = { error: 3, warning: 4, notice: 5, info: 6 } as const;

export type Level = keyof typeof priorities;

/** What a line is about, beside its text. */
export interface About {
  /** The name of the backend; the text may begin with it. */
  readonly backend?: string;
  /** Further lines, printed below the first one. */
  readonly detail?: readonly string[];
}

let asJson = false;

/** From here on each line is one JSON object: `time` (ISO 8601, UTC), `level`, `backend`, `message`, `detail`. */
export function logAsJson(): void {
  asJson = true;
}

export function log(level: Level, text: string, about: About = {}): void {
  clearProgress();
  const { backend } = about;
  const message = escape(text);
  const detail = (about.detail ?? []).map(escape);
  process.stderr.write(
    asJson ? asObject(level, message, { backend, detail }) : asText(level, message, detail),
  );
}

function asText(level: Level, message: string, detail: readonly string[]): string {
  const first = `cfsync: ${level === 'warning' ? 'warning: ' : ''}${message}`;
  const prefix = journalPrefix(level, process.stderr.fd);
  const lines = [hang(first, process.stderr, 2), ...detail.map((line) => `  ${line}`)];
  return lines.map((line) => `${prefix}${line}\n`).join('');
}

function asObject(
  level: Level,
  message: string,
  { backend, detail }: { readonly backend: string | undefined; readonly detail: readonly string[] },
): string {
  const line = {
    time: new Date().toISOString(),
    level,
    ...(backend !== undefined && { backend }),
    message: backend === undefined ? message : withoutName(message, backend),
    ...(detail.length > 0 && { detail }),
  };
  return `${JSON.stringify(line)}\n`;
}

/** A message of a backend, without its name in front. */
export function withoutName(text: string, backend: string): string {
  return text.startsWith(`${backend}: `) ? text.slice(backend.length + 2) : text;
}

/**
 * What goes in front of a line that a stream takes straight to the journal, which reads the priority from there:
 * JOURNAL_STREAM in systemd.exec(5). Elsewhere nothing.
 */
export function journalPrefix(level: Level, fd: number): string {
  const { JOURNAL_STREAM } = process.env;
  if (!JOURNAL_STREAM) return '';
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return JOURNAL_STREAM === `${dev}:${ino}` ? `<${priorities[level]}>` : '';
}
