import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { exit } from '../../src/errors.ts';
import { choose, lookForBackends } from '../../src/setup/in-use.ts';
import type { Recorded } from '../helpers/host.ts';
import { damagedHost, lenient } from '../helpers/hostile-host.ts';
import { askedOrRefused, cases, expectFit } from '../helpers/hostile.ts';

const read = (path: string) =>
  readFileSync(new URL(`../fixtures/${path}`, import.meta.url), 'utf8');

const host = (table: string, save: string): Recorded => ({
  answers: {
    'nft -j -t list ruleset': read(`nftables/${table}.json`),
    'iptables-save': read(`iptables/${save}.save`),
    'ip6tables-save': read('iptables/ours6.save'),
    'fail2ban-client ping': 'Server replied: pong\n',
  },
  files: {
    '/etc/ufw/ufw.conf': 'ENABLED=yes\n',
    '/proc/7/comm': 'nginx\n',
  },
  folders: { '/proc': ['7'], '/usr/sbin': ['ufw'], '/etc/csf': ['csf.conf'] },
});
const hosts = [host('docker', 'ufw'), host('policy-drop', 'docker'), host('firewalld', 'raw')];

test('what is in use is found, or the host cannot be looked at, whatever its programs say', async () => {
  let found = 0;
  await fc.assert(
    fc.asyncProperty(damagedHost(hosts, ['-A INPUT -j ', '"hook":"input",']), async (one) => {
      const signs = await askedOrRefused(() => lookForBackends(lenient(one)), exit.failed);
      if (signs === undefined) return;
      found++;
      const { choices, besides } = choose(signs);
      for (const { name, why } of choices) expectFit(`${name}: ${why}`);
      for (const line of besides) expectFit(line);
    }),
    cases(600),
  );
  expect(found).toBeGreaterThan(200);
  expect(found).toBeLessThan(550);
});
