/** Tells programs what a run came to: docs/run.schema.json. */
import { spaceJson } from '../engine/report.ts';
import { jsonText } from '../text.ts';
import { hasChanged, type RunReport } from './run-report.ts';

export function runJson(report: RunReport): string {
  const { command, code, started, ended, source, errors, backends, judged, held } = report;
  return jsonText(
    {
      schema: 1,
      command,
      code,
      changed: hasChanged(report),
      started: started.toISOString(),
      ended: ended.toISOString(),
      source:
        source === undefined
          ? null
          : {
              ...source.origin,
              ranges: { v4: source.ranges.v4.length, v6: source.ranges.v6.length },
              fallback: source.fallback?.reason.message ?? null,
            },
      errors,
      backends: backends.map(({ gained, lost, ...rest }) => ({
        ...rest,
        gained: spaceJson(gained),
        lost: spaceJson(lost),
      })),
      judged: judged ?? null,
      held: held !== undefined,
    },
    2,
  );
}
