/**
 * A stand-in for the API server of Kubernetes, as far as kubectl needs one for a ConfigMap: discovery, GET, POST and
 * the four kinds of PATCH, for the data, the labels and the annotations. Every one of these fields has owners, as
 * structured-merge-diff has them: a write takes what it changes from everybody else; with server-side apply a changed
 * value of somebody else's is a conflict, and what a manager no longer applies goes when nobody else has it. kubectl
 * 1.26 and later make use of the last when they apply server-side to what was applied client-side: they give the
 * fields of the one manager to the other (csaupgrade of client-go), and apply again.
 */
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { isDeepStrictEqual } from 'node:util';
import { parse } from 'yaml';

/** By section and key, as in `data/use-gzip`. */
type Fields = Map<string, string>;
type Texts = Record<string, string>;

/** A part of an object, as it is sent: null is what a merge patch takes out. */
type Part = Record<string, unknown>;

interface Entry {
  readonly manager: string;
  readonly operation: 'Apply' | 'Update';
  readonly fields: Set<string>;
}

interface ConfigMap {
  readonly fields: Fields;
  readonly version: number;
  readonly managers: readonly Entry[];
}

interface Failure {
  readonly code: number;
  readonly reason: string;
  readonly message: string;
}

const empty: ConfigMap = { fields: new Map(), version: 0, managers: [] };

export class KubeApi {
  readonly #server: Server;
  readonly #maps = new Map<string, ConfigMap>();
  /** Services as the API lists them, for every namespace. */
  services: object[] = [];
  /** Answers instead of what was asked, by method and kind: `PATCH configmaps`. */
  readonly failures = new Map<string, Failure>();
  /** Method and path of every request. */
  readonly requests: string[] = [];
  /** Called before and after each PATCH that may change something, as somebody might who is at work at the same time. */
  beforePatch: (() => void) | undefined;
  afterPatch: (() => void) | undefined;

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
    this.beforePatch = undefined;
    this.afterPatch = undefined;
  }

  /** Creates a ConfigMap, or changes keys of one, as a program that is not cfsync does. */
  update(place: string, data: Record<string, string | null>, manager: string): void {
    this.#maps.set(place, updated(this.#maps.get(place) ?? empty, { data }, manager));
  }

  /** What 0.1.0 did. */
  apply(place: string, data: Texts, manager = 'cfsync'): void {
    const result = applied(this.#maps.get(place) ?? empty, { data }, manager);
    if ('map' in result) this.#maps.set(place, result.map);
  }

  delete(place: string): void {
    this.#maps.delete(place);
  }

  data(place: string): Texts | undefined {
    return this.#section(place, 'data');
  }

  labels(place: string): Texts | undefined {
    return this.#section(place, 'labels');
  }

  annotations(place: string): Texts | undefined {
    return this.#section(place, 'annotations');
  }

  version(place: string): number | undefined {
    return this.#maps.get(place)?.version;
  }

  /** The keys that a manager has. */
  owned(place: string, manager = 'cfsync'): string[] {
    const entries = this.#maps.get(place)?.managers.filter((e) => e.manager === manager) ?? [];
    const data = entries.flatMap((e) => [...e.fields]).filter((f) => f.startsWith('data/'));
    return data.map((field) => field.slice('data/'.length)).sort();
  }

  #section(place: string, section: string): Texts | undefined {
    const map = this.#maps.get(place);
    return map && sectionOf(map.fields, section);
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
    if (request.method === 'POST') return this.#create(namespace!, body, url.searchParams);
    const place = `${namespace}/${name}`;
    if (request.method === 'PATCH')
      return this.#patch(place, request.headers['content-type'] ?? '', body, url.searchParams);
    const map = this.#maps.get(place);
    return map === undefined ? notFound(name!) : json(200, described(place, map));
  }

  #create(namespace: string, body: string, options: URLSearchParams): Answer {
    const object = parse(body) as Part;
    const place = `${namespace}/${String((object.metadata as Part).name)}`;
    const map = updated(empty, sectionsOf(object), options.get('fieldManager') ?? '');
    this.#maps.set(place, map);
    return json(201, described(place, map));
  }

  #patch(place: string, type: string, body: string, options: URLSearchParams): Answer {
    const dry = options.get('dryRun') === 'All';
    if (!dry) this.beforePatch?.();
    const before = this.#maps.get(place);
    const name = place.split('/')[1]!;
    const manager = options.get('fieldManager') ?? '';
    const content: unknown = parse(body);
    let map: ConfigMap;
    if (type.startsWith('application/apply-patch')) {
      const force = options.get('force') === 'true';
      const result = applied(before ?? empty, sectionsOf(content as Part), manager, force);
      if ('refusal' in result) return result.refusal;
      map = result.map;
    } else if (before === undefined) return notFound(name);
    else {
      const isJson = type.startsWith('application/json-patch');
      const patch = isJson ? undefined : (content as Part);
      const replaced = isJson ? replacements(content as readonly Part[]) : undefined;
      const version = replaced?.version ?? ((patch?.metadata ?? {}) as Part).resourceVersion;
      if (version !== undefined && version !== String(before.version)) return stale(name);
      const sections = patch === undefined ? {} : sectionsOf(patch);
      const wrong = noText(sections);
      if (wrong !== undefined) return wrong;
      map = updated(before, sections, manager);
      if (replaced !== undefined)
        map = { ...map, managers: replaced.managers, version: map.version + 1 };
    }
    if (!dry && map !== before) {
      this.#maps.set(place, map);
      this.afterPatch?.();
    }
    return json(before === undefined ? 201 : 200, described(place, map));
  }
}

