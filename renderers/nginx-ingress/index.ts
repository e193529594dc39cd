/**
 * nginx-ingress: the real-IP keys in the ConfigMap of an ingress controller, for the two that go by
 * this name; their keys differ, and each ignores those of the other without a word.
 *
 * Written with a merge patch under the field manager `cfsync`: the API server then keeps the record of which keys
 * are ours, and that is what is read back. 0.1.0 did it with server-side apply, but where somebody else had made the
 * ConfigMap with client-side apply, kubectl 1.26 and later gave all of it to us first, and the server then took out
 * what we did not name: the other keys, and the labels.
 */
import { isAbsolute } from 'node:path';
import { BackendError, CfsyncError, exit } from '../../src/errors.ts';
import { bool, checkKeys, isFields, oneOf, text } from '../../src/plugin/options.ts';
import { canonical, intersect, isEmpty, none, parseRanges } from '../../src/prefix.ts';
import {
  defineRenderer,
  type Command,
  type Desired,
  type Host,
  type Notice,
  type Observed,
  type Owned,
  type Ranges,
} from '../../src/renderer.ts';
import { escape, firstLines } from '../../src/text.ts';

type Data = Readonly<Record<string, string>>;

interface Target {
  /** `community`: kubernetes/ingress-nginx; `f5`: nginx/kubernetes-ingress of F5, NGINX Inc before. */
  readonly flavour: 'community' | 'f5';
  readonly namespace: string;
  readonly name: string;
}

export interface IngressOptions extends Target {
  /** Undefined: kubectl's own default, ~/.kube/config. */
  readonly kubeconfig: string | undefined;
  readonly context: string | undefined;
  /** Renders Helm values instead of a ConfigMap. */
  readonly helm: boolean;
  /** Takes over keys that somebody else has set. */
  readonly force: boolean;
}

export interface IngressOwned extends Owned {
  readonly form: 'configmap' | 'helm';
  readonly target: Target | null;
  /** The keys that the API server records as ours. */
  readonly data: Data;
  /** The controller's real-IP keys that are somebody else's: what to go back to after a take-over. */
  readonly foreign: Data;
}

export interface IngressAround {
  readonly target: Target;
  /** The data of the ConfigMap; null when there is no ConfigMap. */
  readonly data: Data | null;
  /** The version of it that was read; empty when there is no ConfigMap. */
  readonly version: string;
  /** Who has set a key, without cfsync, sorted; as in managedFields. */
  readonly owners: Readonly<Record<string, readonly string[]>>;
  /** The keys that are recorded as ours and nobody else's, sorted. */
  readonly ours: readonly string[];
  /** Services of the controller that replace the sender's address with a node's. */
  readonly hiding: readonly string[];
  /** The words before a subcommand. */
  readonly kubectl: readonly [string, ...string[]];
  readonly force: boolean;
}

const manager = 'cfsync';

const flavours = {
  // kubernetes/ingress-nginx dbb11b9 (controller 1.15.1): proxy-real-ip-cidr alone does nothing, and
  // there is no key real-ip-header.
  community: {
    namespace: 'ingress-nginx',
    name: 'ingress-nginx-controller',
    values: ['controller', 'config'],
    cidrs: 'proxy-real-ip-cidr',
    fixed: { 'enable-real-ip': 'true', 'forwarded-for-header': 'CF-Connecting-IP' },
    foreign: ['real-ip-header', 'set-real-ip-from'],
  },
  // nginx/kubernetes-ingress b7e6252: splits the list at commas and trims nothing.
  f5: {
    namespace: 'nginx-ingress',
    name: 'nginx-config',
    values: ['controller', 'config', 'entries'],
    cidrs: 'set-real-ip-from',
    fixed: { 'real-ip-header': 'CF-Connecting-IP', 'real-ip-recursive': 'True' },
    foreign: ['proxy-real-ip-cidr', 'forwarded-for-header', 'enable-real-ip'],
  },
} as const;

