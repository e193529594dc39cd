/** Reads what fail2ban's client prints, strictly: what is cut off or something else is no answer. */
import { BackendError } from '../../src/errors.ts';
import { isFields } from '../../src/plugin/options.ts';

/** What can stand in a file, and be an argument. */
const line = /^[^\p{Cc}\p{Cs}]+$/u;
/**
 * What fail2ban takes for one value: it splits at blanks, commas and line ends alone, so that a tab between two
 * addresses makes one of them (1.0.2, `splitwords`).
 */
const value = /^[^ ,\n]+$/u;

type Lists = readonly (readonly [string, string[]])[];

/**
 * What `fail2ban-client banned` printed: every running jail with what it bans.
 * @throws BackendError
 */
export function bannedIn(text: string): Lists {
  const program = 'fail2ban-client banned';
  const lists = fromJson(jsonOf(text) ?? '', program);
  if (!Array.isArray(lists)) throw unreadable(program, 'there is no list in it');
  return lists.flatMap((list) => listsIn(list, program));
}

/**
 * What `fail2ban-client status` printed: the names of the jails, and how many there are.
 * @throws BackendError
 */
export function jailsIn(text: string): readonly string[] {
  const [, number, list] =
    /^Status\n\|- Number of jail:\t(\d+)\n`- Jail list:\t(.*)\n$/.exec(text) ?? [];
  const names = list === undefined || list === '' ? [] : list.split(', ');
  if (list === undefined || names.length !== Number(number) || !names.every(isLine))
    throw unreadable('fail2ban-client status', 'there is no whole list of jails in it');
  return names;
}

/**
 * What `fail2ban-client get JAIL ignoreip` printed.
 * @throws BackendError
 */
export function ignoredIn(text: string, jail: string): readonly string[] {
  const entries = entriesIn(text);
  if (entries?.every(isValue) === true) return entries;
  throw unreadable(
    `fail2ban-client get ${jail} ignoreip`,
    'there is no whole list of addresses in it',
  );
}

/**
 * What `fail2ban-client get JAIL logpath` printed.
 * @throws BackendError
 */
export function logsIn(text: string, jail: string): readonly string[] {
  const entries = entriesIn(text);
  if (entries?.every(isLine) === true) return entries;
  throw unreadable(`fail2ban-client get ${jail} logpath`, 'there is no whole list of files in it');
}

/**
 * A heading, then `|- ` and an entry a line; the last one has a backquote. A heading alone ends without a colon.
 * Undefined when that is not all of it.
 */
function entriesIn(text: string): readonly string[] | undefined {
  const [heading, ...lines] = text.split('\n');
  // It ends with a line feed.
  const isWhole =
    heading !== '' && lines.pop() === '' && heading!.endsWith(':') === lines.length > 0;
  const entries = lines.map((one, i) => {
    const start = i === lines.length - 1 ? '`- ' : '|- ';
    return one.startsWith(start) ? one.slice(start.length) : '';
  });
  return isWhole ? entries : undefined;
}

function isLine(text: string): boolean {
  return line.test(text);
}

function isValue(text: string): boolean {
  return value.test(text);
}

/** The jails of a configuration with what they ignore. */
export function ignoringIn(jails: unknown, program: string): Lists {
  const lists = listsIn(jails, program);
  const odd = lists.find(([, values]) => !values.every(isValue));
  if (odd !== undefined) throw unreadable(program, `jail ${odd[0]} ignores what is no value`);
  return lists;
}

/** The lists of texts of an object, by names. */
function listsIn(value: unknown, program: string): Lists {
  if (!isFields(value)) throw unreadable(program, 'there are no jails in it');
  return Object.entries(value).map(([name, list]: [string, unknown]) => {
    if (!isTexts(list) || !isLine(name))
      throw unreadable(program, `jail ${name} has no list of addresses, or is none`);
    return [name, list];
  });
}

export function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((part) => typeof part === 'string');
}

export function fromJson(text: string, program: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw unreadable(program, 'it is cut off, or something else', cause);
  }
}

export function unreadable(program: string, why: string, cause?: unknown): BackendError {
  return new BackendError(
    'broken',
    `fail2ban: what ${program} printed cannot be read: ${why}; nothing was changed; look at what it says`,
    { cause },
  );
}

/** A string literal as Python's repr() prints it, or what is between two; the limit spares the stack. */
const python =
  /(?<literal>'[^'\\]*(?:\\.[^'\\]*){0,9999}'|"[^"\\]*(?:\\.[^"\\]*){0,9999}")|(?<between>[^'"]+)/gsy;

/** A list of Python's as JSON; undefined when a literal is not closed, or is none. */
function jsonOf(text: string): string | undefined {
  const parts: string[] = [];
  let length = 0;
  for (const match of text.matchAll(python)) {
    const { literal, between } = match.groups!;
    const words = literal === undefined ? between : unquote(literal);
    if (words === undefined) return undefined;
    parts.push(literal === undefined ? words : JSON.stringify(words));
    length += match[0].length;
  }
  return length === text.length ? parts.join('') : undefined;
}

function unquote(literal: string): string | undefined {
  let valid = true;
  const text = literal
    .slice(1, -1)
    .replaceAll(
      /\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))/gs,
      (_, x?: string, u?: string, U?: string, c?: string) => {
        if (c !== undefined) return { n: '\n', t: '\t', r: '\r' }[c] ?? c;
        const code = Number.parseInt((x ?? u ?? U)!, 16);
        valid &&= code <= 0x10ffff;
        return valid ? String.fromCodePoint(code) : '';
      },
    );
  return valid ? text : undefined;
}
