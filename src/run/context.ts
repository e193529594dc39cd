/** What every command is given. */
import type { Output } from '../cli/output.ts';
import type { Recorder } from '../report/run-report.ts';
import type { Settings } from '../settings/settings.ts';

export interface Context {
  readonly settings: Settings;
  readonly words: readonly string[];
  readonly output: Output;
  /** What there is to tell of this run when it has ended. */
  readonly record: Recorder;
}
