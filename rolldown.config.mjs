/**
 * Bundles the program with the packages that it uses: a short run spent most of its time on finding and compiling
 * two hundred files (figures in test/bench/README.md).
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { defineConfig } from 'rolldown';

/** The packages of which something is in the bundle, by their folders. */
function bundledPackages(bundle) {
  const modules = Object.values(bundle).flatMap((file) => Object.keys(file.modules ?? {}));
  const folders = modules.flatMap(
    (id) => /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+/.exec(id)?.[0] ?? [],
  );
  return [...new Set(folders)].sort();
}

/** The licence of each of them, and the mark that these files are CommonJS. */
const papers = {
  name: 'papers',
  generateBundle(_, bundle) {
    const texts = bundledPackages(bundle).map((folder) => {
      const { name, version, license } = JSON.parse(
        readFileSync(join(folder, 'package.json'), 'utf8'),
      );
      const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
      // ip-cidr brings no text.
      const text =
        file === undefined ? `Licence: ${license}` : readFileSync(join(folder, file), 'utf8');
      return `${name} ${version}\n\n${text.trim()}\n`;
    });
    const source = texts.join(`\n${'-'.repeat(80)}\n\n`);
    this.emitFile({ type: 'asset', fileName: 'LICENSES.txt', source });
    this.emitFile({ type: 'asset', fileName: 'package.json', source: '{"type":"commonjs"}\n' });
  },
};

const entries = [
  'bin',
  'watcher',
  // What packages with renderers import.
  'renderer',
  'plugin/file-renderer',
  'plugin/testing',
];

/** What tests take from the built program: in one folder with the rest, as all that looks for files beside itself. */
const tested = ['feed/download', 'errors', 'main', 'host/host', 'run/sessions', 'prefix'];

export default defineConfig({
  input: Object.fromEntries([
    ...entries.map((name) => [`src/${name}`, `src/${name}.ts`]),
    ...tested.map((name) => [`src/${basename(name)}`, `src/${name}.ts`]),
  ]),
  platform: 'node',
  // A module that has an entry of its own may be shared with others: then its file exports what those need as well.
  preserveEntrySignatures: 'allow-extension',
  plugins: [papers],
  treeshake: {
    // Of yargs its parser alone is used; what the rest does when it is loaded matters to nobody.
    moduleSideEffects: (id) => !/\/node_modules\/(?!yargs-parser|undici|ipaddr)/.test(id),
  },
  output: {
    dir: 'dist',
    cleanDir: true,
    // Node loads it in three quarters of the time of ES modules.
    format: 'cjs',
    entryFileNames: '[name].js',
    chunkFileNames: 'src/[name].js',
    sourcemap: true,
    codeSplitting: {
      includeDependenciesRecursively: false,
      groups: [
        // The large ones are loaded by few commands; their names are for test/startup.test.ts.
        ...['undici', 'yaml', 'diff'].map((name) => ({
          name: `package-${name}`,
          test: (id) => id.includes(`/node_modules/${name}/`),
        })),
        // Modules that are nearly always needed together: one file is found and read faster than each by itself.
        { name: 'files', test: /\/src\/(digest|host\/files)\.ts$/ },
        { name: 'state', test: /\/src\/state\/(journal|pending|records|store)\.ts$/ },
        {
          name: 'engine',
          test: /\/src\/engine\/(apply|back|guard|locks|perform|plan|rivals|verify)\.ts$/,
        },
        { name: 'rules', test: /\/src\/filters\/(nft|iptables)\// },
        { name: 'run', test: /\/src\/run\/(again|attempt|change|judged|plan|show-plan)\.ts$/ },
      ],
    },
  },
});
