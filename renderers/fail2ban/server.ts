/** Reads what the running server answered. */
import { BackendError, CfsyncError, exit } from '../../src/errors.ts';
import { isFields } from '../../src/plugin/options.ts';
import type { Outcome } from '../../src/renderer.ts';
import { firstLines } from '../../src/text.ts';
import { bannedIn, ignoredIn, unreadable } from './answers.ts';
import { client, type RunningJail } from './state.ts';

/** The jails of the running server with their ignore lists and bans. */
export function serverIn(answer: Readonly<Record<string, unknown>>): readonly RunningJail[] | null {
  // In place of `status`: one answer has the jails and the bans.
  const banned = outcomeOf(answer.banned, 'banned');
  if (banned.code !== 0) return notAnswered(banned);
  const lists = bannedIn(banned.stdout);
  const { ignoreip } = answer;
  if (!Array.isArray(ignoreip) || ignoreip.length !== lists.length)
    throw unreadable(client, 'an answer is missing');
  const jails: RunningJail[] = [];
  for (const [i, [name, bans]] of lists.entries()) {
    const words = `get ${name} ignoreip`;
    const answer: unknown = ignoreip[i];
    const [asked, said]: readonly unknown[] = Array.isArray(answer) ? answer : [];
    if (asked !== name) throw unreadable(`${client} ${words}`, 'it is of another jail');
    const outcome = outcomeOf(said, words);
    if (outcome.code !== 0) return notAnswered(outcome);
    jails.push({ name, ignores: ignoredIn(outcome.stdout, name), bans });
  }
  return jails.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** @throws CfsyncError when it did not end by itself. */
function outcomeOf(value: unknown, words: string): Outcome {
  const { code, ended, stdout, stderr } = recordIn(value);
  if (typeof ended === 'string') throw new CfsyncError(exit.failed, `${client} ${words} ${ended}`);
  if (typeof code !== 'number' || typeof stdout !== 'string' || typeof stderr !== 'string')
    throw unreadable(`${client} ${words}`, 'it does not say how it ended');
  return { code, stdout, stderr };
}

function notAnswered(outcome: Outcome): null {
  const said = outcome.stdout + outcome.stderr;
  if (said.includes('Permission denied'))
    throw new BackendError(
      'no permission',
      'fail2ban: its socket may not be used; nothing was changed; run cfsync as root',
    );
  if (said.includes('Invalid command'))
    throw new BackendError(
      'not supported',
      'fail2ban: this version cannot list its bans; nothing was changed; 0.11.2 and later can',
    );
  // No socket, or one that a killed server left behind.
  if (/Failed to access socket path|Unable to contact server|Connection refused/.test(said))
    return null;
  throw new BackendError('broken', 'fail2ban: the server does not answer as it should', {
    detail: firstLines(said),
  });
}

export function recordIn(value: unknown): Readonly<Record<string, unknown>> {
  if (!isFields(value)) throw unreadable(client, 'there is nothing in it');
  return value;
}
