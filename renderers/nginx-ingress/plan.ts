/** Plans the patch of the ConfigMap. */
import type { Command, Observed, Step } from '../../src/renderer.ts';
import { manager } from './controllers.ts';
import { isForeign, pick, type IngressAround, type IngressOwned } from './state.ts';

export function plan(
  wanted: IngressOwned,
  observed: Observed<IngressOwned, IngressAround>,
): readonly Step[] {
  const { target, kubectl, version } = observed.around;
  const data = changes(wanted, observed);
  if (Object.keys(data).length === 0) return [];
  const patch = (content: string, ...more: string[]): Command => ({
    argv: [
      ...kubectl,
      '--cache-dir={stage}',
      'patch',
      'configmap',
      target.name,
      `--namespace=${target.namespace}`,
      '--type=merge',
      `--field-manager=${manager}`,
      '--patch-file={stage}/patch.json',
      ...more,
    ],
    stage: { files: { 'patch.json': `${content}\n` } },
  });
  const place = `ConfigMap ${target.namespace}/${target.name}`;
  const isEnd = Object.values(data).every((value) => value === null);
  const keys = JSON.stringify(data);
  return [
    {
      kind: 'run',
      summary: `nginx-ingress: ${isEnd ? 'take our keys out of' : 'apply our keys to'} ${place}`,
      command: patch(`{"metadata":{"resourceVersion":{version}},"data":${keys}}`),
      guard: { version: JSON.stringify(version), refusal: '(Conflict)' },
      check: patch(`{"data":${keys}}`, '--dry-run=server'),
    },
  ];
}

/**
 * The keys to set, and with null those to take out. What is somebody else's is changed when that is asked for, and
 * never taken out. On the way back from a take-over the values that were there before are put back; the API server
 * forgot whose they were.
 */
function changes(
  wanted: IngressOwned,
  { owned, around }: Observed<IngressOwned, IngressAround>,
): Readonly<Record<string, string | null>> {
  const { data: present, force } = around;
  // A ConfigMap that is gone took our keys with it, and there is none to put keys into.
  if (present === null) return {};
  const ours = Object.keys(owned.data);
  const back = pick(wanted.foreign, (key) => ours.includes(key));
  const all = { ...back, ...wanted.data };
  const set = Object.entries(all).filter(
    ([key, value]) => present[key] !== value && (force || !isForeign(key, around)),
  );
  const out = ours.filter((key) => !Object.hasOwn(all, key)).map((key) => [key, null] as const);
  return Object.fromEntries([...set, ...out].sort(([a], [b]) => (a < b ? -1 : 1)));
}
