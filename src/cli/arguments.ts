/** Parses the command line with the parser of yargs, and refuses what that lets through. */
import { Parser } from 'yargs/helpers';
import { CfsyncError, exit } from '../errors.ts';
import { commands, commandSpec, flags, type Flag } from './flags.ts';
import { escape, suggest } from '../text.ts';

export type Values = Readonly<Record<string, string | number | boolean | readonly string[]>>;

export interface Arguments {
  readonly command: string;
  /** What follows the command. */
  readonly words: readonly string[];
  /** Only what was given, under the long names. */
  readonly values: Values;
}

function usage(message: string, command?: string): CfsyncError {
  const more = command === undefined ? 'cfsync --help' : `cfsync ${command} --help`;
  return new CfsyncError(exit.usage, `${message}; see ${more}`);
}

/** @throws CfsyncError with code `usage`. */
export function parseArguments(argv: readonly string[]): Arguments {
  refuseSwitchValues(argv);
  const parsed = parse(argv);
  const [command, ...words] = parsed._.map(String);
  if (command === undefined) throw usage('no command was given');
  const spec = commandSpec(command);
  if (spec === undefined)
    throw usage(`unknown command ${escape(command)}${suggest(command, Object.keys(commands))}`);
  if (words.length > 0 && spec.words === undefined)
    throw usage(`${command} takes no ${escape(words[0]!)}`, command);
  if (words.length === 0 && spec.words !== undefined)
    throw usage(`${command} needs ${spec.words}`, command);
  const values: Record<string, Values[string]> = {};
  for (const [name, value] of Object.entries(parsed)) {
    if (name === '_' || name === '$0' || value === undefined) continue;
    const taken = spec.flags as readonly string[];
    if (!Object.hasOwn(flags, name) || !taken.includes(name)) {
      const dashes = name.length === 1 ? '-' : '--';
      const what = Object.hasOwn(flags, name) ? `${command} takes no` : 'unknown option';
      const near = suggest(name, taken, '--');
      throw usage(`${what} ${dashes}${escape(name)}${near}`, command);
    }
    values[name] = checked(name, flags[name as keyof typeof flags], value, command);
  }
  // Elsewhere it would look like a dry run, and change things.
  if (values['exit-code'] === true && command === 'apply' && values['dry-run'] !== true)
    throw usage('--exit-code is for diff and for apply --dry-run', command);
  return { command, words, values };
}

/** yargs takes --dry-run=maybe for false, and the word after --dry-run for its value. */
function refuseSwitchValues(argv: readonly string[]): void {
  for (const [i, word] of argv.entries()) {
    if (word === '--') return;
    // -qV=false and -qV1 as well; of -v--dry-run it drops what it does not know.
    if (/^-[^-=][^=]/.test(word) && !/^-[A-Za-z]+$/.test(word))
      throw usage(
        `${escape(word)}: behind one dash there can only be letters of options without a value`,
      );
    const [, name = '', value] = /^--?([^=]+)(=.*)?$/s.exec(word) ?? [];
    const isSwitch = Object.entries(flags as Readonly<Record<string, Flag>>).some(
      ([long, flag]) => flag.type === 'switch' && (long === name || flag.short === name),
    );
    if (isSwitch && (value !== undefined || /^(true|false)$/.test(argv[i + 1] ?? '')))
      throw usage(`--${name} takes no value`);
  }
}

/** The parser alone: all of yargs costs 60 ms of CPU to load (Node 20.20). */
function parse(argv: readonly string[]): Record<string, unknown> & { readonly _: unknown[] } {
  const all = Object.entries(flags as Readonly<Record<string, Flag>>);
  const valued = all.flatMap(([name, { type }]) => (type === 'switch' ? [] : [name]));
  const { argv: parsed, error } = Parser.detailed([...argv], {
    alias: Object.fromEntries(all.flatMap(([name, { short }]) => (short ? [[name, [short]]] : []))),
    boolean: all.flatMap(([name, { type }]) => (type === 'switch' ? [name] : [])),
    // Numbers are read from the text, or abc would become NaN and 0x10 sixteen.
    string: valued,
    // NaN: a value must follow, and only one is taken.
    narg: Object.fromEntries(valued.map((name) => [name, NaN])),
    configuration: {
      'boolean-negation': false,
      'camel-case-expansion': false,
      'dot-notation': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'greedy-arrays': false,
      'strip-aliased': true,
    },
  });
  if (error !== null)
    throw usage(
      error.message
        .split('\n')[0]!
        .replace(/^Not enough arguments following: (.)/, 'a value is missing after --$1'),
    );
  return parsed;
}

function checked(name: string, flag: Flag, value: unknown, command: string): Values[string] {
  const given: unknown[] = Array.isArray(value) ? value : [value];
  if (flag.type === 'list') {
    const list = given.map(String).flatMap((entry) => entry.split(','));
    if (list.includes('')) throw usage(`--${name} is empty`, command);
    return list;
  }
  if (given.length > 1) throw usage(`--${name} was given more than once`, command);
  const [one] = given;
  if (flag.type === 'switch') {
    if (typeof one !== 'boolean') throw usage(`--${name} takes no value`, command);
    return one;
  }
  if (typeof one !== 'string' || one === '') throw usage(`--${name} needs a value`, command);
  if (flag.type === 'number') {
    if (!/^\d{1,9}$/.test(one))
      throw usage(`--${name}: ${escape(one)} is not a whole number`, command);
    return Number(one);
  }
  if (flag.choices !== undefined && !flag.choices.includes(one))
    throw usage(
      `--${name}: ${escape(one)} is not one of ${flag.choices.join(', ')}${suggest(one, flag.choices)}`,
      command,
    );
  return one;
}
