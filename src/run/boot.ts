/** The unit that brings everything back at boot, as --persist asks for it. */
import { resolve } from 'node:path';
import type { Job } from '../engine/job.ts';
import { CfsyncError } from '../errors.ts';
import { installForRoot, mustBeTrusted } from '../host/trust.ts';
import { bootName } from '../plugin/options.ts';
import { loadBoot } from '../settings/load.ts';
import type { Settings } from '../settings/settings.ts';
import type { Desired } from '../renderer.ts';
import { readUsable } from '../state/records.ts';
import type { Context } from './context.ts';

/** The unit that runs `restore` at boot: what that does is in the records, and never in the unit. */
export async function bootJob(desired: Desired, settings: Settings): Promise<Job> {
  const renderer = await loadBoot();
  await mustBeTrusted(process.argv[1]!, 'program', { instead: installForRoot });
  const raw = { argv: bootCommand(settings) };
  return { name: bootName, renderer, raw, options: renderer.options(raw), desired };
}

/** A plug-in is found by the configuration, so that the unit reads the same. */
function bootCommand({ stateDir, values }: Settings): readonly string[] {
  const { config } = values;
  const more = config === undefined ? [] : ['--config', resolve(String(config))];
  return [process.execPath, process.argv[1]!, 'restore', '--state-dir', stateDir, ...more];
}

/**
 * The unit to be written in place of one of 0.1.0, which applies again what its command line says; undefined where
 * there is none such, or where it cannot be: then it goes on, and that is said.
 */
export async function renewedBoot({ settings, output }: Context): Promise<Job | undefined> {
  const { content } = await readUsable(settings.stateDir, bootName);
  const argv = content?.options.argv;
  if (content === undefined || !Array.isArray(argv) || argv[2] === 'restore') return undefined;
  try {
    return await bootJob(content.desired, settings);
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    output.note(`boot: the unit of an earlier release goes on as it is: ${error.message}`);
    return undefined;
  }
}
