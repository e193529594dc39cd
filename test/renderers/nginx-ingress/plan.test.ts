import { describe, expect, it } from 'vitest';
import ingress from '../../../renderers/nginx-ingress/index.ts';
import type { IngressAround } from '../../../renderers/nginx-ingress/state.ts';
import { around, data, options, small } from './given.ts';

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
