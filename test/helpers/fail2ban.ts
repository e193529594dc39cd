/** Hosts with fail2ban, from the fixtures: what its client answered, question by question. */
import { readdirSync, readFileSync } from 'node:fs';
import { bannedIn } from '../../renderers/fail2ban/answers.ts';
import type { Outcome } from '../../src/renderer.ts';
import type { Recorded } from './host.ts';

/** As `observe` asks all of it. */
export const script = 'python3 -I {stage}/cfsync.py {stage}';
export const banned = 'fail2ban-client banned';
export const ignored = (jail: string): string => `fail2ban-client get ${jail} ignoreip`;
/** What was found out of the configuration, as JSON. */
export const configuration = 'fail2ban-client -d';

const folder = new URL('../fixtures/fail2ban/', import.meta.url);

interface Answers {
  readonly banned: Outcome;
  readonly ignoreip: readonly (readonly [string, Outcome])[];
  readonly configuration: unknown;
}

export const fixtures: readonly string[] = readdirSync(folder)
  .filter((name) => name.endsWith('.json'))
  .map((name) => name.slice(0, -'.json'.length));

/** One of the hosts that are described in the README of the fixtures, with an answer for each question. */
export function apart(name: string): Recorded {
  const captured = JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8')) as Recorded;
  const outcome = captured.answers![script] as unknown as { readonly stdout: Answers };
  const { stdout } = outcome;
  return {
    ...captured,
    answers: {
      [banned]: stdout.banned,
      ...Object.fromEntries(stdout.ignoreip.map(([jail, said]) => [ignored(jail), said])),
      [configuration]: JSON.stringify(stdout.configuration),
    },
  };
}

/** The host with these answers in one, as the program gives them; it asks for the jails that are named. */
export function joined({ answers = {}, ...host }: Recorded): Recorded {
  const outcome = (question: string): Outcome => {
    const said = answers[question] ?? { code: 255, stdout: '', stderr: 'no such thing' };
    const whole = typeof said === 'string' ? { code: 0, stdout: said, stderr: '' } : said;
    return { ended: null, ...whole } as Outcome;
  };
  const first = outcome(banned);
  const ignoreip = namesIn(first).map((jail) => [jail, outcome(ignored(jail))]);
  const { code, stdout, stderr } = outcome(configuration);
  const text = `{"banned":${JSON.stringify(first)},"ignoreip":${JSON.stringify(ignoreip)},"configuration":${stdout}}\n`;
  return { ...host, answers: { [script]: { code, stdout: text, stderr } } };
}

function namesIn({ code, stdout }: Outcome): readonly string[] {
  try {
    return code === 0 ? bannedIn(stdout).map(([jail]) => jail) : [];
  } catch {
    return [];
  }
}