// ---- fields and who has them ----

type Sections = Readonly<Partial<Record<'data' | 'labels' | 'annotations', unknown>>>;

function sectionsOf({ data, metadata }: Part): Sections {
  const { labels, annotations } = (metadata ?? {}) as Part;
  return { data, labels, annotations };
}

function sectionOf(fields: Fields, section: string): Texts {
  const inside = [...fields].filter(([field]) => field.startsWith(`${section}/`));
  inside.sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(inside.map(([field, value]) => [keyOf(field), value]));
}

function keyOf(field: string): string {
  return field.slice(field.indexOf('/') + 1);
}

/** What sections name, null for what is to go. */
function named(sections: Sections): [string, string | null][] {
  return Object.entries(sections).flatMap(([section, part]) =>
    Object.entries((part ?? {}) as Record<string, string | null>).map(
      ([key, value]): [string, string | null] => [`${section}/${key}`, value],
    ),
  );
}

/** Merges a patch: its manager has what it changed, and nobody else has that any more. */
function updated(map: ConfigMap, sections: Sections, manager: string): ConfigMap {
  const fields = new Map(map.fields);
  const changed = named(sections).filter(([field, value]) => (fields.get(field) ?? null) !== value);
  if (changed.length === 0 && map.version > 0) return map;
  for (const [field, value] of changed)
    if (value === null) fields.delete(field);
    else fields.set(field, value);
  const managers = withEntry(map.managers, manager, 'Update');
  for (const [field, value] of changed)
    for (const entry of managers)
      if (entry.manager === manager && entry.operation === 'Update' && value !== null)
        entry.fields.add(field);
      else entry.fields.delete(field);
  return { fields, version: map.version + 1, managers: managers.filter((e) => e.fields.size > 0) };
}

/** Server-side apply. */
function applied(
  map: ConfigMap,
  sections: Sections,
  manager: string,
  force = false,
): { readonly map: ConfigMap } | { readonly refusal: Answer } {
  const wrong = noText(sections);
  if (wrong !== undefined) return { refusal: wrong };
  const wanted = new Map(named(sections) as [string, string][]);
  const managers = withEntry(map.managers, manager, 'Apply');
  const own = managers.find((e) => e.manager === manager && e.operation === 'Apply')!;
  const others = managers.filter((e) => e !== own);
  const fields = new Map(map.fields);
  const conflicts = [...wanted].flatMap(([field, value]) =>
    fields.get(field) === value
      ? []
      : others.filter((e) => e.fields.has(field)).map((e) => [field, e] as const),
  );
  if (conflicts.length > 0 && !force)
    return { refusal: conflict(conflicts.map(([field, e]) => ({ field, manager: e.manager }))) };
  for (const [field, entry] of conflicts) entry.fields.delete(field);
  for (const field of own.fields)
    if (!wanted.has(field) && !others.some((e) => e.fields.has(field))) fields.delete(field);
  const had = [...own.fields].sort().join();
  own.fields.clear();
  for (const [field, value] of wanted) {
    fields.set(field, value);
    own.fields.add(field);
  }
  const left = managers.filter((e) => e.fields.size > 0);
  const same =
    map.version > 0 &&
    had === [...own.fields].sort().join() &&
    isDeepStrictEqual(map.fields, fields);
  return { map: same ? map : { fields, version: map.version + 1, managers: left } };
}

/** A copy of the entries that has one of this manager. */
function withEntry(
  entries: readonly Entry[],
  manager: string,
  operation: Entry['operation'],
): readonly Entry[] {
  const copy = entries.map((e) => ({ ...e, fields: new Set(e.fields) }));
  return copy.some((e) => e.manager === manager && e.operation === operation)
    ? copy
    : [...copy, { manager, operation, fields: new Set() }];
}