/**
 * All that we ever wrote. Where kubectl was cut off between the two halves of what 0.1.0 had it do, keys of the
 * admin's are recorded as ours.
 */
const known: ReadonlySet<string> = new Set(
  Object.values(flavours).flatMap(({ cidrs, fixed }) => [cidrs, ...Object.keys(fixed)]),
);

const nothing: IngressOwned = {
  ranges: none,
  form: 'configmap',
  target: null,
  data: {},
  foreign: {},
};

export default defineRenderer<IngressOptions, IngressOwned, IngressAround>({
  api: 1,
  name: 'nginx-ingress',
  kind: 'list',

  options(raw) {
    const keys = ['flavour', 'namespace', 'name', 'kubeconfig', 'context', 'helm'];
    checkKeys(raw, [...keys, 'force-conflicts'], 'nginx-ingress');
    const flavour = oneOf(
      raw.flavour ?? 'community',
      ['community', 'f5'],
      'nginx-ingress: flavour',
    );
    const optional = (key: string): string | undefined =>
      raw[key] === undefined ? undefined : text(raw[key], `nginx-ingress: ${key}`);
    const kubeconfig = optional('kubeconfig');
    if (kubeconfig !== undefined && !isAbsolute(kubeconfig))
      throw new CfsyncError(
        exit.usage,
        `nginx-ingress: kubeconfig: ${escape(kubeconfig)} is not an absolute path`,
      );
    return {
      flavour,
      namespace: objectName(raw.namespace ?? flavours[flavour].namespace, 'namespace'),
      name: objectName(raw.name ?? flavours[flavour].name, 'name'),
      kubeconfig,
      context: optional('context'),
      helm: bool(raw.helm, 'nginx-ingress: helm'),
      force: bool(raw['force-conflicts'], 'nginx-ingress: force-conflicts'),
    };
  },

  nothing,

  want(desired, options, around) {
    const { flavour, namespace, name } = options;
    const all = keysOf(desired, flavour);
    if (around !== undefined) refuse(desired.ranges, options, around, all);
    // What somebody else has set to the same stays his: a patch that changes nothing gives us no part in it.
    const data = pick(all, (key) => around?.data?.[key] !== all[key] || !isForeign(key, around));
    return {
      owned: {
        ranges: Object.hasOwn(data, flavours[flavour].cidrs) ? desired.ranges : none,
        form: options.helm ? 'helm' : 'configmap',
        target: { flavour, namespace, name },
        data,
        foreign: {},
      },
      notices: notices(flavour, all, around),
    };
  },

  async observe(host, options) {
    const { flavour, namespace, name } = options;
    const target = { flavour, namespace, name };
    const kubectl = kubectlOf(options);
    const { force } = options;
    const api = `/api/v1/namespaces/${namespace}`;
    // Not -o json: that leaves managedFields out since kubectl 1.21, and 1.20 has no flag to have them.
    const path = `${api}/configmaps/${name}`;
    const map = await get(host, kubectl, path, 'ConfigMap');
    const common = { target, kubectl, force };
    if (map === undefined)
      return {
        owned: { ...nothing, target },
        around: { ...common, data: null, version: '', owners: {}, ours: [], hiding: [] },
      };
    const data = dataOf(map, path);
    const version = textAt(fieldsAt(map, 'metadata', path), 'resourceVersion', path);
    if (version === '') throw unreadable(path, 'it has no resourceVersion');
    const { ours, owners } = managers(map, path);
    const { cidrs, fixed } = flavours[flavour];
    const mine = pick(data, (key) => ours.includes(key));
    const list = (mine[cidrs] ?? '').split(',').flatMap((word) => canonical(word)?.text ?? []);
    return {
      owned: {
        ranges: parseRanges(list),
        form: 'configmap',
        target,
        data: mine,
        foreign: pick(
          data,
          (key) => !ours.includes(key) && (key === cidrs || Object.hasOwn(fixed, key)),
        ),
      },
      around: { ...common, data, version, owners, ours, hiding: await hiding(host, kubectl, api) },
    };
  },

  plan(wanted, observed) {
    const { target, kubectl, version } = observed.around;
    const data = changes(wanted, observed);
    if (Object.keys(data).length === 0) return [];
    const patch = (content: string, ...more: string[]): Command => ({
      argv: [
        ...kubectl,
        '--cache-dir={stage}',
        'patch',
        'configmap',
        target.name,
        `--namespace=${target.namespace}`,
        '--type=merge',
        `--field-manager=${manager}`,
        '--patch-file={stage}/patch.json',
        ...more,
      ],
      stage: { files: { 'patch.json': `${content}\n` } },
    });
    const place = `ConfigMap ${target.namespace}/${target.name}`;
    const isEnd = Object.values(data).every((value) => value === null);
    const keys = JSON.stringify(data);
    return [
      {
        kind: 'run',
        summary: `nginx-ingress: ${isEnd ? 'take our keys out of' : 'apply our keys to'} ${place}`,
        command: patch(`{"metadata":{"resourceVersion":{version}},"data":${keys}}`),
        guard: { version: JSON.stringify(version), refusal: '(Conflict)' },
        check: patch(`{"data":${keys}}`, '--dry-run=server'),
      },
    ];
  },

  print({ form, target, data }) {
    if (target === null || Object.keys(data).length === 0) return [];
    return form === 'helm'
      ? [{ path: 'nginx-ingress/values.yaml', content: helmValues(target, data) }]
      : [{ path: 'nginx-ingress/configmap.yaml', content: manifest(target, data) }];
  },
});

