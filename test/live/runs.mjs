/**
 * Runs several command lines in one process, because a Node of its own for each would be most of the time of a
 * sweep. The argument is a JSON list of them: a list of words is one of cfsync, a text is a shell script. Prints
 * a JSON list with the code and the output of each.
 */
import { spawnSync } from 'node:child_process';
import { main } from '../../dist/src/main.js';

let said = '';
const { stdout, stderr } = process;
const print = stdout.write.bind(stdout);
stdout.write = stderr.write = (text) => {
  said += text;
  return true;
};

const results = [];
for (const line of JSON.parse(process.argv[2])) {
  said = '';
  if (typeof line === 'string') {
    const { status, stdout, stderr } = spawnSync('sh', ['-ec', line], { encoding: 'utf8' });
    results.push({ code: status, said: status === 0 ? stdout : stdout + stderr });
  } else results.push({ code: await main(line), said });
}
print(JSON.stringify(results));
