/** Asks Cloudflare's feeds; loaded only where a download happens, because undici takes nearly as long to load as Node. */

import { STATUS_CODES } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { CfsyncError, errno, exit } from '../errors.ts';
import { hasUserinfo, isAllowed, withoutQuery } from './feed-url.ts';
import { parseFeed, parseList } from './gate.ts';
import { makeClients, ProxyError } from './http.ts';
import type { Ranges } from '../renderer.ts';
import { escape } from '../text.ts';

/** Where the feeds are: `https`, or `http` on a loopback host (a mirror on this machine, a test). */
export interface FeedUrls {
  readonly ipv4: string;
  readonly ipv6: string;
  readonly api: string;
}

/** An answer that passed the gate, or why there is none: exit code `failed` when none came, `refused` when it is not believed. */
export type Feed = { readonly ok: Ranges } | { readonly error: CfsyncError };

export interface Feeds {
  /** Both text lists. */
  readonly text: Feed;
  readonly json: Feed;
}

export interface DownloadOptions {
  /** Milliseconds for everything, retries included; 20 000 unless given. */
  readonly timeout?: number;
  /** Of one body; 1 MiB unless given. The largest feed had 626 bytes in 2026. */
  readonly maxBytes?: number;
  /** Tries for one address, 3 unless given. */
  readonly attempts?: number;
  /** Milliseconds before the second try, 500 unless given; it doubles from there, give or take a half. */
  readonly backoff?: number;
  /** Told what an address that is asked again did. */
  readonly again?: (text: string) => void;
}

const maxRedirects = 3;
const redirects: readonly number[] = [301, 302, 303, 307, 308];

/** What may pass when asked again. A certificate does not change in a second, nor does the gate. */
const transient =
  /^(ECONN(REFUSED|RESET)|E(HOST|NET)UNREACH|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|UND_ERR_(SOCKET|CONNECT_TIMEOUT|ABORTED))$/;

/** No answer from one address. */
class Failure extends Error {
  readonly again: boolean;
  readonly code: typeof exit.failed | typeof exit.refused;

  constructor(message: string, options: { again?: boolean; refused?: boolean; cause?: unknown }) {
    super(message, { cause: options.cause });
    this.again = options.again ?? false;
    this.code = options.refused === true ? exit.refused : exit.failed;
  }
}

