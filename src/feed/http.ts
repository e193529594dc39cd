/** HTTP clients that always verify certificates, and go through the proxies of the environment. */
import { setFlagsFromString } from 'node:v8';
import type { Dispatcher } from 'undici';
import { isLoopback } from './feed-url.ts';
import { Agent, EnvHttpProxyAgent } from './undici.ts';

type Options = Omit<Dispatcher.RequestOptions, 'origin' | 'path'>;

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
      return (proxied ??= new EnvHttpProxyAgent({ ...tls, maxResponseSize }));
    } catch (cause) {
      // Its value is not shown: it may hold a password.
      throw new Error('the proxy in the environment (HTTPS_PROXY, HTTP_PROXY) is not a URL', {
        cause,
      });
    }
  };
  return {
    request: async (url, options) =>
      to(url).request({ ...options, origin: url.origin, path: `${url.pathname}${url.search}` }),
    async destroy() {
      await Promise.all([direct.destroy(), proxied?.destroy()]);
    },
  };
}
