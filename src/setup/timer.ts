/** Composes what runs cfsync every week, from examples/systemd or examples/cron, for this host and this installation. */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { Command, Host } from '../renderer.ts';
import { mustFitOneLine, quoteWord, runningFolder, unitFolder } from '../host/systemd.ts';

interface TimerFile {
  /** Absolute. */
  readonly path: string;
  readonly content: string;
}

export interface Timer {
  readonly files: readonly TimerFile[];
  /** What makes it begin, in order. */
  readonly commands: readonly Command['argv'][];
  /** What is to be said when it is installed. */
  readonly begins: string;
}

/** What the unit hides from the service, and how it is told not to, because the program or its configuration is there. */
const hidden = [
  { below: /^\/(home|root|run\/user)\//, from: 'ProtectHome=yes', to: 'ProtectHome=read-only' },
  { below: /^\/(var\/)?tmp\//, from: 'PrivateTmp=yes', to: 'PrivateTmp=no' },
] as const;

const cronFolder = '/etc/cron.d';

/**
 * Units where systemd is, else a line for cron; undefined where there is neither.
 * @param program Node and the script, absolute.
 * @param config Absolute; undefined for the default.
 */
export async function composeTimer(
  host: Host,
  program: readonly string[],
  config: string | undefined,
): Promise<Timer | undefined> {
  const more = config === undefined ? [] : ['--config', config];
  const isRunning = (await host.list(runningFolder)) !== undefined;
  if (isRunning || (await host.list(unitFolder)) !== undefined) {
    const [service, timer] = await Promise.all(
      ['cfsync.service', 'cfsync.timer'].map((name) => example(`systemd/${name}`)),
    );
    return {
      files: [
        {
          path: `${unitFolder}/cfsync.service`,
          content: serviceText(service!, program, more),
        },
        { path: `${unitFolder}/cfsync.timer`, content: timer! },
      ],
      commands: isRunning
        ? [
            ['systemctl', 'daemon-reload'],
            ['systemctl', 'enable', '--now', 'cfsync.timer'],
          ]
        : [['systemctl', 'enable', 'cfsync.timer']],
      begins: isRunning
        ? 'it runs every week; systemctl list-timers cfsync.timer says when next'
        : 'systemd does not run here now, so it begins with the next boot',
    };
  }
  if ((await host.list(cronFolder)) === undefined) return undefined;
  return {
    files: [
      {
        path: `${cronFolder}/cfsync`,
        content: cronText(await example('cron/cfsync'), program, more),
      },
    ],
    commands: [],
    begins: 'cron runs it every week, and mails what it says',
  };
}

export function serviceText(
  text: string,
  program: readonly string[],
  more: readonly string[],
): string {
  const line = [...program.map(quoteWord), 'apply --lock-timeout 120', ...more.map(quoteWord)];
  const [, config] = more;
  const named = config === undefined ? text : replaced(text, /\/etc\/cfsync\/config\.yaml/, config);
  const unit = replaced(
    named,
    /^ExecStart=\/usr\/bin\/cfsync apply --lock-timeout 120$/m,
    `ExecStart=${line.join(' ')}`,
  );
  return hidden
    .filter(({ below }) => [...program, ...more].some((word) => below.test(word)))
    .reduce((so, { from, to }) => replaced(so, new RegExp(`^${from}$`, 'm'), to), unit);
}

export function cronText(
  text: string,
  program: readonly string[],
  more: readonly string[],
): string {
  const line = [...program, 'apply', ...more].map(quoteForCron).join(' ');
  return replaced(text, /(?<= root {2})cfsync apply$/m, line);
}

/** For sh(1), within crontab(5), where a % would end the command. */
function quoteForCron(word: string): string {
  mustFitOneLine(word);
  const text = /^[\w./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
  return text.replaceAll('%', '\\%');
}

/** The examples are part of this release, so what is to be replaced is in them. */
function replaced(text: string, what: RegExp, by: string): string {
  if (!what.test(text)) throw new Error(`the example of this release lacks ${what.source}`);
  return text.replace(what, () => by);
}

/** They lie two folders above this file, and two above all of the built program. */
function example(name: string): Promise<string> {
  return readFile(fileURLToPath(new URL(`../../examples/${name}`, import.meta.url)), 'utf8');
}
