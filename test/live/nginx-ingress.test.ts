/**
 * nginx-ingress, live: the real kubectl against a stand-in for the API server (test/helpers/kube-api.ts).
 *
 * Ran with the machine's kubectl 1.32.4 and with kubectl 1.20.2 of Debian 12, which is unpacked from its
 * package for the time of the test; once also with 1.27.16 to 1.33.1 (CFSYNC_TEST_KUBECTL=FILE:FILE).
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Outcome } from '../../src/renderer.ts';
import { desired } from '../helpers/desired.ts';
import { KubeApi } from '../helpers/kube-api.ts';
import { describeLive, path } from './privileges.ts';

const program = fileURLToPath(new URL('../../dist/src/bin.js', import.meta.url));
const map = 'ingress-nginx/ingress-nginx-controller';
const bundled = desired().ranges;
const list = [...bundled.v4, ...bundled.v6].join(',');
const keys = ['enable-real-ip', 'forwarded-for-header', 'proxy-real-ip-cidr'];
const ours = {
  'enable-real-ip': 'true',
  'forwarded-for-header': 'CF-Connecting-IP',
  'proxy-real-ip-cidr': list,
};
const admins = { 'use-gzip': 'true', 'custom-http-errors': '404,503' };

const folder = mkdtempSync(join(tmpdir(), 'cfsync-kubectl-'));

/** Debian's kubectl, or undefined where it is not to be had. */
function debianKubectl(): string | undefined {
  const cwd = join(folder, 'debian');
  mkdirSync(cwd);
  spawnSync('apt-get', ['download', 'kubernetes-client=1.20.*'], { cwd, timeout: 60_000 });
  const [deb] = existsSync(cwd) ? readdirSync(cwd) : [];
  if (deb === undefined) return undefined;
  spawnSync('dpkg-deb', ['-x', deb, '.'], { cwd });
  return join(cwd, 'usr', 'bin', 'kubectl');
}

