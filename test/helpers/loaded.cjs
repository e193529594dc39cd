/**
 * Writes down which files a program loaded, one a line, when it ends: loaded with `node --require`, for instance by
 * NODE_OPTIONS. CommonJS modules by themselves; what ES modules there are, NODE_DEBUG=esm says on standard error.
 */
const { writeFileSync } = require('node:fs');

process.on('exit', () => {
  const files = Object.keys(require.cache).filter((file) => file !== __filename);
  writeFileSync(process.env.CFSYNC_TEST_LOADED, files.join('\n'));
});
