import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import ingress from '../../../renderers/nginx-ingress/index.ts';
import type { IngressAround } from '../../../renderers/nginx-ingress/state.ts';
import { parseRanges } from '../../../src/prefix.ts';
import { desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { recorded } from '../../helpers/host.ts';

const small = desired({ ranges: parseRanges(['173.245.48.0/20', '2400:cb00::/32']) });
const data = {
  'enable-real-ip': 'true',
  'forwarded-for-header': 'CF-Connecting-IP',
  'proxy-real-ip-cidr': '173.245.48.0/20,2400:cb00::/32',
};
const options = ingress.options({});
const around: IngressAround = {
  target: {
    flavour: 'community',
    namespace: 'ingress-nginx',
    name: 'ingress-nginx-controller',
  },
  data: {},
  version: '7',
  owners: {},
  ours: [],
  hiding: [],
  kubectl: ['kubectl'],
  force: false,
};
const wanted = (changes: Partial<IngressAround> = {}, raw: Record<string, unknown> = {}) =>
  ingress.want(small, ingress.options(raw), { ...around, ...changes });
const texts = (changes: Partial<IngressAround>, raw: Record<string, unknown> = {}): string[] =>
  wanted(changes, raw).notices.map(({ level, text }) => `${level}: ${text}`);

describe('render', () => {
  const cases: [string, Parameters<typeof desired>[0], Record<string, unknown>][] = [
    ['community', {}, {}],
    ['community-helm', {}, { helm: true }],
    ['f5', {}, { flavour: 'f5' }],
    ['f5-helm', {}, { flavour: 'f5', helm: true }],
    ['named', { ranges: small.ranges }, { namespace: 'edge', name: 'nginx.edge' }],
    // A list has no mode and no ports, and extra prefixes are never believed.
    [
      'mode',
      {
        ranges: small.ranges,
        mode: 'lockdown',
        tcpPorts: [443],
        udpPorts: [443],
        extra: parseRanges(['198.51.100.0/24']),
      },
      {},
    ],
  ];
  it.each(cases)('%s', (name, changes, raw) => {
    for (const _ of ['once', 'again']) {
      const [artifact, ...rest] = ingress.print(
        ingress.want(desired(changes), ingress.options(raw)).owned,
      );
      expect(rest).toEqual([]);
      golden(`nginx-ingress/${name}.txt`, `== ${artifact!.path}\n${artifact!.content}`);
    }
  });

  it('writes YAML that says what is meant, all of it strings', () => {
    const [artifact] = ingress.print(ingress.want(small, options).owned);
    expect(parse(artifact!.content)).toEqual({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'ingress-nginx-controller', namespace: 'ingress-nginx' },
      data,
    });
  });

  it('prints nothing for a cluster that cfsync never touched', () => {
    expect(ingress.print(ingress.nothing)).toEqual([]);
  });

  it('says that the controller is retired', () => {
    expect(ingress.want(small, options).notices.map((n) => n.text)).toEqual([
      expect.stringContaining('ingress-nginx is retired'),
    ]);
  });
});

describe('options', () => {
  it.each([
    [{ flavor: 'f5' }, 'unknown key flavor (did you mean flavour?)'],
    [{ flavour: 'traefik' }, 'traefik is not one of community, f5'],
    [{ namespace: 'a/b' }, 'a/b is not the name of a namespace'],
    [{ namespace: 'a.b' }, 'a.b is not the name of a namespace'],
    [{ name: '-x' }, '-x is not the name of a ConfigMap'],
    [{ name: 'x\n' }, 'is not the name of a ConfigMap'],
    [{ name: 'x'.repeat(254) }, 'is not the name of a ConfigMap'],
    [{ kubeconfig: 'config' }, 'config is not an absolute path'],
    [{ context: '' }, 'context: must be a text'],
    [{ helm: 'yes' }, 'helm: must be true or false'],
  ])('refuses %o', (raw, message) => {
    expect(() => ingress.options(raw)).toThrow(message);
  });
});

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

