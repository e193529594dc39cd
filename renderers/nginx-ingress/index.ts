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
import { CfsyncError, exit } from '../../src/errors.ts';
import { bool, checkKeys, oneOf, text } from '../../src/plugin/options.ts';
import { none } from '../../src/prefix.ts';
import { defineRenderer } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { adopt } from './adopt.ts';
import { flavours, keysOf } from './controllers.ts';
import { observe } from './observe.ts';
import { plan } from './plan.ts';
import { print } from './print.ts';
import { refuse } from './refuse.ts';
import { notices } from './remarks.ts';
import {
  isForeign,
  nothing,
  pick,
  type IngressAround,
  type IngressOptions,
  type IngressOwned,
} from './state.ts';

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

  observe,
  adopt,
  plan,
  print,
});

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
