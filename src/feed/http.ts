/** HTTP clients that always verify certificates, and go through the proxies of the environment. */
import { STATUS_CODES } from 'node:http';
import { setFlagsFromString } from 'node:v8';
import type { Dispatcher, ProxyAgent } from 'undici';
import { errno } from '../errors.ts';
import { isLoopback } from './feed-url.ts';
import { Agent, EnvHttpProxyAgent, Pool } from './undici.ts';

type Options = Omit<Dispatcher.RequestOptions, 'origin' | 'path'>;

/** What the proxy did, and not the host behind it. */
export class ProxyError extends Error {
  readonly code: string | undefined;
  /** Of its answer to CONNECT. */
  readonly status: number | undefined;

  constructor(message: string, status: number | undefined, cause: unknown) {
    super(message, { cause });
    this.code = errno(cause);
    this.status = status;
  }
}

export interface Clients {
  /** @throws Error, also when the proxy in the environment is not a URL. */
  request(url: URL, options: Options): Promise<Dispatcher.ResponseData>;
  /** Idle connections would keep the process alive for seconds. */
  destroy(): Promise<void>;
}

/**
 * undici parses HTTP in WebAssembly, which V8 would go on to optimise for longer than the answers take: 65 to 110 ms
 * of CPU. On Node 20.20 the first of these flags is enough, on 24.21 it takes all three. It must be said before the
 * first connection.
 */
const quickly = ['--liftoff-only', '--no-wasm-tier-up', '--no-wasm-dynamic-tiering'];

/**
 * NODE_TLS_REJECT_UNAUTHORIZED=0 loses against an explicit `true`.
 * @param maxResponseSize Of one body, in bytes.
 */
export function makeClients(maxResponseSize: number): Clients {
  for (const flag of quickly) setFlagsFromString(flag);
  const connect = { rejectUnauthorized: true };
  // Loopback never goes through a proxy: on the proxy's side it would be another host, in plain text.
  const direct = new Agent({ connect, maxResponseSize });
  let proxied: Dispatcher | undefined;
  const to = (url: URL): Dispatcher => {
    if (isLoopback(url)) return direct;
    try {
      // HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in either case. With a proxy, undici ignores `connect` and
      // takes the other two.
      const tls = { connect, requestTls: connect, proxyTls: connect };
      return (proxied ??= new EnvHttpProxyAgent({
        ...tls,
        ...proxies(),
        clientFactory: toProxy,
        maxResponseSize,
      }));
    } catch (cause) {
      // Its value is not shown: it may hold a password.
      throw new Error('the proxy in the environment (HTTPS_PROXY, HTTP_PROXY) is not a URL', {
        cause,
      });
    }
  };
  return {
    request: async (url, options) => {
      const path = `${url.pathname}${url.search}`;
      try {
        return await to(url).request({ ...options, origin: url.origin, path });
      } catch (error) {
        throw refusedTunnel(error) ?? error;
      }
    },
    async destroy() {
      await Promise.all([direct.destroy(), proxied?.destroy()]);
    },
  };
}

/** curl(1) takes `[protocol://]host[:port]` and means http without a protocol. */
function proxies(): { httpProxy?: string; httpsProxy?: string } {
  const { env } = process;
  const of = (value: string | undefined): string | undefined =>
    value && (/^[a-z][a-z\d+.-]*:\/\//i.test(value) ? value : `http://${value}`);
  const [http, https] = [
    of(env.http_proxy ?? env.HTTP_PROXY),
    of(env.https_proxy ?? env.HTTPS_PROXY),
  ];
  return { ...(http && { httpProxy: http }), ...(https && { httpsProxy: https }) };
}

/** Connections to the proxy itself: what fails there is the proxy's. Its name and password are not shown. */
const toProxy: NonNullable<ProxyAgent.Options['clientFactory']> = (origin, options) => {
  const connect = (options as Pool.Options).connect as ConnectFunction;
  return new Pool(origin, {
    ...options,
    connect: ((to, done) =>
      connect(to, (...result) => {
        const [cause, socket] = result;
        if (cause === null) return done(null, socket);
        const said = cause.message || (errno(cause) ?? 'no connection');
        done(new ProxyError(`the proxy ${origin.host}: ${said}`, undefined, cause), null);
      })) satisfies ConnectFunction,
  });
};

type ConnectFunction = Extract<NonNullable<Pool.Options['connect']>, (...all: never[]) => unknown>;

/** undici says the status in a sentence only. */
function refusedTunnel(error: unknown): ProxyError | undefined {
  const said = error instanceof Error ? /^Proxy response \((\d+)\)/.exec(error.message) : null;
  if (said === null) return undefined;
  const status = Number(said[1]);
  const text = `${status} ${STATUS_CODES[status] ?? ''}`.trimEnd();
  const advice = status === 407 ? '; give it the name and password that it asks for' : '';
  return new ProxyError(`the proxy answered ${text}${advice}`, status, error);
}