describe('plan', () => {
  const all = ingress.want(small, options).owned;
  const held = (data: Record<string, string>) => ({
    ...ingress.nothing,
    target: around.target,
    data,
  });
  /** The keys that a patch names, where the ConfigMap has `ours` of us and `others` of somebody else. */
  const patched = (
    to: typeof all,
    ours: Record<string, string>,
    others: Record<string, string> = {},
    changes: Partial<IngressAround> = {},
  ) => {
    const present = { ...others, ...ours };
    const [step, ...rest] = ingress.plan(to, {
      owned: held(ours),
      around: { ...around, data: present, ours: Object.keys(ours), ...changes },
    });
    expect(rest).toEqual([]);
    if (step?.kind !== 'run') return undefined;
    const patch = step.command.stage!.files['patch.json']!.replace('{version}', '"7"');
    const { metadata, data: keys } = JSON.parse(patch);
    expect(metadata).toEqual({ resourceVersion: '7' });
    expect(JSON.parse(step.check!.stage!.files['patch.json']!)).toEqual({ data: keys });
    return keys;
  };

  it('patches our keys alone, over the version that was read, after the server would take them', () => {
    const argv =
      'kubectl --cache-dir={stage} patch configmap ingress-nginx-controller --namespace=ingress-nginx --type=merge --field-manager=cfsync --patch-file={stage}/patch.json'.split(
        ' ',
      );
    const keys = JSON.stringify(data);
    expect(ingress.plan(all, { owned: held({}), around })).toEqual([
      {
        kind: 'run',
        summary:
          'nginx-ingress: apply our keys to ConfigMap ingress-nginx/ingress-nginx-controller',
        command: {
          argv,
          stage: {
            files: {
              'patch.json': `{"metadata":{"resourceVersion":{version}},"data":${keys}}\n`,
            },
          },
        },
        guard: { version: '"7"', refusal: '(Conflict)' },
        check: {
          argv: [...argv, '--dry-run=server'],
          stage: { files: { 'patch.json': `{"data":${keys}}\n` } },
        },
      },
    ]);
    expect(patched(all, {}, { 'use-gzip': 'true' })).toEqual(data);
  });

  it('does nothing when they are there, and takes away all that are ours', () => {
    expect(patched(all, data)).toBeUndefined();
    const more = { ...data, 'set-real-ip-from': '1.1.1.1' };
    expect(patched(all, more)).toEqual({ 'set-real-ip-from': null });
    const out = Object.fromEntries(Object.keys(data).map((key) => [key, null]));
    expect(patched(ingress.nothing, data, { 'use-gzip': 'true' })).toEqual(out);
    expect(patched(ingress.nothing, data, {}, { force: true })).toEqual(out);
  });

  it('names only what changes', () => {
    expect(patched(all, { ...data, 'enable-real-ip': 'false' })).toEqual({
      'enable-real-ip': 'true',
    });
    expect(patched(all, {}, { 'enable-real-ip': 'true' })).toEqual({
      'forwarded-for-header': data['forwarded-for-header'],
      'proxy-real-ip-cidr': data['proxy-real-ip-cidr'],
    });
  });

  it('does not make a ConfigMap that is gone, on the way back either', () => {
    expect(patched(all, {}, {}, { data: null })).toBeUndefined();
  });

  it('takes over only when asked', () => {
    const theirs = { ...data, 'enable-real-ip': 'false' };
    expect(patched(all, {}, theirs)).toBeUndefined();
    expect(patched(all, {}, theirs, { force: true })).toEqual({ 'enable-real-ip': 'true' });
    for (const force of [false, true])
      expect(patched(ingress.nothing, {}, theirs, { force })).toBeUndefined();
  });

  it('goes back to what somebody else had set, unless that has changed again', () => {
    const before = { ...held({}), foreign: { 'proxy-real-ip-cidr': '10.0.0.0/8' } };
    expect(patched(before, data)).toEqual({
      'enable-real-ip': null,
      'forwarded-for-header': null,
      'proxy-real-ip-cidr': '10.0.0.0/8',
    });
    const { 'proxy-real-ip-cidr': list, ...rest } = data;
    expect(patched(before, rest, { 'proxy-real-ip-cidr': list })).toEqual({
      'enable-real-ip': null,
      'forwarded-for-header': null,
    });
    for (const others of [{ 'proxy-real-ip-cidr': list }, {}])
      expect(patched(before, rest, others, { force: true })).not.toHaveProperty([
        'proxy-real-ip-cidr',
      ]);
    expect(patched(before, { 'proxy-real-ip-cidr': '10.0.0.0/8' })).toBeUndefined();
  });

  it('leaves what somebody else has set since on the way back to values of ours', () => {
    const before = held({ ...data, 'proxy-real-ip-cidr': '173.245.48.0/20' });
    const { 'proxy-real-ip-cidr': _, ...rest } = data;
    expect(patched(before, rest, { 'proxy-real-ip-cidr': '10.0.0.0/8' })).toBeUndefined();
  });
});

