/** Ends a run: its metrics, then its hooks. */
import type { ExitCode } from '../errors.ts';
import { commandSpec, type CommandName } from '../cli/flags.ts';
import type { Output } from '../cli/output.ts';
import type { Recorder } from './run-report.ts';
import type { Settings } from '../settings/settings.ts';

/**
 * What fails here is said, and changes nothing else.
 * @param complain Says what went wrong.
 */
export async function conclude(
  command: CommandName,
  code: ExitCode,
  {
    settings,
    output,
    record,
  }: { readonly settings: Settings; readonly output: Output; readonly record: Recorder },
  complain: (error: unknown) => void,
): Promise<void> {
  const { metrics, hooks } = settings;
  const spec = commandSpec(command)!;
  const report = record.end(command, code, output.errors);
  if (metrics !== undefined && spec.flags.includes('metrics'))
    await import('./metrics.ts')
      .then(({ writeMetrics }) => writeMetrics(metrics, report, settings))
      .catch(complain);
  if (spec.hooks === true && Object.values(hooks).some((hook) => hook !== undefined))
    await import('./hooks.ts')
      .then(({ runHooks }) => runHooks(hooks, report, output))
      .catch(complain);
}
