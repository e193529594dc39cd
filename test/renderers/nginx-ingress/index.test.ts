import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import ingress from '../../../renderers/nginx-ingress/index.ts';
import type { IngressAround } from '../../../renderers/nginx-ingress/state.ts';
import { parseRanges } from '../../../src/prefix.ts';
import { desired } from '../../helpers/desired.ts';
import { golden } from '../../helpers/golden.ts';
import { around, data, options, small } from './given.ts';

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

const wanted = (changes: Partial<IngressAround> = {}, raw: Record<string, unknown> = {}) =>
  ingress.want(small, ingress.options(raw), { ...around, ...changes });
const texts = (changes: Partial<IngressAround>, raw: Record<string, unknown> = {}): string[] =>
  wanted(changes, raw).notices.map(({ level, text }) => `${level}: ${text}`);

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
      `warning: ${text}: taken over, as asked; what set it, a chart or a manifest, may set it again: let it say what cfsync render does`,
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

describe('what a script or a chart has set', () => {
  const known = parseRanges(['173.245.48.0/20', '104.16.0.0/12', '2400:cb00::/32']);
  const adopted = (data: Record<string, string>, more: Partial<IngressAround> = {}) => {
    const owned = { ...ingress.nothing, target: around.target, foreign: data };
    const owners = Object.fromEntries(Object.keys(data).map((key) => [key, ['helm']]));
    const observed = { owned, around: { ...around, data, owners, ...more } };
    return ingress.adopt!(observed, small, known);
  };
  const old = '173.245.48.0/20, 104.16.0.0/12';

  it('for ranges of Cloudflare alone is taken over, with the header that goes with it', () => {
    const data = { 'proxy-real-ip-cidr': old, 'forwarded-for-header': 'X-Forwarded-For' };
    const taken = adopted({ ...data, 'use-forwarded-headers': 'true' });
    expect(taken.owned.strays).toEqual([
      {
        text: 'forwarded-for-header is "X-Forwarded-For", set by "helm"',
        prefixes: ['173.245.48.0/20', '104.16.0.0/12'],
      },
      {
        text: `proxy-real-ip-cidr is "${old}", set by "helm"`,
        prefixes: ['173.245.48.0/20', '104.16.0.0/12'],
      },
    ]);
    const { owned, notices } = ingress.want(small, options, taken.around);
    expect(JSON.stringify(ingress.plan(owned, taken))).toContain('173.245.48.0/20,2400:cb00::/32');
    expect(notices.map(({ text }) => text).join()).toContain('use-forwarded-headers is on');
    expect(ingress.plan(taken.owned, taken)).toEqual([]);
  });

  it.each([
    ['another proxy', { 'proxy-real-ip-cidr': `${old},10.0.0.0/8` }],
    ['everybody', { 'proxy-real-ip-cidr': '0.0.0.0/0' }],
    ['a single address', { 'proxy-real-ip-cidr': '173.245.48.7' }],
    ['what is no address', { 'proxy-real-ip-cidr': `${old},x` }],
    ['nothing', { 'proxy-real-ip-cidr': '' }],
    ['no list', { 'forwarded-for-header': 'X-Forwarded-For' }],
    ['the same', { 'proxy-real-ip-cidr': '173.245.48.0/20,2400:cb00::/32' }],
  ])('stays with %s', (_, data) => {
    const { owned, around } = adopted(data);
    expect(owned.strays).toBeUndefined();
    expect(around.force).toBe(false);
  });

  it('is named by apply with the command that takes it over', () => {
    const data = { 'proxy-real-ip-cidr': '173.245.48.0/20' };
    expect(() => wanted({ data })).toThrow('cfsync adopt --backend nginx-ingress takes it over');
    const other = { 'proxy-real-ip-cidr': '173.245.48.0/20,10.0.0.0/8' };
    expect(() => wanted({ data: other })).toThrow('--force-conflicts takes it over');
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
