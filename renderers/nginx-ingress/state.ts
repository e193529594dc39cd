/** What of a ConfigMap is cfsync's, with the cluster around it as far as a plan needs it. */
import { none } from '../../src/prefix.ts';
import type { Owned } from '../../src/renderer.ts';

export type Data = Readonly<Record<string, string>>;

export interface Target {
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

export const nothing: IngressOwned = {
  ranges: none,
  form: 'configmap',
  target: null,
  data: {},
  foreign: {},
};

/** A key that is there and not ours alone: what nobody is recorded for is somebody's as well. */
export function isForeign(key: string, around: IngressAround | undefined): boolean {
  return Object.hasOwn(around?.data ?? {}, key) && around?.ours.includes(key) === false;
}

export function pick(data: Data, want: (key: string) => boolean): Data {
  return Object.fromEntries(Object.entries(data).filter(([key]) => want(key)));
}