/** Asks all feeds side by side. Never throws for what a feed did: that is in the answer. */
export async function download(urls: FeedUrls, options: DownloadOptions = {}): Promise<Feeds> {
  const { timeout = 20_000, maxBytes = 2 ** 20, attempts = 3, backoff = 500 } = options;
  // undici's own timeouts measure idle time: a server that drips a byte a second would never end.
  const signal = AbortSignal.timeout(timeout);
  const clients = makeClients(maxBytes);

  const explain = (error: unknown): Failure => {
    if (error instanceof Failure) return error;
    const cause = error;
    if (signal.aborted) return new Failure(`no answer within ${timeout / 1000} s`, { cause });
    if (error instanceof ProxyError && error.status !== undefined)
      return new Failure(error.message, { again: error.status >= 500, cause });
    const code = errno(error) ?? '';
    if (code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE') {
      return new Failure(`body larger than ${size(maxBytes)}`, { refused: true, cause });
    }
    // When every address of a host refuses, Node 20 gives an AggregateError without a message.
    const said = error instanceof Error ? error.message : String(error);
    const text = said === '' || said.includes(code) ? said || code : `${said} (${code})`;
    return new Failure(text, { again: transient.test(code), cause });
  };

  /** One address, redirects followed by hand because every hop is checked. */
  const ask = async (url: string): Promise<string> => {
    let where = withoutQuery(url);
    try {
      let at = parseUrl(url);
      for (let hop = 0; ; hop++) {
        const { statusCode, headers, body } = await clients.request(at, {
          method: 'GET',
          signal,
          headers: { 'user-agent': 'cfsync' },
        });
        const coding = headers['content-encoding'] ?? 'identity';
        if (statusCode === 200 && String(coding).toLowerCase() !== 'identity')
          throw compressed(String(coding));
        if (statusCode === 200) return decode(await body.arrayBuffer());
        await body.dump();
        if (!redirects.includes(statusCode) || typeof headers.location !== 'string') {
          const status = `${statusCode} ${STATUS_CODES[statusCode] ?? ''}`.trimEnd();
          throw new Failure(status, { again: statusCode >= 500 });
        }
        if (hop === maxRedirects) throw new Failure(`more than ${maxRedirects} redirects`, {});
        const next = parseUrl(headers.location, at);
        if (at.protocol === 'https:' && next.protocol === 'http:') {
          throw new Failure(`redirect from https to ${withoutQuery(next.href)}`, {});
        }
        where = `${withoutQuery(url)}, redirected to ${withoutQuery(next.href)}`;
        at = next;
      }
    } catch (error) {
      const { message, again, code, cause } = explain(error);
      throw new Failure(`${where}: ${message}`, { again, refused: code === exit.refused, cause });
    }
  };

  const get = async (url: string): Promise<string> => {
    for (let attempt = 1; ; attempt++) {
      try {
        return await ask(url);
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        const pause = backoff * 2 ** (attempt - 1) * (0.5 + Math.random());
        const last = attempt === attempts || !error.again || signal.aborted;
        if (!last)
          options.again?.(escape(`${error.message}; attempt ${attempt + 1} of ${attempts}`));
        // A pause that the signal cuts short says less than the failure before it.
        if (!last && (await sleep(pause, true, { signal }).catch(() => false))) continue;
        const tries = attempt > 1 ? ` (${attempt} attempts)` : '';
        const { code, message, cause } = error;
        throw new CfsyncError(code, escape(`${message}${tries}`), { cause });
      }
    }
  };

  const text = async (): Promise<Ranges> => {
    const [v4, v6] = await both(
      get(urls.ipv4).then((body) => parseList(body, 'v4', escape(withoutQuery(urls.ipv4)))),
      get(urls.ipv6).then((body) => parseList(body, 'v6', escape(withoutQuery(urls.ipv6)))),
    );
    return { v4: v4.v4, v6: v6.v6 };
  };
  const json = async (): Promise<Ranges> =>
    parseFeed(await get(urls.api), escape(withoutQuery(urls.api)));

  try {
    const [a, b] = await Promise.all([settle(text()), settle(json())]);
    return { text: a, json: b };
  } finally {
    await clients.destroy();
  }
}

/** Both answers; of two errors, the one that says a list is not believed. */
async function both(a: Promise<Ranges>, b: Promise<Ranges>): Promise<[Ranges, Ranges]> {
  const [first, second] = await Promise.allSettled([a, b]);
  if (first.status === 'fulfilled' && second.status === 'fulfilled') {
    return [first.value, second.value];
  }
  const errors: unknown[] = [first, second].flatMap((one) =>
    one.status === 'rejected' ? [one.reason] : [],
  );
  throw (
    errors.find((error) => error instanceof CfsyncError && error.code === exit.refused) ?? errors[0]
  );
}

async function settle(answer: Promise<Ranges>): Promise<Feed> {
  try {
    return { ok: await answer };
  } catch (error) {
    if (error instanceof CfsyncError) return { error };
    throw error;
  }
}

function parseUrl(text: string, base?: URL): URL {
  let url: URL;
  try {
    url = new URL(text, base);
  } catch (cause) {
    throw new Failure(
      base ? `redirect to ${withoutQuery(text)}, which is not a URL` : 'not a URL',
      { cause },
    );
  }
  const to = base ? `redirect to ${withoutQuery(url.href)}; ` : '';
  if (hasUserinfo(url)) throw new Failure(`${to}no name or password is taken in a URL`, {});
  if (isAllowed(url)) return url;
  const what = `${to}only`;
  throw new Failure(`${what} https is taken, and http from a loopback host`, {});
}

/** Nothing is asked for but the list as it is. */
function compressed(coding: string): Failure {
  return new Failure(`the body is compressed (${coding}), which was not asked for`, {
    refused: true,
  });
}

function decode(body: ArrayBuffer): string {
  const [first, second] = new Uint8Array(body);
  // RFC 1952, section 2.3.1: what every gzip file begins with.
  if (first === 0x1f && second === 0x8b) throw compressed('gzip');
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body);
  } catch (cause) {
    throw new Failure('not UTF-8', { refused: true, cause });
  }
}

function size(bytes: number): string {
  return bytes % 2 ** 20 === 0 ? `${bytes / 2 ** 20} MiB` : `${bytes} bytes`;
}
