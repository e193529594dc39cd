/** Asks, after an apply, whether the site still works: a program that must succeed, or a URL that must answer. */
import { failure } from '../host/host.ts';
import { withoutQuery } from '../feed/feed-url.ts';
import type { Probe } from '../settings/settings.ts';
import { escape } from '../text.ts';
import { mustBeTrusted } from '../host/trust.ts';

/** Milliseconds for the whole probe. */
const timeout = 30_000;

/**
 * Asked before the first change as well: nothing is to go back because of it.
 * @throws CfsyncError for a program that is not to be trusted.
 */
export async function mustBeRunnable(what: Probe): Promise<void> {
  if (what instanceof URL || !what[0].startsWith('/')) return;
  await mustBeTrusted(what[0], 'program of the probe');
}

/** Answers what is wrong, or undefined. */
export async function probe(what: Probe): Promise<string | undefined> {
  try {
    if (what instanceof URL) return await ask(what);
    await mustBeRunnable(what);
    return await failure({ argv: what, timeout });
  } catch (error) {
    return error instanceof Error ? escape(error.message) : String(error);
  }
}

async function ask(url: URL): Promise<string | undefined> {
  const { makeClients } = await import('../feed/http.ts');
  const clients = makeClients(2 ** 20);
  const signal = AbortSignal.timeout(timeout);
  try {
    const { statusCode, body } = await clients.request(url, { method: 'GET', signal });
    await body.dump({ limit: 128 * 1024, signal });
    return statusCode < 400
      ? undefined
      : `${escape(withoutQuery(url.href))} answered ${statusCode}`;
  } catch (error) {
    if (!signal.aborted) throw error;
    return `${escape(withoutQuery(url.href))} did not answer within ${timeout / 1000} s`;
  } finally {
    await clients.destroy();
  }
}
