/** Posts a report to a web address; loaded only where that happens, because undici takes nearly as long to load as Node. */
import { STATUS_CODES } from 'node:http';
import { withoutSecret } from '../feed/feed-url.ts';
import { makeClients } from '../feed/http.ts';
import { escape } from '../text.ts';

/**
 * Answers what went wrong, or undefined. No redirect is followed: a POST does not survive most of them.
 * @param timeout Milliseconds for all of it.
 */
export async function post(
  url: string,
  json: string,
  timeout: number,
): Promise<string | undefined> {
  const clients = makeClients(2 ** 20);
  const signal = AbortSignal.timeout(timeout);
  try {
    const { statusCode, body } = await clients.request(new URL(url), {
      method: 'POST',
      signal,
      headers: { 'content-type': 'application/json', 'user-agent': 'cfsync' },
      body: json,
    });
    await body.dump();
    if (statusCode < 300) return undefined;
    const status = `${statusCode} ${STATUS_CODES[statusCode] ?? ''}`.trimEnd();
    return `${withoutSecret(url)} answered ${status}`;
  } catch (error) {
    const said = error instanceof Error ? error.message || String(error) : String(error);
    const why = signal.aborted ? `no answer within ${timeout / 1000} s` : escape(said);
    return `${withoutSecret(url)}: ${why}`;
  } finally {
    await clients.destroy();
  }
}
