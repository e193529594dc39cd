import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import ingress from '../../../renderers/nginx-ingress/index.ts';
import { exit } from '../../../src/errors.ts';
import type { Step } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded, type Recorded } from '../../helpers/host.ts';
import { damagedHost, runThrough, type Reach } from '../../helpers/hostile-host.ts';
import { askedOrRefused, cases, expectLinear, pumps, words } from '../../helpers/hostile.ts';

const kubectl = 'kubectl --request-timeout=20s get --raw /api/v1/namespaces';
const cidrs = 'proxy-real-ip-cidr';
const ours = words(
  `enable-real-ip forwarded-for-header ${cidrs} real-ip-header real-ip-recursive set-real-ip-from`,
);
const api = {
  community: 'ingress-nginx/configmaps/ingress-nginx-controller',
  f5: 'nginx-ingress/configmaps/nginx-config',
} as const;

/** As kube-apiserver 1.26.5 answers, less what nobody reads (see test/helpers/kube-api.ts). */
const map = {
  kind: 'ConfigMap',
  apiVersion: 'v1',
  metadata: {
    name: 'ingress-nginx-controller',
    namespace: 'ingress-nginx',
    resourceVersion: '7',
    managedFields: [
      {
        manager: 'cfsync',
        operation: 'Update',
        apiVersion: 'v1',
        fieldsType: 'FieldsV1',
        fieldsV1: { 'f:data': { [`f:${cidrs}`]: {}, 'f:enable-real-ip': {} } },
      },
      {
        manager: 'helm',
        operation: 'Update',
        fieldsV1: { 'f:data': { '.': {}, 'f:forwarded-for-header': {}, 'f:use-gzip': {} } },
      },
    ],
  },
  data: {
    [cidrs]: '173.245.48.0/20,2400:cb00::/32',
    'enable-real-ip': 'true',
    'forwarded-for-header': 'X-Forwarded-For',
    'use-gzip': 'true',
    'whitelist-source-range': '10.0.0.0/8, 192.0.2.0/24',
  },
};
const services = {
  kind: 'ServiceList',
  items: [
    {
      metadata: { name: 'controller', namespace: 'ingress-nginx' },
      spec: {
        type: 'LoadBalancer',
        externalTrafficPolicy: 'Cluster',
        selector: { 'app.kubernetes.io/name': 'ingress-nginx' },
      },
    },
  ],
};

const host = (flavour: keyof typeof api, content: object): Recorded => ({
  answers: {
    [`${kubectl}/${api[flavour]}`]: JSON.stringify(content),
    [`${kubectl}/${api[flavour].split('/')[0]}/services`]: JSON.stringify(services),
  },
});
const bare = { ...map, metadata: { name: 'x', resourceVersion: '7' }, data: null };

const values = [
  '"cfsync"',
  '"Apply"',
  '{"f:data":{"f:__proto__":{}}}',
  '"1.1.1.0/24,"',
  '{"f:data":null}',
];

/** Nothing but keys of ours, each a text or taken out, and over one version alone. */
function checkStep(step: Step): void {
  if (step.kind !== 'run') throw new Error('a file');
  const patch = step.command.stage!.files['patch.json']!;
  const { data, metadata } = JSON.parse(patch.replace('{version}', step.guard!.version)) as {
    data: Record<string, unknown>;
    metadata: object;
  };
  expect(Object.keys(data).filter((key) => !ours.includes(key))).toEqual([]);
  const values = Object.values(data).filter((value) => value !== null);
  expect(values.filter((value) => typeof value !== 'string')).toEqual([]);
  expect(metadata).toEqual({ resourceVersion: expect.stringMatching(/./) });
}

function versioned(rest: string): string {
  return `{"kind": "ConfigMap", "metadata": {"resourceVersion": "7", ${rest}}}`;
}