// ---- options ----

/** RFC 1123, as the API server has it for namespaces; names of ConfigMaps may have dots too. */
function objectName(value: unknown, key: 'namespace' | 'name'): string {
  const name = text(value, `nginx-ingress: ${key}`);
  const label = '[a-z0-9]([-a-z0-9]*[a-z0-9])?';
  const pattern = key === 'name' ? `^${label}(\\.${label})*$` : `^${label}$`;
  if (name.length <= (key === 'name' ? 253 : 63) && new RegExp(pattern).test(name)) return name;
  throw new CfsyncError(
    exit.usage,
    `nginx-ingress: ${key}: ${escape(name)} is not the name of a ${key === 'name' ? 'ConfigMap' : 'namespace'}`,
  );
}

// ---- wanted ----

function keysOf({ ranges }: Desired, flavour: Target['flavour']): Data {
  const { cidrs, fixed } = flavours[flavour];
  return { ...fixed, [cidrs]: [...ranges.v4, ...ranges.v6].join(',') };
}

function refuse(
  ranges: Ranges,
  options: IngressOptions,
  around: IngressAround,
  wanted: Data,
): void {
  const place = `ConfigMap ${options.namespace}/${options.name}`;
  if (options.helm)
    throw new CfsyncError(
      exit.usage,
      'nginx-ingress: helm values are for render and diff --dir only; nothing was changed; leave helm out',
    );
  const { data } = around;
  if (data === null)
    throw new CfsyncError(
      exit.failed,
      `nginx-ingress: there is no ${place}, and one that no controller reads would be of no use; nothing was changed; set namespace and name to those of the controller's own (its argument ${options.flavour === 'f5' ? '-nginx-configmaps' : '--configmap'})`,
    );
  refuseMisread(place, ranges, options, data);
  const theirs = around.force ? [] : foreignValues(wanted, around);
  if (theirs.length > 0)
    throw new CfsyncError(
      exit.failed,
      `nginx-ingress: ${place}: ${theirs.join(', and ')}; ${theirs.length > 1 ? 'they stay as they are; --force-conflicts takes them over' : 'it stays as it is; --force-conflicts takes it over'}`,
    );
}

