/**
 * A stand-in for the API server of Kubernetes, as far as kubectl needs one for a ConfigMap: discovery, GET,
 * and server-side apply with managed fields. It behaves as kube-apiserver 1.26.5 was seen to: keys have
 * owners, a changed value of somebody else's is a conflict, what a manager no longer applies goes.
 */
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { parse } from 'yaml';

type Data = Record<string, string>;

interface Entry {
  readonly manager: string;
  readonly operation: 'Apply' | 'Update';
  readonly keys: Set<string>;
}

interface ConfigMap {
  data: Data;
  version: number;
  managers: Entry[];
}

interface Failure {
  readonly code: number;
  readonly reason: string;
  readonly message: string;
}

export class KubeApi {
  readonly #server: Server;
  readonly #maps = new Map<string, ConfigMap>();
  /** Services as the API lists them, for every namespace. */
  services: object[] = [];
  /** Answers instead of what was asked, by method and kind: `PATCH configmaps`. */
  readonly failures = new Map<string, Failure>();
  /** Method and path of every request. */
  readonly requests: string[] = [];
  /** Called after each change by apply, as somebody might who is at work at the same time. */
  afterApply: (() => void) | undefined;

  static async start(): Promise<KubeApi> {
    const api = new KubeApi();
    await new Promise<void>((done) => {
      api.#server.listen(0, '127.0.0.1', done);
    });
    return api;
  }

  private constructor() {
    this.#server = createServer((request, response) => {
      const answer = async (): Promise<void> => {
        const { code, type, content } = this.#answer(request, await text(request));
        response.writeHead(code, { 'content-type': type }).end(content);
      };
      void answer();
    });
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  kubeconfig(): string {
    return JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'it', cluster: { server: `http://127.0.0.1:${this.port}` } }],
      users: [{ name: 'it', user: {} }],
      contexts: [{ name: 'it', context: { cluster: 'it', user: 'it' } }],
      'current-context': 'it',
    });
  }

  /** Forgets everything. */
  clear(): void {
    this.#maps.clear();
    this.failures.clear();
    this.services = [];
    this.requests.length = 0;
    this.afterApply = undefined;
  }

  /** Creates a ConfigMap, or changes keys of one, as a program that is not cfsync does. */
  update(place: string, data: Record<string, string | null>, manager: string): void {
    const map = this.#maps.get(place) ?? { data: {}, version: 1, managers: [] };
    this.#maps.set(place, map);
    let entry = map.managers.find((e) => e.manager === manager && e.operation === 'Update');
    if (entry === undefined)
      map.managers.push((entry = { manager, operation: 'Update', keys: new Set() }));
    for (const [key, value] of Object.entries(data)) {
      if (map.data[key] === value) continue;
      for (const other of map.managers) other.keys.delete(key);
      if (value === null) delete map.data[key];
      else {
        map.data[key] = value;
        entry.keys.add(key);
      }
    }
    this.#changed(map);
  }

  delete(place: string): void {
    this.#maps.delete(place);
  }

  data(place: string): Data | undefined {
    return this.#maps.get(place)?.data;
  }

  version(place: string): number | undefined {
    return this.#maps.get(place)?.version;
  }

  /** The keys that a manager has. */
  owned(place: string, manager = 'cfsync'): string[] {
    const entries = this.#maps.get(place)?.managers.filter((e) => e.manager === manager) ?? [];
    return entries.flatMap((e) => [...e.keys]).sort();
  }

  #changed(map: ConfigMap): void {
    map.managers = map.managers.filter(({ keys }) => keys.size > 0);
    map.version++;
  }

  #answer(request: IncomingMessage, body: string): Answer {
    const url = new URL(request.url ?? '/', 'http://it');
    this.requests.push(`${request.method} ${url.pathname}`);
    const object = /^\/api\/v1\/namespaces\/([^/]+)\/(configmaps|services)(?:\/([^/]+))?$/.exec(
      url.pathname,
    );
    if (object === null) return discovery(url.pathname);
    const [, namespace, kind, name] = object;
    const failure = this.failures.get(`${request.method} ${kind}`);
    if (failure !== undefined) return status(failure);
    if (kind === 'services')
      return json(200, { kind: 'ServiceList', apiVersion: 'v1', items: this.services });
    const place = `${namespace}/${name}`;
    if (request.method === 'PATCH') return this.#apply(place, body, url.searchParams);
    const map = this.#maps.get(place);
    return map === undefined ? notFound(name!) : json(200, described(place, map));
  }

  #apply(place: string, body: string, options: URLSearchParams): Answer {
    const manager = options.get('fieldManager') ?? '';
    const { data: wanted = {} } = parse(body) as { data?: Record<string, unknown> };
    for (const [key, value] of Object.entries(wanted))
      if (typeof value !== 'string')
        return status({
          code: 500,
          reason: 'InternalError',
          message: `failed to create typed patch object: .data.${key}: expected string, got ${JSON.stringify(value)}`,
        });
    const present = this.#maps.get(place) ?? { data: {}, version: 0, managers: [] };
    const map: ConfigMap = {
      data: { ...present.data },
      version: present.version,
      managers: present.managers.map((e) => ({ ...e, keys: new Set(e.keys) })),
    };
    const own = map.managers.find((e) => e.manager === manager && e.operation === 'Apply') ?? {
      manager,
      operation: 'Apply',
      keys: new Set<string>(),
    };
    if (!map.managers.includes(own)) map.managers.push(own);
    const others = map.managers.filter((e) => e !== own);
    const conflicts = Object.keys(wanted).flatMap((key) =>
      map.data[key] === wanted[key]
        ? []
        : others.filter((e) => e.keys.has(key)).map((e) => ({ key, manager: e.manager })),
    );
    if (conflicts.length > 0 && options.get('force') !== 'true') return conflict(conflicts);
    for (const { key } of conflicts) for (const other of others) other.keys.delete(key);
    for (const key of own.keys)
      if (!(key in wanted) && !others.some((e) => e.keys.has(key))) delete map.data[key];
    own.keys.clear();
    for (const [key, value] of Object.entries(wanted as Data)) {
      map.data[key] = value;
      own.keys.add(key);
    }
    const before = JSON.stringify(described(place, present).data);
    const keysBefore = present.managers.find((e) => e.manager === manager)?.keys ?? new Set();
    const same =
      before === JSON.stringify(described(place, map).data) &&
      [...own.keys].sort().join() === [...keysBefore].sort().join();
    if (!same) this.#changed(map);
    if (options.get('dryRun') !== 'All' && !same) {
      this.#maps.set(place, map);
      this.afterApply?.();
    }
    return json(200, described(place, map));
  }
}

