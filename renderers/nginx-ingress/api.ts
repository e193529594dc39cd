/** Asks the API server, strict about what it answers. */
import { BackendError } from '../../src/errors.ts';
import { isFields } from '../../src/plugin/options.ts';
import type { Host } from '../../src/renderer.ts';
import { firstLines } from '../../src/text.ts';
import type { IngressAround } from './state.ts';

/** What the API server answers, before it is looked at. */
export type Fields = Readonly<Record<string, unknown>>;

/** An object of the API, or undefined when there is none. */
export async function get(
  host: Host,
  kubectl: IngressAround['kubectl'],
  path: string,
  kind: string,
): Promise<Fields | undefined> {
  const outcome = await host.query({ argv: [...kubectl, 'get', '--raw', path] });
  if (outcome.code === 0) return parsed(outcome.stdout, path, kind);
  if (outcome.stderr.includes('(NotFound)')) return undefined;
  const reason = /\((Forbidden|Unauthorized)\)/.test(outcome.stderr) ? 'no permission' : 'broken';
  throw new BackendError(
    reason,
    `nginx-ingress: kubectl cannot read ${path}; nothing was changed; ${
      reason === 'broken'
        ? '--kubeconfig FILE and context in the configuration say which cluster'
        : 'it takes get and patch of this ConfigMap'
    }`,
    // kubectl before 1.32 says the same thing five times before it says it to people.
    { detail: firstLines(outcome.stderr.replaceAll(/^[EI]\d{4} .*\n/gm, '')) },
  );
}

function parsed(text: string, path: string, kind: string): Fields {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    throw unreadable(path, 'it is not JSON', cause);
  }
  if (isFields(content) && content.kind === kind) return content;
  throw unreadable(path, `it is no ${kind}`);
}

export function unreadable(path: string, why: string, cause?: unknown): BackendError {
  return new BackendError(
    'broken',
    `nginx-ingress: what kubectl get --raw ${path} printed cannot be read: ${why}; nothing was changed; look at what it says`,
    { cause },
  );
}

/** A part that may be missing, which the API server says as null as well. */
export function fieldsAt(object: Fields, name: string, path: string): Fields {
  const value = object[name] ?? {};
  if (isFields(value)) return value;
  throw unreadable(path, `${name} is no object`);
}

export function listAt(object: Fields, name: string, path: string): readonly Fields[] {
  const list = object[name] ?? [];
  if (Array.isArray(list) && list.every(isFields)) return list;
  throw unreadable(path, `${name} is no list of objects`);
}

export function textAt(object: Fields, name: string, path: string): string {
  const text = object[name] ?? '';
  if (typeof text === 'string') return text;
  throw unreadable(path, `${name} is no text`);
}