/** What the controller would take in another way than it is meant. */
function refuseMisread(place: string, ranges: Ranges, options: Target, data: Data): void {
  if (options.flavour !== 'community') return;
  if (isTrue(data['use-proxy-protocol']) && !isTrue(data['use-forwarded-headers']))
    throw new CfsyncError(
      exit.failed,
      `nginx-ingress: ${place} has use-proxy-protocol: the controller then takes the visitor from the PROXY protocol and not from a header, and would believe it from Cloudflare's ranges alone; nothing was changed; the load balancer must be believed there, not Cloudflare`,
    );
  const allowed = (data['whitelist-source-range'] ?? '')
    .split(',')
    .flatMap((word) => canonical(word.trim())?.text ?? [])
    .filter((prefix) => !prefix.endsWith('/0'));
  if (!isEmpty(intersect(parseRanges(allowed), ranges)))
    throw new CfsyncError(
      exit.refused,
      `nginx-ingress: ${place} has Cloudflare's ranges in whitelist-source-range: the controller will compare the visitor's address with it and refuse every visitor; nothing was changed; take them out of it, and let only Cloudflare in with loadBalancerSourceRanges of the Service or a firewall`,
    );
}

function isTrue(value: string | undefined): boolean {
  return value?.toLowerCase() === 'true';
}

function notices(
  flavour: Target['flavour'],
  wanted: Data,
  around: IngressAround | undefined,
): Notice[] {
  const list: Notice[] = [];
  const add = (level: Notice['level'], text: string): void => void list.push({ level, text });
  if (flavour === 'community')
    add(
      'note',
      'ingress-nginx is retired: no releases and no security fixes after March 2026; plan to move to another controller',
    );
  else
    add(
      'note',
      'with TLS passthrough switched on the controller ignores real-ip-header and expects the PROXY protocol',
    );
  if (around === undefined) return list;
  const { data, force } = around;
  if (data === null) return list;
  if (force)
    for (const value of foreignValues(wanted, around))
      add('warning', `${value}: taken over, as asked`);
  for (const key of flavours[flavour].foreign)
    if (data[key] !== undefined)
      add(
        'warning',
        `the ConfigMap has ${key}, which this controller (flavour ${flavour}) does not know; is it the other one?`,
      );
  if (flavour === 'community' && isTrue(data['use-forwarded-headers']))
    add(
      'warning',
      'use-forwarded-headers is on: X-Forwarded-* headers are believed from everybody, not from Cloudflare alone',
    );
  if (flavour === 'f5' && isTrue(data['proxy-protocol']))
    add(
      'warning',
      'proxy-protocol is on: connections come from the load balancer, so the header of Cloudflare is never believed',
    );
  for (const service of around.hiding)
    add(
      'warning',
      `Service ${escape(service)} has externalTrafficPolicy Cluster: the controller sees addresses of nodes, never Cloudflare's, and the ranges have no effect; set it to Local`,
    );
  return list;
}

/** Of our keys those that somebody else has set to something else, in words. */
function foreignValues(wanted: Data, around: IngressAround): string[] {
  const { data, owners } = around;
  return Object.entries(wanted).flatMap(([key, value]) => {
    const there = data?.[key];
    if (there === undefined || there === value || !isForeign(key, around)) return [];
    const names = owners[key]?.map((name) => `"${escape(name)}"`).join(' and ');
    return [`${key} is "${escape(shorten(there))}", set by ${names ?? 'somebody else'}`];
  });
}

function shorten(value: string): string {
  return value.length > 60 ? `${value.slice(0, 60)}...` : value;
}

// ---- observed ----

/** What the API server answers, before it is looked at. */
type Fields = Readonly<Record<string, unknown>>;

function kubectlOf({ kubeconfig, context }: IngressOptions): [string, ...string[]] {
  if (kubeconfig?.includes(':'))
    throw new BackendError(
      'misconfigured',
      `nginx-ingress: kubeconfig: ${escape(kubeconfig)} is a list of files; nothing was changed; name one with --kubeconfig`,
    );
  return [
    'kubectl',
    ...(kubeconfig === undefined ? [] : [`--kubeconfig=${kubeconfig}`]),
    ...(context === undefined ? [] : [`--context=${context}`]),
    '--request-timeout=20s',
  ];
}

