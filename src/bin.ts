#!/usr/bin/env node
/**
 * The program: answers --version and --help at once, loads the rest only for a command. Nothing in this file is newer
 * than ES2017, so that an old Node gets as far as saying so.
 */
import manifest from '../package.json' with { type: 'json' };

const argv = process.argv.slice(2);

/** As `engines` in package.json. */
const needed = 'Node 20.19 or later, or 22.12 or later';

function isNewEnough(): boolean {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major === 20) return minor >= 19;
  return major > 22 || (major === 22 && minor >= 12);
}

// Who reads it may have seen enough, as in `cfsync show | head`.
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    // EIO: its terminal is gone.
    if (error.code === 'EPIPE' || error.code === 'EIO') return;
    process.once('exit', () => {
      if (process.exitCode === 0) process.exitCode = 1;
    });
    if (stream === process.stdout)
      process.stderr.write(`cfsync: standard output cannot be written: ${error.message}\n`);
  });

/** Anywhere, also among other letters as in -qV: who asks must not change anything. */
function isAsked(name: string, letter: string): boolean {
  return argv.some(
    (word) => word === `--${name}` || (/^-[A-Za-z]+$/.test(word) && word.includes(letter)),
  );
}

async function answer(): Promise<void> {
  const [first, second] = argv;
  if (!isNewEnough()) {
    process.stderr.write(
      `cfsync: needs ${needed}; this is Node ${process.versions.node} (${process.execPath}); nothing was changed\n`,
    );
    process.exitCode = 1;
  } else if (isAsked('version', 'V')) {
    process.stdout.write(`${manifest.version}\n`);
  } else if (argv.length === 0) {
    const { help } = await import('./cli/help.ts');
    process.stderr.write(help(undefined));
    process.exitCode = 64;
  } else if (isAsked('help', 'h')) {
    const { help } = await import('./cli/help.ts');
    process.stdout.write(help(first !== undefined && first.startsWith('-') ? second : first));
  } else {
    const { main } = await import('./main.ts');
    process.exitCode = await main(argv);
  }
}

void answer();