describeLive('nginx-ingress, live', { programs: ['kubectl', 'mount'] }, () => {
  const debian = debianKubectl();
  const more = (process.env['CFSYNC_TEST_KUBECTL'] ?? '').split(':').filter((file) => file !== '');
  const kubectls = ['', ...(debian === undefined ? [] : [debian]), ...more];
  let api: KubeApi;
  let home: string;
  let count = 0;

  test("Debian 12's kubectl 1.20.2 is to be had", ({ skip }) => {
    const strict = Boolean(process.env['CI']) || process.env['CFSYNC_TEST_ALL'] === '1';
    skip(debian === undefined && !strict, 'apt-get download kubernetes-client failed');
    expect(debian).toBeDefined();
  });

  beforeAll(async () => {
    api = await KubeApi.start();
  });
  afterAll(async () => {
    await api.stop();
    rmSync(folder, { recursive: true });
  });
  beforeEach(() => {
    api.clear();
    home = join(folder, `home-${++count}`);
    mkdirSync(join(home, '.kube'), { recursive: true });
    writeFileSync(join(home, '.kube', 'config'), api.kubeconfig());
    api.update(map, admins, 'helm');
  });

  describe.each(kubectls)('kubectl %s', (kubectl) => {
    /** Where cfsync looks first, with this kubectl. */
    const bin = join(folder, `bin-${basename(kubectl)}-${kubectls.indexOf(kubectl)}`);
    mkdirSync(bin);
    if (kubectl !== '') symlinkSync(kubectl, join(bin, 'kubectl'));

    async function run(argv: string[], env: Record<string, string> = {}): Promise<Outcome> {
      const script = 'mount --bind "$1" /usr/local/sbin && shift && exec "$@"';
      const child = spawn(
        'unshare',
        ['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', bin, ...argv],
        { env: { PATH: path, HOME: home, CFSYNC_STATE_DIR: join(home, 'state'), ...env } },
      );
      child.stdin.end();
      const [stdout, stderr, [code]] = await Promise.all([
        text(child.stdout),
        text(child.stderr),
        once(child, 'close') as Promise<[number]>,
      ]);
      return { code, stdout, stderr };
    }
    const cfsync = (...args: string[]): Promise<Outcome> =>
      run([process.execPath, program, ...args]);
    const apply = (...args: string[]): Promise<Outcome> =>
      cfsync('apply', '-b', 'nginx-ingress', '--source', 'bundled', ...args);
    const ends = async (code: number, outcome: Promise<Outcome>): Promise<Outcome> => {
      const result = await outcome;
      expect({ ...result, stdout: '' }).toMatchObject({ code });
      return result;
    };

    test('applies its keys, once, and takes them away', async () => {
      const { stdout } = await ends(0, apply());
      expect(stdout).toContain('nginx-ingress: applied and verified');
      expect(api.data(map)).toEqual({ ...admins, ...ours });
      expect(api.owned(map)).toEqual(keys);

      const version = api.version(map);
      api.requests.length = 0;
      const second = await ends(0, apply('--verbose'));
      expect(second).toMatchObject({ stdout: '' });
      expect(second.stderr).toContain('nginx-ingress: no changes');
      expect(api.requests.filter((request) => !request.startsWith('GET'))).toEqual([]);
      expect(api.version(map)).toBe(version);
      await ends(0, cfsync('verify'));

      await ends(0, cfsync('remove'));
      expect(api.data(map)).toEqual(admins);
      expect(api.owned(map)).toEqual([]);
      // The machine's kubectl may be gcloud's, which asks for the server's version before it heeds --cache-dir.
      const left = kubectl === '' ? ['config'] : readdirSync(join(home, '.kube'));
      expect(left).toEqual(['config']);
    });

    test('finds and repairs drift', async () => {
      await ends(0, apply());
      api.update(map, { 'proxy-real-ip-cidr': null }, 'kubectl-edit');
      const { stdout } = await ends(2, cfsync('verify'));
      expect(stdout).toContain('+  proxy-real-ip-cidr: "103.21.244.0/22');
      await ends(0, apply());
      expect(api.data(map)).toEqual({ ...admins, ...ours });
      await ends(0, cfsync('verify'));
    });

    test('takes over what somebody else has set when asked, and not before', async () => {
      await ends(0, apply());
      api.update(map, { 'proxy-real-ip-cidr': '10.0.0.0/8' }, 'kubectl-edit');
      const owner = 'proxy-real-ip-cidr is "10.0.0.0/8", set by "kubectl-edit"';
      expect((await ends(2, cfsync('verify'))).stderr).toContain(owner);
      const { stderr } = await ends(1, apply());
      expect(stderr).toContain(`${owner}; --force-conflicts takes it over`);
      expect(stderr).toMatch(/conflict with "kubectl-edit" using v1: \.data\.proxy-real-ip-cidr/);
      expect(api.data(map)).toMatchObject({ 'proxy-real-ip-cidr': '10.0.0.0/8' });
      await ends(0, apply('--force-conflicts'));
      expect(api.data(map)).toEqual({ ...admins, ...ours });
      await ends(0, cfsync('verify'));
    });

    test('does not create a ConfigMap', async () => {
      api.delete(map);
      const { stderr } = await ends(1, apply());
      expect(stderr).toContain(`there is no ConfigMap ${map}`);
      expect(api.data(map)).toBeUndefined();
      expect(api.requests.filter((request) => !request.startsWith('GET'))).toEqual([]);
    });

    test('changes nothing when it may not', async () => {
      api.failures.set('PATCH configmaps', {
        code: 403,
        reason: 'Forbidden',
        message: 'configmaps "c" is forbidden: User "u" cannot patch resource "configmaps"',
      });
      const { stderr } = await ends(1, apply());
      expect(stderr).toContain('nginx-ingress: the check failed');
      expect(stderr).toContain('cannot patch resource "configmaps"');
      expect(api.data(map)).toEqual(admins);
    });

    test('renders what kubectl applies to the same effect', async () => {
      const file = join(home, 'configmap.yaml');
      const { stdout } = await ends(
        0,
        cfsync('render', '-b', 'nginx-ingress', '--source', 'bundled'),
      );
      writeFileSync(file, stdout);
      await ends(
        0,
        run([
          'kubectl',
          'apply',
          '--server-side',
          '--field-manager=cfsync',
          '--validate=false',
          '-f',
          file,
        ]),
      );
      expect(api.data(map)).toEqual({ ...admins, ...ours });
      expect((await ends(0, apply('--verbose'))).stderr).toContain('no changes');
    });

    // What follows does not depend on kubectl.
    if (kubectl !== '') return;

    test('goes back when somebody is at work at the same time', async () => {
      api.afterApply = () => {
        api.afterApply = undefined;
        api.update(map, { 'proxy-real-ip-cidr': '10.0.0.0/8' }, 'other');
      };
      const { stderr } = await ends(4, apply());
      expect(stderr).toContain('is back to what it was before');
      // What the other did stays.
      expect(api.data(map)).toEqual({ ...admins, 'proxy-real-ip-cidr': '10.0.0.0/8' });
      expect(api.owned(map)).toEqual([]);
    });

    test('goes back to the values of a take-over', async () => {
      api.update(map, { 'proxy-real-ip-cidr': '192.0.2.0/24' }, 'helm');
      api.afterApply = () => {
        api.afterApply = undefined;
        api.update(map, { 'enable-real-ip': 'false' }, 'other');
      };
      await ends(4, apply('--force-conflicts'));
      expect(api.data(map)).toEqual({
        ...admins,
        'enable-real-ip': 'false',
        'proxy-real-ip-cidr': '192.0.2.0/24',
      });
    });

    test('shares a key that somebody else has set to the same', async () => {
      api.update(map, { 'enable-real-ip': 'true' }, 'helm');
      await ends(0, apply());
      await ends(0, cfsync('remove'));
      expect(api.data(map)).toEqual({ ...admins, 'enable-real-ip': 'true' });
    });

    test('refuses what would make things worse', async () => {
      api.update(map, { 'use-proxy-protocol': 'true' }, 'helm');
      expect((await ends(1, apply())).stderr).toContain(
        'takes the visitor from the PROXY protocol',
      );
      api.update(map, { 'use-proxy-protocol': 'false', 'whitelist-source-range': list }, 'helm');
      expect((await ends(3, apply())).stderr).toContain('refuse every visitor');
      expect(api.owned(map)).toEqual([]);
    });

    test('says what would have no effect', async () => {
      const service = (name: string, spec: object) => ({
        metadata: { name, namespace: 'ingress-nginx' },
        spec: { selector: { 'app.kubernetes.io/name': 'ingress-nginx' }, ...spec },
      });
      api.services = [
        service('far', { type: 'LoadBalancer', externalTrafficPolicy: 'Cluster' }),
        service('near', { type: 'LoadBalancer', externalTrafficPolicy: 'Local' }),
        service('inside', { type: 'ClusterIP' }),
        service('other', { type: 'NodePort', selector: { app: 'x' } }),
      ];
      api.update(map, { 'real-ip-header': 'CF-Connecting-IP' }, 'kubectl');
      const { stderr } = await ends(0, apply('--verbose'));
      expect(stderr.match(/Service \S+ has externalTrafficPolicy Cluster/g)).toEqual([
        'Service ingress-nginx/far has externalTrafficPolicy Cluster',
      ]);
      expect(stderr).toContain('the ConfigMap has real-ip-header, which this controller');
      expect(stderr).toContain('ingress-nginx is retired');
    });

    test('goes on where Services may not be listed', async () => {
      api.failures.set('GET services', { code: 403, reason: 'Forbidden', message: 'no' });
      expect((await ends(0, apply())).stderr).toBe('');
    });

    test('knows the other controller', async () => {
      api.update('nginx-ingress/nginx-config', admins, 'helm');
      await ends(0, apply('--ingress-flavour', 'f5'));
      expect(api.data('nginx-ingress/nginx-config')).toEqual({
        ...admins,
        'real-ip-header': 'CF-Connecting-IP',
        'real-ip-recursive': 'True',
        'set-real-ip-from': list,
      });
      expect(api.data(map)).toEqual(admins);
      await ends(0, cfsync('verify'));
    });

    test('finds the cluster by flag, by KUBECONFIG, and remembers it', async () => {
      const elsewhere = join(home, 'elsewhere');
      writeFileSync(elsewhere, api.kubeconfig());
      rmSync(join(home, '.kube'), { recursive: true });
      const args = ['apply', '-b', 'nginx-ingress', '--source', 'bundled'];
      const argv = [process.execPath, program, ...args];
      const lost = await ends(1, run(argv));
      expect(lost.stderr).toContain('kubectl cannot read');
      const two = await ends(1, run(argv, { KUBECONFIG: `${elsewhere}:/nowhere` }));
      expect(two.stderr).toContain('is a list of files');
      await ends(0, run(argv, { KUBECONFIG: elsewhere }));
      expect(api.owned(map)).toEqual(keys);
      await ends(0, cfsync('verify'));
      await ends(0, cfsync('remove', '--kubeconfig', elsewhere));
      expect(api.data(map)).toEqual(admins);
    });

    test('keeps Helm values for disk', async () => {
      const values = ['-b', 'nginx-ingress', '--source', 'bundled', '--helm-values'];
      const dir = join(home, 'out');
      await ends(0, cfsync('render', ...values, '--out', dir));
      await ends(0, cfsync('diff', ...values, '--dir', dir, '--exit-code'));
      expect(readdirSync(join(dir, 'nginx-ingress'))).toEqual(['values.yaml']);
      expect((await ends(64, cfsync('diff', ...values))).stderr).toContain('leave helm out');
    });
  });
});