/** The JSON patch with which kubectl moves fields from one manager to another. */
function replacements(patch: readonly Part[]): {
  readonly managers: readonly Entry[];
  readonly version: unknown;
} {
  const value = (path: string): unknown =>
    patch.find(({ op, path: one }) => op === 'replace' && one === path)?.value;
  const entries = value('/metadata/managedFields') as readonly Part[];
  return { managers: entries.map(entryOf), version: value('/metadata/resourceVersion') };
}

function entryOf({ manager, operation, fieldsV1 }: Part): Entry {
  const tree = fieldsV1 as Record<string, Part | undefined>;
  const metadata = (tree['f:metadata'] ?? {}) as Record<string, Part | undefined>;
  const places = {
    data: tree['f:data'],
    labels: metadata['f:labels'],
    annotations: metadata['f:annotations'],
  };
  const fields = Object.entries(places).flatMap(([section, part]) =>
    Object.keys(part ?? {})
      .filter((key) => key !== '.')
      .map((key) => `${section}/${key.slice('f:'.length)}`),
  );
  return {
    manager: manager as string,
    operation: operation as Entry['operation'],
    fields: new Set(fields),
  };
}

// ---- answers ----

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

function noText(sections: Sections): Answer | undefined {
  for (const [key, value] of Object.entries((sections.data ?? {}) as Part))
    if (value !== null && typeof value !== 'string')
      return status({
        code: 500,
        reason: 'InternalError',
        message: `failed to create typed patch object: .data.${key}: expected string, got ${JSON.stringify(value)}`,
      });
  return undefined;
}

function stale(name: string): Answer {
  const why =
    'the object has been modified; please apply your changes to the latest version and try again';
  const message = `Operation cannot be fulfilled on configmaps "${name}": ${why}`;
  return status({ code: 409, reason: 'Conflict', message }, { name, kind: 'configmaps' });
}

function conflict(found: readonly { readonly field: string; readonly manager: string }[]): Answer {
  const list = found.map(({ field, manager }) => ({ key: field.replaceAll('/', '.'), manager }));
  const owners = [...new Set(list.map((c) => c.manager))].sort();
  const keys = (owner: string): string[] =>
    list.filter((c) => c.manager === owner).map((c) => `- .${c.key}`);
  const message =
    list.length === 1
      ? `Apply failed with 1 conflict: conflict with "${owners[0]}" using v1: .${list[0]!.key}`
      : `Apply failed with ${list.length} conflicts: ${owners
          .flatMap((owner) => [`conflicts with "${owner}" using v1:`, ...keys(owner)])
          .join('\n')}`;
  return status(
    { code: 409, reason: 'Conflict', message },
    {
      causes: list.map(({ key, manager }) => ({
        reason: 'FieldManagerConflict',
        message: `conflict with "${manager}" using v1`,
        field: `.${key}`,
      })),
    },
  );
}

function described(place: string, { fields, version, managers }: ConfigMap) {
  const [namespace, name] = place.split('/');
  const labels = sectionOf(fields, 'labels');
  const annotations = sectionOf(fields, 'annotations');
  return {
    kind: 'ConfigMap',
    apiVersion: 'v1',
    metadata: {
      name,
      namespace,
      resourceVersion: String(version),
      ...(Object.keys(labels).length > 0 && { labels }),
      ...(Object.keys(annotations).length > 0 && { annotations }),
      managedFields: managers.map((entry) => ({
        manager: entry.manager,
        operation: entry.operation,
        apiVersion: 'v1',
        time: '2026-01-01T00:00:00Z',
        fieldsType: 'FieldsV1',
        fieldsV1: fieldsV1(entry),
      })),
    },
    data: sectionOf(fields, 'data'),
  };
}

function fieldsV1({ operation, fields }: Entry): object {
  const tree = (section: string): object | undefined => {
    const inside = [...fields].filter((field) => field.startsWith(`${section}/`)).sort();
    if (inside.length === 0) return undefined;
    return {
      ...(operation === 'Update' && { '.': {} }),
      ...Object.fromEntries(inside.map((field) => [`f:${keyOf(field)}`, {}])),
    };
  };
  const [data, labels, annotations] = ['data', 'labels', 'annotations'].map(tree);
  const metadata = {
    ...(labels && { 'f:labels': labels }),
    ...(annotations && { 'f:annotations': annotations }),
  };
  return {
    ...(data && { 'f:data': data }),
    ...(Object.keys(metadata).length > 0 && { 'f:metadata': metadata }),
  };
}

function discovery(path: string): Answer {
  if (path === '/api')
    return json(200, { kind: 'APIVersions', versions: ['v1'], serverAddressByClientCIDRs: [] });
  if (path === '/apis') return json(200, { kind: 'APIGroupList', apiVersion: 'v1', groups: [] });
  if (path === '/api/v1') {
    const verbs = ['create', 'get', 'list', 'patch'];
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
