import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkRenderer, exampleDesired, memoryHost } from 'cfsync/testing';
import haproxy from './haproxy.js';

const path = '/etc/haproxy/cloudflare.lst';
const config = { '/etc/haproxy/haproxy.cfg': 'defaults\n' };
const ok = { code: 0, stdout: '', stderr: '' };

test('keeps what every renderer promises', () => checkRenderer(haproxy, { files: config }));

test('writes one prefix a line, and reloads', async () => {
  const ran = [];
  const host = memoryHost({
    files: config,
    folders: { '/run/systemd/system': [] },
    program: (argv) => {
      ran.push(argv.join(' '));
      return ok;
    },
  });
  const options = haproxy.options({});
  const observed = await haproxy.observe(host, options);
  const { owned } = haproxy.want(exampleDesired(), options, observed.around);
  host.perform(haproxy.plan(owned, observed));
  assert.equal(
    host.files.get(path),
    '# Written by cfsync; changes are overwritten.\n103.21.244.0/22\n173.245.48.0/20\n2400:cb00::/32\n',
  );
  assert.deepEqual(ran, ['systemctl reload haproxy']);
});

test('refuses what it does not know', () => {
  assert.throws(() => haproxy.options({ path: 'relative' }), /absolute/);
  assert.throws(() => haproxy.options({ paht: '/x' }), /unknown key paht/);
});