interface Answer {
  readonly code: number;
  readonly type: string;
  readonly content: string | Buffer;
}

function json(code: number, content: object): Answer {
  return { code, type: 'application/json', content: JSON.stringify(content) };
}

function status({ code, reason, message }: Failure, details: object = {}): Answer {
  const head = { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure' };
  return json(code, { ...head, message, reason, details, code });
}

function notFound(name: string): Answer {
  const message = `configmaps "${name}" not found`;
  return status({ code: 404, reason: 'NotFound', message }, { name, kind: 'configmaps' });
}

function conflict(list: readonly { readonly key: string; readonly manager: string }[]): Answer {
  const owners = [...new Set(list.map((c) => c.manager))].sort();
  const keys = (owner: string): string[] =>
    list.filter((c) => c.manager === owner).map((c) => `- .data.${c.key}`);
  const message =
    list.length === 1
      ? `Apply failed with 1 conflict: conflict with "${owners[0]}" using v1: .data.${list[0]!.key}`
      : `Apply failed with ${list.length} conflicts: ${owners
          .flatMap((owner) => [`conflicts with "${owner}" using v1:`, ...keys(owner)])
          .join('\n')}`;
  return status(
    { code: 409, reason: 'Conflict', message },
    {
      causes: list.map(({ key, manager }) => ({
        reason: 'FieldManagerConflict',
        message: `conflict with "${manager}" using v1`,
        field: `.data.${key}`,
      })),
    },
  );
}

function described(place: string, { data, version, managers }: ConfigMap) {
  const [namespace, name] = place.split('/');
  return {
    kind: 'ConfigMap',
    apiVersion: 'v1',
    metadata: {
      name,
      namespace,
      resourceVersion: String(version),
      managedFields: managers.map(({ manager, operation, keys }) => ({
        manager,
        operation,
        apiVersion: 'v1',
        time: '2026-01-01T00:00:00Z',
        fieldsType: 'FieldsV1',
        fieldsV1: {
          'f:data': {
            ...(operation === 'Update' && { '.': {} }),
            ...Object.fromEntries([...keys].sort().map((key) => [`f:${key}`, {}])),
          },
        },
      })),
    },
    data: Object.fromEntries(Object.entries(data).sort(([a], [b]) => (a < b ? -1 : 1))),
  };
}

function discovery(path: string): Answer {
  if (path === '/api')
    return json(200, { kind: 'APIVersions', versions: ['v1'], serverAddressByClientCIDRs: [] });
  if (path === '/apis') return json(200, { kind: 'APIGroupList', apiVersion: 'v1', groups: [] });
  if (path === '/api/v1') {
    const verbs = ['get', 'list', 'patch'];
    const configmaps = { name: 'configmaps', kind: 'ConfigMap', namespaced: true, verbs };
    return json(200, {
      kind: 'APIResourceList',
      groupVersion: 'v1',
      resources: [{ ...configmaps, singularName: 'configmap' }],
    });
  }
  if (path === '/openapi/v2') return { code: 200, type: openapi, content: schema };
  return status({
    code: 404,
    reason: 'NotFound',
    message: 'the server could not find the requested resource',
  });
}

// Go's mime package refuses the @ of the name that kubectl asks with.
const openapi = 'application/com.github.proto-openapi.spec.v2.v1.0+protobuf';

/**
 * The part of the schema that kubectl 1.20 asks for before --dry-run=server: that PATCH of a ConfigMap takes
 * `dryRun`. It reads Protocol Buffers alone (openapi_v2.Document of gnostic; the numbers are its fields).
 */
const schema = ((): Buffer => {
  const field = (number: number, value: string | Buffer): Buffer => {
    const bytes = Buffer.from(value);
    const length: number[] = [];
    let rest = bytes.length;
    for (; rest > 127; rest >>= 7) length.push((rest & 127) | 128);
    return Buffer.concat([Buffer.from([(number << 3) | 2, ...length, rest]), bytes]);
  };
  const parameter = field(1, field(2, field(3, field(4, 'dryRun'))));
  const kind = '{"group": "", "version": "v1", "kind": "ConfigMap"}';
  const extension = Buffer.concat([
    field(1, 'x-kubernetes-group-version-kind'),
    field(2, field(2, kind)),
  ]);
  const patch = Buffer.concat([field(8, parameter), field(13, extension)]);
  const path = Buffer.concat([
    field(1, '/api/v1/namespaces/{namespace}/configmaps/{name}'),
    field(2, field(8, patch)),
  ]);
  return Buffer.concat([field(1, '2.0'), field(8, field(2, path))]);
})();
