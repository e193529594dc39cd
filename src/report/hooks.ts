/** Tells the admin's programs, and a web address, what a run came to. */
import { exit, type ExitCode } from '../errors.ts';
import { environment, failure } from '../host/host.ts';
import type { Output } from '../cli/output.ts';
import type { Command } from '../renderer.ts';
import { runJson } from './run-json.ts';
import { hasChanged, type RunReport } from './run-report.ts';
import type { Hooks } from '../settings/settings.ts';
import { escape } from '../text.ts';
import { mustBeTrusted } from '../host/trust.ts';

/** Neither a mistake on the command line, nor another cfsync at work. */
const failures: readonly ExitCode[] = [exit.failed, exit.refused, exit.rolledBack, exit.broken];

/** Milliseconds for each. */
const timeout = 30_000;

/** Names the hook to the program, and keeps a run that it starts from running hooks without end. */
const mark = 'CFSYNC_HOOK';

/** Runs what is due, one after the other; what fails is said, and nothing follows from it. */
export async function runHooks(hooks: Hooks, report: RunReport, output: Output): Promise<void> {
  if (process.env[mark]) return;
  const due = {
    'on-change': hasChanged(report),
    // A backend that went back because no confirm came is none of what this run was to do.
    'on-failure':
      [report, ...report.backends].some(({ code }) => failures.includes(code)) ||
      isJudgedBad(report) ||
      report.held?.isOld === true,
  };
  const json = `${runJson(report)}\n`;
  const say = (name: string, why: string | undefined): void => {
    if (why !== undefined) output.warning(`${name}: ${why}; what cfsync did stays as it is`);
  };
  for (const name of ['on-change', 'on-failure'] as const) {
    const argv = hooks[name];
    if (!due[name] || argv === undefined) continue;
    say(name, await start(name, argv, json));
  }
  if (hooks.webhook !== undefined && (due['on-change'] || due['on-failure'])) {
    const { post } = await import('./webhook.ts');
    say('webhook', await post(hooks.webhook, json, timeout));
  }
}

/** Whether the run ends with 2 because Cloudflare does not get in, or others do. */
function isJudgedBad({ code, judged }: RunReport): boolean {
  return code === exit.pending && (judged?.verdict === 'out' || judged?.verdict === 'others');
}

/** Answers what went wrong, or undefined. */
async function start(
  name: string,
  argv: Command['argv'],
  stdin: string,
): Promise<string | undefined> {
  try {
    if (argv[0].startsWith('/'))
      await mustBeTrusted(argv[0], 'program', { left: 'it was not run' });
  } catch (error) {
    return error instanceof Error ? error.message : escape(String(error));
  }
  // The run is over: what a hook leaves running is not what a run that was killed left behind.
  return failure({ argv, stdin, timeout }, { ...environment(), [mark]: name });
}
