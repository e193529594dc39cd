/** What the tests of nginx begin with. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import nginx from '../../../renderers/nginx/index.ts';
import type { NginxOptions } from '../../../renderers/nginx/state.ts';
import { parseRanges } from '../../../src/prefix.ts';
import type { Host } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { nginxHost } from '../../helpers/nginx.ts';

export const path = '/etc/nginx/conf.d/cfsync.conf';
export const probe =
  'unshare --mount --propagation private mount --bind /etc/nginx/conf.d /etc/nginx/conf.d';

export function fixture(name: string): string {
  return readFileSync(join(import.meta.dirname, '..', '..', 'fixtures', 'nginx', name), 'utf8');
}

/** A host with the configuration of a fixture, where nginx does not run. */
export function hostWith(dump: string, files: Record<string, string> = {}, canStage = true): Host {
  return nginxHost({
    answers: {
      [probe]: { code: canStage ? 0 : 1, stdout: '', stderr: '' },
      'nginx -T -q': dump,
    },
    folders: { '/etc/nginx/conf.d': [] },
    files,
  });
}

export const options = nginx.options({});
export const small = desired({ ranges: parseRanges(['173.245.48.0/20', '2400:cb00::/32']) });
export const text = (raw: NginxOptions = options): string =>
  nginx.want(small, raw).owned.files[0]!.content;
