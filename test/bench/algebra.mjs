/**
 * Times the first merge or difference in a process, as a run of cfsync meets it: `node algebra.mjs merge A` or
 * `node algebra.mjs difference A B`, where A and B are files with a prefix a line. Prints milliseconds, and the peak
 * memory of the process in MB.
 */
import { readFileSync } from 'node:fs';
import { merge, subtract } from '../../dist/src/prefix.js';

const [what, ...files] = process.argv.slice(2);
const [a, b] = files.map((file) => {
  const lines = readFileSync(file, 'utf8').split('\n');
  return {
    v4: lines.filter((line) => !line.includes(':')),
    v6: lines.filter((line) => line.includes(':')),
  };
});
const start = performance.now();
if (what === 'merge') merge(a);
else subtract(a, b);
const ms = performance.now() - start;
console.log(JSON.stringify({ ms, memory: process.resourceUsage().maxRSS / 1024 }));
