/** The unit that applies again at boot, as --persist asks for it. */
import { resolve } from 'node:path';
import { flagSpec } from '../cli/flags.ts';
import type { Output } from '../cli/output.ts';
import type { Job } from '../engine/job.ts';
import { installForRoot, mustBeTrusted } from '../host/trust.ts';
import { loadBoot } from '../settings/load.ts';
import type { Settings } from '../settings/settings.ts';
import { readUsable } from '../state/records.ts';
import { escape } from '../text.ts';

/** The unit that runs this command again at boot, from the snapshot. */
export async function bootJob(like: Job, settings: Settings): Promise<Job> {
  const renderer = await loadBoot();
  await mustBeTrusted(process.argv[1]!, 'program', { instead: installForRoot });
  const raw = { argv: bootCommand(settings) };
  return { name: 'boot', renderer, raw, options: renderer.options(raw), desired: like.desired };
}

/** This command line, for the snapshot and without what is for people. */
function bootCommand(settings: Settings): readonly string[] {
  const given = Object.entries(settings.values).filter(
    ([name]) =>
      ![
        'persist',
        'source',
        'state-dir',
        'dry-run',
        'exit-code',
        'verbose',
        'confirm',
        'allow-lockout',
        'allow-weaker',
      ].includes(name),
  );
  const words = given.flatMap(([name, value]) =>
    value === true
      ? [`--${name}`]
      : // A unit has no working directory that a relative path could be seen from.
        [`--${name}`, flagSpec(name)?.path === true ? resolve(String(value)) : String(value)],
  );
  const fixed = ['apply', '--source', 'snapshot', '--state-dir', settings.stateDir];
  return [process.execPath, process.argv[1]!, ...fixed, ...words];
}

/** A unit of an earlier run goes on applying what was said then. */
export async function remindOfBoot(settings: Settings, output: Output): Promise<void> {
  const { content } = await readUsable(settings.stateDir, 'boot');
  const unit = content?.options.argv;
  if (!Array.isArray(unit) || unit.join(' ') === bootCommand(settings).join(' ')) return;
  output.note(
    `boot: the next boot still runs cfsync ${escape(unit.slice(2).join(' '))}; --persist renews it`,
  );
}
