import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import ingress, { type IngressAround } from '../../renderers/nginx-ingress.ts';
import { parseRanges } from '../../src/prefix.ts';
import { desired } from '../helpers/desired.ts';
import { golden } from '../helpers/golden.ts';
import { recorded } from '../helpers/host.ts';

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
  owners: {},
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
  const observe = (answer: object | ReturnType<typeof failed>, services: object = {}) =>
    ingress.observe(
      recorded({
        answers: {
          [`${kubectl} ${api}/configmaps/ingress-nginx-controller`]:
            'code' in answer ? answer : JSON.stringify({ kind: 'ConfigMap', ...answer }),
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

  it('has the keys that the API server says are ours', async () => {
    const { owned, around } = await observe({
      data: { ...data, 'use-gzip': 'true' },
      metadata: {
        managedFields: [
          entry('helm', 'Update', 'use-gzip', 'enable-real-ip'),
          entry('cfsync', 'Apply', 'proxy-real-ip-cidr', 'enable-real-ip'),
          // Somebody who only calls himself so.
          entry('cfsync', 'Update', 'forwarded-for-header'),
          { manager: 'x', operation: 'Update' },
        ],
      },
    });
    expect(owned.ranges).toEqual(small.ranges);
    expect(Object.keys(owned.data)).toEqual(['enable-real-ip', 'proxy-real-ip-cidr']);
    expect(owned.foreign).toEqual({ 'forwarded-for-header': 'CF-Connecting-IP' });
    expect(around.owners).toEqual({
      'use-gzip': ['helm'],
      'enable-real-ip': ['helm'],
      'forwarded-for-header': ['cfsync'],
    });
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
  const owned = wanted().owned;
  const none = { ...ingress.nothing, target: around.target };
  const stdin = (held: typeof owned, to: typeof owned, changes: Partial<IngressAround> = {}) => {
    const [step, ...rest] = ingress.plan(to, { owned: held, around: { ...around, ...changes } });
    expect(rest).toEqual([]);
    return step?.kind === 'run' ? JSON.parse(step.command.stdin!).data : undefined;
  };

  it('applies our keys and no others, after the server would take them', () => {
    const steps = ingress.plan(owned, { owned: none, around });
    expect(steps).toEqual([
      {
        kind: 'run',
        summary:
          'nginx-ingress: apply our keys to ConfigMap ingress-nginx/ingress-nginx-controller',
        command: expect.objectContaining({
          argv: 'kubectl --cache-dir={stage} apply --server-side --field-manager=cfsync --validate=false -f -'.split(
            ' ',
          ),
        }),
        check: expect.objectContaining({ argv: expect.arrayContaining(['--dry-run=server']) }),
      },
    ]);
    expect(stdin(none, owned)).toEqual(data);
  });

  it('does nothing when they are there, and takes away all that are ours', () => {
    expect(ingress.plan(owned, { owned, around })).toEqual([]);
    const more = { ...owned, data: { ...data, 'use-forwarded-headers': 'true' } };
    expect(stdin(more, owned)).toEqual(data);
    const [step] = ingress.plan(ingress.nothing, { owned, around });
    expect(step).toMatchObject({
      kind: 'run',
      command: { stdin: expect.not.stringContaining('"data"') },
    });
  });

  it('does not make a ConfigMap that is gone, on the way back either', () => {
    expect(stdin(none, owned, { data: null })).toBeUndefined();
  });

  it('forces only when asked', () => {
    const forced = ingress.plan(owned, { owned: none, around: { ...around, force: true } });
    expect(JSON.stringify(forced)).toContain('--force-conflicts');
    expect(JSON.stringify(ingress.plan(owned, { owned: none, around }))).not.toContain('force');
  });

  it('goes back to what somebody else had set, unless that has changed again', () => {
    const before = { ...none, foreign: { 'proxy-real-ip-cidr': '10.0.0.0/8' } };
    expect(stdin(owned, before)).toEqual({ 'proxy-real-ip-cidr': '10.0.0.0/8' });
    const owners = { 'proxy-real-ip-cidr': ['helm'] };
    expect(stdin(owned, before, { owners })).toBeUndefined();
    const restored = { ...none, data: { 'proxy-real-ip-cidr': '10.0.0.0/8' } };
    expect(ingress.plan(before, { owned: restored, around })).toEqual([]);
  });
});

describe('says', () => {
  it('whose a key is, and what happens to it', () => {
    const changes = {
      data: { 'enable-real-ip': 'false' },
      owners: { 'enable-real-ip': ['helm', 'me'] },
    };
    const text = 'warning: enable-real-ip is "false", set by "helm" and "me"';
    expect(texts(changes)).toContain(`${text}; --force-conflicts takes it over`);
    expect(texts({ ...changes, force: true })).toContain(`${text}: taken over, as asked`);
    expect(texts({ ...changes, owners: {} })).toHaveLength(1);
  });

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
