/** Writes shell completion from the tables in flags.ts. */
import { checkNames, commands, commandSpec, flagSpec } from './flags.ts';

export const shells = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof shells)[number];

/** What can stand after an option or a command. */
interface Words {
  readonly words: readonly string[];
  /** Names of files fit as well. */
  readonly files: boolean;
}

/** @param backends The names that --backend takes. */
export function completion(shell: Shell, backends: readonly string[]): string {
  return { bash, zsh, fish }[shell](backends);
}

const names = Object.keys(commands);

function optionsOf(command: string): readonly string[] {
  return commandSpec(command)!.flags.flatMap((name) => {
    const { short } = flagSpec(name)!;
    return [...(short === undefined ? [] : [`-${short}`]), `--${name}`];
  });
}

/** Every option that takes a value, with what that may be. */
function values(backends: readonly string[]): readonly (readonly [string, Words])[] {
  const all = new Set(names.flatMap((command) => commandSpec(command)!.flags));
  return [...all].flatMap((name): (readonly [string, Words])[] => {
    const { type, short, choices = [], value = '' } = flagSpec(name)!;
    if (type === 'switch') return [];
    const known: Readonly<Record<string, readonly string[]>> = {
      source: ['auto', 'bundled', 'snapshot'],
      backend: backends,
      only: checkNames,
      skip: checkNames,
    };
    const words = known[name] ?? choices;
    const files = ['FILE', 'DIR', 'PATH', 'SOURCE'].includes(value);
    const found = { words, files };
    return [[`--${name}`, found], ...(short === undefined ? [] : [[`-${short}`, found] as const])];
  });
}

/** What follows a command beside options, where that is one of a few words. */
function wordsOf(command: string): readonly string[] {
  const { words = '' } = commandSpec(command)!;
  return words.includes('|') ? words.split('|') : [];
}

function bash(backends: readonly string[]): string {
  const after = values(backends).map(
    ([option, { words, files }]) =>
      `    ${option}) ${bashWords(words)}${files ? '; mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$cur")' : ''}; return ;;`,
  );
  const options = names.map(
    (command) => `    ${command}) ${bashWords([...wordsOf(command), ...optionsOf(command)])} ;;`,
  );
  return `# Completion of cfsync for bash. To use it: source <(cfsync completion bash)
_cfsync() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=()
  # What stands after = is a word of its own.
  [ "$cur" != = ] || cur=
  [ "$prev" != = ] || prev=\${COMP_WORDS[COMP_CWORD-2]}
  case $prev in
${after.join('\n')}
  esac
  case \${COMP_WORDS[1]} in
${options.join('\n')}
    *) [ "$COMP_CWORD" -ne 1 ] || ${bashWords(names)} ;;
  esac
}
complete -o filenames -F _cfsync cfsync
`;
}

function bashWords(words: readonly string[]): string {
  return `COMPREPLY=($(compgen -W '${words.join(' ')}' -- "$cur"))`;
}

function zsh(backends: readonly string[]): string {
  const after = values(backends).map(
    ([option, { words, files }]) =>
      `    ${option}) ${words.length > 0 ? `compadd -- ${words.join(' ')}` : ':'}${files ? '; _files' : ''}; return ;;`,
  );
  const options = names.map(
    (command) =>
      `    ${command}) compadd -- ${[...wordsOf(command), ...optionsOf(command)].join(' ')} ;;`,
  );
  const list = names.map((command) => `      '${command}:${quoted(commandSpec(command)!.help)}'`);
  return `#compdef cfsync
# Completion of cfsync for zsh. To use it: source <(cfsync completion zsh)
_cfsync() {
  local -a list
  case \${words[CURRENT-1]} in
${after.join('\n')}
  esac
  if (( CURRENT == 2 )); then
    list=(
${list.join('\n')}
    )
    _describe command list
    return
  fi
  case \${words[2]} in
${options.join('\n')}
  esac
}
compdef _cfsync cfsync
`;
}

function fish(backends: readonly string[]): string {
  const choice = new Map(values(backends));
  const lines = names.flatMap((command) => {
    const { help, flags } = commandSpec(command)!;
    const when = `-n '__fish_seen_subcommand_from ${command}'`;
    return [
      `complete -c cfsync -n __fish_use_subcommand -a ${command} -d '${quoted(help)}'`,
      ...wordsOf(command).map((word) => `complete -c cfsync ${when} -a ${word}`),
      ...flags.map((name) => {
        const { short, help: text } = flagSpec(name)!;
        const found = choice.get(`--${name}`);
        const takes =
          found === undefined
            ? ''
            : `${found.files ? ' -r -F' : ' -x'}${found.words.length > 0 ? ` -a '${found.words.join(' ')}'` : ''}`;
        return `complete -c cfsync ${when}${short === undefined ? '' : ` -s ${short}`} -l ${name}${takes} -d '${quoted(text)}'`;
      }),
    ];
  });
  return `# Completion of cfsync for fish. To use it: cfsync completion fish | source
complete -c cfsync -f
${lines.join('\n')}
`;
}

/** For single quotes: the apostrophe is the one that print has. */
function quoted(text: string): string {
  return text.replaceAll("'", '\u2019');
}
