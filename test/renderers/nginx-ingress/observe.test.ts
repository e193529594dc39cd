import { describe, expect, it } from 'vitest';
import ingress from '../../../renderers/nginx-ingress/index.ts';
import { recorded } from '../../helpers/host.ts';
import { data, options, small } from './given.ts';

describe('a cluster', () => {
  const kubectl = 'kubectl --kubeconfig=/k --context=prod --request-timeout=20s get --raw';
  const api = '/api/v1/namespaces/ingress-nginx';
  const raw = { kubeconfig: '/k', context: 'prod' };
  const failed = (stderr: string) => ({ code: 1, stdout: '', stderr });
  const observe = (
    answer: { data?: object; metadata?: object } | ReturnType<typeof failed>,
    services: object = {},
  ) =>
    ingress.observe(
      recorded({
        answers: {
          [`${kubectl} ${api}/configmaps/ingress-nginx-controller`]:
            'code' in answer
              ? answer
              : JSON.stringify({
                  kind: 'ConfigMap',
                  ...answer,
                  metadata: { resourceVersion: '7', ...answer.metadata },
                }),
          [`${kubectl} ${api}/services`]: JSON.stringify({ kind: 'ServiceList', ...services }),
        },
      }),
      ingress.options(raw),
    );
  const entry = (manager: string, operation: string, ...keys: string[]) => ({
    manager,
    operation,
    fieldsV1: {
      'f:data': { '.': {}, ...Object.fromEntries(keys.map((key) => [`f:${key}`, {}])) },
      'f:metadata': {},
    },
  });

  it('has the keys that the API server says are ours, by a patch or by what 0.1.0 did', async () => {
    const { owned, around } = await observe({
      data: { ...data, 'use-gzip': 'true', 'real-ip-header': 'x' },
      metadata: {
        managedFields: [
          entry('helm', 'Update', 'use-gzip'),
          entry('cfsync', 'Apply', 'proxy-real-ip-cidr'),
          entry('cfsync', 'Update', 'enable-real-ip'),
          { manager: 'x', operation: 'Update' },
        ],
      },
    });
    expect(owned.ranges).toEqual(small.ranges);
    expect(Object.keys(owned.data)).toEqual(['enable-real-ip', 'proxy-real-ip-cidr']);
    expect(owned.foreign).toEqual({ 'forwarded-for-header': 'CF-Connecting-IP' });
    expect(around.ours).toEqual(['enable-real-ip', 'proxy-real-ip-cidr']);
    expect(around.owners).toEqual({ 'use-gzip': ['helm'] });
    expect(around.version).toBe('7');
  });

  it.each(['Apply', 'Update'])(
    'has no key of ours that is somebody else’s too: %s',
    async (how) => {
      const { owned, around } = await observe({
        data,
        metadata: {
          managedFields: [
            entry('helm', how, 'enable-real-ip'),
            entry('cfsync', 'Apply', 'enable-real-ip', 'proxy-real-ip-cidr'),
          ],
        },
      });
      expect(Object.keys(owned.data)).toEqual(['proxy-real-ip-cidr']);
      expect(around.owners).toEqual({ 'enable-real-ip': ['helm'] });
    },
  );

  it('has no key of ours that we never write', async () => {
    const { owned } = await observe({
      data: { ...data, 'use-gzip': 'true', constructor: 'x' },
      metadata: {
        managedFields: [
          entry('cfsync', 'Apply', ...Object.keys(data), 'use-gzip', 'constructor'),
          entry('cfsync', 'Update', 'use-gzip'),
        ],
      },
    });
    expect(owned.data).toEqual(data);
  });

  it('may have no data at all', async () => {
    expect((await observe({})).owned.data).toEqual({});
  });

  it.each([
    ['Error from server (Forbidden): configmaps "x" is forbidden', 'no permission'],
    ['error: You must be logged in to the server (Unauthorized)', 'no permission'],
    ['The connection to the server 127.0.0.1:1 was refused', 'broken'],
    ['error: context "prod" does not exist', 'broken'],
  ])('that cannot be read: %s', async (stderr, reason) => {
    await expect(observe(failed(`E0101 00:00:00 noise\n${stderr}\n`))).rejects.toMatchObject({
      reason,
      detail: [stderr],
    });
  });

  it('without the ConfigMap is refused, and has nothing to remove', async () => {
    const observed = await observe(
      failed('Error from server (NotFound): configmaps "x" not found'),
    );
    expect(() => ingress.want(small, options, observed.around)).toThrow(
      'there is no ConfigMap ingress-nginx/ingress-nginx-controller',
    );
    expect(ingress.plan(ingress.nothing, observed)).toEqual([]);
  });
});
