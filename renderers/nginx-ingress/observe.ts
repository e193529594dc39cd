/** Looks at the ConfigMap, with what hides Cloudflare from its controller. */
import { BackendError } from '../../src/errors.ts';
import { canonical, parseRanges } from '../../src/prefix.ts';
import type { Host, Observed } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { fieldsAt, get, listAt, textAt, unreadable, type Fields } from './api.ts';
import { flavours, known, manager } from './controllers.ts';
import {
  nothing,
  pick,
  type Data,
  type IngressAround,
  type IngressOptions,
  type IngressOwned,
} from './state.ts';

export async function observe(
  host: Host,
  options: IngressOptions,
): Promise<Observed<IngressOwned, IngressAround>> {
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
}

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
