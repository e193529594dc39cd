/**
 * Less than half of undici (7.30), which is all that the download needs: its main file loads 110 files, among them a
 * cache, a browser's fetch and WebSockets, and costs a run a quarter more CPU (figures in test/bench/README.md).
 */
import api from 'undici/lib/api/index.js';
import Agent from 'undici/lib/dispatcher/agent.js';
import Dispatcher from 'undici/lib/dispatcher/dispatcher.js';
import EnvHttpProxyAgent from 'undici/lib/dispatcher/env-http-proxy-agent.js';
import Pool from 'undici/lib/dispatcher/pool.js';

// As the main file does it; a proxy is asked with `connect`.
Object.assign(Dispatcher.prototype, api);

export { Agent, EnvHttpProxyAgent, Pool };
