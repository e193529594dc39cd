import { describe, expect, it } from 'vitest';
import renderer from '../../renderers/nginx-ingress/index.ts';
import ingress from '../../src/doctor/checks/ingress.ts';
import { doctorContext } from '../helpers/doctor.ts';
import { recorded } from '../helpers/host.ts';
import { lines, look } from '../helpers/web.ts';

const { ranges } = doctorContext();
const cidrs = [...ranges.v4, ...ranges.v6].join(',');
const raw = 'kubectl --request-timeout=20s get --raw /api/v1/namespaces';

/** A cluster whose controller has these keys, and Services with these policies. */
const on = (
  flavour: 'community' | 'f5',
  data: Readonly<Record<string, string>> | null,
  policies: readonly string[] = ['Local'],
) => {
  const options = renderer.options({ flavour });
  const { namespace, name } = options;
  const services = policies.map((externalTrafficPolicy, i) => ({
    metadata: { name: `web${i}`, namespace },
    spec: {
      type: 'LoadBalancer',
      externalTrafficPolicy,
      selector: { 'app.kubernetes.io/name': flavour === 'f5' ? 'nginx-ingress' : 'ingress-nginx' },
    },
  }));
  const metadata = { name, namespace, resourceVersion: '1' };
  const host = recorded({
    answers: {
      [`${raw}/${namespace}/configmaps/${name}`]:
        data === null
          ? { code: 1, stdout: '', stderr: 'Error from server (NotFound): configmaps not found\n' }
          : JSON.stringify({ kind: 'ConfigMap', metadata, data }),
      [`${raw}/${namespace}/services`]: JSON.stringify({ kind: 'ServiceList', items: services }),
    },
  });
  return look(ingress, host, { ingress: options });
};
const retired =
  'note maybe -: The controller ingress-nginx is retired: no releases and no security fixes after March 2026';
const good = {
  'enable-real-ip': 'true',
  'forwarded-for-header': 'CF-Connecting-IP',
  'proxy-real-ip-cidr': cidrs,
};

describe('ingress-nginx', () => {
  it.each<[string, Readonly<Record<string, string>>, readonly string[]]>([
    ['as cfsync sets it', good, []],
    ['untouched', {}, []],
    [
      'with the list alone',
      { 'proxy-real-ip-cidr': cidrs },
      ["warning all -: proxy-real-ip-cidr alone does nothing: visitors keep Cloudflare's address"],
    ],
    [
      'with keys of the other controller',
      { ...good, 'real-ip-header': 'CF-Connecting-IP' },
      ['warning all -: The controller (flavour community) does not know real-ip-header'],
    ],
    [
      'that believes everybody',
      { 'enable-real-ip': 'True' },
      ['warning all -: The controller believes everybody who they say the visitor is'],
    ],
    [
      'with use-forwarded-headers',
      { ...good, 'use-forwarded-headers': 'true' },
      [
        'warning all -: X-Forwarded-* headers are believed from everybody, not from Cloudflare alone',
      ],
    ],
    [
      'with a range less',
      { ...good, 'proxy-real-ip-cidr': cidrs.replace('104.16.0.0/13,', '') },
      [
        "warning part -: proxy-real-ip-cidr lacks ranges of Cloudflare's: visitors through them keep its address",
      ],
    ],
    [
      'with another header',
      { ...good, 'forwarded-for-header': 'X-Client' },
      ['warning all -: Cloudflare does not send the header X-Client'],
    ],
    [
      'that lets in Cloudflare alone',
      { ...good, 'whitelist-source-range': '173.245.48.0/20, 198.51.100.0/24' },
      [
        "problem all -: whitelist-source-range has Cloudflare's ranges and sees the visitors: all of them get 403",
      ],
    ],
    ['that lets in everybody', { ...good, 'whitelist-source-range': '0.0.0.0/0' }, []],
    ['that lets in Cloudflare, and sees it', { 'whitelist-source-range': cidrs }, []],
  ])('%s', async (_name, data, expected) => {
    const found = lines(await on('community', data));
    expect(found.filter((line) => line !== retired)).toEqual(expected);
    expect(found).toContain(retired);
  });

  it('that somebody else keeps is left to him; keys of nobody are taken away', async () => {
    const all = await on('community', { ...good, 'forwarded-for-header': 'X-Client' });
    const found = all.find(({ title }) => title.startsWith('Cloudflare does not send'));
    expect(found!.command).toBeUndefined();
    expect(found!.advice).toMatch(
      /^cfsync apply would refuse: ConfigMap .* forwarded-for-header is "X-Client", set by somebody else/,
    );
    expect(await on('community', {})).toHaveLength(1);
    const others = await on('community', { ...good, 'real-ip-header': 'CF-Connecting-IP' });
    const inert = others.find(({ title }) => title.includes('does not know'));
    expect(inert!.command).toBe(
      `kubectl -n ingress-nginx patch configmap ingress-nginx-controller --type merge -p '{"data":{"real-ip-header":null}}'`,
    );
  });

  it('behind a Service that hides the sender', async () => {
    const all = await on('community', good, ['Local', 'Cluster']);
    const found = all.find(({ level }) => level === 'warning');
    expect(found).toMatchObject({
      level: 'warning',
      evidence: ['Service ingress-nginx/web1: externalTrafficPolicy is not Local'],
      command: `kubectl -n ingress-nginx patch service web1 -p '{"spec":{"externalTrafficPolicy":"Local"}}'`,
    });
    expect(lines(await on('community', {}, ['Cluster']))).toEqual([retired]);
  });
});

describe('the controller of F5', () => {
  const f5 = { 'real-ip-header': 'CF-Connecting-IP', 'set-real-ip-from': cidrs };
  it.each<[string, Readonly<Record<string, string>>, readonly string[]]>([
    ['as cfsync sets it', f5, []],
    [
      'with keys of the other controller',
      { ...f5, 'proxy-real-ip-cidr': cidrs, 'enable-real-ip': 'true' },
      [
        'warning all -: The controller (flavour f5) does not know proxy-real-ip-cidr, enable-real-ip',
      ],
    ],
    [
      'with the header alone',
      { 'real-ip-header': 'CF-Connecting-IP' },
      ['warning all -: real-ip-header alone does nothing: nobody is believed'],
    ],
    [
      'with the list alone',
      { 'set-real-ip-from': cidrs },
      ['warning all -: Cloudflare does not send the header X-Real-IP'],
    ],
    [
      'with the PROXY protocol',
      { ...f5, 'proxy-protocol': 'True' },
      [
        'warning all -: proxy-protocol is on: who connects is the load balancer, and never Cloudflare',
      ],
    ],
  ])('%s', async (_name, data, expected) => {
    expect(lines(await on('f5', data))).toEqual(expected);
  });
});

it('is not looked at where no cluster is configured, and named where there is none', async () => {
  expect(await look(ingress, recorded({}))).toEqual([]);
  await expect(on('community', null)).rejects.toThrow(
    'there is no ConfigMap ingress-nginx/ingress-nginx-controller of a controller of the flavour community',
  );
});