describe('what somebody else has set', () => {
  const owners = { 'enable-real-ip': ['helm', 'me'] };

  it('to something else is refused, and named, unless it is to be taken over', () => {
    const changes = { data: { 'enable-real-ip': 'false', 'use-gzip': 'x' }, owners };
    const text = 'enable-real-ip is "false", set by "helm" and "me"';
    expect(() => wanted(changes)).toThrow(
      expect.objectContaining({
        code: 1,
        message: `nginx-ingress: ConfigMap ingress-nginx/ingress-nginx-controller: ${text}; it stays as it is; --force-conflicts takes it over`,
      }),
    );
    const forced = { 'force-conflicts': true };
    expect(texts({ ...changes, force: true }, forced)).toContain(
      `warning: ${text}: taken over, as asked`,
    );
    expect(wanted({ ...changes, force: true }, forced).owned.data).toEqual(data);
  });

  it('is his where nobody is recorded for it', () => {
    const changes = { data: { ...data, 'enable-real-ip': 'false', 'proxy-real-ip-cidr': 'x' } };
    expect(() => wanted(changes)).toThrow(
      'enable-real-ip is "false", set by somebody else, and proxy-real-ip-cidr is "x", set by somebody else; they stay as they are; --force-conflicts takes them over',
    );
    expect(() => wanted({ ...changes, ours: Object.keys(data) })).not.toThrow();
  });

  it('to the same stays his', () => {
    const { owned } = wanted({ data: { 'enable-real-ip': 'true' }, owners });
    expect(Object.keys(owned.data)).toEqual(['forwarded-for-header', 'proxy-real-ip-cidr']);
    expect(owned.ranges).toEqual(small.ranges);
    const whole = wanted({ data }).owned;
    expect(whole).toEqual({ ...ingress.nothing, target: around.target });
  });
});

describe('says', () => {
  it.each([
    ['community', { 'use-forwarded-headers': 'true' }, 'use-forwarded-headers is on'],
    ['community', { 'real-ip-header': 'x' }, 'the ConfigMap has real-ip-header'],
    ['f5', { 'proxy-real-ip-cidr': 'x' }, 'the ConfigMap has proxy-real-ip-cidr'],
    ['f5', { 'proxy-protocol': 'True' }, 'proxy-protocol is on'],
  ])('what does not work: %s %o', (flavour, present, text) => {
    expect(texts({ data: present }, { flavour })).toContainEqual(
      expect.stringContaining(`warning: ${text}`),
    );
  });
});

describe('refuses', () => {
  it.each([
    [{ 'use-proxy-protocol': 'true' }, 1],
    [{ 'whitelist-source-range': '10.0.0.0/8, 173.245.48.0/24' }, 3],
  ])('%o', (present, code) => {
    expect(() => wanted({ data: present })).toThrow(expect.objectContaining({ code }));
  });

  it.each([
    { 'use-proxy-protocol': 'true', 'use-forwarded-headers': 'true' },
    { 'use-proxy-protocol': 'false' },
    { 'whitelist-source-range': '0.0.0.0/0,10.0.0.0/8' },
  ])('not %o', (present) => {
    expect(wanted({ data: present }).owned.data).toEqual(data);
  });
});
