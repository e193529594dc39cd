/** Prints our keys as a ConfigMap, or as values for Helm. */
import type { Artifact } from '../../src/renderer.ts';
import { flavours, manager } from './controllers.ts';
import type { Data, IngressOwned, Target } from './state.ts';

export function print({ form, target, data }: IngressOwned): readonly Artifact[] {
  if (target === null || Object.keys(data).length === 0) return [];
  return form === 'helm'
    ? [{ path: 'nginx-ingress/values.yaml', content: helmValues(target, data) }]
    : [{ path: 'nginx-ingress/configmap.yaml', content: manifest(target, data) }];
}

function manifest({ namespace, name }: Target, data: Data): string {
  return [
    '# Written by cfsync: its keys alone. This sets them, whatever they are now, and leaves all else as it is:',
    `#     kubectl patch configmap ${name} -n ${namespace} --type merge --field-manager ${manager} --patch-file FILE`,
    '# Not with kubectl apply: it may take out what is not in this file, other keys and labels.',
    'apiVersion: v1',
    'kind: ConfigMap',
    'metadata:',
    `  name: ${JSON.stringify(name)}`,
    `  namespace: ${JSON.stringify(namespace)}`,
    'data:',
    ...entries(data, '  '),
    '',
  ].join('\n');
}

function helmValues({ flavour }: Target, data: Data): string {
  const path = flavours[flavour].values;
  return [
    '# Written by cfsync: values for the Helm chart of the controller.',
    '# controller.service.externalTrafficPolicy must be Local, or the ranges never match.',
    ...path.map((key, depth) => `${'  '.repeat(depth)}${key}:`),
    ...entries(data, '  '.repeat(path.length)),
    '',
  ].join('\n');
}

/** All values in double quotes: a bare true is no string, and the API server refuses it. Long lists a prefix a line. */
function entries(data: Data, indent: string): string[] {
  return Object.entries(data)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => {
      const quoted = JSON.stringify(value);
      return `${indent}${key}: ${quoted.replaceAll(',', `,\\\n${indent}  `)}`;
    });
}
