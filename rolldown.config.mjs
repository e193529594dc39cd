/**
 * Bundles the program with the packages that it uses: a short run spent most of its time on finding and compiling
 * two hundred files (figures in test/bench/README.md).
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { defineConfig } from 'rolldown';
import { parseAst } from 'rolldown/parseAst';

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

/** The names that a piece of a program refers to: of `a.b` only `a`. */
function namesIn(node) {
  if (Array.isArray(node)) return node.flatMap(namesIn);
  if (node === null || typeof node !== 'object') return [];
  if (node.type === 'Identifier') return [node.name];
  const parts = Object.entries(node).filter(
    ([key]) => node.computed || (key !== 'property' && key !== 'key'),
  );
  return parts.flatMap(([, part]) => namesIn(part));
}

/** X of the statement `module.exports.X = ...`, also where that sets a property of X. */
function exportedBy({ expression }) {
  if (expression?.type !== 'AssignmentExpression') return undefined;
  for (let node = expression.left; node.type === 'MemberExpression'; node = node.object) {
    const { object, property } = node;
    if (object.object?.name === 'module' && object.property.name === 'exports')
      return property.name;
  }
  return undefined;
}

/** The names that a statement declares. */
function declaredBy({ type, id, declarations }) {
  if (type === 'FunctionDeclaration') return [id.name];
  return (declarations ?? []).flatMap(({ id }) =>
    id.type === 'Identifier' ? [id.name] : id.properties.map(({ value }) => value.name),
  );
}

/** The code of a CommonJS module with blanks in the place of what only other exports than these need. */
function onlyExports(code, wanted) {
  const statements = parseAst(code).body;
  const kept = new Set(
    statements.filter((statement) => {
      const name = exportedBy(statement);
      return name === undefined ? declaredBy(statement).length === 0 : wanted.includes(name);
    }),
  );
  const found = [...kept].map(exportedBy);
  const missing = wanted.filter((name) => !found.includes(name));
  if (missing.length > 0) throw new Error(`undici does not export ${missing.join(', ')}`);
  // A set goes on to what is added to it meanwhile.
  for (const statement of kept) {
    const used = namesIn(statement);
    for (const other of statements)
      if (declaredBy(other).some((name) => used.includes(name))) kept.add(other);
  }
  return statements
    .filter((statement) => !kept.has(statement))
    .reduce((text, { start, end }) => {
      const blank = text.slice(start, end).replace(/[^\n]/g, ' ');
      return text.slice(0, start) + blank + text.slice(end);
    }, code);
}

/**
 * The main file of undici loads the whole package; a third of that is what Agent and EnvHttpProxyAgent need. HTTP/2 is
 * off unless asked for, and undici does without it where Node was built without.
 */
const partsOfUndici = {
  name: 'parts-of-undici',
  resolveId: (id) => (id === 'node:http2' ? '\0no-http2' : null),
  load: (id) => (id === '\0no-http2' ? "throw new Error('left out of the bundle');" : null),
  transform: {
    filter: { id: /\/node_modules\/undici\/index\.js$/ },
    handler: (code) => ({ code: onlyExports(code, ['Agent', 'EnvHttpProxyAgent']), map: null }),
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
  plugins: [partsOfUndici, papers],
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
      // The large ones are loaded by few commands; their names are for test/startup.test.ts.
      groups: ['undici', 'yaml', 'diff'].map((name) => ({
        name: `package-${name}`,
        test: (id) => id.includes(`/node_modules/${name}/`),
      })),
    },
  },
});