/** An object of the API, or undefined when there is none. */
async function get(
  host: Host,
  kubectl: IngressAround['kubectl'],
  path: string,
  kind: string,
): Promise<Fields | undefined> {
  const outcome = await host.query({ argv: [...kubectl, 'get', '--raw', path] });
  if (outcome.code === 0) return parsed(outcome.stdout, path, kind);
  if (outcome.stderr.includes('(NotFound)')) return undefined;
  const reason = /\((Forbidden|Unauthorized)\)/.test(outcome.stderr) ? 'no permission' : 'broken';
  throw new BackendError(
    reason,
    `nginx-ingress: kubectl cannot read ${path}; nothing was changed; ${
      reason === 'broken'
        ? '--kubeconfig FILE and context in the configuration say which cluster'
        : 'it takes get and patch of this ConfigMap'
    }`,
    // kubectl before 1.32 says the same thing five times before it says it to people.
    { detail: firstLines(outcome.stderr.replaceAll(/^[EI]\d{4} .*\n/gm, '')) },
  );
}

function parsed(text: string, path: string, kind: string): Fields {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    throw unreadable(path, 'it is not JSON', cause);
  }
  if (isFields(content) && content.kind === kind) return content;
  throw unreadable(path, `it is no ${kind}`);
}

function unreadable(path: string, why: string, cause?: unknown): BackendError {
  return new BackendError(
    'broken',
    `nginx-ingress: what kubectl get --raw ${path} printed cannot be read: ${why}; nothing was changed; look at what it says`,
    { cause },
  );
}

/** A part that may be missing, which the API server says as null as well. */
function fieldsAt(object: Fields, name: string, path: string): Fields {
  const value = object[name] ?? {};
  if (isFields(value)) return value;
  throw unreadable(path, `${name} is no object`);
}

function listAt(object: Fields, name: string, path: string): readonly Fields[] {
  const list = object[name] ?? [];
  if (Array.isArray(list) && list.every(isFields)) return list;
  throw unreadable(path, `${name} is no list of objects`);
}

function textAt(object: Fields, name: string, path: string): string {
  const text = object[name] ?? '';
  if (typeof text === 'string') return text;
  throw unreadable(path, `${name} is no text`);
}

function dataOf(map: Fields, path: string): Data {
  const data = fieldsAt(map, 'data', path);
  if (Object.values(data).every((value) => typeof value === 'string')) return data as Data;
  throw unreadable(path, 'data holds what is no text');
}

/** Which keys are ours alone, and who else has set which. */
function managers(
  map: Fields,
  path: string,
): {
  ours: readonly string[];
  owners: Record<string, readonly string[]>;
} {
  const ours = new Set<string>();
  // A key of a ConfigMap may be `constructor`, which every other object has.
  const owners = Object.create(null) as Record<string, string[]>;
  for (const entry of listAt(fieldsAt(map, 'metadata', path), 'managedFields', path)) {
    const name = textAt(entry, 'manager', path) || '?';
    const fields = fieldsAt(fieldsAt(entry, 'fieldsV1', path), 'f:data', path);
    const keys = Object.keys(fields).filter((f) => f.startsWith('f:'));
    for (const key of keys.map((f) => f.slice(2)))
      // Operation Update: by a patch; Apply: by server-side apply, as 0.1.0 did it.
      if (name !== manager) (owners[key] ??= []).push(name);
      else if (known.has(key)) ours.add(key);
  }
  for (const names of Object.values(owners)) names.sort();
  return { ours: [...ours].filter((key) => owners[key] === undefined).sort(), owners };
}

/** A key that is there and not ours alone: what nobody is recorded for is somebody's as well. */
function isForeign(key: string, around: IngressAround | undefined): boolean {
  return Object.hasOwn(around?.data ?? {}, key) && around?.ours.includes(key) === false;
}

