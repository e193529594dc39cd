/** `init`: write a configuration for the backends that are in use here, and the timer. */
import { existsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { defaultConfig } from '../settings/config.ts';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { check } from '../engine/perform.ts';
import { makePlan } from '../engine/plan.ts';
import { forRanges } from '../engine/job.ts';
import { policyFor } from '../feed/policy.ts';
import { resolveSource, type Answer } from '../feed/source.ts';
import { ensureDir, writeFileAtomic } from '../host/files.ts';
import { failure, host } from '../host/host.ts';
import { choose, lookForBackends, type AppliedBackend, type Choice } from '../setup/in-use.ts';
import type { Context } from '../run/context.ts';
import { bootName } from '../plugin/options.ts';
import type { Output } from '../cli/output.ts';
import { appliedNames, readUsable } from '../state/records.ts';
import { makeJob, sourceOptions, type Settings } from '../settings/settings.ts';
import { readState } from '../state/store.ts';
import { starterText } from '../setup/starter.ts';
import { count, escape, hang } from '../text.ts';
import { composeTimer, type Timer } from '../setup/timer.ts';
import { installForRoot, mustBeTrusted, mustBeTrustedIfThere } from '../host/trust.ts';

export async function run({ settings, output }: Context): Promise<ExitCode> {
  const { values } = settings;
  const file = resolve((values.config as string | undefined) ?? defaultConfig);
  const installs = values['install-timer'] === true;
  const isDry = values['dry-run'] === true;
  const isThere = existsSync(file);
  // An existing configuration can still be given its timer.
  if (isThere && !installs)
    throw new CfsyncError(
      exit.failed,
      `${escape(file)} is there already; nothing was changed; cfsync config show prints what counts, cfsync init --config FILE writes another one`,
    );
  const given = file === defaultConfig ? undefined : file;
  const timer = await composeTimer(host, [process.execPath, process.argv[1]!], given);
  if (installs) await mustBeInstallable(timer);
  const config = isThere ? undefined : await starter(settings, output);
  if (isDry) {
    if (config !== undefined) output.print(config.text);
    if (installs) printTimer(timer, output);
    output.note('nothing was written');
    return exit.ok;
  }
  if (config !== undefined) {
    await writeConfig(file, config.text);
    const { length } = config.choices;
    output.sentence(
      `${escape(file)}: written, with ${count(length, 'backend')}${length > 0 ? ':' : ''}`,
    );
    printChoices(config.choices, output);
    if (config.leftOut > 0)
      output.print('What is left out stands there behind #: take that away once it is mended.');
  }
  if (installs) await install(timer!, output);
  else {
    output.print('\n');
    printTimer(timer, output);
    output.print('\n');
  }
  printNext(given, installs, output);
  return exit.ok;
}

/** What is in use here, and the configuration for that. */
async function starter(
  settings: Settings,
  output: Output,
): Promise<{
  readonly text: string;
  readonly choices: readonly Choice[];
  readonly leftOut: number;
}> {
  const signs = await lookForBackends(host);
  const { choices, besides } = choose(signs, await appliedHere(settings, output));
  const unusable = new Map<string, string>();
  const answer = await lastKnown(settings);
  for (const choice of choices) {
    const { name, later } = choice;
    const why = later ?? (await whyUnusable(choice, settings, answer));
    if (why === undefined) continue;
    unusable.set(name, why);
    output.warning(`${name} is left out for now: ${why}`, { backend: name });
  }
  for (const text of besides)
    output.warning(`${text}; the configuration names one packet filter alone`);
  const usable = choices.filter(({ name }) => !unusable.has(name));
  if (usable.length === 0)
    output.warning(
      'no backend is in use here that could be kept in step; cfsync backends says what is missing',
    );
  return {
    text: starterText(choices, unusable, besides),
    choices: usable,
    leftOut: choices.length - usable.length,
  };
}

/** What an apply with flags has set up is what the weekly run is to keep. */
async function appliedHere(settings: Settings, output: Output): Promise<AppliedBackend[]> {
  const found: AppliedBackend[] = [];
  for (const name of await appliedNames(settings.stateDir)) {
    // The unit of --persist is no backend that a configuration names.
    if (name === bootName) continue;
    const { content, notices } = await readUsable(settings.stateDir, name);
    output.notices(name, notices);
    if (content !== undefined) found.push({ name, ...content });
  }
  return found;
}

/** What the last list was, else the one of the release: nothing is downloaded to set up a configuration. */
async function lastKnown(settings: Settings): Promise<Answer> {
  const { snapshot } = await readState(settings.stateDir);
  const source = snapshot === undefined ? 'bundled' : 'snapshot';
  return resolveSource({ ...sourceOptions(settings), source });
}

/** Why an apply would be refused, each time anew: it is planned and checked as that would do it. */
async function whyUnusable(
  { name, options: raw = {}, desired }: Choice,
  settings: Settings,
  answer: Answer,
): Promise<string | undefined> {
  try {
    const job = await makeJob(settings, name);
    const options = job.renderer.options(raw);
    const all = { ...job, options, raw, desired: { ...job.desired, ...desired } };
    const policy = await policyFor(answer, settings.stateDir, { acceptLargeChange: true });
    const [ready] = forRanges([all], answer.ranges);
    await check(await makePlan(ready!, policy, settings.stateDir));
    return undefined;
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    return error.message.replace(`${name}: `, '').replace('nothing was changed; ', '');
  }
}

async function writeConfig(file: string, text: string): Promise<void> {
  const folder = dirname(file);
  // Where others can write, cfsync would refuse to read it.
  const what = 'folder of the configuration';
  const instead = "name one in a folder of root's with --config";
  await mustBeTrustedIfThere(folder, what, instead);
  await ensureDir(folder, 0o755);
  await mustBeTrusted(folder, what, { instead });
  await writeFileAtomic(file, text, { mode: 0o644, expect: null });
}

/** Asked before anything is written. */
async function mustBeInstallable(timer: Timer | undefined): Promise<void> {
  if (timer === undefined)
    throw new CfsyncError(
      exit.failed,
      'there is neither systemd nor /etc/cron.d here, so no timer can be installed; nothing was changed; run cfsync apply every week by other means',
    );
  await mustBeTrusted(process.argv[1]!, 'program', { instead: installForRoot });
  for (const { path, content } of timer.files) {
    const now = await host.read(path);
    if (now !== undefined && now !== content)
      throw new CfsyncError(
        exit.failed,
        `${path} is there already, with other content; it is left as it is, and nothing was changed; delete it first to have it written anew`,
      );
  }
}

async function install({ files, commands, begins }: Timer, output: Output): Promise<void> {
  const names = files.map(({ path }) => path).join(' and ');
  for (const { path, content } of files)
    if ((await host.read(path)) === undefined)
      await writeFileAtomic(path, content, { mode: 0o644, expect: null });
  for (const argv of commands) {
    const why = await failure({ argv });
    if (why !== undefined)
      throw new CfsyncError(
        exit.failed,
        `the timer does not run yet: ${why}; ${names} are written; mend that, then run ${commands.map((words) => words.join(' ')).join(' && ')}`,
      );
  }
  output.sentence(`${names}: installed; ${begins}`);
}

function printTimer(timer: Timer | undefined, output: Output): void {
  if (timer === undefined) {
    output.print('There is neither systemd nor /etc/cron.d here: run cfsync apply every week.');
    return;
  }
  output.print(timer.files.map(({ content }) => content).join('\n'));
}

function printChoices(choices: readonly Choice[], output: Output): void {
  for (const { name, why } of choices)
    output.print(`  ${name.padEnd(10)}${hang(escape(why), process.stdout, 12)}`);
}

function printNext(config: string | undefined, installed: boolean, output: Output): void {
  const named = config === undefined ? '' : ` --config ${escape(config)}`;
  output.print(
    [
      ...(installed
        ? []
        : [
            'The above runs it every week; to install that:',
            `  cfsync init${named} --install-timer`,
          ]),
      'See what it would do, do it with a way back, and keep it:',
      `  cfsync apply${named} --dry-run`,
      `  cfsync apply${named} --confirm 60`,
      '  cfsync confirm',
    ].join('\n'),
  );
}
