/** Prints help from the tables in flags.ts, so that --help loads nothing else. */
import { commands, commandSpec, flagSpec } from './flags.ts';
import { wrap } from '../text.ts';

export function help(command: string | undefined): string {
  const spec = command === undefined ? undefined : commandSpec(command);
  if (command === undefined || spec === undefined) return overview();
  return [
    `Usage: cfsync ${command} ${spec.words === undefined ? '' : `${spec.words} `}[options]`,
    '',
    sentence(spec.help),
    '',
    'Options:',
    ...table(spec.flags.map((name) => [label(name), flagSpec(name)!.help])),
    '',
    `Example: ${spec.example}`,
    '',
  ].join('\n');
}

function overview(): string {
  return [
    'Usage: cfsync COMMAND [options]',
    '',
    "Keeps an origin server in step with Cloudflare's published IP ranges.",
    '',
    'Commands:',
    ...table(Object.entries(commands).map(([name, spec]) => [name, spec.help])),
    '',
    'cfsync COMMAND --help lists the options of a command.',
    'Try it without changing anything: cfsync apply --backend nftables --dry-run',
    '',
  ].join('\n');
}

function label(name: string): string {
  const { short, value } = flagSpec(name)!;
  return `${short === undefined ? '    ' : `-${short}, `}--${name}${value === undefined ? '' : ` ${value}`}`;
}

function sentence(text: string): string {
  return `${text[0]!.toUpperCase()}${text.slice(1)}.`;
}

/** Two columns within 80 characters. */
function table(rows: readonly (readonly [string, string])[]): string[] {
  const left = Math.max(...rows.map(([name]) => name.length)) + 4;
  return rows.flatMap(([name, text]) =>
    wrap(text, 79 - left).map((line, i) => `${(i === 0 ? `  ${name}` : '').padEnd(left)}${line}`),
  );
}
