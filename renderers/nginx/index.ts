/**
 * nginx: the visitor's address from Cloudflare's header, and a variable that tells whether a
 * connection comes from Cloudflare, in one file at http level.
 *
 * The file cannot say "only Cloudflare" with allow and deny: once the visitor's address has taken the
 * place of the connection's (ngx_http_realip_module), these see the visitor. `$realip_remote_addr`
 * keeps the address of the connection.
 */
import { resolve } from 'node:path';
import { CfsyncError, exit } from '../../src/errors.ts';
import { retired } from '../../src/feed/published.ts';
import { fileRenderer, planFiles, type FileBackend } from '../../src/plugin/file-renderer.ts';
import { checkKeys, text } from '../../src/plugin/options.ts';
import { merge } from '../../src/prefix.ts';
import { defineRenderer, type Renderer } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { adopt } from './adopt.ts';
import { edits, printed } from './edits.ts';
import { configuration, isOurName, variable } from './file.ts';
import { look } from './observe.ts';
import { refuse, refuseShutOut } from './refuse.ts';
import { reloadScript } from './reload.ts';
import { notices, standing } from './remarks.ts';
import { shutOut } from './shut-out.ts';
import { staged } from './stage.ts';
import type { NginxAround, NginxOptions, NginxOwned } from './state.ts';

const backend: FileBackend<NginxOptions, NginxAround> = {
  name: 'nginx',

  options(raw) {
    checkKeys(raw, ['header', 'path'], 'nginx');
    const header = text(raw.header ?? 'CF-Connecting-IP', 'nginx: header');
    // nginx drops headers with an underscore unless told otherwise; `proxy_protocol` is no header.
    if (!/^[A-Za-z][A-Za-z0-9-]{0,63}$/.test(header))
      throw new CfsyncError(
        exit.usage,
        `nginx: header: ${escape(header)} is not the name of a header; CF-Connecting-IP is Cloudflare's`,
      );
    const path = text(raw.path ?? '/etc/nginx/conf.d/cfsync.conf', 'nginx: path');
    if (!/^(\/[\w.@+-]+)+$/.test(path) || resolve(path) !== path || !isOurName(path))
      throw new CfsyncError(
        exit.usage,
        `nginx: path: ${escape(path)} is not an absolute path of a file with cfsync in its name, such as /etc/nginx/conf.d/cfsync.conf`,
      );
    return { header, path };
  },

  want(desired, options, around) {
    const files = [{ path: options.path, content: configuration(desired, options) }];
    if (around === undefined) return { files, notices: [] };
    const known = merge(desired.ranges, retired);
    refuse(options, around, known);
    const ours = { header: options.header, ranges: desired.ranges };
    const found = shutOut(ours, around, variable);
    refuseShutOut(found);
    return { files, notices: [...notices(options, around, known), ...standing(found, around)] };
  },

  look,

  check(changes, { stage }) {
    return stage ? staged(changes, ['nginx', '-t', '-q']) : undefined;
  },

  finish({ pidFile, stage }) {
    const argv = ['nginx', '-t', '-q'] as const;
    if (pidFile === null)
      return stage ? undefined : { summary: 'test the configuration', command: { argv } };
    return {
      summary: 'reload and wait for new workers',
      command: { argv: ['sh', '-c', reloadScript, 'sh', pidFile], timeout: 60_000 },
    };
  },
};

// Without strays, which adopt alone adds.
const files = fileRenderer(backend) as Renderer<NginxOptions, NginxOwned, NginxAround>;

export default defineRenderer<NginxOptions, NginxOwned, NginxAround>({
  ...files,
  adopt,

  plan(wanted, observed) {
    return planFiles(backend, wanted, observed, edits(wanted, observed));
  },

  print(owned) {
    return [...files.print(owned), ...printed(owned)];
  },
});
