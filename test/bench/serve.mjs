/** Serves the files of a folder over HTTP on loopback: `node serve.mjs FOLDER PORT`. Says so when it listens. */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { basename, join } from 'node:path';

const [folder, port] = process.argv.slice(2);
createServer((request, response) => {
  response.end(readFileSync(join(folder, basename(request.url))));
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));