describe('what kubectl prints', () => {
  test.each(['community', 'f5'] as const)(
    'leads to a plan or a refusal: %s',
    async (flavour) => {
      const reach: Reach = { observed: 0, planned: 0 };
      const hosts = [host(flavour, map), host(flavour, bare)];
      await fc.assert(
        fc.asyncProperty(damagedHost(hosts, values), (one) =>
          runThrough(ingress, { flavour, 'force-conflicts': true }, one, reach, checkStep),
        ),
        cases(600),
      );
      expect(reach.observed).toBeGreaterThan(200);
      expect(reach.planned).toBeGreaterThan(400);
    },
    60_000,
  );

  const observe = (text: string, said = JSON.stringify(services)) => {
    const one = {
      answers: {
        [`${kubectl}/${api.community}`]: text,
        [`${kubectl}/ingress-nginx/services`]: said,
      },
    };
    return ingress.observe(recorded(one), ingress.options({}));
  };

  test('may have keys as every object has them', async () => {
    for (const key of words('constructor __proto__ toString hasOwnProperty')) {
      const entry = { manager: 'helm', fieldsV1: { 'f:data': JSON.parse(`{"f:${key}": {}}`) } };
      const metadata = { resourceVersion: '7', managedFields: [entry, entry] };
      const content = JSON.stringify({ ...map, metadata });
      const { owned, around } = await observe(content.replace('"use-gzip"', `"${key}"`));
      expect(Object.entries(around.owners)).toEqual([[key, ['helm', 'helm']]]);
      expect(Object.keys(owned.foreign)).not.toContain(key);
      const forced = { ...around, force: true };
      const wanted = ingress.want(desired(), ingress.options({}), forced).owned;
      const [step] = ingress.plan(wanted, { owned, around: forced });
      checkStep(step!);
    }
  });

  test('may give us keys that we never wrote, which stay', async () => {
    const { owned } = ingress.want(desired(), ingress.options({}));
    const data = { ...owned.data, constructor: 'x', 'use-gzip': 'true' };
    const fields = Object.fromEntries(Object.keys(data).map((key) => [`f:${key}`, {}]));
    const entry = { manager: 'cfsync', operation: 'Apply', fieldsV1: { 'f:data': fields } };
    const metadata = { resourceVersion: '7', managedFields: [entry] };
    const observed = await observe(JSON.stringify({ kind: 'ConfigMap', data, metadata }));
    expect(observed.owned.data).toEqual(owned.data);
    expect(ingress.plan(owned, observed)).toEqual([]);
    const [step] = ingress.plan(ingress.nothing, observed);
    checkStep(step!);
  });

  test('is refused wherever it is cut off', async () => {
    const text = JSON.stringify(map);
    for (let length = 0; length < text.length; length++)
      expect(
        await askedOrRefused(() => observe(text.slice(0, length)), exit.failed),
      ).toBeUndefined();
  });

  test('of the Services is nothing that stops anybody', async () => {
    const content = JSON.stringify(map);
    for (const text of [
      '',
      'x',
      'null',
      '{"kind":"ServiceList","items":{}}',
      '{"kind":"ServiceList","items":[null]}',
      '{"kind":"ServiceList","items":[{"spec":{"selector":{"app":1}}}]}',
      JSON.stringify(services).replace('ServiceList', 'PodList'),
    ])
      expect((await observe(content, text)).around.hiding).toEqual([]);
    expect((await observe(content)).around.hiding).toEqual(['ingress-nginx/controller']);
  });

  test.each([
    ['', 'nothing'],
    ['{}', 'an object of no kind'],
    ['{"kind": "Status", "data": {}}', 'another object'],
    ['{"kind": "ConfigMap"}}', 'a brace too many'],
    ['no resources found', 'something else'],
    ['{"kind": "ConfigMap", "data": {"a": "b"}', 'cut off'],
    ['null', 'null'],
    ['[]', 'a list'],
    ['{"kind": "ConfigMap", "data": {"a": 1}}', 'a number for a value'],
    ['{"kind": "ConfigMap", "data": {"a": null}}', 'null for a value'],
    ['{"kind": "ConfigMap", "data": "x"}', 'a text for the data'],
    ['{"kind": "ConfigMap", "metadata": {"name": "x"}}', 'no version'],
    [versioned('"managedFields": [null]'), 'null for an entry'],
    [versioned('"managedFields": [{"fieldsV1": {"f:data": "x"}}]'), 'a text for the fields'],
    [versioned('"managedFields": [{"manager": 7}]'), 'a number for a manager'],
  ])('%j is refused: %s', async (content) => {
    await expect(observe(content)).rejects.toThrow(
      'nginx-ingress: what kubectl get --raw /api/v1/namespaces/ingress-nginx/configmaps/ingress-nginx-controller printed cannot be read',
    );
  });

  test('may name very many managers', async () => {
    await expectLinear(
      (size) => {
        const managedFields = Array.from({ length: size }, (_, i) => ({
          manager: `m${i}`,
          fieldsV1: { 'f:data': { [`f:${cidrs}`]: {} } },
        }));
        return observe(
          JSON.stringify({ ...map, metadata: { resourceVersion: '7', managedFields } }),
        );
      },
      'managers',
      3000,
    );
  });

  test.each(pumps)('is read in time that grows with its length: %j', async (piece) => {
    await expectLinear((size) => observe(piece.repeat(size)).catch(() => undefined), piece);
    await expectLinear(
      (size) => observe(JSON.stringify({ ...map, data: { [cidrs]: piece.repeat(size) } })),
      `value ${piece}`,
    );
  });
});
