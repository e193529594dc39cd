/** Writes to standard output (the answer) and standard error (the talk). */
import { styleText } from 'node:util';
import { log, logAsJson, type About } from './log.ts';
import { addresses, families, familyNames } from '../prefix.ts';
import { clearProgress, wantProgress } from './progress.ts';
import type { Notice, Ranges } from '../renderer.ts';
import { count, escape, hang, number, visible } from '../text.ts';

export interface Output {
  /** The answer, as it is: a terminal gets nothing that steers it. */
  print(text: string): void;
  /** A sentence of the answer, what cannot be seen in it escaped: on a terminal it is broken between words. */
  sentence(text: string): void;
  /** What was said to have gone wrong, so far. */
  readonly errors: readonly string[];
  /** What went wrong. */
  error(text: string, about?: About): void;
  /** What may go wrong, or is not as it should be. */
  warning(text: string, about?: About): void;
  /** What the admin must know, although it is as it should be. */
  tell(text: string, about?: About): void;
  /** Standing remarks and "no changes": on a terminal or with --verbose. */
  note(text: string, about?: About): void;
  notices(backend: string, list: readonly Notice[]): void;
  /** Colours a unified diff where colours are wanted. */
  diff(text: string): void;
}

export function makeOutput(values: Readonly<Record<string, unknown>>): Output {
  if (values['log-format'] === 'json') logAsJson();
  const quiet = values.quiet === true;
  const talks = !quiet && (values.verbose === true || process.stderr.isTTY);
  const colours = values['no-color'] !== true && wantsColour();
  wantProgress(!quiet && values['log-format'] !== 'json');
  const write = (lines: readonly string[]): void => {
    clearProgress();
    const text = lines.join('\n');
    process.stdout.write(text.endsWith('\n') || text === '' ? text : `${text}\n`);
  };
  // A program must get the bytes as they are: `patch`, nft.
  const fit = (text: string): string[] => {
    const lines = text.split('\n');
    return process.stdout.isTTY ? lines.map(visible) : lines;
  };
  const print = (text: string): void => write(fit(text));
  const errors: string[] = [];
  const output: Output = {
    print,
    sentence: (text) => print(hang(escape(text), process.stdout, 2)),
    errors,
    error: (text, about) => {
      errors.push(text);
      log('error', text, about);
    },
    warning: (text, about) => log('warning', text, about),
    tell: (text, about) => log('notice', text, about),
    note: (text, about) => {
      if (talks) log('info', text, about);
    },
    notices: (backend, list) => {
      for (const { level, text } of list) {
        const line = backend === '' ? text : `${backend}: ${text}`;
        const about = backend === '' ? {} : { backend };
        if (level === 'note') output.note(line, about);
        else output.warning(line, about);
      }
    },
    diff: (text) => {
      const lines = fit(text);
      write(colours ? lines.map(paint) : lines);
    },
  };
  return output;
}

/** Whether a person is there: one of the three standard streams is a terminal. */
export function isAttended(): boolean {
  return process.stdin.isTTY || process.stdout.isTTY || process.stderr.isTTY;
}

/** NO_COLOR and FORCE_COLOR as in no-color.org and force-color.org; TERM=dumb knows no colours. */
function wantsColour(): boolean {
  if (process.env.NO_COLOR) return false;
  const force = process.env.FORCE_COLOR;
  return force ? force !== '0' : process.stdout.isTTY && process.env.TERM !== 'dumb';
}

function paint(line: string): string {
  if (line.startsWith('+++') || line.startsWith('---')) return style('bold', line);
  if (line.startsWith('@@')) return style('cyan', line);
  if (line.startsWith('+')) return style('green', line);
  if (line.startsWith('-')) return style('red', line);
  return line;
}

function style(format: Parameters<typeof styleText>[0], text: string): string {
  return styleText(format, text, { validateStream: false });
}

/** `2 prefixes (262,144 addresses)` for both families, or nothing. */
export function space(ranges: Ranges): string {
  return families
    .filter((family) => ranges[family].length > 0)
    .map((family) => {
      const [name, list] = [familyNames[family], ranges[family]];
      return `${count(list.length, `${name} prefix`, `${name} prefixes`)} (${number(addresses(list))} addresses)`;
    })
    .join(' and ');
}

/** What changes in address space: `added: 2 IPv4 prefixes (1,024 addresses); removed: ...`. */
export function changeText(added: Ranges, removed: Ranges): string {
  const more = space(added);
  const less = space(removed);
  return [
    ...(more === '' ? [] : [`added: ${more}`]),
    ...(less === '' ? [] : [`removed: ${less}`]),
  ].join('; ');
}