/** Not everybody who may write the ConfigMap may also list Services: what cannot be read is not said. */
async function hiding(
  host: Host,
  kubectl: IngressAround['kubectl'],
  api: string,
): Promise<readonly string[]> {
  const path = `${api}/services`;
  const text = (object: Fields, name: string): string => textAt(object, name, path);
  try {
    const services = (await get(host, kubectl, path, 'ServiceList')) ?? {};
    return listAt(services, 'items', path)
      .filter((item) => {
        const spec = fieldsAt(item, 'spec', path);
        const selector = fieldsAt(spec, 'selector', path);
        const app = text(selector, 'app.kubernetes.io/name') || text(selector, 'app');
        return (
          ['LoadBalancer', 'NodePort'].includes(text(spec, 'type')) &&
          text(spec, 'externalTrafficPolicy') !== 'Local' &&
          ['ingress-nginx', 'nginx-ingress'].includes(app)
        );
      })
      .map((item) => fieldsAt(item, 'metadata', path))
      .map((metadata) => `${text(metadata, 'namespace')}/${text(metadata, 'name')}`)
      .sort();
  } catch (error) {
    if (error instanceof BackendError) return [];
    throw error;
  }
}

function pick(data: Data, want: (key: string) => boolean): Data {
  return Object.fromEntries(Object.entries(data).filter(([key]) => want(key)));
}

// ---- plan ----

/**
 * The keys to set, and with null those to take out. What is somebody else's is changed when that is asked for, and
 * never taken out. On the way back from a take-over the values that were there before are put back; the API server
 * forgot whose they were.
 */
function changes(
  wanted: IngressOwned,
  { owned, around }: Observed<IngressOwned, IngressAround>,
): Readonly<Record<string, string | null>> {
  const { data: present, force } = around;
  // A ConfigMap that is gone took our keys with it, and there is none to put keys into.
  if (present === null) return {};
  const ours = Object.keys(owned.data);
  const back = pick(wanted.foreign, (key) => ours.includes(key));
  const all = { ...back, ...wanted.data };
  const set = Object.entries(all).filter(
    ([key, value]) => present[key] !== value && (force || !isForeign(key, around)),
  );
  const out = ours.filter((key) => !Object.hasOwn(all, key)).map((key) => [key, null] as const);
  return Object.fromEntries([...set, ...out].sort(([a], [b]) => (a < b ? -1 : 1)));
}

// ---- print ----

function manifest({ namespace, name }: Target, data: Data): string {
  return [
    '# Written by cfsync: its keys alone. This sets them, whatever they are now, and leaves all else as it is:',
    `#     kubectl patch configmap ${name} -n ${namespace} --type merge --field-manager ${manager} --patch-file FILE`,
    '# Not with kubectl apply: it may take out what is not in this file, other keys and labels.',
    'apiVersion: v1',
    'kind: ConfigMap',
    'metadata:',
    `  name: ${JSON.stringify(name)}`,
    `  namespace: ${JSON.stringify(namespace)}`,
    'data:',
    ...entries(data, '  '),
    '',
  ].join('\n');
}

function helmValues({ flavour }: Target, data: Data): string {
  const path = flavours[flavour].values;
  return [
    '# Written by cfsync: values for the Helm chart of the controller.',
    '# controller.service.externalTrafficPolicy must be Local, or the ranges never match.',
    ...path.map((key, depth) => `${'  '.repeat(depth)}${key}:`),
    ...entries(data, '  '.repeat(path.length)),
    '',
  ].join('\n');
}

/** All values in double quotes: a bare true is no string, and the API server refuses it. Long lists a prefix a line. */
function entries(data: Data, indent: string): string[] {
  return Object.entries(data)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => {
      const quoted = JSON.stringify(value);
      return `${indent}${key}: ${quoted.replaceAll(',', `,\\\n${indent}  `)}`;
    });
}
