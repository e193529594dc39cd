/**
 * HAProxy: Cloudflare's ranges as a list that ACLs name, one prefix a line. In haproxy.cfg:
 *
 *     acl from_cloudflare src -f /etc/haproxy/cloudflare.lst
 *     http-request deny unless from_cloudflare
 *     http-request set-src req.hdr(CF-Connecting-IP) if from_cloudflare
 *
 * The deny comes first: an ACL is evaluated anew at each use, and after set-src it would see the visitor.
 */
import { CfsyncError, exit } from 'cfsync';
import { fileRenderer } from 'cfsync/file-renderer';

export default fileRenderer({
  name: 'haproxy',

  /** What may stand under `backends: haproxy:` in the configuration. */
  options({ path = '/etc/haproxy/cloudflare.lst', ...others }) {
    if (typeof path !== 'string' || !path.startsWith('/'))
      throw new CfsyncError(exit.usage, 'haproxy: path: must be an absolute path');
    const [unknown] = Object.keys(others).filter((key) => key !== 'renderer');
    if (unknown !== undefined) throw new CfsyncError(exit.usage, `haproxy: unknown key ${unknown}`);
    return { path };
  },

  /** The files that should be. Pure: the same answer for the same ranges, no clock, no host. */
  want({ ranges }, { path }) {
    const lines = ['# Written by cfsync; changes are overwritten.', ...ranges.v4, ...ranges.v6];
    return { files: [{ path, content: lines.map((line) => `${line}\n`).join('') }] };
  },

  /** Read-only: where files of ours may be, and what the steps below need to know of the host. */
  async look(host, { path }) {
    return {
      paths: [path],
      around: { systemd: (await host.list('/run/systemd/system')) !== undefined },
    };
  },

  /** HAProxy reads the list when it starts or reloads. A command that fails undoes the change. */
  finish({ systemd }) {
    return systemd
      ? { summary: 'reload', command: { argv: ['systemctl', 'reload', 'haproxy'] } }
      : undefined;
  },
});
